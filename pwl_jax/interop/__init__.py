"""Weights from and to other formats."""

from pwl_jax.interop.composed_weights import ComposedWeights
from pwl_jax.interop.safetensors_weights import InteropError, read_weights, write_weights

__all__ = ["ComposedWeights", "InteropError", "read_weights", "write_weights"]
