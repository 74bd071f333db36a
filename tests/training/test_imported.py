"""Weights from elsewhere become a workdir like any other, whole or not at all."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest

from pwl_jax.training import imported, workdir
from pwl_jax.training.checkpoints import CheckpointError, Checkpoints
from tests.commands import ROOT
from tests.tiny_models import tiny_model

MODEL = tiny_model("vgg", statistics="shared")
ALONE = {task: dataclasses.replace(MODEL.config, task=task) for task in ("teacher", "student")}


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def network_variables(task):
    tree = MODEL.variables[task]
    stats = tree["batch_stats"]
    return {"params": tree["params"], "batch_stats": stats.get("own", stats)}


def test_a_pair_is_loaded_as_it_was_written(tmp_path):
    files = {"import/kept.bin": b"\x00kept"}
    imported.write_result(tmp_path / "new" / "w", MODEL.config, MODEL.variables, files)
    for which in ("best", "last"):
        loaded = workdir.load_model(tmp_path / "new" / "w", which)
        assert (loaded.config, loaded.step) == (MODEL.config, 0)
        same(loaded.variables, MODEL.variables)
    assert (tmp_path / "new" / "w" / "import" / "kept.bin").read_bytes() == b"\x00kept"
    teacher = workdir.load_teacher(tmp_path / "new" / "w", MODEL.config)
    same(teacher, MODEL.variables["teacher"])


@pytest.mark.parametrize("task", ["teacher", "student"])
def test_a_network_alone_is_loaded_as_it_was_written(tmp_path, task):
    variables = network_variables(task)
    imported.write_result(tmp_path, ALONE[task], {task: variables})
    same(workdir.load_network(tmp_path).variables, variables)
    if task == "teacher":
        same(workdir.load_teacher(tmp_path, MODEL.config), variables)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(CheckpointError, match="holds something already"):
            imported.write_result(place, MODEL.config, MODEL.variables)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_leaves_of_another_network_are_named_and_nothing_is_written(tmp_path):
    with pytest.raises(CheckpointError, match="'student/batch_stats/own/block0/norm0/mean' is mis"):
        imported.write_result(tmp_path / "w", MODEL.config, network_variables_as_pair())
    assert not (tmp_path / "w").exists()


def network_variables_as_pair():
    return MODEL.variables | {"student": network_variables("student") | {"batch_stats": {}}}


def test_a_write_that_was_killed_is_begun_anew(tmp_path):
    """A process that dies while it saves has not written the config, and cannot clean up."""
    script = (
        "import os, sys\n"
        "from pwl_jax.training import imported\n"
        "from tests.training import test_imported as here\n"
        "def die(*arguments):\n"
        "    os._exit(9)\n"
        "imported.write_config = die\n"
        "imported.write_result(sys.argv[1], here.MODEL.config, here.MODEL.variables)\n"
    )
    place = tmp_path / "w"
    command = [sys.executable, "-c", script, str(place)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 9
    assert (place / "checkpoints").exists()
    imported.write_result(place, MODEL.config, MODEL.variables)
    same(workdir.load_model(place).variables, MODEL.variables)
    assert sorted(path.name for path in place.iterdir()) == ["checkpoints", "config.json"]


@pytest.mark.parametrize("existed", [True, False])
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, existed):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    if existed:
        (tmp_path / "w").mkdir()
    monkeypatch.setattr(Checkpoints, "save_result", full)
    with pytest.raises(CheckpointError, match=r"cannot write to workdir '.*': No space left"):
        imported.write_result(tmp_path / "w", MODEL.config, MODEL.variables, {"a/b": b"c"})
    assert (tmp_path / "w").exists() == existed
    assert not existed or not list((tmp_path / "w").iterdir())
