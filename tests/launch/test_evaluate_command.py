"""evaluate: what it measures and writes, and what it refuses, on workdirs that no training made."""

import csv
import json

import jax
import numpy as np
import pytest

from pwl_jax.data import sources
from pwl_jax.ladder import Composition
from pwl_jax.training import checkpoints, workdir
from tests.commands import failed, launched
from tests.export.networks import network_of, write_network
from tests.tiny_models import tiny_model, write_workdir

pytestmark = pytest.mark.slow
MEASURED = ["checkpoint", "step", "data", "split", "device"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs of a teacher and of its distillation, which no training made."""
    folder = tmp_path_factory.mktemp("runs")
    write_network(folder / "teacher", network_of("teacher"))
    write_workdir(folder / "pwl", tiny_model("vgg"))
    return folder


def test_evaluate_says_what_is_wrong(runs, tmp_path):
    for arguments, message in (
        ([f"--workdir={tmp_path / 'nowhere'}"], "no run's config at"),
        ([f"--workdir={runs / 'teacher'}", "--orders=all"], "--orders is for pairs; '"),
        ([f"--workdir={runs / 'teacher'}", "--data=multi_digits"], "has any number of labels"),
        ([f"--workdir={runs / 'pwl'}", "--orders=prefix,some"], "'some'"),
        ([f"--workdir={runs / 'pwl'}", "--data=nothing"], "no data set 'nothing'"),
    ):
        assert failed(launched("launch.evaluate", *arguments), message)
    assert not (tmp_path / "nowhere").exists()
    assert not (runs / "teacher" / "compositions.json").exists()


def test_evaluate_writes_every_composition(runs):
    result = launched("launch.evaluate", f"--workdir={runs / 'pwl'}", "--orders=all")
    assert result.returncode == 0, result.stderr
    rows = json.loads((runs / "pwl" / "compositions.json").read_text())
    assert [row["composition"] for row in rows] == [str(c) for c in Composition.all(3)]
    for row in rows:
        assert list(row) == ["composition", "top1", "loss", "examples", "live_bytes", *MEASURED]
        assert [row[name] for name in MEASURED] == ["best", 3, "digits", "test", "cpu"]
        assert 0 <= row["top1"] <= 1 and row["loss"] > 0 and row["live_bytes"] > 0
        assert row["examples"] == sources.DIGITS_TEST
        assert row["composition"] in result.stdout
    with (runs / "pwl" / "compositions.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["top1"]) for row in table] == [row["top1"] for row in rows]
    assert (runs / "pwl" / "compositions.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_tells_two_checkpoints_apart(tmp_path):
    model = tiny_model("vgg")
    workdir.write_config(tmp_path, model.config)
    with checkpoints.Checkpoints(tmp_path) as saved:
        saved.save_result("last", 9, model.variables)
    command = ("launch.evaluate", f"--workdir={tmp_path}")
    # Without a validation split there is no best one, and no report says so.
    assert launched(*command, "--checkpoint=best,last").returncode == 0
    alone = json.loads((tmp_path / "compositions.json").read_text())
    assert [(row["checkpoint"], row["step"]) for row in alone] == [("last", 9)] * 4
    with checkpoints.Checkpoints(tmp_path) as saved:
        saved.save_result("best", 3, jax.tree.map(np.zeros_like, model.variables))
    result = launched(*command, "--checkpoint=best,last", "--orders=suffix")
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "compositions.json").read_text())
    best, last = rows[:4], rows[4:]
    for ours, which in ((best, ("best", 3)), (last, ("last", 9))):
        assert [(row["checkpoint"], row["step"]) for row in ours] == [which] * 4
        assert [row["composition"] for row in ours] == ["SSS", "SST", "STT", "TTT"]
    assert all(row["loss"] == pytest.approx(np.log(10)) for row in best)
    assert all(row["loss"] != pytest.approx(np.log(10)) for row in last)
    for row in (best[0], last[0]):
        assert f"{row['checkpoint']} checkpoint (step {row['step']})" in result.stdout
    for wrong in ("best,best", "first", ""):
        assert failed(launched(*command, f"--checkpoint={wrong}"), "best, last or best,last", 2)


def test_evaluate_measures_a_network_alone(runs):
    result = launched("launch.evaluate", f"--workdir={runs / 'teacher'}")
    assert result.returncode == 0, result.stderr
    (row,) = json.loads((runs / "teacher" / "compositions.json").read_text())
    assert list(row) == ["composition", "top1", "loss", "examples", "live_bytes", *MEASURED]
    assert row["composition"] == "TTT" and row["examples"] == sources.DIGITS_TEST
    # A distilled workdir holds the same teacher.
    launched("launch.evaluate", f"--workdir={runs / 'pwl'}", "--orders=prefix")
    rows = json.loads((runs / "pwl" / "compositions.json").read_text())
    assert rows[-1]["composition"] == "TTT" and rows[-1]["top1"] == row["top1"]
    assert rows[-1]["live_bytes"] == row["live_bytes"]
