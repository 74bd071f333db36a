"""What one live model of a pool may hold, as the policy by which it climbs."""

import threading

from pwl_jax.runtime.policy import ClimbState, Decision, block_keys


class Share:
    """The policy of one live model in a pool: climbs as high as its share of the budget allows.

    A rung fits if it and the one before it, and it and the first one, fit side by side: the way
    back down must be open too, or memory could not be had back when it is short. A rung on the way
    is taken only if the highest one that fits can still be reached from it.

    Attributes:
      bytes: the share; 0 until the pool has given one.
      needed: bytes of each rung and the first one together.
      known: set when the model has asked for the first time, which tells what its rungs need.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.needed: tuple[int, ...] = ()
        self.known = threading.Event()
        self._state: ClimbState | None = None

    def next_rung(self, state: ClimbState) -> Decision:
        """The next rung within the share; the model rests where there is none."""
        rungs = range(len(state.rungs))
        self._state = state
        if not self.needed:
            self.needed = tuple(_held(state, 0, rung) for rung in rungs)
            self.known.set()
        current = max(state.current, 0)
        fitting = [
            rung
            for rung in rungs[state.current + 1 :]
            if self.needed[rung] <= self.bytes and _held(state, current, rung) <= self.bytes
        ]
        if not fitting:
            top = state.current == rungs[-1]
            return Decision(
                None, "top of the ladder" if top else f"its share is {self.bytes} bytes"
            )
        if state.current < 0:
            return Decision(0)
        highest = fitting[-1]
        return Decision(next(r for r in fitting if _held(state, r, highest) <= self.bytes))

    @property
    def first(self) -> int:
        """Bytes of the first rung."""
        return self.needed[0]

    @property
    def full(self) -> int:
        """Bytes of the share that reaches the top."""
        return self.needed[-1]

    def within(self, limit: int) -> int:
        """The least share that reaches as high as `limit` bytes do; at least the first rung's."""
        return next((needed for needed in reversed(self.needed) if needed <= limit), self.first)

    def leads_up(self, share: int) -> bool:
        """Whether the rung that `share` bytes are for can be reached from the one that answers."""
        state = self._state
        if state is None or state.current <= 0:
            return True
        highest = max(rung for rung, needed in enumerate(self.needed) if needed <= share)
        return highest <= state.current or _held(state, state.current, highest) <= share


def _held(state: ClimbState, one: int, other: int) -> int:
    """Bytes of two rungs side by side."""
    keys = block_keys(state.rungs[one]) | block_keys(state.rungs[other])
    return sum(state.block_bytes[key] for key in keys)
