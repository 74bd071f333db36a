"""Accuracy of any set of compositions, at any precision, with shared work done once."""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pwl_jax.hybrid import HybridNetwork
from pwl_jax.ladder import EXACT, Bits, Composition, Rung
from pwl_jax.models.block_network import Variables
from pwl_jax.training.average_precision import mean_average_precision
from pwl_jax.training.step import Batch, settled, shard_batch

Key = TypeVar("Key", bound=Hashable)
Path = tuple[tuple[str, Bits], ...]
"""Source and precision of each block from the first on."""


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """What was measured over `examples`.

    Attributes:
      top1: share of right answers, 0..1; None where images have any number of labels.
      loss: in nats: cross-entropy, or the mean over the classes of the binary one.
      examples: how many.
      mean_average_precision: 0..1, of a multi-label set; else None.
    """

    top1: float | None
    loss: float
    examples: int
    mean_average_precision: float | None = None

    @property
    def metric(self) -> str:
        """Name of the field that `score` is: `top1` or `mean_average_precision`."""
        return "top1" if self.mean_average_precision is None else "mean_average_precision"

    @property
    def score(self) -> float:
        """What choices are made by, 0..1, larger is better."""
        return getattr(self, self.metric)


def fitting_batch(size: int, examples: int, mesh: Mesh) -> int:
    """The batch size nearest to `size` that wastes little on few examples and fits the mesh."""
    return -(-min(size, max(examples, 1)) // mesh.size) * mesh.size


@jax.jit
def _summary(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
    """Weighted correct answers, summed loss and examples: f32[3]; correct is 0 if multi-label."""
    if labels.ndim == 2:
        each = optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
        correct, loss = jnp.zeros_like(weight), each.mean(-1)
    else:
        correct = (logits.argmax(-1) == labels).astype(jnp.float32)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.stack([(correct * weight).sum(), (loss * weight).sum(), weight.sum()])


def accuracy(
    logits_of: Callable[[jax.Array], Mapping[Key, jax.Array]],
    batches: Iterable[Batch],
    normalize: Callable[[Any], Any],
    mesh: Mesh,
) -> dict[Key, Accuracy]:
    """Accuracy of one or several networks over all batches, exact over a padded last one.

    Args:
      logits_of: f32[batch, height, width, channels] to logits by key.
      batches: `image` uint8, `label`, `weight` (0 for padding), the same on every process.
        Multi-hot labels make it a multi-label measurement, which keeps all logits on the host.
      normalize: uint8 images to float32 input.
      mesh: batches are split over its devices.

    Raises:
      DataError: a multi-label split without any label.
    """
    gathered = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))
    sums: dict[Key, jax.Array] = {}
    scores: dict[Key, list[np.ndarray]] = {}
    labels: list[np.ndarray] = []
    for batch in batches:
        images = normalize(batch["image"])
        placed = shard_batch({**batch, "image": images}, mesh, replicated_input=True)
        real = np.asarray(batch["weight"]) > 0
        multi_label = batch["label"].ndim == 2
        if multi_label:
            labels.append(np.asarray(batch["label"])[real])
        for key, logits in logits_of(placed["image"]).items():
            counted = settled(_summary(logits, placed["label"], placed["weight"]), mesh)
            sums[key] = sums[key] + counted if key in sums else counted
            if multi_label:
                scores.setdefault(key, []).append(np.asarray(gathered(logits))[real])
    results = {}
    for key, values in sums.items():
        correct, loss, examples = (float(x) for x in values)
        result = Accuracy(correct / examples, loss / examples, round(examples))
        if key in scores:
            ranked = mean_average_precision(np.concatenate(scores[key]), np.concatenate(labels))
            result = dataclasses.replace(result, top1=None, mean_average_precision=ranked)
        results[key] = result
    return results


Block = Callable[[Composition, Bits, jax.Array], jax.Array]
"""`(blocks so far, precision of the last one, features before it) -> features behind it`."""


class Evaluator:
    """Evaluates rungs by the block programs, each compiled once.

    Rungs that begin with the same blocks at the same precisions share their computation: all 2^N
    compositions take 2^(N+1) - 2 block calls instead of N 2^N.

    Attributes:
      hybrid: the network.
      mesh: batches are split over its devices.
    """

    def __init__(self, hybrid: HybridNetwork, mesh: Mesh) -> None:
        self.hybrid = hybrid
        self.mesh = mesh
        self._run = jax.jit(hybrid.run, static_argnums=0)

    def logits(
        self,
        rungs: Iterable[Rung],
        variables_at: Callable[[Bits], Variables],
        images: jax.Array,
        statistics: Mapping[str, Variables] | None = None,
    ) -> dict[Rung, jax.Array]:
        """Logits of each rung, f32[batch, classes].

        Args:
          rungs: what to evaluate.
          variables_at: the hybrid's tree as a receiver has it at a precision; converters are
            read at `exact`.
          images: f32[batch, height, width, channels], normalised.
          statistics: for each student block, by the letters of the blocks up to it, statistics that
            take the place of its stream's; see `recalibration`.
        """

        def block(here: Composition, bits: Bits, x: jax.Array) -> jax.Array:
            x = self.crossed(here, variables_at(EXACT), x)
            unit = here.block(len(here) - 1)
            variables = self.hybrid.unit_variables(variables_at(bits), unit, here.entry(unit))
            if statistics is not None and unit.kind == "student":
                variables = {**variables, "batch_stats": statistics[str(here)]}
            return self._run(unit, variables, x)

        return self.descend(rungs, images, block)

    def crossed(self, here: Composition, variables: Variables, x: jax.Array) -> jax.Array:
        """Features as the last block of `here` takes them: converted where the source changes."""
        unit = here.converter(len(here) - 2) if len(here) > 1 else None
        if unit is None:
            return x
        return self._run(unit, self.hybrid.unit_variables(variables, unit), x)

    def descend(
        self, rungs: Iterable[Rung], images: jax.Array, block: Block
    ) -> dict[Rung, jax.Array]:
        """What `block` makes of images along each rung; blocks that rungs begin with run once."""
        wanted = {tuple(zip(r.composition.sources, r.bits, strict=True)): r for r in rungs}
        results: dict[Rung, jax.Array] = {}

        def below(done: Path, x: jax.Array) -> None:
            index = len(done)
            if index == self.hybrid.num_blocks:
                results[wanted[done]] = x
                return
            for source, bits in dict.fromkeys(p[index] for p in wanted if p[:index] == done):
                here = Composition((*(s for s, _ in done), source))
                below((*done, (source, bits)), block(here, bits, x))

        below((), images)
        return results

    def evaluate(
        self,
        rungs: Sequence[Rung],
        variables_at: Callable[[Bits], Variables],
        batches: Iterable[Batch],
        normalize: Callable[[Any], Any],
        statistics: Mapping[str, Variables] | None = None,
    ) -> dict[Rung, Accuracy]:
        """Accuracy of each rung, in the order given; see `logits` and `accuracy`."""
        found = accuracy(
            lambda images: self.logits(rungs, variables_at, images, statistics),
            batches,
            normalize,
            self.mesh,
        )
        return {rung: found[rung] for rung in rungs}


def evaluate_compositions(
    evaluator: Evaluator,
    variables: Variables,
    compositions: Iterable[Composition],
    batches: Iterable[Batch],
    normalize: Callable[[Any], Any],
    statistics: Mapping[str, Variables] | None = None,
) -> dict[Composition, Accuracy]:
    """Accuracy of exact compositions; see `Evaluator.evaluate`."""
    rungs = [Rung.uniform(composition, EXACT) for composition in compositions]
    found = evaluator.evaluate(rungs, lambda _: variables, batches, normalize, statistics)
    return {rung.composition: accuracy for rung, accuracy in found.items()}
