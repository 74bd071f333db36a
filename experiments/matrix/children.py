"""Processes that do one piece of work each, and can be stopped without losing it."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pwl_jax.errors import UserError

LARGE_PAGES = "glibc.malloc.hugetlb=1"
KEPT_PAGES = ":".join(
    (
        LARGE_PAGES,
        "glibc.malloc.arena_max=1",
        "glibc.malloc.mmap_max=0",
        "glibc.malloc.trim_threshold=1000000000000",
    )
)
"""By which a process has a step's memory in large pages, and keeps them for the next step instead
of asking Linux again: values of GLIBC_TUNABLES, read at a process's start (BUILD_NOTES)."""


class Children:
    """Processes one after the other, until the time is over or a signal comes.

    Either reaches the one that runs as SIGTERM, upon which a training saves and ends. They share
    what XLA compiled.
    """

    def __init__(self, seconds: float | None, cache: Path) -> None:
        self._cache = cache
        self._end = None if seconds is None else time.monotonic() + seconds
        self._stopped = False
        self._child: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def run(self, command: Sequence[str]) -> bool:
        """Whether the process ran to its end; raises UserError if it failed."""
        left = None if self._end is None else self._end - time.monotonic()
        if self._stopped or (left is not None and left <= 0):
            return False
        print(" ".join(command[1:]), flush=True)
        # A group of its own: Ctrl-C reaches it once, through us.
        environment = {
            "GLIBC_TUNABLES": KEPT_PAGES,
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(self._cache.absolute()),
        }
        with subprocess.Popen(command, start_new_session=True, env=environment) as child:
            self._child = child
            try:
                status = child.wait(left)
            except subprocess.TimeoutExpired:
                self._stop()
                status = child.wait()
            self._child = None
        if status and not self._stopped:
            raise UserError(f"this unit ended with status {status}: {command[-1]}")
        return not self._stopped

    def _stop(self, *_: Any) -> None:
        self._stopped = True
        if self._child is not None:
            self._child.terminate()
