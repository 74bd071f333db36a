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
      missing_bytes: what each rung still has to fetch, shards and programs.
      bytes_fetched: so far, of the whole bundle.
      seconds: since the model was opened.
      bytes_per_second: at which shards were fetched, verified and decoded so far; None before the
        first.
    """

    rungs: Sequence[Rung]
    current: int
    block_bytes: Mapping[BlockKey, int]
    missing_bytes: Sequence[int] = ()
    bytes_fetched: int = 0
    seconds: float = 0.0
    bytes_per_second: float | None = None


class Policy(Protocol):
    """Chooses the next rung. Pure: the same state gives the same decision."""

    def next_rung(self, state: ClimbState) -> Decision:
        """The next rung to load, or the reason to rest."""
        ...


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a climb may take; None for no limit.

    Attributes:
      memory_budget: bytes of weights that may be held at any moment, those that are being replaced
        included.
      byte_budget: bytes that may be fetched in all, manifest and programs included.
      deadline: seconds after opening by which a rung must be up to be fetched at all, judged by the
        speed measured so far. The first rung is fetched however long it takes.
    """

    memory_budget: int | None = None
    byte_budget: int | None = None
    deadline: float | None = None

    def problem(self, state: ClimbState, held: int, missing: int) -> str:
        """Which limit forbids to hold and to fetch so many bytes; empty where none does."""
        if self.memory_budget is not None and held > self.memory_budget:
            return f"needs {held} bytes of weights; memory_budget is {self.memory_budget}"
        if self.byte_budget is not None and state.bytes_fetched + missing > self.byte_budget:
            return (
                f"needs {missing} more bytes; {state.bytes_fetched} of byte_budget "
                f"{self.byte_budget} are fetched"
            )
        if self.deadline is not None and state.current >= 0:
            rate = state.bytes_per_second
            arrival = state.seconds + (missing / rate if rate else 0.0)
            if arrival > self.deadline:
                return f"would be up after {arrival:.3g} s; the deadline is {self.deadline:g} s"
        return ""


@dataclasses.dataclass(frozen=True)
class InOrder:
    """Climbs the plan in its order, as far as the limits allow; passes over what does not fit.

    Attributes:
      stop_at: name of the last rung to climb to; None for the top.
      limits: what the climb may take.
    """

    stop_at: str | None = None
    limits: Limits = Limits()

    def next_rung(self, state: ClimbState) -> Decision:
        """The next rung that fits; rests at `stop_at`, at the top, or below what does not fit."""
        names = [rung.name for rung in state.rungs]
        last = names.index(self.stop_at) if self.stop_at is not None else len(names) - 1
        passed_over = []
        for index in range(state.current + 1, last + 1):
            missing = state.missing_bytes[index] if state.missing_bytes else 0
            problem = self.limits.problem(state, bytes_needed(state, index), missing)
            if not problem:
                return Decision(index)
            passed_over.append(f"{names[index]} {problem}")
        if passed_over:
            more = f" (and {len(passed_over) - 1} more)" if passed_over[1:] else ""
            return Decision(None, passed_over[0] + more)
        if last < len(names) - 1 and state.current >= last:
            return Decision(None, f"told to stop at {self.stop_at}")
        return Decision(None, "top of the ladder")


def bytes_needed(state: ClimbState, index: int) -> int:
    """Bytes held while rung `index` replaces the current one, which answers until then.

    Nor less than when the first rung is to replace it again one day: else memory pressure would
    itself need more.
    """
    others = [index] if state.current < 0 else [state.current, 0]
    there = block_keys(state.rungs[index])
    both = [there | block_keys(state.rungs[other]) for other in others]
    return max(sum(state.block_bytes[key] for key in keys) for keys in both)


def block_keys(rung: Rung) -> frozenset[BlockKey]:
    """The blocks and converters a rung reads, each with its precision."""
    return frozenset(rung.stages().items())
