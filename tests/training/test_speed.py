"""What a run says of its speed and cost: sums that fit, waiting that is seen, one compile."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from pwl_jax.errors import UserError
from pwl_jax.training import cost, loop, preparation
from pwl_jax.training.feeding import step_of
from pwl_jax.training.preparation import TrainingError
from pwl_jax.training.profiling import ProfileSpan
from pwl_jax.training.speed import StepClock
from tests import tiny_runs


class Work:
    """Results of a device that is done or not."""

    def __init__(self, done):
        self.done = done

    def is_ready(self):
        return self.done


class Time:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds

    def passes(self, seconds):
        self.seconds += seconds


@pytest.mark.parametrize(
    ("at_work", "waited"), [(Work(True), 2.0), (Work(False), 0.0), (None, 2.0)]
)
def test_only_a_device_that_stands_still_waits(at_work, waited):
    now = Time()
    clock = StepClock(64, flops=1e9, peak=None, now=now)
    assert clock.taken(lambda: now.passes(2), at_work) is None
    now.passes(6)
    assert clock.lap(4) == {
        "speed/images_per_s": 4 * 64 / 8,
        "speed/step_ms": 2000.0,
        "speed/wait_ms": 1000 * waited / 4,
        "speed/compute_ms": 2000.0 - 1000 * waited / 4,
    }


def test_laps_begin_where_the_last_one_ended_or_at_a_restart():
    now = Time()
    clock = StepClock(10, flops=3e12, peak=2e12, now=now)
    clock.taken(lambda: now.passes(1), None)
    now.passes(2)
    assert clock.lap(1)["speed/mfu"] == pytest.approx(3e12 / 3 / 2e12)
    now.passes(5)
    clock.restart()  # As after an evaluation.
    now.passes(1)
    values = clock.lap(1)
    assert (values["speed/step_ms"], values["speed/wait_ms"]) == (1000.0, 0.0)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("cpu", None),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA L40S", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_peaks_are_those_of_known_devices(kind, peak):
    class Device:
        device_kind = kind

    assert cost.peak_flops(Device()) == peak


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, marks=pytest.mark.long),
        {"feeding": "device", "steps_per_dispatch": 3},
    ],
    ids=["grain", "device"],
)
def test_a_run_says_its_cost_and_speed_and_traces_steps(fields, tmp_path, capsys, caplog):
    run = tiny_runs.config("teacher", **fields)
    with jax.log_compiles():
        loop.train(run, tmp_path, progress=False, profile=ProfileSpan(2, 2))
    said = capsys.readouterr().err
    for part in (" parameters ", "GFLOP a step", "bytes of memory on each device", "compiled in"):
        assert part in said
    # What is compiled to be described is what runs.
    compiled = [m for m in caplog.messages if "XLA compilation of jit(per_device_step" in m]
    assert len(compiled) == 1, compiled
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    timed = [line for line in lines if "speed/step_ms" in line]
    # The last step of every dispatch: checkpoints at 3 and 6, evaluations at 4 and 8.
    assert [line["step"] for line in timed] == (list(range(1, 9)) if not fields else [3, 4, 6, 8])
    for line in timed:
        assert line["speed/wait_ms"] + line["speed/compute_ms"] == pytest.approx(
            line["speed/step_ms"]
        )
        assert line["speed/images_per_s"] > 0 and "speed/mfu" not in line
        assert {"train/loss", "train/hard"} <= line.keys()
    (trace,) = tmp_path.glob("profile/plugins/profile/*/*.trace.json.gz")
    assert trace.with_name(trace.name.replace("trace.json.gz", "xplane.pb")).stat().st_size
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    # Nothing but the steps that were asked for, in whole dispatches.
    calls = [e for e in events if "per_device_step" in e.get("name", "")]
    assert calls


def test_a_trace_behind_the_last_step_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="profile begins at step 9; the run has 8"):
        loop.train(tiny_runs.config("teacher"), tmp_path / "new", profile=ProfileSpan(9, 1))
    assert not (tmp_path / "new").exists()


def test_a_trace_is_asked_for_in_one_way():
    assert ProfileSpan.parse("10,5") == ProfileSpan(10, 5)
    for text in ("10", "a,b", "0,5", "3,0", "1,2,3", ""):
        with pytest.raises(UserError, match="profile is"):
            ProfileSpan.parse(text)


@pytest.mark.slow
def test_operations_do_not_depend_on_how_a_step_is_cut():
    facts = [
        preparation.dry_run(tiny_runs.config("teacher", **fields), compiled=False)
        for fields in (
            {},
            {"accumulate_steps": 4},
            {"feeding": "device", "steps_per_dispatch": 5},
        )
    ]
    assert facts[0]["flops"] > 1e6
    for other in facts[1:]:
        assert other["flops"] == pytest.approx(facts[0]["flops"], rel=0.01)
        assert other["state_bytes"] == facts[0]["state_bytes"]


def test_memory_of_a_step_holds_its_state_and_its_batch():
    run = tiny_runs.config("student")
    prepared = preparation.prepare(run)
    step = step_of(run, prepared.task.program, prepared.mesh)
    facts = cost.step_cost(run, prepared.task, prepared.mesh, step)
    images = 256 * 64 // prepared.mesh.size
    assert facts["memory_bytes"] > facts["state_bytes"] + images
    assert facts["compile_seconds"] > 0
    assert jnp.isfinite(facts["flops"])
