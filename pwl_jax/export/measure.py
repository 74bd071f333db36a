"""What is a rung worth: accuracy at the precision a receiver would have."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pwl_jax import precision
from pwl_jax.data import pipeline
from pwl_jax.hybrid.masks import leaf_name
from pwl_jax.ladder import EXACT, Bits, Composition, Measurement, Rung, Unit, ordering
from pwl_jax.models.block_network import Variables
from pwl_jax.training.evaluation import Accuracy, Evaluator, fitting_batch

CODED = ("teacher", "student")
"""Kinds of units that come in several precisions; converters are always exact."""

EVALUATION_BATCH = 256
"""Images a step, where there are as many."""

MOST_BLOCKS_FOR_ALL = 6
"""With more blocks than this the order is chosen without measuring all 2^N compositions."""


def expanded(
    variables: Variables,
    bits: Bits,
    stages: Sequence[Bits],
    quantization: precision.Quantization = precision.Quantization(),
    widths: Mapping[str, Sequence[Bits]] | None = None,
) -> Variables:
    """The tree as a receiver has it at `bits`: blocks decoded from codes, the rest exact.

    Args:
      variables: the exact tree.
      bits: one of `stages`.
      stages: what every block is coded in.
      quantization: how codes are chosen.
      widths: of single tensors, by name; see `precision.encode_tensor`.
    """
    if bits == EXACT:
        return variables

    def leaf(path: tuple[Any, ...], array: Any) -> Any:
        name = leaf_name(path)
        if name.partition("/")[0] not in CODED:
            return array
        planned = (widths or {}).get(name)
        host = np.asarray(array)
        return jnp.asarray(
            precision.expand(host, bits, stages, quantization=quantization, widths=planned)
        )

    return jax.tree_util.tree_map_with_path(leaf, variables)


class Measurer:
    """Measures rungs on one split of data, each once.

    Attributes:
      dataset: the name of the data set.
      split: the name of the split.
      examples: how many there are; at least one.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        trees: Callable[[Bits], Variables],
        source: pipeline.PreparedSource,
    ) -> None:
        """Reads nothing yet.

        Args:
          evaluator: of the pair.
          trees: see `expanded`.
          source: prepared images.
        """
        self.dataset = source.source.name
        self.split = source.source.split
        self.examples = len(source)
        self._evaluator = evaluator
        self._trees = trees
        self._source = source
        self._batch_size = fitting_batch(EVALUATION_BATCH, self.examples, evaluator.mesh)
        self._known: dict[Rung, Accuracy] = {}

    def measure(self, rungs: Sequence[Rung]) -> dict[Rung, Accuracy]:
        """Accuracy of each rung."""
        missing = [rung for rung in dict.fromkeys(rungs) if rung not in self._known]
        if missing:
            self._known |= self._evaluator.evaluate(
                missing,
                self._trees,
                pipeline.eval_batches(self._source, self._batch_size),
                self._source.preprocessing.normalize,
            )
        return {rung: self._known[rung] for rung in rungs}

    def measurements(self) -> list[Measurement]:
        """All that was measured so far."""
        return [
            Measurement(
                rung,
                self.split,
                found.top1,
                found.loss,
                found.examples,
                found.mean_average_precision,
            )
            for rung, found in self._known.items()
        ]


def chosen_order(
    blocks: int,
    lowest: Bits,
    measurer: Measurer | None,
    unit_bytes: Callable[[Unit], float],
) -> list[Composition]:
    """The order of swaps: prefixes, unless another order is measurably better.

    The best of all orders (of suffixes and the greedy one, where there are too many blocks to
    measure all compositions) is taken only where its area under accuracy over bytes, on the
    validation split, exceeds that of the prefixes by more than the standard error of an accuracy
    there.

    Args:
      blocks: N.
      lowest: precision at which all of them climb.
      measurer: of the validation split; None keeps the prefixes.
      unit_bytes: what fetching a block or converter at that precision costs.
    """
    prefixes, suffixes = Composition.prefixes(blocks), Composition.suffixes(blocks)
    if measurer is None:
        return prefixes

    def gains(compositions: Iterable[Composition]) -> dict[Composition, float]:
        rungs = {c: Rung.uniform(c, lowest) for c in compositions}
        found = measurer.measure(list(rungs.values()))
        return {composition: found[rung].score for composition, rung in rungs.items()}

    # One pass over the data for all that may be asked for, as long as that is not too much.
    few = blocks <= MOST_BLOCKS_FOR_ALL
    gains(Composition.all(blocks) if few else [*prefixes, *suffixes])
    if few:
        whole = gains(Composition.all(blocks))
        orders = [prefixes, ordering.best_order(blocks, whole, unit_bytes)]
    else:
        orders = [prefixes, suffixes, ordering.greedy_order(prefixes[0], gains, unit_bytes)]
    gain = gains(c for order in orders for c in order)
    areas = [ordering.area(order, gain, unit_bytes) for order in orders]
    best = max(range(len(orders)), key=areas.__getitem__)
    typical = sum(gain[c] for c in prefixes) / len(prefixes)
    error = (max(typical * (1 - typical), 0.01) / measurer.examples) ** 0.5
    return orders[best] if areas[best] > areas[0] + error else prefixes


def arriving_bytes(arrays: Iterable[np.ndarray], bits: Bits) -> float:
    """About how many bytes a unit's tensors take at `bits`, scales and headers left out."""
    return sum(
        a.size * int(bits) / 8 if bits != EXACT and precision.quantizable(a) else a.nbytes
        for a in arrays
    )
