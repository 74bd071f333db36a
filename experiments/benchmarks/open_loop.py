"""Requests that arrive whether or not the ones before are answered."""

import functools
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np


def arrivals(rate: float, seed: int) -> Iterator[float]:
    """Seconds at which requests arrive, without an end: a Poisson process of `rate` a second."""
    rng, at = np.random.default_rng(seed), 0.0
    while True:
        at += rng.exponential(1 / rate)
        yield at


def saturating_rate(ask: Callable[[], object], callers: int, seconds: float) -> float:
    """Requests a second that so many callers get answered who ask again at once."""
    end, counts = time.monotonic() + seconds, [0] * callers

    def call(number: int) -> None:
        while time.monotonic() < end:
            ask()
            counts[number] += 1

    _together([functools.partial(call, number) for number in range(callers)])
    return sum(counts) / seconds


def latencies(
    ask: Callable[[], object],
    rate: float,
    callers: int,
    seed: int,
    over: Callable[[], bool],
) -> np.ndarray:
    """Seconds from each request's arrival to its answer, until `over` says that enough have come.

    A request that finds every caller busy waits, and its wait counts: what is slow is asked as
    often as what is fast.

    Args:
      ask: one request.
      rate: arrivals a second.
      callers: requests that may be under way at once.
      seed: of the arrivals.
      over: whether no further request is to arrive.
    """
    due, lock, found = arrivals(rate, seed), threading.Lock(), []
    began = time.monotonic()

    def call() -> None:
        while not over():
            with lock:
                at = began + next(due)
            wait = at - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            ask()
            found.append(time.monotonic() - at)

    _together([call] * callers)
    return np.array(found)


def _together(calls: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
