"""Makes rungs ready to answer in one executor, from the blocks that a climb holds there."""

import functools
import time
from collections.abc import Callable, Iterable

from pwl_jax.ladder import Rung
from pwl_jax.runtime.background import in_background
from pwl_jax.runtime.block_source import BlockSource
from pwl_jax.runtime.executor import Block, Executor
from pwl_jax.runtime.policy import BlockKey, block_keys
from pwl_jax.runtime.snapshot import Snapshot


class RungLoader:
    """The blocks of one executor that a climb holds. Not for several threads at once.

    Attributes:
      source: where blocks come from.
      seconds: spent on loading blocks.
      bytes_loaded: fetched meanwhile.
    """

    def __init__(self, source: BlockSource) -> None:
        """Holds nothing yet."""
        self.source = source
        self.seconds = 0.0
        self.bytes_loaded = 0
        self._held: dict[BlockKey, Block] = {}

    def beside(self, executor: Executor) -> "RungLoader":
        """A loader of the same bundle for another executor."""
        return RungLoader(self.source.beside(executor))

    @property
    def bytes_per_second(self) -> float | None:
        """At which blocks were fetched, verified and decoded so far; None before the first."""
        return self.bytes_loaded / self.seconds if self.bytes_loaded else None

    @property
    def held_bytes(self) -> int:
        """Bytes of the weights that are held here; unfinished requests may pin more."""
        return sum(block.nbytes for block in self._held.values())

    def missing_bytes(self, rung: Rung) -> int:
        """Bytes of weights that a rung needs and that are not held."""
        missing = block_keys(rung) - set(self._held)
        return sum(self.source.block_bytes[key] for key in missing)

    def ready(
        self, index: int, rung: Rung, between: Callable[[], None], *, aside: bool = False
    ) -> Snapshot:
        """A rung with all its blocks, not warm yet; those that are missing are loaded and held.

        Args:
          index: of the rung in the plan.
          rung: one that the source has checked.
          between: called before each block; may raise to break off.
          aside: requests are being answered meanwhile, and go first.
        """
        for key in self.source.keys(rung):
            if key not in self._held:
                between()
                began, before = time.monotonic(), self.source.bytes_fetched
                load = functools.partial(self.source.load, *key)
                self._held[key] = in_background(load) if aside else load()
                self.seconds += time.monotonic() - began
                self.bytes_loaded += self.source.bytes_fetched - before
        chain = self.source.chain(rung, self._held, aside=aside)
        return Snapshot(index, rung, self.source.executor, chain)

    def keep(self, rungs: Iterable[Rung]) -> None:
        """Lets go of every block that none of these rungs reads."""
        keys = {key for rung in rungs for key in block_keys(rung)}
        self._held = {key: block for key, block in self._held.items() if key in keys}
