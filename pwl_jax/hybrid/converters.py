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


class LeastSquares:
    """Sums over features, batch after batch, that give the linear map with least squared error."""

    def __init__(self) -> None:
        self._sums: Any = None

    def add(self, x: Any, y: Any) -> None:
        """Features x: [..., in] that are to become y: [..., out]; equal but for the last axis."""
        a = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
        b = np.asarray(y, np.float64).reshape(-1, y.shape[-1])
        new = np.float64(len(a)), a.sum(0), b.sum(0), a.T @ a, a.T @ b
        old = self._sums
        self._sums = new if old is None else [s + n for s, n in zip(old, new, strict=True)]

    def solve(self, ridge: float = 1e-4) -> dict[str, jax.Array]:
        """The map with bias, solved in float64 on the host.

        Args:
          ridge: added to the covariance's diagonal, relative to its mean, so that channels that
            never vary stay harmless.

        Returns:
          `{"kernel": f32[in, out], "bias": f32[out]}`.
        """
        count, sum_a, sum_b, gram, cross = self._sums
        mean_a, mean_b = sum_a / count, sum_b / count
        gram = gram - count * np.outer(mean_a, mean_a)
        gram[np.diag_indices_from(gram)] += ridge * max(np.trace(gram) / len(gram), 1e-12)
        kernel = np.linalg.solve(gram, cross - count * np.outer(mean_a, mean_b))
        return {
            "kernel": jnp.asarray(kernel, jnp.float32),
            "bias": jnp.asarray(mean_b - mean_a @ kernel, jnp.float32),
        }
