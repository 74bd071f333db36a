"""The benchmark of latency while climbing: it counts what it says, and finds wrong answers."""

import threading
import time

import numpy as np
import pytest

from experiments.benchmarks import climb_rows
from experiments.benchmarks.climb_rows import expected_logits, latency_rows, soak_rows
from experiments.benchmarks.drawn_bundle import write_drawn_bundle
from experiments.benchmarks.open_loop import arrivals, latencies, saturating_rate
from pwl_jax.ladder import EXACT
from pwl_jax.models import registry


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("climbs") / "bundle"
    write_drawn_bundle(folder, registry.pair("lenet5_digits"), (4, EXACT))
    return folder


def test_arrivals_are_a_poisson_process():
    due = arrivals(50.0, seed=0)
    gaps = np.diff([next(due) for _ in range(4000)])
    assert gaps.min() > 0
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.1)


def test_a_stall_is_counted_for_all_who_arrive_in_it():
    """Asked one after the other, only one request would ever have seen it."""
    answered = []

    def ask():
        answered.append(time.sleep(0.5 if len(answered) == 20 else 0.0))

    found = latencies(ask, 200.0, 1, seed=1, over=lambda: len(answered) >= 150)
    assert (found > 0.1).sum() >= 60
    assert found.max() >= 0.5


def test_the_saturating_rate_is_that_of_callers_who_never_pause():
    lock = threading.Lock()

    def ask():
        with lock:
            time.sleep(0.005)

    assert 30 < saturating_rate(ask, 4, 0.5) <= 210


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["onnxruntime", "jax"])
def test_latency_while_climbing(bundle, executor, monkeypatch):
    monkeypatch.setattr(climb_rows, "_SATURATING", 0.5)
    rows = {row.metric: row for row in latency_rows(bundle, "lenet5", executor, 2, 2)}
    ratio = rows["p99, climbing by idle"]
    assert len(ratio.samples) == 2 and min(ratio.samples) > 0 and ratio.target == "<= 1.5"
    assert rows["idle, p99"].median >= rows["idle, median"].median > 0


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["onnxruntime", "jax", "auto"])
def test_a_short_soak_finds_nothing_wrong(bundle, executor):
    failed, wrong, climbs, _ = soak_rows(bundle, "lenet5", executor, 2000)
    assert (failed.median, wrong.median) == (0, 0) and failed.met and wrong.met
    assert climbs.median >= 4
    assert ("by jax and onnxruntime" in climbs.note) == (executor == "auto")


@pytest.mark.slow
def test_a_soak_sees_a_rung_that_answers_otherwise(bundle, monkeypatch):
    def other(*given):
        image, logits = expected_logits(*given)
        (rung, name), *_ = logits
        return image, {**logits, (rung, name): np.nextafter(logits[rung, name], np.float32(9))}

    monkeypatch.setattr(climb_rows, "expected_logits", other)
    _, wrong, _, _ = soak_rows(bundle, "lenet5", "onnxruntime", 1000)
    assert wrong.median > 0 and not wrong.met
