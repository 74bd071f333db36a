"""Real processes, killed and started again."""

import signal

import pytest

from tests import commands, tiny_runs

pytestmark = pytest.mark.slow
MANY_STEPS = {"batch_size": 64, "epochs": 4, "checkpoint_every_steps": 5}
TOTAL = 68


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher")
    tiny_runs.train(tiny_runs.config("teacher"), path)
    return path


@pytest.fixture(scope="module")
def settings(teacher, tmp_path_factory):
    """Flags of a distillation of 68 steps, and the workdir of one that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    config = tiny_runs.config_file(folder / "config.py", **MANY_STEPS)
    flags = [f"--config={config}", f"--teacher={teacher}"]
    done = commands.launched("launch.distill", *flags, f"--workdir={folder / 'pwl'}")
    assert done.returncode == 0, done.stderr
    return flags, folder / "pwl"


def test_terminated_then_killed_a_distillation_ends_as_if_nothing_had_been(settings, tmp_path):
    flags, whole = settings
    where = tmp_path / "pwl"
    process = commands.started("launch.distill", *flags, f"--workdir={where}")
    tiny_runs.wait_for_step(process, where, 12)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"of {TOTAL}; the same command goes on from here" in errors
    stopped = tiny_runs.trained_steps(where)[-1]
    assert (where / "checkpoints" / "resume" / str(stopped)).is_dir()

    process = commands.started("launch.distill", *flags, f"--workdir={where}")
    tiny_runs.wait_for_step(process, where, stopped + 12)
    process.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert f"resumed at step {stopped} of {TOTAL}" in errors

    done = commands.launched("launch.distill", *flags, f"--workdir={where}")
    assert done.returncode == 0, done.stderr
    assert "validation/mean_prefix/top1" in done.stdout
    tiny_runs.assert_same_bits(whole, where)
    assert tiny_runs.trained_steps(where) == list(range(1, TOTAL + 1))
    assert tiny_runs.metric_lines(where) == tiny_runs.metric_lines(whole)
