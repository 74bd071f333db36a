"""What a live model hands out: predictions, events and its progress."""

import dataclasses
from typing import Any, Literal

import numpy as np

EventKind = Literal[
    "opened",
    "rung",
    "executor",
    "failed",
    "resting",
    "paused",
    "resumed",
    "demoting",
    "promoted",
    "closed",
]
State = Literal["opening", "climbing", "retrying", "paused", "resting", "closed"]


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """The answer to one request, all of it from one rung.

    Attributes:
      logits: f32[batch, classes].
      rung: name of the rung that computed it.
      executor: name of the executor that computed it.
      class_names: names of the classes, as the manifest gives them; may be empty.
    """

    logits: np.ndarray
    rung: str
    executor: str
    class_names: tuple[str, ...] = ()

    @property
    def classes(self) -> np.ndarray:
        """Index of the likeliest class of each image, int64[batch]."""
        return np.argmax(self.logits, axis=-1)

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of the likeliest class of each image; its index where classes have no names."""
        return tuple(self.label(int(index)) for index in self.classes)

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits, f32[batch, classes]."""
        shifted = np.exp(self.logits - self.logits.max(axis=-1, keepdims=True))
        return shifted / shifted.sum(axis=-1, keepdims=True)

    def label(self, index: int) -> str:
        """Name of class `index`."""
        return self.class_names[index] if index < len(self.class_names) else str(index)


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened to a live model.

    Attributes:
      kind: what happened; "rung" means that a new rung answers from now on, "executor" that
        another executor was tried for the rung that answers: the message says how that went.
      rung: the rung concerned: that which answers now, or that which failed to load.
      executor: name of the executor that answers by now; None before the first rung.
      message: one line for people.
      seconds: since the model was opened.
      bytes_fetched: all bytes read from the bundle by then, manifest and programs included.
      live_bytes: bytes of weights held by then.
    """

    kind: EventKind
    rung: str | None
    executor: str | None
    message: str
    seconds: float
    bytes_fetched: int
    live_bytes: int

    def line(self) -> str:
        """The event in one line for people."""
        return " ".join(part for part in (self.kind, self.rung, self.message) if part)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a climb stands.

    Attributes:
      state: "opening" before the first rung, then "climbing", "retrying" after a failure until
        the next success, "paused", "resting" when nothing is left to climb, "closed".
      rung: name of the rung that answers; None before the first.
      rung_index: its index in `rungs`; -1 before the first.
      next_rung: name of the rung being fetched, if any.
      rungs: names of all rungs of the plan.
      executor: name of the executor that answers; None before the first rung.
      bytes_fetched, bytes_total: read so far, and read in all once the top is reached.
      live_bytes: bytes of weights held now.
      reason: why the climb rests or what failed last; empty while all is well.
      failures: how many attempts to load a rung failed since the model was opened.
      seconds: since the model was opened.
    """

    state: State
    rung: str | None
    rung_index: int
    next_rung: str | None
    rungs: tuple[str, ...]
    executor: str | None
    bytes_fetched: int
    bytes_total: int
    live_bytes: int
    reason: str
    failures: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able values."""
        return {**dataclasses.asdict(self), "rungs": list(self.rungs)}
