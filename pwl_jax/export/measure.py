"""What is a rung worth: accuracy at the precision a receiver would have."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pwl_jax import precision
from pwl_jax.data import pipeline
from pwl_jax.ladder import EXACT, Bits, Composition, Measurement, Rung, ordering
from pwl_jax.models.block_network import Variables
from pwl_jax.training.evaluation import Accuracy, Evaluator

CODED = ("teacher", "student")


def expanded(variables: Variables, bits: Bits, stages: Sequence[Bits]) -> Variables:
    """The tree as a receiver has it at `bits`: blocks decoded from codes, the rest exact.

    Args:
      variables: the exact tree.
      bits: one of `stages`.
      stages: what every block is coded in.
    """
    if bits == EXACT:
        return variables

    def leaf(array: Any) -> jax.Array:
        host = np.asarray(array)
        return jnp.asarray(precision.expand(host, bits, stages))

    return {
        network: jax.tree.map(leaf, tree) if network in CODED else tree
        for network, tree in variables.items()
    }


class Measurer:
    """Measures rungs on one split of data, each once.

    Attributes:
      split: its name.
      examples: how many there are.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        trees: Callable[[Bits], Variables],
        source: pipeline.PreparedSource,
        split: str,
        normalize: Callable[[Any], Any],
        batch_size: int,
    ) -> None:
        self.split = split
        self.examples = len(source)
        self._evaluator = evaluator
        self._trees = trees
        self._batches = lambda: pipeline.eval_batches(source, batch_size)
        self._normalize = normalize
        self._known: dict[Rung, Accuracy] = {}

    def measure(self, rungs: Sequence[Rung]) -> dict[Rung, Accuracy]:
        """Accuracy of each rung."""
        missing = [rung for rung in dict.fromkeys(rungs) if rung not in self._known]
        if missing:
            self._known |= self._evaluator.evaluate(
                missing, self._trees, self._batches(), self._normalize
            )
        return {rung: self._known[rung] for rung in rungs}

    def measurements(self) -> list[Measurement]:
        """All that was measured so far."""
        return [
            Measurement(rung, self.split, found.top1, found.loss, found.examples)
            for rung, found in self._known.items()
        ]


def evaluation_batch(examples: int, mesh: Mesh, at_most: int = 256) -> int:
    """A batch size that divides among the devices and is not much larger than the data."""
    return -(-min(at_most, max(examples, 1)) // mesh.size) * mesh.size


def chosen_order(
    blocks: int,
    lowest: Bits,
    measurer: Measurer | None,
    cost: Callable[[Composition], float],
) -> list[Composition]:
    """The order of swaps: prefixes, unless another order is measurably better.

    Another order (suffixes, or greedily by accuracy per byte) is taken only where its area under
    accuracy over bytes, on the validation split, exceeds that of the prefixes by more than the
    standard error of an accuracy there.

    Args:
      blocks: N.
      lowest: precision at which all of them climb.
      measurer: of the validation split; None keeps the prefixes.
      cost: bytes a composition reads.
    """
    prefixes = Composition.prefixes(blocks)
    if measurer is None:
        return prefixes
    rungs = {c: Rung.uniform(c, lowest) for c in Composition.all(blocks)}
    found = measurer.measure(list(rungs.values()))
    gain = {composition: found[rung].top1 for composition, rung in rungs.items()}
    orders = [
        prefixes,
        Composition.suffixes(blocks),
        ordering.greedy_order(prefixes[0], gain.__getitem__, cost),
    ]
    areas = [ordering.area(order, gain.__getitem__, cost) for order in orders]
    best = max(range(len(orders)), key=areas.__getitem__)
    typical = sum(gain[c] for c in prefixes) / len(prefixes)
    error = (max(typical * (1 - typical), 0.01) / measurer.examples) ** 0.5
    return orders[best] if areas[best] > areas[0] + error else prefixes
