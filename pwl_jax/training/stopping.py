"""The wish to stop: signals, heard at dispatch boundaries, alike on every process."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Turns SIGTERM and SIGINT into a wish to stop; a second one acts at once. A context manager.

    With several processes JAX's own preemption service hears SIGTERM, and all stop together.
    """

    def __init__(self) -> None:
        self.requested = False
        self._asked = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            if jax.process_count() == 1:
                for number in (signal.SIGTERM, signal.SIGINT):
                    self._previous[number] = signal.signal(number, self._hear)
            else:
                self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, _terminate)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.requested = True
        signal.signal(number, self._previous[number])

    def heard(self) -> bool:
        """Whether to stop now; every process asks before each dispatch and gets one answer."""
        if jax.process_count() > 1:
            # The service agrees on the next number asked for: they must follow without a gap.
            self._asked += 1
            return multihost_utils.reached_preemption_sync_point(self._asked)
        return self.requested


def _terminate(number: int, frame: FrameType | None) -> None:
    """Ctrl-C as the signal that the preemption service hears."""
    del number, frame
    os.kill(os.getpid(), signal.SIGTERM)
