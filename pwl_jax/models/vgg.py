"""VGG (Simonyan and Zisserman, arXiv 1409.1556) with BatchNorm; every stage is a block."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from pwl_jax.models.block_network import BlockNetwork
from pwl_jax.models.convolution import Convolution
from pwl_jax.models.heads import PooledHead
from pwl_jax.models.normalization import BatchNorm
from pwl_jax.models.sizes import check_positive, check_same_length
from pwl_jax.models.spec import NetworkSpec, SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class VGGSpec(NetworkSpec, family="vgg"):
    """Stages of 3x3 convolutions, each closed by a 2x2 max-pooling; one linear layer as the head.

    Attributes:
      widths: channels of each stage.
      depths: convolutions of each stage.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "widths", "depths")
        check_same_length(self, "widths", "depths")
        least = 2 ** len(self.widths)
        if min(self.input_shape[:2]) < least:
            raise SpecError(
                f"{len(self.widths)} VGG stages halve the image {len(self.widths)} times and need "
                f"at least {least}x{least} pixels; input_shape is {self.input_shape}"
            )

    def build(self, axis_name: str | None = None) -> BlockNetwork:
        """One block a stage; `axis_name` as in `NetworkSpec.build`."""
        dtype = self.compute_dtype
        return BlockNetwork(
            input_shape=self.input_shape,
            embedder=None,
            blocks=tuple(
                VGGStage(width, depth, dtype, axis_name)
                for width, depth in zip(self.widths, self.depths, strict=True)
            ),
            head=PooledHead(self.classes, dtype),
        )


class VGGStage(nn.Module):
    """`depth` times 3x3 convolution, BatchNorm and ReLU; then 2x2 max-pooling."""

    width: int
    depth: int
    dtype: jnp.dtype
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, height, width, in] to [batch, height // 2, width // 2, self.width]."""
        for i in range(self.depth):
            x = Convolution(self.width, use_bias=True, dtype=self.dtype, name=f"conv{i}")(x)
            x = nn.relu(BatchNorm(self.dtype, self.axis_name, name=f"norm{i}")(x, train))
        return max_pool_2x2(x)


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """Maximum over 2x2 windows; an odd last row or column is left out.

    x: [batch, height, width, c] to [batch, height // 2, width // 2, c].

    Equals `nn.max_pool`. The gradient of that is a select-and-scatter, which costs 10 to 17 times
    as much on CPU and is not deterministic on GPU; this one shares the gradient among equal maxima.
    """
    for axis in (1, 2):
        size = x.shape[axis] // 2 * 2
        # As `x[:, 0:size:2]`, which is a gather where the batch is symbolic.
        even, odd = (jax.lax.slice_in_dim(x, first, size, 2, axis) for first in (0, 1))
        x = jnp.maximum(even, odd)
    return x
