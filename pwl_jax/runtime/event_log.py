"""What happened to a live model, kept and told."""

import time
from collections import deque
from collections.abc import Callable

from pwl_jax.runtime.answers import Event, EventKind
from pwl_jax.runtime.block_source import BlockSource

_EVENTS_KEPT = 1000


class EventLog:
    """The last thousand events, each told to a listener when it happens.

    Attributes:
      events: the oldest first.
      began: when the model was opened, by `time.monotonic`.
    """

    def __init__(self, listener: Callable[[Event], None] | None) -> None:
        """Opens the model's clock."""
        self.events: deque[Event] = deque(maxlen=_EVENTS_KEPT)
        self.began = time.monotonic()
        self._listener = listener

    @property
    def seconds(self) -> float:
        """Since the model was opened."""
        return time.monotonic() - self.began

    def add(
        self,
        kind: EventKind,
        rung: str | None,
        executor: str | None,
        message: str,
        source: BlockSource,
    ) -> None:
        """Keeps and tells an event; a listener that fails is logged."""
        fetched, live = source.bytes_fetched, source.live_bytes
        event = Event(kind, rung, executor, message, self.seconds, fetched, live)
        self.events.append(event)
        if self._listener is not None:
            try:
                self._listener(event)
            except Exception:
                # Imported by those who have something to say.
                import logging

                # A listener must not stop the climb.
                logging.getLogger(__name__).exception("on_event failed on %s", event)
