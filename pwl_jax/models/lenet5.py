"""LeNet-5 (LeCun et al., 1998) in four blocks: two convolutions, two dense layers."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from pwl_jax.models.block_network import BlockNetwork
from pwl_jax.models.heads import LinearHead
from pwl_jax.models.spec import NetworkSpec, SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeNet5Spec(NetworkSpec, family="lenet5"):
    """Two 5x5 convolutions of the given channels, then two dense layers of the given widths."""

    channels: tuple[int, int] = (6, 16)
    features: tuple[int, int] = (120, 84)

    def build(self, axis_name: str | None = None) -> BlockNetwork:
        """Four blocks; there is no normalisation, so `axis_name` changes nothing."""
        del axis_name
        if min(self.input_shape[:2]) < 16:
            raise SpecError(
                f"LeNet-5 needs images of at least 16x16 pixels; input_shape is {self.input_shape}"
            )
        dtype = self.compute_dtype
        return BlockNetwork(
            input_shape=self.input_shape,
            embedder=None,
            blocks=(
                ConvBlock(self.channels[0], dtype),
                ConvBlock(self.channels[1], dtype),
                DenseBlock(self.features[0], dtype),
                DenseBlock(self.features[1], dtype),
            ),
            head=LinearHead(self.classes, dtype),
        )


class ConvBlock(nn.Module):
    """5x5 convolution without padding, ReLU, 2x2 average pooling."""

    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, height, width, in] to [batch, (height-4)/2, (width-4)/2, channels]."""
        del train
        x = nn.Conv(self.channels, (5, 5), padding="VALID", dtype=self.dtype, name="conv")(x)
        return nn.avg_pool(nn.relu(x), window_shape=(2, 2), strides=(2, 2))


class DenseBlock(nn.Module):
    """Flatten, linear, ReLU."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, ...] to [batch, width]."""
        del train
        x = x.reshape(x.shape[0], -1)
        return nn.relu(nn.Dense(self.width, dtype=self.dtype, name="dense")(x))
