"""Both ways of feeding train alike, are resumed exactly, and say what they cannot do."""

import jax
import numpy as np
import pytest

from pwl_jax.errors import UserError
from pwl_jax.training import feeding, loop
from pwl_jax.training.checkpoints import CheckpointError
from pwl_jax.training.step import device_mesh
from tests import tiny_runs

RESIDENT = {"feeding": "device", "steps_per_dispatch": 3}
STEPS = 8


@pytest.fixture(scope="module")
def resident(tmp_path_factory):
    """Workdir of a finished teacher whose set lay on the devices. Do not change it: copy it."""
    path = tmp_path_factory.mktemp("resident")
    assert tiny_runs.train(tiny_runs.config("teacher", **RESIDENT), path).finished
    return path


def joined(leaves):
    return np.concatenate([leaf.ravel() for leaf in leaves.values()])


@pytest.mark.slow
def test_both_ways_of_feeding_end_with_the_same_parameters(resident, tmp_path):
    assert tiny_runs.train(tiny_runs.config("teacher"), tmp_path).finished
    ours, theirs = joined(tiny_runs.leaves(resident)), joined(tiny_runs.leaves(tmp_path))
    # The same examples, keys and operations; in a loop XLA may fuse, and so round, otherwise.
    assert np.linalg.norm(ours - theirs) <= 1e-6 * np.linalg.norm(theirs)
    lines, others = tiny_runs.metric_lines(resident), tiny_runs.metric_lines(tmp_path)
    assert [line["step"] for line in lines] == [line["step"] for line in others]
    for line, other in zip(lines, others, strict=True):
        assert line == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
def test_a_resident_run_resumes_to_the_same_bits_however_its_steps_are_cut(
    resident, tmp_path, monkeypatch
):
    # Dispatches end at 3 (a checkpoint), 4 (an epoch), 6 and 8. Here one ends at 1, 2 and so on.
    run = tiny_runs.config("teacher", **RESIDENT)
    shorter = tiny_runs.config("teacher", **{**RESIDENT, "steps_per_dispatch": 2})
    assert loop.train(shorter, tmp_path / "cut", progress=False).finished
    tiny_runs.assert_same_bits(resident, tmp_path / "cut")
    tiny_runs.stop_after(monkeypatch, 1, 2)
    # After one dispatch, 3 steps; then after two, at the epoch's end and at 6.
    for steps in (3, 6, STEPS):
        assert tiny_runs.train(run, tmp_path / "stopped").steps == steps
    tiny_runs.assert_same_bits(resident, tmp_path / "stopped")
    assert tiny_runs.trained_steps(tmp_path / "stopped") == list(range(1, STEPS + 1))
    assert tiny_runs.metric_lines(tmp_path / "stopped") == tiny_runs.metric_lines(resident)


def test_a_set_that_is_too_large_for_a_device_is_refused_by_its_bytes(tmp_path, monkeypatch):
    run = tiny_runs.config("teacher", **RESIDENT)
    prepared = loop.prepare(run).training
    # Images of 8x8 bytes, a label and an index of four each.
    needed = len(prepared) * (64 + 4 + 4)
    monkeypatch.setattr(feeding, "memory_bytes", lambda device: 2 * needed - 1)
    with pytest.raises(
        feeding.FeedError,
        match=rf"'digits' takes {needed:,} bytes on each device, .* {2 * needed - 1:,} .*=grain",
    ):
        tiny_runs.train(run, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(feeding, "memory_bytes", lambda device: 2 * needed)
    examples = feeding.resident_examples(prepared, device_mesh())
    assert sum(array.nbytes for array in examples.values()) == needed
    assert examples["image"].dtype == np.uint8
    assert all(array.is_fully_replicated for array in examples.values())


def test_a_devices_memory_is_its_limit_or_its_share_of_the_machines():
    (device,) = jax.devices()[:1]
    assert 0 < feeding.memory_bytes(device) < 1 << 50

    class Gpu:
        def memory_stats(self):
            return {"bytes_limit": 123}

    assert feeding.memory_bytes(Gpu()) == 123


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feeding": "disk"}, "feeding is 'disk'; expected grain or device"),
        ({"steps_per_dispatch": 4}, "steps_per_dispatch is 4, which takes feeding=device"),
        ({"steps_per_dispatch": 0}, "steps_per_dispatch is 0; expected at least 1"),
        ({"accumulate_steps": 0}, "accumulate_steps is 0; expected at least 1"),
    ],
)
def test_configs_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        tiny_runs.config("teacher", **changes)


@pytest.mark.slow
def test_the_way_of_feeding_belongs_to_a_run(resident):
    with pytest.raises(CheckpointError, match="feeding: 'grain', there 'device'"):
        tiny_runs.train(tiny_runs.config("teacher"), resident)
