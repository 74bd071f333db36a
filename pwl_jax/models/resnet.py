"""ResNet (He et al., arXiv 1512.03385); a block is a run of its layers, by default a stage."""

import dataclasses
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from pwl_jax.models.block_network import BlockNetwork
from pwl_jax.models.convolution import Convolution
from pwl_jax.models.heads import PooledHead
from pwl_jax.models.normalization import BatchNorm
from pwl_jax.models.sizes import check_positive, check_same_length
from pwl_jax.models.spec import NetworkSpec, SpecError

CONVOLUTIONS, SHORTCUT = ("first", "second", "third"), "shortcut"
"""Names of a residual layer's convolutions; parameters are `<name>_conv` and `<name>_norm`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetSpec(NetworkSpec, family="resnet"):
    """A stem, stages of residual layers, global average pooling and a linear layer.

    Attributes:
      widths: channels of each stage.
      depths: residual layers of each stage.
      stem_width: channels behind the stem's convolution.
      stem_kernel: height and width of the stem's kernel, odd.
      stem_stride: stride of the stem's convolution.
      stem_pool: whether a 3x3 max-pooling of stride 2 ends the stem.
      downsample_first: whether the first stage halves the map, as all others do.
      bottleneck: 0 for basic layers, of two 3x3 convolutions; else layers are 1x1, 3x3 and 1x1
        convolutions, and this divides a stage's width to the width within its layers (4 in
        ResNet-50, 2 in Wide ResNet-50-2).
      stride_in_first: whether a bottleneck layer that halves the map does so in its first
        convolution, as published, instead of its 3x3 one.
      block_layers: residual layers of each block, `depths` in all; empty for a stage a block
        (also where that is what it says).
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    stem_width: int = 64
    stem_kernel: int = 3
    stem_stride: int = 1
    stem_pool: bool = False
    downsample_first: bool = False
    bottleneck: int = 0
    stride_in_first: bool = False
    block_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "widths", "depths", "stem_width", "stem_kernel", "stem_stride")
        check_same_length(self, "widths", "depths")
        if self.stem_kernel % 2 == 0:
            raise SpecError(f"stem_kernel is {self.stem_kernel}; expected an odd number")
        if self.bottleneck != 0:
            check_positive(self, "bottleneck")
            for width in self.widths:
                if width % self.bottleneck:
                    raise SpecError(
                        f"bottleneck is {self.bottleneck}; expected a divisor of widths, {width}"
                    )
        if self.block_layers != ():
            check_positive(self, "block_layers")
            if sum(self.block_layers) != sum(self.depths):
                raise SpecError(
                    f"block_layers is {self.block_layers}, {sum(self.block_layers)} in all; "
                    f"expected the layers of depths, {sum(self.depths)}"
                )
            if self.block_layers == self.depths:
                object.__setattr__(self, "block_layers", ())

    def blocks(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Width and stride of every layer, block by block."""
        layers = iter(
            (width, 2 if i == 0 and (stage > 0 or self.downsample_first) else 1)
            for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True))
            for i in range(depth)
        )
        counts = self.block_layers or self.depths
        return tuple(tuple(itertools.islice(layers, count)) for count in counts)

    def build(self, axis_name: str | None = None) -> BlockNetwork:
        """The blocks of `blocks`; `axis_name` as in `NetworkSpec.build`."""
        dtype = self.compute_dtype
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
                ResNetBlock(layers, self.bottleneck, self.stride_in_first, dtype, axis_name)
                for layers in self.blocks()
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


class ResNetBlock(nn.Module):
    """Residual layers, each of its own width and stride; for the rest see `ResNetSpec`."""

    layers: tuple[tuple[int, int], ...]
    bottleneck: int
    stride_in_first: bool
    dtype: jnp.dtype
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, height, width, in] to [batch, ~height/strides, ~width/strides, last width]."""
        for i, (width, stride) in enumerate(self.layers):
            kernels = layer_kernels(width, stride, self.bottleneck, self.stride_in_first)
            x = ResidualLayer(kernels, self.dtype, self.axis_name, name=f"layer{i}")(x, train)
        return x


def layer_kernels(
    width: int, stride: int, bottleneck: int, stride_in_first: bool
) -> tuple[tuple[int, int, int], ...]:
    """Width, kernel size and stride of each convolution of a residual layer; see `ResNetSpec`."""
    if not bottleneck:
        return ((width, 3, stride), (width, 3, 1))
    inner = width // bottleneck
    first, second = (stride, 1) if stride_in_first else (1, stride)
    return ((inner, 1, first), (inner, 3, second), (width, 1, 1))


class ResidualLayer(nn.Module):
    """Convolutions with BatchNorm, ReLU between them, added to a shortcut, ReLU behind the sum.

    The shortcut is the identity, or a 1x1 convolution with BatchNorm where shapes change.

    Attributes:
      kernels: width, kernel size and stride of each convolution, two or three.
      dtype, axis_name: as in `BatchNorm`.
    """

    kernels: tuple[tuple[int, int, int], ...]
    dtype: jnp.dtype
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, height, width, in] to [batch, ~height/stride, ~width/stride, last width]."""

        def convolved(x: jax.Array, name: str, width: int, size: int, stride: int) -> jax.Array:
            conv = Convolution(width, size, stride, dtype=self.dtype, name=f"{name}_conv")
            return BatchNorm(self.dtype, self.axis_name, name=f"{name}_norm")(conv(x), train)

        y = x
        stride = math.prod(kernel[2] for kernel in self.kernels)
        for i, (width, size, step) in enumerate(self.kernels):
            y = convolved(nn.relu(y) if i else y, CONVOLUTIONS[i], width, size, step)
        if x.shape[-1] != y.shape[-1] or stride != 1:
            x = convolved(x, SHORTCUT, y.shape[-1], 1, stride)
        return nn.relu(x + y)
