"""How fast steps go, and how much of their time the devices waited for the host."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax

T = TypeVar("T")


class StepClock:
    """Seconds from one report to the next, and of these the seconds of waiting for inputs.

    The host takes the inputs of a dispatch while the devices are at work on the one before. They
    wait for it where they are done by the time it has them; then all of its time counts, so that
    the share of waiting is never told too low.

    Args:
      batch_size: images a step.
      flops: operations a step, over all devices.
      peak: operations a second of all devices together, None where unknown.
    """

    def __init__(
        self,
        batch_size: int,
        flops: float,
        peak: float | None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._batch_size = batch_size
        self._share = None if peak is None else flops / peak
        self._now = now
        self.restart()

    def restart(self) -> None:
        """Leaves out what was done since the last report, as an evaluation."""
        self._since = self._now()
        self._waited = 0.0

    def taken(self, take: Callable[[], T], at_work: Any) -> T:
        """What `take` returns, its time counted.

        Args:
          take: waits for inputs.
          at_work: a tree of arrays that the devices compute meanwhile; None where they stand still.
        """
        start = self._now()
        inputs = take()
        if at_work is None or all(leaf.is_ready() for leaf in jax.tree.leaves(at_work)):
            self._waited += self._now() - start
        return inputs

    def lap(self, steps: int) -> dict[str, float]:
        """Speed of so many steps, done since the last lap.

        Returns:
          `speed/images_per_s`; `speed/step_ms`, the sum of `speed/wait_ms` and `speed/compute_ms`;
          `speed/mfu`, the model FLOPs utilisation, 0..1, where the peak is known.
        """
        seconds, waited = self._now() - self._since, self._waited
        self.restart()
        values = {
            "speed/images_per_s": steps * self._batch_size / seconds,
            "speed/step_ms": 1e3 * seconds / steps,
            "speed/wait_ms": 1e3 * waited / steps,
            "speed/compute_ms": 1e3 * (seconds - waited) / steps,
        }
        if self._share is not None:
            values["speed/mfu"] = self._share * steps / seconds
        return values
