"""What a climb costs the requests that it happens beside, and whether every answer is right.

  python -m experiments.benchmarks.climb_latency [--pair=resnet] [--requests=100000]

Latency: requests of one image arrive as a Poisson process at half the rate that the teacher can
answer, whether or not the ones before are answered; latency counts from the arrival. A run of
climbs (down to the student, and up again from the local bundle, several times over) and as long a
run in which the teacher answers and nothing is loaded take turns. Executables are in the cache by
then; the first climb, which compiles, stands apart.

Soak: callers ask without a pause while the model is driven up and down. Each answer is compared,
bit for bit, with the logits of the rung and the executor it names, each loaded alone; `auto` moves
from one executor to the other meanwhile.

Weights are drawn. Prints a table and writes experiments/results/climb_latency/<name>.json.
"""

import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
from absl import flags

from experiments import results_file
from experiments.benchmarks.drawn_bundle import write_drawn_bundle
from experiments.benchmarks.open_loop import latencies, saturating_rate
from experiments.results_file import Row, table, write_results
from launch import cli
from pwl_jax.ladder import EXACT
from pwl_jax.models import registry
from pwl_jax.runtime import LiveModel, executor_names, hand_over

_PAIR = flags.DEFINE_string("pair", "resnet", "Pair of the registry whose latency is measured.")
_SMALL = flags.DEFINE_string("soak_pair", "lenet5_digits", "Pair that is soaked.")
_EXECUTORS = flags.DEFINE_list("executors", list(executor_names()), "What computes.")
_PAIRS = flags.DEFINE_integer("rounds", 10, "Pairs of climb and idle.", lower_bound=1)
_CLIMBS = flags.DEFINE_integer("climbs", 3, "Climbs in each of them.", lower_bound=1)
_REQUESTS = flags.DEFINE_integer("requests", 100_000, "To soak each executor; 0: none.", 0)
_NAME = flags.DEFINE_string("name", "climb_latency", "Name of the JSON file.")
_RESULTS = flags.DEFINE_string("results_dir", str(results_file.RESULTS), "Where results lie.")

CALLERS = 4
_SETTLING, _SATURATING = 0.3, 3.0
_LEAST_CLIMBS = 4


def main() -> None:
    """Runs the command from its flags."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="pwl-climbs-") as folder:
        # Set before JAX is first used, so that the first climb compiles and later ones do not.
        os.environ["PWL_EXECUTABLE_CACHE"] = str(Path(folder) / "executables")
        bundle = Path(folder) / "bundle"
        write_drawn_bundle(bundle, registry.pair(_PAIR.value), (4, EXACT))
        for executor in _EXECUTORS.value:
            rows += latency_rows(bundle, _PAIR.value, executor, _PAIRS.value, _CLIMBS.value)
            print("\n".join(table(rows[-6:])), flush=True)
        if _REQUESTS.value:
            small = Path(folder) / "small"
            write_drawn_bundle(small, registry.pair(_SMALL.value), (4, EXACT))
            for executor in (*_EXECUTORS.value, "auto"):
                rows += soak_rows(small, _SMALL.value, executor, _REQUESTS.value)
                print("\n".join(table(rows[-4:])), flush=True)
    path = write_results("climb_latency", _NAME.value, rows, results=Path(_RESULTS.value))
    print(f"\nwritten to {path}")


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


if __name__ == "__main__":
    cli.run(main)
