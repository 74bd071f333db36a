"""How training commands end: a step that is not finite, a trace, a set that cannot be prepared."""

import gzip
import json

import pytest

from tests import commands, tiny_runs

pytestmark = pytest.mark.slow


def test_a_run_that_blows_up_says_so_in_one_line_and_goes_on_with_a_lower_rate(tmp_path):
    config = tiny_runs.config_file(
        tmp_path / "config.py",
        optimizer={"learning_rate": 0.02, "schedule": "constant"},
        checkpoint_every_steps=100,
    )
    flags = [f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    high = "--config.optimizer.learning_rate=1e9"
    result = commands.launched("launch.train_teacher", *flags, high, "--profile=1,1")
    assert result.returncode == 1 and not result.stdout
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("launch.train_teacher: step ") and "is not finite (" in last
    assert "Traceback" not in result.stderr
    (folder,) = (tmp_path / "run" / "non_finite").iterdir()
    assert f"'{folder}'" in last and last.endswith("--change_config the run goes on from the start")
    report = json.loads((folder / "report.json").read_text())
    assert len(report["indices"]) == 256
    # The trace was begun before, and is whole.
    (trace,) = (tmp_path / "run" / "profile").rglob("*.trace.json.gz")
    assert json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    result = commands.launched("launch.train_teacher", *flags)
    assert result.returncode == 1 and "learning_rate: 0.02, there 1000000000.0" in result.stderr
    result = commands.launched("launch.train_teacher", *flags, "--change_config")
    assert result.returncode == 0, result.stderr
    assert "validation/teacher/top1" in result.stdout
    assert tiny_runs.trained_steps(tmp_path / "run") == list(range(1, 9))


@pytest.mark.parametrize(
    ("module", "arguments", "status", "message"),
    [
        ("prepare_data", ["--dataset=cifar11", "--data_dir={}"], 1, "no data set 'cifar11' in"),
        ("prepare_data", ["--dataset=cifar10"], 2, "--data_dir"),
        (
            "train_teacher",
            ["--config=experiments/configs/lenet5_digits.py", "--workdir={}", "--profile=ten"],
            1,
            "profile is 'ten'; expected START,COUNT",
        ),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, module, arguments, status, message):
    where = tmp_path / "new"
    result = commands.launched(f"launch.{module}", *(a.format(where) for a in arguments))
    assert (result.returncode, result.stdout) == (status, "")
    assert message in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert not where.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--processes=2"], "--processes and --process need --coordinator=host:port"),
        (["--coordinator=here", "--processes=2", "--process=0"], "expected host:port or auto"),
        (["--coordinator=localhost:1"], "Number of processes must be defined"),
        (["--coordinator=localhost:1", "--processes=2", "--process=5"], "process_id=5"),
    ],
)
def test_processes_that_cannot_join_say_so_in_one_line(flags, message, tmp_path):
    config = tiny_runs.config_file(tmp_path / "config.py")
    result = commands.launched(
        "launch.train_teacher", f"--config={config}", f"--workdir={tmp_path / 'run'}", *flags
    )
    assert result.returncode == 1
    assert result.stderr.startswith("launch.train_teacher: ") and message in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert not (tmp_path / "run").exists()
