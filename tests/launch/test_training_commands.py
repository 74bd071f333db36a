"""Training, evaluation and export as commands: what goes wrong is one line, and leaves nothing."""

import csv
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from pwl_jax.data import sources
from pwl_jax.ladder import Composition
from pwl_jax.training import checkpoints, preparation, workdir
from pwl_jax.training.config import run_config
from pwl_jax.training.preparation import TrainingError
from tests import tiny_runs
from tests.tiny_models import tiny_model

CONFIGS = sorted(
    path.stem
    for path in (tiny_runs.ROOT / "experiments" / "configs").glob("*.py")
    if "def get_config(variant" in path.read_text()
)
COMMANDS = {
    "train_teacher": "--network",
    "distill": "--teacher",
    "evaluate": "--orders",
    "export": "--bits",
}
MEASURED = ["checkpoint", "step", "data", "split", "device"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs of a teacher and of its distillation, and the config file of both."""
    folder = tmp_path_factory.mktemp("runs")
    tiny_runs.config_file(folder / "config.py", epochs=1)
    tiny_runs.train(tiny_runs.config("teacher", epochs=1), folder / "teacher")
    tiny_runs.train(tiny_runs.config("distill", epochs=1), folder / "pwl", folder / "teacher")
    return folder


def fails(result, status, message):
    """One line on stderr that holds `message`, nothing on stdout."""
    assert result.returncode == status, result.stderr
    assert message in result.stderr
    assert result.stderr.startswith("launch.") and result.stderr.count("\n") == 1, result.stderr
    assert not result.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--epochs=3"], 2, "Unknown command line flag 'epochs'"),
        (["--config.batch_size=many"], 2, "batch_size"),
        (["--config.epoch=3"], 2, "epoch"),
        (["--config.batch_size=100"], 1, "batch_size 100 does not divide among 8 devices"),
        (["--config.batch_size=0"], 1, "batch_size is 0; expected at least 1"),
        (["--config.data.name=cifar10"], 1, "'cifar10' is not prepared in"),
        (["--config.optimizer.learning_rate=-1"], 1, "learning_rate is -1"),
    ],
)
def test_a_teacher_that_cannot_be_trained(tmp_path, arguments, status, message):
    changes = {"data": {"name": "digits", "data_dir": str(tmp_path / "data")}}
    config = tiny_runs.config_file(tmp_path / "config.py", **changes)
    result = tiny_runs.launched(
        "launch.train_teacher",
        f"--config={config}",
        f"--workdir={tmp_path / 'new'}",
        *arguments,
        devices=8,
    )
    fails(result, status, message)
    assert not (tmp_path / "new").exists()


def test_an_unknown_pair_is_named_with_those_that_are_known(tmp_path):
    config = tiny_runs.config_file(tmp_path / "config.py", pair="alexnet")
    result = tiny_runs.launched(
        "launch.train_teacher", f"--config={config}", f"--workdir={tmp_path / 'new'}"
    )
    fails(result, 1, "pair 'alexnet' is unknown; expected one of lenet5")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_teacher_of_another_pair_and_a_config_of_another_run(runs, tmp_path):
    other = tiny_runs.tiny_pair("lenet5").to_dict()
    config = tiny_runs.config_file(tmp_path / "config.py", pair=other)
    flags = [f"--config={config}", f"--teacher={runs / 'teacher'}"]
    result = tiny_runs.launched("launch.distill", *flags, f"--workdir={tmp_path / 'new'}")
    fails(result, 1, "is of pair 'vgg_tiny', not of 'lenet5_tiny'")
    assert not (tmp_path / "new").exists()
    result = tiny_runs.launched("launch.distill", *flags, f"--workdir={runs / 'pwl'}")
    fails(result, 1, "holds a run with another config")
    result = tiny_runs.launched("launch.distill", flags[0], f"--workdir={tmp_path / 'new'}")
    fails(result, 1, "--teacher is missing")
    result = tiny_runs.launched("launch.distill", *flags)
    fails(result, 1, "--workdir is missing")


@pytest.mark.slow
def test_evaluate_says_what_is_wrong(runs, tmp_path):
    for arguments, message in (
        ([f"--workdir={tmp_path / 'nowhere'}"], "no run's config at"),
        ([f"--workdir={runs / 'teacher'}", "--orders=all"], "--orders is for pairs; '"),
        ([f"--workdir={runs / 'teacher'}", "--data=multi_digits"], "has any number of labels"),
        ([f"--workdir={runs / 'pwl'}", "--orders=prefix,some"], "'some'"),
        ([f"--workdir={runs / 'pwl'}", "--data=nothing"], "no data set 'nothing'"),
    ):
        fails(tiny_runs.launched("launch.evaluate", *arguments), 1, message)
    assert not (tmp_path / "nowhere").exists()
    assert not (runs / "teacher" / "compositions.json").exists()


@pytest.mark.slow
def test_export_says_what_is_wrong(runs, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("kept")
    workdir = f"--workdir={runs / 'pwl'}"
    for arguments, message in (
        ([workdir, f"--bundle={folder}"], "mine"),
        ([workdir, f"--bundle={tmp_path / 'new'}", "--bits=9,exact"], "'9' is no precision"),
        ([workdir, f"--bundle={tmp_path / 'new'}", "--bits=4"], "exact"),
        ([f"--workdir={runs / 'teacher'}", f"--bundle={tmp_path / 'new'}"], "a teacher alone"),
    ):
        fails(tiny_runs.launched("launch.export", *arguments), 1, message)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert (folder / "notes.txt").read_text() == "kept"


@pytest.mark.slow
def test_evaluate_writes_every_composition(runs):
    result = tiny_runs.launched("launch.evaluate", f"--workdir={runs / 'pwl'}", "--orders=all")
    assert result.returncode == 0, result.stderr
    rows = json.loads((runs / "pwl" / "compositions.json").read_text())
    assert [row["composition"] for row in rows] == [str(c) for c in Composition.all(3)]
    for row in rows:
        assert list(row) == ["composition", "top1", "loss", "examples", "live_bytes", *MEASURED]
        assert [row[name] for name in MEASURED] == ["best", 4, "digits", "test", "cpu"]
        assert 0 <= row["top1"] <= 1 and row["loss"] > 0 and row["live_bytes"] > 0
        assert row["examples"] == sources.DIGITS_TEST
        assert row["composition"] in result.stdout
    with (runs / "pwl" / "compositions.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["top1"]) for row in table] == [row["top1"] for row in rows]
    assert (runs / "pwl" / "compositions.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_evaluate_tells_two_checkpoints_apart(tmp_path):
    model = tiny_model("vgg")
    workdir.write_config(tmp_path, model.config)
    with checkpoints.Checkpoints(tmp_path) as saved:
        saved.save_result("last", 9, model.variables)
    command = ("launch.evaluate", f"--workdir={tmp_path}")
    # Without a validation split there is no best one, and no report says so.
    assert tiny_runs.launched(*command, "--checkpoint=best,last").returncode == 0
    alone = json.loads((tmp_path / "compositions.json").read_text())
    assert [(row["checkpoint"], row["step"]) for row in alone] == [("last", 9)] * 4
    with checkpoints.Checkpoints(tmp_path) as saved:
        saved.save_result("best", 3, jax.tree.map(np.zeros_like, model.variables))
    result = tiny_runs.launched(*command, "--checkpoint=best,last", "--orders=suffix")
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
        fails(tiny_runs.launched(*command, f"--checkpoint={wrong}"), 2, "best, last or best,last")


@pytest.mark.slow
def test_evaluate_measures_a_network_alone(runs):
    result = tiny_runs.launched("launch.evaluate", f"--workdir={runs / 'teacher'}")
    assert result.returncode == 0, result.stderr
    (row,) = json.loads((runs / "teacher" / "compositions.json").read_text())
    assert list(row) == ["composition", "top1", "loss", "examples", "live_bytes", *MEASURED]
    assert row["composition"] == "TTT" and row["examples"] == sources.DIGITS_TEST
    # A distilled workdir holds the same teacher.
    tiny_runs.launched("launch.evaluate", f"--workdir={runs / 'pwl'}", "--orders=prefix")
    rows = json.loads((runs / "pwl" / "compositions.json").read_text())
    assert rows[-1]["composition"] == "TTT" and rows[-1]["top1"] == row["top1"]
    assert rows[-1]["live_bytes"] == row["live_bytes"]


@pytest.mark.slow
def test_a_multi_label_set_from_training_to_its_report(tmp_path):
    config = tiny_runs.config_file(tmp_path / "config.py", data={"name": "multi_digits"}, epochs=1)
    flags = [f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    fails(
        tiny_runs.launched("launch.distill", *flags, f"--teacher={tmp_path}"),
        1,
        "'multi_digits' is a multi-label set, which cannot be distilled",
    )
    assert not (tmp_path / "run").exists()
    result = tiny_runs.launched("launch.train_teacher", *flags, "--network=student")
    assert result.returncode == 0, result.stderr
    assert "validation/student/mean_average_precision: 0." in result.stdout
    result = tiny_runs.launched("launch.evaluate", flags[1])
    assert result.returncode == 0, result.stderr
    (row,) = json.loads((tmp_path / "run" / "compositions.json").read_text())
    names = ["composition", "top1", "mean_average_precision", "loss", "examples", "live_bytes"]
    assert list(row) == [*names, *MEASURED]
    assert (row["composition"], row["top1"], row["examples"]) == ("SSS", None, 1000)
    assert f"{100 * row['mean_average_precision']:.2f}" in result.stdout
    assert "mAP %" in result.stdout
    with (tmp_path / "run" / "compositions.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert line["top1"] == ""
    assert float(line["mean_average_precision"]) == row["mean_average_precision"]
    assert (tmp_path / "run" / "compositions.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_the_commands_own_flags(name):
    result = tiny_runs.launched(f"launch.{name}", "--help")
    assert result.returncode == 0 and not result.stderr
    assert COMMANDS[name] in result.stdout and "--workdir" in result.stdout


@pytest.mark.slow
def test_a_dry_run_needs_neither_data_nor_teacher(tmp_path):
    result = tiny_runs.launched(
        "launch.distill",
        "--config=experiments/configs/lenet5_cifar10.py",
        f"--config.data.data_dir={tmp_path}",
        "--dry_run",
    )
    assert (result.returncode, result.stderr) == (0, "")
    for expected in (
        "distill of pair 'lenet5' on 'cifar10'",
        f"number of steps unknown: data set 'cifar10' is not prepared in {tmp_path}",
        "batch image  uint8[128, 32, 32, 3]",
        "metrics: align, cross, gradient_norm, hard, loss",
        "bytes of memory on each device",
        "compiled in",
    ):
        assert expected in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_describes_two_runs(name):
    for variant in ("", "runlocal"):
        config = get_config(name)(variant)
        for task in ("teacher", "distill"):
            run = run_config(config, task)
            assert run.task == task
            if variant or task == "teacher":
                continue
            if sources.is_multi_label(run.data.name):
                with pytest.raises(TrainingError, match="cannot be distilled"):
                    preparation.dry_run(run)
                for alone in ("teacher", "student"):
                    assert (
                        preparation.dry_run(run_config(config, alone), compiled=False)["flops"] > 0
                    )
                continue
            cost = preparation.dry_run(run, compiled=False)
            assert cost["networks"]["teacher"][0] > cost["networks"]["student"][0]
            assert cost["flops"] > 0


def get_config(name):
    path = Path(tiny_runs.ROOT / "experiments" / "configs" / f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config
