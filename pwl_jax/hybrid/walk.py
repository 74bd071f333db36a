"""All prefixes at once: one walk over the blocks evaluates every prefix composition."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pwl_jax.hybrid.hybrid_network import HybridNetwork
from pwl_jax.ladder import Unit
from pwl_jax.models.block_network import Variables


class WalkOutputs(NamedTuple):
    """What all prefixes compute of one batch.

    Stream 0 is the student's own; stream 1 + k enters behind teacher block k, so that stream s
    ends in the logits of the prefix with s teacher blocks.

    Attributes:
      teacher_logits: f32[batch, classes], constant.
      teacher_features: the teacher's features at the N-1 inner boundaries, constant.
      encoded: the same through the encoders, in the student's width.
      logits: f32[streams, batch, classes].
      features: student features at the N-1 inner boundaries, [streams there, batch, ...].
      moments: batch moments by part, leaves with a leading stream axis; empty unless training.
    """

    teacher_logits: jax.Array
    teacher_features: tuple[jax.Array, ...]
    encoded: tuple[jax.Array, ...]
    logits: jax.Array
    features: tuple[jax.Array, ...]
    moments: dict[str, Any]


def walk(
    hybrid: HybridNetwork,
    variables: Variables,
    images: jax.Array,
    *,
    train: bool = False,
    entries: bool = True,
    batched: bool = True,
) -> WalkOutputs:
    """Runs the teacher once and, at each student block, all streams present.

    Batched, that is one call a block: N student calls instead of N(N+1)/2. Batch moments are taken
    per stream, never across them.

    Args:
      hybrid: the network.
      variables: its whole tree.
      images: f32[batch, height, width, channels], normalised.
      train: student blocks normalise by their stream's batch moments.
      entries: False runs the student's own stream alone.
      batched: False runs the streams of a block one after the other; values agree to rounding.
    """
    blocks = hybrid.num_blocks
    constant = {**variables, "teacher": jax.lax.stop_gradient(variables["teacher"])}
    teacher_features, encoded, features = [], [], []
    moments: dict[str, Any] = {}
    wide = images
    streams = images[None]
    for i in range(blocks):
        teacher, encoder = Unit("teacher", i), Unit("encoder", i)
        wide = hybrid.run(teacher, hybrid.unit_variables(constant, teacher), wide)
        streams, block_moments = _run_streams(hybrid, i, variables, streams, train, batched)
        moments |= block_moments
        if i < blocks - 1:
            teacher_features.append(wide)
            features.append(streams)
            narrow = hybrid.run(encoder, hybrid.unit_variables(variables, encoder), wide)
            encoded.append(narrow)
            if entries:
                streams = jnp.concatenate([streams, narrow[None]])
    return WalkOutputs(
        wide, tuple(teacher_features), tuple(encoded), streams, tuple(features), moments
    )


def _run_streams(
    hybrid: HybridNetwork,
    index: int,
    variables: Variables,
    streams: jax.Array,
    train: bool,
    batched: bool,
) -> tuple[jax.Array, dict[str, Any]]:
    """Student block `index` on [streams, batch, ...], with shared parameters."""
    unit = Unit("student", index)
    by_stream = [
        hybrid.unit_variables(variables, unit, entry)
        for entry in [None, *range(streams.shape[0] - 1)]
    ]
    params = by_stream[0]["params"]
    statistics = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(v["batch_stats"] for v in by_stream)
    )

    def run(stats: Variables, x: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        block = {"params": params, "batch_stats": stats}
        return hybrid.student.apply_block(index, block, x, train=train)

    if batched:
        return jax.vmap(run)(statistics, streams)
    apart = [
        run(jax.tree.map(lambda leaf, s=s: leaf[s], statistics), streams[s])
        for s in range(streams.shape[0])
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *apart)
