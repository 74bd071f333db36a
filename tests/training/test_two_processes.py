"""Two real processes (gloo on localhost): they train as one, stop together, and are resumed."""

import contextlib
import shutil
import signal
import socket

import numpy as np
import pytest

from pwl_jax.training.checkpoints import resume_step
from tests import commands, tiny_runs

pytestmark = pytest.mark.slow
FIELDS = {"batch_size": 64, "epochs": 2, "checkpoint_every_steps": 5}
RESIDENT = {"feeding": "device", "steps_per_dispatch": 4}
TOTAL = 34


@pytest.fixture(scope="module", params=["train_teacher", "distill"])
def job(request, tmp_path_factory):
    """A command and its flags: one fed by Grain, one of examples that the devices hold."""
    folder = tmp_path_factory.mktemp("job")
    if request.param == "train_teacher":
        config = tiny_runs.config_file(folder / "config.py", **FIELDS)
        return "launch.train_teacher", f"--config={config}"
    tiny_runs.train(tiny_runs.config("teacher", epochs=1), folder / "teacher")
    config = tiny_runs.config_file(folder / "config.py", **FIELDS, **RESIDENT)
    return "launch.distill", f"--config={config}", f"--teacher={folder / 'teacher'}"


@contextlib.contextmanager
def two_started(job, where):
    """Two processes that train together, one device each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = [*job, f"--coordinator=localhost:{port}", "--processes=2", f"--workdir={where}"]
    processes = [commands.started(*together, f"--process={number}") for number in range(2)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def ended(processes):
    """What they printed, once both have left with status 0."""
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return outputs


def on_two_devices(job, where):
    done = commands.launched(*job, f"--workdir={where}", devices=2)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def whole(job, tmp_path_factory):
    """Workdir of two processes that nothing stopped."""
    where = tmp_path_factory.mktemp("whole")
    with two_started(job, where) as processes:
        outputs = ended(processes)
    # One of them speaks and writes.
    assert "/top1" in outputs[0][0] and "/top1" not in "".join(outputs[1])
    assert outputs[1][1] == ""
    return where


@pytest.fixture(scope="module")
def stopped(job, tmp_path_factory):
    """Workdir of two processes of which the second got SIGTERM."""
    where = tmp_path_factory.mktemp("stopped")
    with two_started(job, where) as processes:
        tiny_runs.wait_for_step(processes[0], where, 2)
        processes[1].send_signal(signal.SIGTERM)
        outputs = ended(processes)
    step = resume_step(where)
    assert f"stopped at step {step} of {TOTAL}; the same command goes on" in outputs[0][1]
    assert 2 <= step < TOTAL
    assert tiny_runs.trained_steps(where) == list(range(1, step + 1))
    return where


def assert_close(ours, theirs):
    """Within 1e-6 of the tree's norm: sums over devices come in another order."""
    a, b = (
        np.concatenate([leaf.ravel() for leaf in tiny_runs.leaves(where).values()])
        for where in (ours, theirs)
    )
    assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(b)


def test_two_processes_train_as_one_with_two_devices(job, whole, tmp_path):
    on_two_devices(job, tmp_path)
    assert_close(whole, tmp_path)
    for where in (whole, tmp_path):
        assert tiny_runs.trained_steps(where) == list(range(1, TOTAL + 1))
    assert (whole / "config.json").read_text() == (tmp_path / "config.json").read_text()


def test_stopped_by_a_signal_to_one_they_resume_to_the_same_bits(job, whole, stopped, tmp_path):
    where = shutil.copytree(stopped, tmp_path / "run")
    with two_started(job, where) as processes:
        outputs = ended(processes)
    assert f"resumed at step {resume_step(stopped)} of {TOTAL}" in outputs[0][1]
    tiny_runs.assert_same_bits(whole, where)
    assert tiny_runs.metric_lines(where) == tiny_runs.metric_lines(whole)


@pytest.mark.long
def test_what_two_processes_began_one_with_two_devices_ends(job, whole, stopped, tmp_path):
    where = shutil.copytree(stopped, tmp_path / "run")
    on_two_devices(job, where)
    assert_close(whole, where)
    assert tiny_runs.trained_steps(where) == list(range(1, TOTAL + 1))


@pytest.mark.long
def test_what_one_process_began_two_end(job, whole, tmp_path):
    where = tmp_path / "run"
    process = commands.started(*job, f"--workdir={where}", devices=2)
    tiny_runs.wait_for_step(process, where, 2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    step = resume_step(where)
    with two_started(job, where) as processes:
        outputs = ended(processes)
    assert f"resumed at step {step} of {TOTAL}" in outputs[0][1]
    assert_close(whole, where)


def test_more_processes_than_divide_a_batch_are_refused(job, stopped):
    before = resume_step(stopped)
    result = commands.launched(*job, f"--workdir={stopped}", devices=3)
    assert result.returncode == 1
    assert result.stderr == f"{job[0]}: batch_size 64 does not divide among 3 devices\n"
    assert resume_step(stopped) == before
