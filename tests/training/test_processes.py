"""Real processes: killed and started again, and two that train together."""

import random
import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from tests import tiny_runs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled_once")]
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
    done = tiny_runs.launched("launch.distill", *flags, f"--workdir={folder / 'pwl'}")
    assert done.returncode == 0, done.stderr
    return flags, folder / "pwl"


def started(flags, where, devices=1):
    line, environment = tiny_runs.command(
        "launch.distill", *flags, f"--workdir={where}", devices=devices
    )
    return subprocess.Popen(
        line,
        env=environment,
        cwd=tiny_runs.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(process, where, step):
    """Returns once the run has written the metrics of `step` or of a later one."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        written = (where / "metrics.jsonl").exists()
        if written and max(tiny_runs.trained_steps(where), default=0) >= step:
            return
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"step {step} was never seen: {process.communicate()}")


def test_terminated_then_killed_a_distillation_ends_as_if_nothing_had_been(settings, tmp_path):
    flags, whole = settings
    where = tmp_path / "pwl"
    process = started(flags, where)
    wait_for_step(process, where, 12)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"of {TOTAL}; the same command goes on from here" in errors
    stopped = tiny_runs.trained_steps(where)[-1]
    assert (where / "checkpoints" / "resume" / str(stopped)).is_dir()

    process = started(flags, where)
    wait_for_step(process, where, stopped + 12)
    process.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert f"resumed at step {stopped} of {TOTAL}" in errors

    done = tiny_runs.launched("launch.distill", *flags, f"--workdir={where}")
    assert done.returncode == 0, done.stderr
    assert "validation/mean_prefix/top1" in done.stdout
    tiny_runs.assert_same_bits(whole, where)
    assert tiny_runs.trained_steps(where) == list(range(1, TOTAL + 1))
    assert tiny_runs.metric_lines(where) == tiny_runs.metric_lines(whole)


@pytest.mark.long
def test_killed_at_any_moment_it_ends_as_if_nothing_had_been(settings, tmp_path):
    flags, whole = settings
    where = tmp_path / "pwl"
    draw = random.Random(0)
    for _ in range(12):
        process = started(flags, where)
        # Anything from the imports to past the end of a run of these steps.
        time.sleep(draw.uniform(1, 14))
        process.send_signal(draw.choice([signal.SIGKILL, signal.SIGTERM]))
        process.communicate(timeout=60)
    done = tiny_runs.launched("launch.distill", *flags, f"--workdir={where}")
    assert done.returncode == 0, done.stderr
    tiny_runs.assert_same_bits(whole, where)
    assert tiny_runs.metric_lines(where) == tiny_runs.metric_lines(whole)


@pytest.mark.parametrize("feeding", [{}, {"feeding": "device", "steps_per_dispatch": 3}])
def test_two_processes_train_as_one_with_two_devices(teacher, tmp_path, feeding):
    config = tiny_runs.config_file(tmp_path / "config.py", epochs=1, **feeding)
    flags = [f"--config={config}", f"--teacher={teacher}"]
    together, alone = tmp_path / "together", tmp_path / "alone"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    several = [*flags, f"--coordinator=localhost:{port}", "--processes=2"]
    processes = [started([*several, f"--process={p}"], together) for p in range(2)]
    try:
        outputs = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    # One of them speaks and writes.
    assert "mean_prefix" in outputs[0][0] and "mean_prefix" not in "".join(outputs[1])
    done = tiny_runs.launched("launch.distill", *flags, f"--workdir={alone}", devices=2)
    assert done.returncode == 0, done.stderr
    a, b = (
        np.concatenate([leaf.ravel() for leaf in tiny_runs.leaves(where).values()])
        for where in (alone, together)
    )
    # The same rows on the same devices; sums over processes go by another library.
    assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(a)
    steps = [tiny_runs.trained_steps(where) for where in (alone, together)]
    assert steps[0] == steps[1] == list(range(1, 5))
    assert (together / "config.json").read_text() == (alone / "config.json").read_text()
