"""What answers at one moment: a rung, and all that computes it."""

import dataclasses
import functools

import numpy as np

from pwl_jax.ladder import Rung
from pwl_jax.runtime.executor import Chain, Executor


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
    """A rung that is ready to answer. Immutable; a request keeps the one it began with.

    Attributes:
      index: of the rung in the plan.
      rung: what the logits are those of.
      executor: computes them.
      chain: the executor's form of the rung; holds its weights.
    """

    index: int
    rung: Rung
    executor: Executor
    chain: Chain

    @functools.cached_property
    def name(self) -> str:
        """The rung's; every answer bears it."""
        return self.rung.name

    def warm(self, batch: np.ndarray) -> None:
        """Runs f32[batch, height, width, channels] once, so that the shape compiles no more."""
        self.executor.warm(self.chain, batch)

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Logits f32[batch, classes] of images f32[batch, height, width, channels]."""
        return self.executor.run(self.chain, batch)
