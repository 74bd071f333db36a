"""Masks, converters, the hybrid network and the walk over all prefixes."""

from pwl_jax.hybrid.hybrid_network import HybridNetwork, HybridOutputs
from pwl_jax.hybrid.masks import (
    MaskError,
    composition_of,
    live_bytes,
    mask_of,
    stack_masks,
    unit_of,
)
from pwl_jax.hybrid.walk import WalkOutputs, walk

__all__ = [
    "HybridNetwork",
    "HybridOutputs",
    "MaskError",
    "WalkOutputs",
    "composition_of",
    "live_bytes",
    "mask_of",
    "stack_masks",
    "unit_of",
    "walk",
]
