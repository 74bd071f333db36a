"""Encoders and decoders: linear maps over channels at the boundaries (PWL, hybrid network)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Converter:
    """One linear map with bias over the last axis, shared over all others; or the identity.

    Attributes:
      width_in, width_out: channels.
      identity: no parameters, no computation; only where widths agree.
      dtype: type of the output, and of the computation.
    """

    width_in: int
    width_out: int
    identity: bool
    dtype: jnp.dtype

    def init(self, rng: jax.Array) -> dict[str, jax.Array]:
        """`{"kernel": f32[in, out], "bias": f32[out]}`, empty for the identity.

        Where widths agree a linear converter starts as the identity map.
        """
        if self.identity:
            return {}
        if self.width_in == self.width_out:
            kernel = jnp.eye(self.width_in, dtype=jnp.float32)
        else:
            kernel = jax.nn.initializers.lecun_normal()(
                rng, (self.width_in, self.width_out), jnp.float32
            )
        return {"kernel": kernel, "bias": jnp.zeros((self.width_out,), jnp.float32)}

    def apply(self, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        """x: [..., in] to [..., out]."""
        x = x.astype(self.dtype)
        if self.identity:
            return x
        y = jnp.matmul(x.reshape(-1, self.width_in), params["kernel"].astype(self.dtype))
        y = y + params["bias"].astype(self.dtype)[None, :]
        return y.reshape(*x.shape[:-1], self.width_out)


def least_squares(x: Any, y: Any, ridge: float = 1e-4) -> dict[str, jax.Array]:
    """The linear map with bias that takes features x to y with least squared error.

    Args:
      x: [..., in], y: [..., out]; equal but for the last axis.
      ridge: added to the covariance's diagonal, relative to its mean, so that channels that
        never vary stay harmless.

    Returns:
      `{"kernel": f32[in, out], "bias": f32[out]}`, solved in float64 on the host.
    """
    a = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    b = np.asarray(y, np.float64).reshape(-1, y.shape[-1])
    mean_a, mean_b = a.mean(0), b.mean(0)
    a, b = a - mean_a, b - mean_b
    gram = a.T @ a
    gram[np.diag_indices_from(gram)] += ridge * max(np.trace(gram) / len(gram), 1e-12)
    kernel = np.linalg.solve(gram, a.T @ b)
    return {
        "kernel": jnp.asarray(kernel, jnp.float32),
        "bias": jnp.asarray(mean_b - mean_a @ kernel, jnp.float32),
    }
