"""BatchNorm that reports the moments of its batch and leaves running averages to the caller."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pwl_jax.models.block_network import MOMENTS

MOMENTUM = 0.1
"""Weight of a new batch in the running averages (PyTorch's convention and default)."""


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last.

    In training it normalises by the batch's mean and biased variance, and puts the mean and the
    *unbiased* variance into the collection `batch_moments`, under the names it has in
    `batch_stats`. It never writes `batch_stats`: which running average a batch belongs to is for
    the caller to know, since one block serves several streams (see `blend_moments`).

    Attributes:
      dtype: type of the output; moments are always float32.
      axis_name: mapped axis over which moments are taken; None for this device's batch alone.
      epsilon: added to the variance.
    """

    dtype: Any = jnp.float32
    axis_name: str | None = None
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x: [..., channels] to the same shape."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        x = x.astype(jnp.float32)
        if train:
            axes = tuple(range(x.ndim - 1))
            count = x.size // channels
            mean = x.mean(axes)
            if self.axis_name is not None:
                mean = jax.lax.pmean(mean, self.axis_name)
                count *= jax.lax.axis_size(self.axis_name)
            var = jnp.square(x - mean.reshape((1,) * len(axes) + (channels,))).mean(axes)
            if self.axis_name is not None:
                var = jax.lax.pmean(var, self.axis_name)
            if self.is_mutable_collection(MOMENTS):
                self.put_variable(MOMENTS, "mean", mean)
                self.put_variable(MOMENTS, "var", var * (count / max(count - 1, 1)))
        else:
            mean, var = running_mean.value, running_var.value
        factor = jax.lax.rsqrt(var + self.epsilon) * scale
        shape = (1,) * (x.ndim - 1) + (channels,)
        return ((x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape)).astype(
            self.dtype
        )


def blend_moments(running: Any, moments: Any, weight: float | jax.Array = MOMENTUM) -> Any:
    """Running averages after one more batch: `(1 - weight) running + weight moments`, leaf-wise."""
    return jax.tree.map(lambda r, m: (1 - weight) * r + weight * m, running, moments)
