"""The head that convolutional networks share."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class PooledHead(nn.Module):
    """Mean over all positions, then a linear map to logits.

    Both the mean and the logits are float32 whatever the computation's type.
    """

    classes: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, height, width, channels] to f32[batch, classes]."""
        del train
        x = x.astype(jnp.float32).mean((1, 2))
        return nn.Dense(self.classes, dtype=self.dtype, name="dense")(x).astype(jnp.float32)


class LinearHead(nn.Module):
    """Flatten and map to logits, which are float32 whatever the computation's type."""

    classes: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [batch, ...] to f32[batch, classes]."""
        del train
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(self.classes, dtype=self.dtype, name="dense")(x).astype(jnp.float32)
