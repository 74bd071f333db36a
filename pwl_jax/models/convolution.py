"""Convolution with PyTorch's symmetric padding, quick on every back end for small feature maps."""

import flax.linen as nn
import jax
import jax.numpy as jnp

LARGEST_PATCHED_MAP = 2
"""Output maps of up to this height and width are computed as patches times a matrix.

XLA on CPU needs 1.1 s for forward and backward of a 3x3 convolution on 2x2 maps (batch 64, 512
to 512 channels, 2 cores); patches and one matrix product need 0.02 s. From 4x4 on the two are even.
"""

KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He et al. 2015 (arXiv 1502.01852), as torchvision and transformers initialise ResNets."""


class Convolution(nn.Module):
    """2-D convolution, padded by `kernel_size // 2` on every side, also where it strides.

    Linen's "SAME" pads a strided convolution unevenly, so that weights trained in PyTorch would
    see their input shifted by one pixel.

    Attributes:
      features: output channels.
      kernel_size: height and width of the kernel, odd.
      stride: step in both directions.
      use_bias: whether a bias is added.
      dtype: type of the computation; `kernel` and `bias` are float32.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    use_bias: bool = False
    dtype: jnp.dtype = jnp.dtype(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [batch, height, width, in] to [batch, ~height/stride, ~width/stride, features]."""
        size, stride = self.kernel_size, self.stride
        shape = (size, size, x.shape[-1], self.features)
        kernel = self.param("kernel", KERNEL_INIT, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        height, width = ((n - 1) // stride + 1 for n in x.shape[1:3])
        if max(height, width) <= LARGEST_PATCHED_MAP:
            y = patches(x, size, stride) @ kernel.reshape(-1, self.features)
        else:
            padding = (size // 2, size // 2)
            y = jax.lax.conv_general_dilated(
                x, kernel, (stride, stride), (padding, padding), dimension_numbers=DIMENSIONS
            )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, self.features)
        return y


DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """What a `size` x `size` kernel sees at each of its places, zero-padded by `size // 2`.

    x: [batch, height, width, c] to [batch, ~height/stride, ~width/stride, size * size * c], in the
    order of a kernel of shape [size, size, c, features].
    """
    batch, height, width, channels = x.shape
    pad = (size // 2, size // 2)
    x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
    # As `x[:, row : row + height : stride, ...]`, which is a gather where the batch is symbolic.
    return jnp.concatenate(
        [
            jax.lax.slice(
                x,
                (0, row, column, 0),
                (batch, row + height, column + width, channels),
                (1, stride, stride, 1),
            )
            for row in range(size)
            for column in range(size)
        ],
        axis=-1,
    )
