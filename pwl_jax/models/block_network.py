"""The block-network protocol: an embedder, N blocks and a head, as pure functions of variables."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

Variables = dict[str, Any]
"""`{"params": {part: tree}, "batch_stats": {part: tree}}`, part in embedder, block<i>, head."""

MOMENTS = "batch_moments"


class Outputs(NamedTuple):
    """All that a network computes of a batch.

    Attributes:
      logits: f32[batch, classes].
      features: every part's output by its name: `embedder`, `block0` ... `block<N-1>`.
      moments: batch mean and unbiased variance of every BatchNorm, structured as `batch_stats`;
        empty unless training.
    """

    logits: jax.Array
    features: dict[str, jax.Array]
    moments: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class BlockNetwork:
    """A network cut into N blocks. Block i's output lies at boundary i.

    Every part is a Linen module called as `module(x, train)`. Modules hold no state: a part with
    BatchNorm reads `batch_stats` and reports the moments of its batch (see `normalization`).

    Attributes:
      input_shape: height, width and channels of an image.
      embedder: what comes before block 0, or None; it belongs to block 0.
      blocks: N modules.
      head: features to logits; it belongs to block N-1.
      remat: whether a backward pass computes each block's inner values anew instead of keeping
        them (Chen et al., arXiv 1604.06174); gradients are the same.
    """

    input_shape: tuple[int, int, int]
    embedder: nn.Module | None
    blocks: tuple[nn.Module, ...]
    head: nn.Module
    remat: bool = False

    @property
    def num_blocks(self) -> int:
        """N."""
        return len(self.blocks)

    def parts_of(self, index: int) -> dict[str, nn.Module]:
        """The parts that block `index` consists of, by name, in the order of execution."""
        parts: dict[str, nn.Module] = {}
        if index == 0 and self.embedder is not None:
            parts["embedder"] = self.embedder
        parts[f"block{index}"] = self.blocks[index]
        if index == self.num_blocks - 1:
            parts["head"] = self.head
        return parts

    def init(self, rng: jax.Array) -> Variables:
        """Fresh variables, all float32. Pure; wrap it in `jax.jit` or `jax.eval_shape`."""
        x = jnp.zeros((1, *self.input_shape), jnp.float32)
        variables: Variables = {"params": {}, "batch_stats": {}}
        for i in range(self.num_blocks):
            for name, module in self.parts_of(i).items():
                rng, part_rng = jax.random.split(rng)
                x, part = module.init_with_output(part_rng, x, False)
                for collection in variables:
                    if part.get(collection):
                        variables[collection][name] = part[collection]
        return variables

    def apply_block(
        self, index: int, variables: Variables, x: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Block `index`, with the embedder before the first and the head behind the last.

        Args:
          index: 0 .. N-1.
          variables: at least the parts of this block.
          x: [batch, ...]; images for block 0, else the features at boundary index-1.
          train: normalise by the batch's own moments instead of `batch_stats`.

        Returns:
          Features at boundary `index` (logits behind the last block), and the batch moments by
          part (empty unless training).
        """
        y, _, moments = self._apply_parts(index, variables, x, train)
        return y, moments

    def apply(self, variables: Variables, images: jax.Array, *, train: bool = False) -> Outputs:
        """The whole network on `images`: f32[batch, height, width, channels], normalised."""
        x = images
        features: dict[str, jax.Array] = {}
        moments: dict[str, Any] = {}
        for i in range(self.num_blocks):
            x, block_features, block_moments = self._apply_parts(i, variables, x, train)
            features |= block_features
            moments |= block_moments
        features.pop("head")
        return Outputs(x, features, moments)

    def boundary_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of one example's features at the N-1 inner boundaries, without computing."""
        outputs = jax.eval_shape(
            lambda: self.apply(
                self.init(jax.random.key(0)), jnp.zeros((1, *self.input_shape), jnp.float32)
            )
        )
        return tuple(outputs.features[f"block{i}"].shape[1:] for i in range(self.num_blocks - 1))

    def _apply_parts(
        self, index: int, variables: Variables, x: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
        """What block `index` puts out, the output of each of its parts, and their moments."""

        def run(variables: Variables, x: jax.Array) -> Any:
            return self._run_parts(index, variables, x, train)

        return (jax.checkpoint(run) if self.remat else run)(variables, x)

    def _run_parts(
        self, index: int, variables: Variables, x: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
        features: dict[str, jax.Array] = {}
        moments: dict[str, Any] = {}
        for name, module in self.parts_of(index).items():
            part = {
                collection: trees[name] for collection, trees in variables.items() if name in trees
            }
            x, mutated = module.apply(part, x, train, mutable=[MOMENTS])
            features[name] = x
            if MOMENTS in mutated:
                moments[name] = mutated[MOMENTS]
        return x, features, moments
