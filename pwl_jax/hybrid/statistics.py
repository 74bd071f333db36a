"""Running averages of the student's BatchNorm, by stream."""

from typing import Any

import jax
import jax.numpy as jnp

from pwl_jax.hybrid import masks
from pwl_jax.hybrid.hybrid_network import HybridNetwork
from pwl_jax.models.block_network import Variables
from pwl_jax.models.normalization import MOMENTUM, blend_moments

Weight = float | jax.Array


def blend_walk(
    hybrid: HybridNetwork,
    statistics: dict[str, Any],
    moments: dict[str, Any],
    weight: Weight = MOMENTUM,
) -> dict[str, Any]:
    """The student's statistics after one walk.

    With statistics per stream each stream blends its own moments. Shared statistics take the
    streams one after the other: own, then entry 0, 1, ... (the PyTorch baseline's rule).

    Args:
      hybrid: the network.
      statistics: `variables["student"]["batch_stats"]`.
      moments: `WalkOutputs.moments`, leaves with a leading stream axis.
      weight: of the new batch.
    """
    blended = {stream: dict(parts) for stream, parts in statistics.items()}
    for part, tree in moments.items():
        streams = jax.tree.leaves(tree)[0].shape[0]
        for s in range(streams):
            name = masks.entry_name(s - 1 if s and hybrid.per_stream else None)
            new = jax.tree.map(lambda leaf, s=s: leaf[s], tree)
            blended[name][part] = blend_moments(blended[name][part], new, weight)
    return blended


def blend_hybrid(
    statistics: dict[str, Any],
    moments: dict[str, Any],
    mask: Variables,
    weight: Weight = MOMENTUM,
) -> dict[str, Any]:
    """The student's statistics after one composition ran: only what its mask reads changes.

    Args:
      statistics: `variables["student"]["batch_stats"]`.
      moments: `HybridOutputs.moments`.
      mask: the composition's mask; may be traced.
      weight: of the new batch.
    """
    read = mask["student"]["batch_stats"]
    return {
        stream: {
            part: jax.tree.map(
                lambda m, old, new: jnp.where(m, (1 - weight) * old + weight * new, old),
                read[stream][part],
                tree,
                moments[part],
            )
            for part, tree in parts.items()
        }
        for stream, parts in statistics.items()
    }


def assign_moments(
    hybrid: HybridNetwork, statistics: dict[str, Any], moments: dict[str, Any]
) -> dict[str, Any]:
    """The student's statistics replaced by moments averaged over calibration batches.

    Shared statistics take the mean over the streams.

    Args:
      hybrid: the network.
      statistics: `variables["student"]["batch_stats"]`.
      moments: as `WalkOutputs.moments`.
    """
    if not hybrid.per_stream:
        moments = jax.tree.map(lambda leaf: leaf.mean(0, keepdims=True), moments)
    return blend_walk(hybrid, statistics, moments, weight=1.0)
