"""MobileNetV2 (Sandler et al., arXiv 1801.04381) as a family of one's own; a block is a stage.

Everything comes from `pwl_jax.models`; docs/bring_your_own_network.md walks through this file.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from pwl_jax.models import (
    BatchNorm,
    BlockNetwork,
    NetworkSpec,
    PairSpec,
    PooledHead,
    SpecError,
    check_positive,
    check_same_length,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MobileNetV2Spec(NetworkSpec, family="mobilenet_v2"):
    """A stem, stages of inverted residuals, a 1x1 convolution before the pooled head.

    The stages are those of the paper's table 2. Strides are halved for images of about 32x32: the
    paper's, for 224x224, are a `stem_stride` of 2 and `strides` of (1, 2, 2, 2, 1, 2, 1).

    Attributes:
      channels, depths, strides, expansions: c, n, s and t of each stage.
      stem_channels, head_channels: of the first convolution and of the last.
      stem_stride: of the first convolution.
      width: multiplies all channels, which are rounded to multiples of eight; as in the paper, the
        head does not get narrower.
    """

    channels: tuple[int, ...] = (16, 24, 32, 64, 96, 160, 320)
    depths: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)
    strides: tuple[int, ...] = (1, 1, 2, 2, 1, 2, 1)
    expansions: tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)
    stem_channels: int = 32
    stem_stride: int = 1
    head_channels: int = 1280
    width: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        per_stage = ("channels", "depths", "strides", "expansions")
        check_positive(self, *per_stage, "stem_channels", "stem_stride", "head_channels")
        for name in per_stage[1:]:
            check_same_length(self, "channels", name)
        if not self.width > 0:
            raise SpecError(f"width is {self.width}; expected a factor above 0")

    def build(self, axis_name: str | None = None) -> BlockNetwork:
        """One block a stage; `axis_name` as in `NetworkSpec.build`."""
        common = (self.compute_dtype, axis_name)
        stages = zip(self.channels, self.depths, self.strides, self.expansions, strict=True)
        return BlockNetwork(
            input_shape=self.input_shape,
            embedder=ConvNorm(*common, self._scaled(self.stem_channels), 3, self.stem_stride),
            blocks=tuple(Stage(*common, self._scaled(c), n, s, t) for c, n, s, t in stages),
            head=Head(*common, self.head_channels, self.classes),
        )

    def _scaled(self, channels: int) -> int:
        return max(8, int(channels * self.width + 4) // 8 * 8)


class ConvNorm(nn.Module):
    """Convolution or depthwise convolution, BatchNorm and, unless `linear`, ReLU6."""

    dtype: jnp.dtype
    axis_name: str | None
    channels: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    linear: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, height, width, in] to [batch, ~height/stride, ~width/stride, channels]."""
        x = nn.Conv(
            self.channels,
            (self.kernel, self.kernel),
            self.stride,
            padding=self.kernel // 2,
            feature_group_count=self.channels if self.depthwise else 1,
            use_bias=False,
            dtype=self.dtype,
            name="conv",
        )(x)
        x = BatchNorm(self.dtype, self.axis_name, name="norm")(x, train)
        return x if self.linear else nn.relu6(x)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project linearly; added to x where shapes agree.

    The projection is a linear bottleneck: nothing but BatchNorm follows it.
    """

    dtype: jnp.dtype
    axis_name: str | None
    channels: int
    stride: int
    expansion: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, height, width, in] to [batch, ~height/stride, ~width/stride, channels]."""
        common = (self.dtype, self.axis_name)
        hidden = self.expansion * x.shape[-1]
        y = x
        if self.expansion > 1:
            y = ConvNorm(*common, hidden, name="expand")(y, train)
        y = ConvNorm(*common, hidden, 3, self.stride, depthwise=True, name="filter")(y, train)
        y = ConvNorm(*common, self.channels, linear=True, name="project")(y, train)
        return x + y if x.shape == y.shape else y


class Stage(nn.Module):
    """`depth` inverted residuals; the first one strides and changes the width."""

    dtype: jnp.dtype
    axis_name: str | None
    channels: int
    depth: int
    stride: int
    expansion: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, height, width, in] to [batch, ~height/stride, ~width/stride, channels]."""
        for i in range(self.depth):
            layer = InvertedResidual(
                self.dtype,
                self.axis_name,
                self.channels,
                self.stride if i == 0 else 1,
                self.expansion,
                name=f"layer{i}",
            )
            x = layer(x, train)
        return x


class Head(nn.Module):
    """1x1 convolution with BatchNorm and ReLU6, mean over positions, linear map to logits."""

    dtype: jnp.dtype
    axis_name: str | None
    channels: int
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, height, width, in] to f32[batch, classes]."""
        x = ConvNorm(self.dtype, self.axis_name, self.channels, name="last")(x, train)
        return PooledHead(self.classes, self.dtype, name="pooled")(x, train)


def digits_pair() -> PairSpec:
    """A teacher and a student of a quarter of its width, for scikit-learn's digits at 16x16."""
    teacher = MobileNetV2Spec(
        input_shape=(16, 16, 1),
        classes=10,
        channels=(8, 16, 24, 40),
        depths=(1, 2, 2, 1),
        strides=(1, 1, 2, 1),
        expansions=(1, 4, 4, 4),
        stem_channels=8,
        stem_stride=2,
        head_channels=80,
    )
    student = dataclasses.replace(
        teacher, depths=(1, 1, 1, 1), expansions=(1, 2, 2, 2), width=0.25, head_channels=24
    )
    return PairSpec(name="mobilenet_v2_digits", teacher=teacher, student=student)
