"""From the executor that answers first to the better one: who it is, and whether it takes over."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pwl_jax.runtime.executor import Executor
from pwl_jax.runtime.snapshot import Snapshot

SETTLED_SECONDS = 1.0
"""After the first answer, before a library is imported that a short process would not use."""

CLOSEST = 1e-5
"""By how much logits may differ between two executors, as a share of the largest |logit|."""

FASTER = 0.95
"""Share of the time that an executor on the same processor must need to take over; less would be
lost in what timings spread."""

_ROUNDS, _SECONDS = 5, 2.0
_LONGEST_IMPORT = 30.0


class Successor:
    """An executor that is made in a thread of its own while another answers.

    Attributes:
      name: of the executor.
      executor: None until it is there.
      error: why it cannot be.
    """

    def __init__(self, name: str, create: Callable[[], Executor]) -> None:
        """Imports nothing yet."""
        self.name = name
        self.executor: Executor | None = None
        self.error: Exception | None = None
        self._create = create
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, settled: Callable[[], None]) -> None:
        """Begins a moment later, once; calls `settled` when there is an executor or an error."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._make, args=(settled,), name="pwl-successor", daemon=True
            )
            self._thread.start()

    @property
    def settled(self) -> bool:
        """Whether there is an executor or an error."""
        return self.executor is not None or self.error is not None

    def close(self) -> None:
        """Waits for an import under way: to end a process in the midst of one may crash it."""
        self._closed.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_LONGEST_IMPORT)

    def _make(self, settled: Callable[[], None]) -> None:
        if self._closed.wait(SETTLED_SECONDS):
            return
        try:
            self.executor = self._create()
        except Exception as error:
            # A library that finds its device broken raises what it likes.
            self.error = error
        settled()


class Verdict(NamedTuple):
    """Whether another executor takes over, and why or why not."""

    takes_over: bool
    reason: str


def judged(here: Snapshot, there: Snapshot, batches: Sequence[np.ndarray]) -> Verdict:
    """Whether the same rung in another executor is to answer from now on.

    It must have the same logits, and compute on an accelerator or need clearly less time.

    Args:
      here: what answers now.
      there: what may take over; warm for the batches.
      batches: f32[batch, height, width, channels] each.
    """
    for batch in batches:
        expected, found = here.logits(batch), there.logits(batch)
        difference, largest = np.abs(found - expected).max(), np.abs(expected).max()
        # Not the other way round: NaN is above nothing.
        if not difference <= CLOSEST * largest:
            return Verdict(
                False,
                f"its logits differ by up to {difference:.2e} where the largest is {largest:.2e}, "
                f"at batch {len(batch)}",
            )
    if there.executor.accelerated:
        return Verdict(True, "it computes on an accelerator")
    ratio = time_ratio(here, there, batches)
    return Verdict(ratio <= FASTER, f"it needs {ratio:.2f} times the time")


def time_ratio(here: Snapshot, there: Snapshot, batches: Sequence[np.ndarray]) -> float:
    """Time of a request `there` by that `here`: medians, and of several batches the geometric mean.

    Runs take turns, so that whatever else the machine does falls on both.
    """
    ratios = []
    for batch in batches:
        seconds: tuple[list[float], list[float]] = ([], [])
        began = time.perf_counter()
        while len(seconds[0]) < _ROUNDS:
            for side, times in zip((here, there), seconds, strict=True):
                start = time.perf_counter()
                side.logits(batch)
                times.append(time.perf_counter() - start)
            if time.perf_counter() - began > _SECONDS:
                break
        ratios.append(np.median(seconds[1]) / np.median(seconds[0]))
    return float(np.exp(np.mean(np.log(ratios))))


def probes(sizes: Sequence[int], shape: Sequence[int]) -> list[np.ndarray]:
    """Normal noise to compare executors on: f32[size, *shape] for each size, always the same."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((size, *shape), np.float32) for size in sizes]
