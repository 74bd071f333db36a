"""Which rung a climb takes next, and why it ends."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from pwl_jax.ladder import Bits, Rung, Unit

BlockKey = tuple[Unit, Bits]


@dataclasses.dataclass(frozen=True)
class Decision:
    """The index of the rung to load next; None when the climb rests, with the reason in words."""

    rung: int | None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class ClimbState:
    """What a policy may look at.

    Attributes:
      rungs: the plan, in the order of climbing.
      current: index of the rung that answers; -1 before the first.
      block_bytes: bytes of each block's weights once loaded.
    """

    rungs: Sequence[Rung]
    current: int
    block_bytes: Mapping[BlockKey, int]


class Policy(Protocol):
    """Chooses the next rung. Pure: the same state gives the same decision."""

    def next_rung(self, state: ClimbState) -> Decision:
        """The next rung to load, or the reason to rest."""
        ...


@dataclasses.dataclass(frozen=True)
class AsExported:
    """Climbs the ladder in the order export gave it.

    Attributes:
      stop_at: name of the last rung to climb to; None for the top.
      memory_budget: bytes of weights that may be held at any moment, those of the rung that is
        being replaced included; None for no limit. A rung that does not fit is passed over.
    """

    stop_at: str | None = None
    memory_budget: int | None = None

    def next_rung(self, state: ClimbState) -> Decision:
        """The next rung that fits; rests at `stop_at`, at the top, or below what does not fit."""
        names = [rung.name for rung in state.rungs]
        last = names.index(self.stop_at) if self.stop_at is not None else len(names) - 1
        passed_over = []
        for index in range(state.current + 1, last + 1):
            needed = self.bytes_needed(state, index)
            if self.memory_budget is None or needed <= self.memory_budget:
                return Decision(index)
            passed_over.append(f"{names[index]} needs {needed} bytes of weights")
        if passed_over:
            return Decision(
                None, f"memory budget of {self.memory_budget} bytes: {'; '.join(passed_over)}"
            )
        if last < len(names) - 1 and state.current >= last:
            return Decision(None, f"told to stop at {self.stop_at}")
        return Decision(None, "top of the ladder")

    def bytes_needed(self, state: ClimbState, index: int) -> int:
        """Bytes held while rung `index` replaces the current one, which answers until then."""
        here = block_keys(state.rungs[state.current]) if state.current >= 0 else frozenset()
        return sum(state.block_bytes[key] for key in here | block_keys(state.rungs[index]))


def block_keys(rung: Rung) -> frozenset[BlockKey]:
    """The blocks and converters a rung reads, each with its precision."""
    return frozenset(rung.stages().items())
