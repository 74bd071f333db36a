"""ResNet of basic blocks (He et al., arXiv 1512.03385); every stage is a block."""

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
class ResNetSpec(NetworkSpec, family="resnet"):
    """A stem, stages of basic layers, global average pooling and a linear layer.

    Attributes:
      widths: channels of each stage.
      depths: basic layers (two 3x3 convolutions each) of each stage.
      stem_width: channels behind the stem's convolution.
      stem_kernel: height and width of the stem's kernel, odd.
      stem_stride: stride of the stem's convolution.
      stem_pool: whether a 3x3 max-pooling of stride 2 ends the stem.
      downsample_first: whether the first stage halves the map, as all others do.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    stem_width: int = 64
    stem_kernel: int = 3
    stem_stride: int = 1
    stem_pool: bool = False
    downsample_first: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "widths", "depths", "stem_width", "stem_kernel", "stem_stride")
        check_same_length(self, "widths", "depths")
        if self.stem_kernel % 2 == 0:
            raise SpecError(f"stem_kernel is {self.stem_kernel}; expected an odd number")

    def build(self, axis_name: str | None = None) -> BlockNetwork:
        """One block a stage; `axis_name` as in `NetworkSpec.build`."""
        dtype = self.compute_dtype
        strides = (2 if self.downsample_first else 1,) + (2,) * (len(self.widths) - 1)
        return BlockNetwork(
            input_shape=self.input_shape,
            embedder=Stem(
                self.stem_width,
                self.stem_kernel,
                self.stem_stride,
                self.stem_pool,
                dtype,
                axis_name,
            ),
            blocks=tuple(
                ResNetStage(width, depth, stride, dtype, axis_name)
                for width, depth, stride in zip(self.widths, self.depths, strides, strict=True)
            ),
            head=PooledHead(self.classes, dtype),
        )


class Stem(nn.Module):
    """Convolution, BatchNorm, ReLU and, if `pool`, a 3x3 max-pooling of stride 2."""

    width: int
    kernel_size: int
    stride: int
    pool: bool
    dtype: jnp.dtype
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, height, width, in] to [batch, height', width', self.width]."""
        x = Convolution(self.width, self.kernel_size, self.stride, dtype=self.dtype, name="conv")(x)
        x = nn.relu(BatchNorm(self.dtype, self.axis_name, name="norm")(x, train))
        if self.pool:
            # After ReLU a border of zeros changes no maximum; it shifts windows as PyTorch does.
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            x = nn.max_pool(x, (3, 3), (2, 2))
        return x


class ResNetStage(nn.Module):
    """`depth` basic layers; the first one changes width and, by `stride`, the map's size."""

    width: int
    depth: int
    stride: int
    dtype: jnp.dtype
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, height, width, in] to [batch, ~height/stride, ~width/stride, self.width]."""
        for i in range(self.depth):
            stride = self.stride if i == 0 else 1
            x = BasicLayer(self.width, stride, self.dtype, self.axis_name, name=f"layer{i}")(
                x, train
            )
        return x


class BasicLayer(nn.Module):
    """Two 3x3 convolutions with BatchNorm, added to a shortcut, ReLU behind the sum.

    The shortcut is the identity, or a 1x1 convolution with BatchNorm where shapes change.
    """

    width: int
    stride: int
    dtype: jnp.dtype
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, height, width, in] to [batch, ~height/stride, ~width/stride, self.width]."""

        def convolved(x: jax.Array, name: str, kernel_size: int, stride: int) -> jax.Array:
            conv = Convolution(
                self.width, kernel_size, stride, dtype=self.dtype, name=f"{name}_conv"
            )
            return BatchNorm(self.dtype, self.axis_name, name=f"{name}_norm")(conv(x), train)

        y = nn.relu(convolved(x, "first", 3, self.stride))
        y = convolved(y, "second", 3, 1)
        if x.shape[-1] != self.width or self.stride != 1:
            x = convolved(x, "shortcut", 1, self.stride)
        return nn.relu(x + y)
