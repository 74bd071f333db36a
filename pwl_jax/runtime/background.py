"""Work that must not be in the way of requests."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")

NICENESS = 10
"""Of a thread in the background: beside one that computes it gets a tenth of a core."""


def in_background(call: Callable[[], _T]) -> _T:
    """The result of `call`, made in a thread that the system runs when others leave it time."""

    def run() -> _T:
        stand_back()
        return call()

    return apart(run)


def stand_back() -> None:
    """Lets other threads go before this one from now on; it may not come forward again.

    Threads that it starts later inherit it. Only Linux has threads of different niceness; elsewhere
    nothing changes.
    """
    if sys.platform == "linux":
        own = threading.get_native_id()
        # Where it is forbidden, work goes on as it is.
        with contextlib.suppress(OSError):
            niceness = os.getpriority(os.PRIO_PROCESS, own) + NICENESS
            os.setpriority(os.PRIO_PROCESS, own, niceness)


def apart(call: Callable[[], _T], *, daemon: bool = True) -> _T:
    """The result of `call`, made in a thread of its own, which ends with it.

    Args:
      call: may raise; the error is raised here.
      daemon: whether the process may end meanwhile.
    """
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["result"] = call()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, name="pwl-background", daemon=daemon)
    thread.start()
    thread.join()
    if "error" in outcome:
        # Popped, so that the error's traceback does not hold the error.
        raise outcome.pop("error")
    result: _T = outcome["result"]
    return result


def return_freed_memory() -> None:
    """Gives pages that were freed back to the system, where the C library keeps them (glibc)."""
    if sys.platform == "linux":
        import ctypes

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
