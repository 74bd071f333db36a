"""Latency of requests while a model climbs, and a soak in which every answer is compared."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from experiments.benchmarks.open_loop import latencies, saturating_rate
from experiments.results_file import Row
from pwl_jax.runtime import LiveModel, executor_names, hand_over

CALLERS = 4
_SETTLING, _SATURATING = 0.3, 3.0
_LEAST_CLIMBS = 4


def latency_rows(bundle: Path, pair: str, executor: str, rounds: int, climbs: int) -> list[Row]:
    """Latency while climbing against latency of the teacher alone.

    Args:
      bundle: to climb.
      pair: its name, for the table.
      executor: name of the executor.
      rounds: pairs of a run of climbs and an idle run.
      climbs: in each run of climbs.
    """
    quantiles: dict[str, list[np.ndarray]] = {"climb": [], "idle": []}
    seconds: list[float] = []
    with LiveModel.open(bundle, executor=executor) as model:
        first, last = model.rungs[0], model.wait()
        first_climb = model.events[-1].seconds
        image = np.zeros((1, *model.input_shape), np.float32)

        def ask() -> object:
            return model.predict(image)

        ask()
        rate = saturating_rate(ask, CALLERS, _SATURATING) / 2
        for number in range(rounds):
            taken = _RunOfClimbs(model, first, last, climbs)
            found = latencies(ask, rate, CALLERS, number, taken.over)
            seconds.append(taken.seconds / climbs)
            quantiles["climb"].append(np.quantile(found, (0.5, 0.99)))
            time.sleep(_SETTLING)
            idle = threading.Event()
            threading.Timer(taken.seconds, idle.set).start()
            found = latencies(ask, rate, CALLERS, number, idle.is_set)
            quantiles["idle"].append(np.quantile(found, (0.5, 0.99)))
    climbing, alone = (1e3 * np.array(quantiles[name]) for name in ("climb", "idle"))
    case = f"{pair}, {executor}, {rate:.0f} requests a second"
    return [
        Row(case, "idle, median", "ms", tuple(alone[:, 0])),
        Row(case, "idle, p99", "ms", tuple(alone[:, 1])),
        Row(case, "climbing, p99", "ms", tuple(climbing[:, 1])),
        Row(case, "p99, climbing by idle", "times", tuple(climbing[:, 1] / alone[:, 1]), "<= 1.5"),
        Row(case, "a climb", "s", tuple(seconds)),
        Row(case, "the first climb", "s", (first_climb,), note="what must compile is compiled"),
    ]


class _RunOfClimbs:
    """Down to the first rung and up again, several times, in a thread of its own.

    Attributes:
      seconds: that it took, once it is over.
    """

    def __init__(self, model: LiveModel, first: str, last: str, climbs: int) -> None:
        self.seconds = 0.0
        self._given = (model, first, last, climbs)
        self._thread = threading.Thread(target=self._climb)
        self._thread.start()

    def over(self) -> bool:
        """Whether the last climb is at its top."""
        return not self._thread.is_alive()

    def _climb(self) -> None:
        model, first, last, climbs = self._given
        began = time.monotonic()
        for _ in range(climbs):
            model.demote(first)
            model.promote()
            model.wait(last)
        self.seconds = time.monotonic() - began


def soak_rows(bundle: Path, pair: str, executor: str, requests: int) -> list[Row]:
    """Failed and wrong answers among many, while a model is driven up and down.

    Args:
      bundle: to climb.
      pair: its name, for the table.
      executor: name of the executor, or "auto".
      requests: how many, at least.
    """
    image, expected = expected_logits(bundle, executor)
    failed: list[str] = []
    counts: dict[tuple[str, str], int] = dict.fromkeys(expected, 0)
    wrong, climbs, lock, enough = [0], 0, threading.Lock(), threading.Event()
    began = time.monotonic()

    def call() -> None:
        while not enough.is_set():
            try:
                answer = model.predict(image)
            except Exception as error:
                failed.append(repr(error))
                continue
            named = (answer.rung, answer.executor)
            with lock:
                counts[named] = counts.get(named, 0) + 1
                wrong[0] += named not in expected or (
                    answer.logits.tobytes() != expected[named].tobytes()
                )

    # Whichever executor is faster here: it is the move that is to be soaked.
    moves = mock.patch.object(hand_over, "FASTER", float("inf"))
    with moves, LiveModel.open(bundle, executor=executor) as model:
        callers = [threading.Thread(target=call) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        while sum(counts.values()) + len(failed) < requests or climbs < _LEAST_CLIMBS:
            model.wait(model.rungs[-1])
            model.demote(model.rungs[climbs % (len(model.rungs) - 1)])
            model.promote()
            climbs += 1
            while executor == "auto" and climbs == 2 and not _moved(model):
                time.sleep(0.01)
        enough.set()
        for caller in callers:
            caller.join()
    met = [named for named, count in counts.items() if count]
    case = f"{pair}, {executor}, {sum(counts.values()) + len(failed)} requests"
    used = " and ".join(sorted({name for _, name in met}))
    return [
        Row(case, "failed", "answers", (len(failed),), "== 0", "; ".join(failed[:1])),
        Row(case, "not the logits of rung and executor named", "answers", (wrong[0],), "== 0"),
        Row(case, "climbs", "climbs", (climbs,), note=f"{len(met)} snapshots answered, by {used}"),
        Row(case, "time", "s", (time.monotonic() - began,)),
    ]


def _moved(model: LiveModel) -> bool:
    """Whether it is decided which executor answers from now on."""
    return any(event.kind == "executor" for event in model.events)


def expected_logits(
    bundle: Path, executor: str
) -> tuple[np.ndarray, dict[tuple[str, str], np.ndarray]]:
    """An image, and its logits from every rung alone, by (rung, executor)."""
    names: Sequence[str] = executor_names() if executor == "auto" else (executor,)
    found: dict[tuple[str, str], np.ndarray] = {}
    image = np.zeros(0)
    for name in names:
        with LiveModel.open(bundle, executor=name, block=False) as model:
            rungs, shape = model.rungs, model.input_shape
        image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
        for rung in rungs:
            with LiveModel.open(bundle, executor=name, rung=rung, climb=False) as model:
                found[rung, name] = model.predict(image).logits
    return image, found
