"""Work that must not be in the way of requests."""

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")

NICENESS = 10
"""Of a thread in the background: beside one that computes it gets a tenth of a core."""


def in_background(call: Callable[[], _T]) -> _T:
    """The result of `call`, made in a thread that the system runs when others leave it time.

    Each call has its own thread, as what once stood back may not come forward again, and as the
    threads of libraries inherit it. Only Linux has threads of different niceness; elsewhere it is
    a thread like any other.
    """
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            if sys.platform == "linux":
                own = threading.get_native_id()
                os.setpriority(
                    os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + NICENESS
                )
            outcome["result"] = call()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, name="pwl-background", daemon=True)
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
