"""train_teacher and distill: what goes wrong is one line, and leaves nothing."""

import csv
import json

import pytest

from pwl_jax.errors import UserError
from tests import tiny_runs
from tests.commands import failed, launched
from tests.export.networks import network_of, write_network
from tests.tiny_models import tiny_model, write_workdir

OWN_FLAGS = {
    "train_teacher": "--network",
    "distill": "--teacher",
    "evaluate": "--orders",
    "export": "--bits",
}
MEASURED = ["checkpoint", "step", "data", "split", "device"]


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs of a teacher and of its distillation, which no training made."""
    folder = tmp_path_factory.mktemp("runs")
    write_network(folder / "teacher", network_of("teacher"))
    write_workdir(folder / "pwl", tiny_model("vgg"))
    return folder


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--epochs=3"], 2, "Unknown command line flag 'epochs'"),
        slow(["--config.batch_size=many"], 2, "batch_size"),
        slow(["--config.epoch=3"], 2, "epoch"),
        (["--config.batch_size=100"], 1, "batch_size 100 does not divide among 8 devices"),
        slow(["--config.data.name=cifar10"], 1, "'cifar10' is not prepared in"),
        slow(["--config.optimizer.learning_rate=-1"], 1, "learning_rate is -1"),
    ],
)
def test_a_teacher_that_cannot_be_trained(tmp_path, arguments, status, message):
    changes = {"data": {"name": "digits", "data_dir": str(tmp_path / "data")}}
    config = tiny_runs.config_file(tmp_path / "config.py", **changes)
    result = launched(
        "launch.train_teacher",
        f"--config={config}",
        f"--workdir={tmp_path / 'new'}",
        *arguments,
        devices=8,
    )
    assert failed(result, message, status)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"optimizer": {"learning_rate": -1.0}}, "learning_rate is -1"),
    ],
)
def test_numbers_that_no_run_can_have(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        tiny_runs.train(tiny_runs.config("teacher", **changes), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_unknown_pair_is_named_with_those_that_are_known(tmp_path):
    config = tiny_runs.config_file(tmp_path / "config.py", pair="alexnet")
    result = launched("launch.train_teacher", f"--config={config}", f"--workdir={tmp_path / 'new'}")
    assert failed(result, "pair 'alexnet' is unknown; expected one of lenet5")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_teacher_of_another_pair_and_a_config_of_another_run(runs, tmp_path):
    other = tiny_runs.tiny_pair("lenet5").to_dict()
    config = tiny_runs.config_file(tmp_path / "config.py", pair=other)
    flags = [f"--config={config}", f"--teacher={runs / 'teacher'}"]
    result = launched("launch.distill", *flags, f"--workdir={tmp_path / 'new'}")
    assert failed(result, "is of pair 'vgg_tiny', not of 'lenet5_tiny'")
    assert not (tmp_path / "new").exists()
    result = launched("launch.distill", *flags, f"--workdir={runs / 'pwl'}")
    assert failed(result, "holds a run with another config")
    result = launched("launch.distill", flags[0], f"--workdir={tmp_path / 'new'}")
    assert failed(result, "--teacher is missing")
    result = launched("launch.distill", *flags)
    assert failed(result, "--workdir is missing")


@pytest.mark.long
def test_a_multi_label_set_from_training_to_its_report(tmp_path):
    config = tiny_runs.config_file(tmp_path / "config.py", data={"name": "multi_digits"}, epochs=1)
    flags = [f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    assert failed(
        launched("launch.distill", *flags, f"--teacher={tmp_path}"),
        "'multi_digits' is a multi-label set, which cannot be distilled",
    )
    assert not (tmp_path / "run").exists()
    result = launched("launch.train_teacher", *flags, "--network=student")
    assert result.returncode == 0, result.stderr
    assert "validation/student/mean_average_precision: 0." in result.stdout
    result = launched("launch.evaluate", flags[1])
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
@pytest.mark.parametrize("name", OWN_FLAGS)
def test_help_shows_the_commands_own_flags(name):
    result = launched(f"launch.{name}", "--help")
    assert result.returncode == 0 and not result.stderr
    assert OWN_FLAGS[name] in result.stdout and "--workdir" in result.stdout


@pytest.mark.slow
def test_a_dry_run_needs_neither_data_nor_teacher(tmp_path):
    result = launched(
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
