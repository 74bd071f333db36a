"""Runs as a whole: exact resume, what stops them, what they leave on disk."""

import dataclasses
import itertools
import json
import signal
import threading
import time

import jax
import numpy as np
import pytest

from pwl_jax.training import loop, workdir
from pwl_jax.training.checkpoints import CheckpointError
from tests import tiny_runs

STEPS = 8


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Workdir of a finished teacher. Do not change it: copy it."""
    path = tmp_path_factory.mktemp("teacher")
    assert tiny_runs.train(tiny_runs.config("teacher"), path).finished
    return path


@pytest.fixture(scope="module")
def distilled(teacher, tmp_path_factory):
    """Workdir of a finished distillation. Do not change it: copy it."""
    path = tmp_path_factory.mktemp("distilled")
    assert tiny_runs.train(tiny_runs.config("distill"), path, teacher).finished
    return path


def files_of(path):
    """Every file below a folder with its content."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("task", ["teacher", pytest.param("distill", marks=pytest.mark.slow)])
def test_a_stopped_run_resumes_to_the_same_bits(task, request, teacher, tmp_path, monkeypatch):
    run = tiny_runs.config(task)
    given = teacher if task == "distill" else None
    whole = request.getfixturevalue("distilled" if task == "distill" else "teacher")
    # At the start, at a step that was saved anyway, and past the first epoch.
    stops = (3, 5) if task == "distill" else (0, 3, 5)
    tiny_runs.stop_after(monkeypatch, *(b - a for a, b in itertools.pairwise((0, *stops))))
    for steps in (*stops, STEPS):
        assert tiny_runs.train(run, tmp_path, given).steps == steps
    tiny_runs.assert_same_bits(whole, tmp_path)
    assert tiny_runs.trained_steps(tmp_path) == list(range(1, STEPS + 1))
    assert tiny_runs.metric_lines(tmp_path) == tiny_runs.metric_lines(whole)


@pytest.mark.slow
def test_a_finished_run_stays_as_it_is(distilled, teacher):
    before = files_of(distilled / "checkpoints")
    result = tiny_runs.train(tiny_runs.config("distill"), distilled, teacher)
    assert result.finished and result.values["validation/mean_prefix/top1"] > 0
    assert files_of(distilled / "checkpoints") == before
    assert tiny_runs.trained_steps(distilled) == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_fitted_converters_begin_nearer_to_the_features_than_drawn_ones(
    distilled, teacher, tmp_path, monkeypatch
):
    tiny_runs.stop_after(monkeypatch, 1)
    tiny_runs.train(tiny_runs.config("distill", converter_init="least_squares"), tmp_path, teacher)
    fitted, drawn = (tiny_runs.metric_lines(where)[0] for where in (tmp_path, distilled))
    assert fitted["step"] == drawn["step"] == 1
    for term in ("sync", "recon", "align"):
        assert fitted[f"train/{term}"] < 0.2 * drawn[f"train/{term}"], term
    # Fitted to features as running averages normalise them, it is above 1.1.
    assert fitted["train/sync"] < 0.95


def test_a_signal_stops_cleanly(tmp_path, capsys):
    run = tiny_runs.config("teacher", epochs=1000)
    handler = signal.getsignal(signal.SIGTERM)

    def send():
        while not (tmp_path / "metrics.jsonl").exists() or not tiny_runs.trained_steps(tmp_path):
            time.sleep(0.05)
        signal.raise_signal(signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    result = tiny_runs.train(run, tmp_path)
    sender.join()
    assert not result.finished
    assert f"stopped at step {result.steps} of {result.total}; the same command" in (
        capsys.readouterr().err
    )
    assert tiny_runs.trained_steps(tmp_path) == list(range(1, result.steps + 1))
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"\(seed: 1, there 0\)"),
        ({"epochs": 3}, r"\(epochs: 3, there 2\)"),
        ({"pair": tiny_runs.tiny_pair("resnet").to_dict()}, "pair.name: 'resnet_tiny', there"),
    ],
)
@pytest.mark.slow
def test_the_workdir_of_another_run_is_refused_and_kept(distilled, teacher, changes, message):
    before = files_of(distilled)
    with pytest.raises(CheckpointError, match=message):
        tiny_runs.train(tiny_runs.config("distill", **changes), distilled, teacher)
    with pytest.raises(CheckpointError, match="task: 'teacher', there 'distill'"):
        tiny_runs.train(tiny_runs.config("teacher"), distilled)
    assert files_of(distilled) == before


def test_a_teacher_of_another_pair_is_refused_before_anything_is_written(teacher, tmp_path):
    run = tiny_runs.config("distill", pair=tiny_runs.tiny_pair("resnet").to_dict())
    with pytest.raises(CheckpointError, match="is of pair 'vgg_tiny', not of 'resnet_tiny'"):
        tiny_runs.train(run, tmp_path / "new", teacher)
    with pytest.raises(CheckpointError, match="no run's config at"):
        tiny_runs.train(tiny_runs.config("distill"), tmp_path / "new", tmp_path / "nowhere")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_teacher_and_distillation_are_told_apart(teacher, distilled):
    with pytest.raises(CheckpointError, match="holds a teacher alone; expected the workdir of a"):
        workdir.load_model(teacher)
    # A distilled workdir contains its teacher, to the bit.
    run = tiny_runs.config("distill")
    a, b = workdir.load_teacher(teacher, run), workdir.load_teacher(distilled, run)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
    student = dataclasses.replace(run, task="student")
    with pytest.raises(CheckpointError, match="another config"):
        workdir.check_config(teacher, student)


def test_without_a_validation_split_only_the_last_result_is_kept(tmp_path):
    run = tiny_runs.config("teacher", data={"name": "digits", "validation_fraction": 0.0})
    result = tiny_runs.train(run, tmp_path)
    assert result.values.keys() == {"training/teacher/top1", "training/teacher/loss"}
    assert not list((tmp_path / "checkpoints" / "best").glob("[0-9]*"))
    assert tiny_runs.leaves(tmp_path, "best").keys() == tiny_runs.leaves(tmp_path, "last").keys()


def test_best_is_chosen_on_the_validation_split(teacher, tmp_path, monkeypatch):
    # Scores that fall after the first evaluation: best and last must then differ.
    run = tiny_runs.config("teacher", epochs=3)
    seen, scores = [], iter([0.5, 0.9, 0.1])
    prepared = loop.prepare(run)
    real = prepared.task.assess

    def assess(variables, chosen_on, training):
        seen.append(sum(int(b["weight"].sum()) for b in chosen_on()))
        return dataclasses.replace(real(variables, chosen_on, training), score=next(scores))

    task = dataclasses.replace(prepared.task, assess=assess)
    monkeypatch.setattr(loop, "prepare", lambda *a, **k: dataclasses.replace(prepared, task=task))
    assert tiny_runs.train(run, tmp_path).finished
    assert seen == [len(prepared.validation)] * 3
    names = {which: _steps(tmp_path, which) for which in ("best", "last")}
    assert names == {"best": [8], "last": [12]}
    indices = [p.source.indices for p in (prepared.training, prepared.validation)]
    assert not np.intersect1d(*indices).size


def _steps(where, which):
    folder = where / "checkpoints" / which
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


@pytest.mark.slow
def test_config_json_is_the_whole_run(distilled):
    data = json.loads((distilled / "config.json").read_text())
    assert data["pair"]["teacher"]["widths"] == [6, 8, 8]
    assert workdir.read_config(distilled) == tiny_runs.config("distill")


@pytest.mark.slow
def test_statistics_may_be_those_of_all_compositions(teacher, tmp_path):
    """On a mesh of several devices, as the step is mapped over one."""
    run = tiny_runs.config("distill", epochs=1, calibration_over="all")
    assert tiny_runs.train(run, tmp_path, teacher).steps == 4
    found = tiny_runs.leaves(tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in found.values())
