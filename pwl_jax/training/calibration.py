"""What is measured on a few batches instead of trained: statistics, and a converter's start."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pwl_jax.hybrid import HybridNetwork, statistics, walk
from pwl_jax.hybrid.converters import LeastSquares
from pwl_jax.models.block_network import Variables
from pwl_jax.training.step import AXIS, Batch, shard_batch


def make_moments(hybrid: HybridNetwork, mesh: Mesh) -> Callable[[Variables, jax.Array], Any]:
    """The compiled `(variables, images) -> moments` of every stream of one batch.

    Moments are averaged over the mesh's devices; see `WalkOutputs.moments` for their structure.
    """

    def per_device(variables: Variables, images: jax.Array) -> Any:
        return jax.lax.pmean(walk(hybrid, variables, images, train=True).moments, AXIS)

    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
    return jax.jit(
        jax.shard_map(
            per_device,
            mesh=mesh,
            in_specs=(everywhere, split),
            out_specs=everywhere,
            check_vma=False,
        )
    )


def calibrated(
    hybrid: HybridNetwork,
    variables: Variables,
    batches: Iterable[Batch],
    normalize: Callable[[Any], Any],
    moments_of: Callable[[Variables, jax.Array], Any],
    mesh: Mesh,
) -> Variables:
    """The variables with the student's statistics measured anew, stream by stream.

    Every batch counts the same; the teacher's statistics stay as they are. Without BatchNorm in
    the student the variables come back unchanged.

    Args:
      hybrid: the network.
      variables: its tree.
      batches: full batches of training images, not augmented.
      normalize: uint8 images to the network's input.
      moments_of: from `make_moments`.
      mesh: of that.
    """
    if not jax.tree.leaves(variables["student"]["batch_stats"]):
        return variables
    total: Any = None
    count = 0
    for batch in batches:
        placed = shard_batch(
            {"image": normalize(batch["image"]), "label": batch["label"]},
            mesh,
            replicated_input=True,
        )
        moments = jax.device_get(moments_of(variables, placed["image"]))
        total = moments if total is None else jax.tree.map(np.add, total, moments)
        count += 1
    if not count:
        return variables
    mean = jax.tree.map(lambda leaf: leaf / np.float32(count), total)
    student = variables["student"]
    stats = statistics.assign_moments(hybrid, jax.device_get(student["batch_stats"]), mean)
    # Computed on every host alike; as one array on all devices they are saved once.
    placed_stats = jax.device_put(stats, NamedSharding(mesh, PartitionSpec()))
    return {**variables, "student": {**student, "batch_stats": placed_stats}}


def initialised_converters(
    hybrid: HybridNetwork,
    variables: Variables,
    batches: Iterable[jax.Array],
    *,
    train: bool,
) -> Variables:
    """The variables with every linear converter fitted by least squares.

    Args:
      hybrid: the network.
      variables: its tree.
      batches: of images, f32[batch, height, width, channels], normalised.
      train: to the features that training sees, the student's normalised by each batch's own
        moments; else by its running averages, which say nothing before it was trained.
    """
    run = jax.jit(functools.partial(walk, hybrid, entries=False, train=train))
    fits = {
        (name, boundary): LeastSquares()
        for name in ("encoders", "decoders")
        for boundary in variables[name]["params"]
    }
    for images in batches:
        out = run(variables, images)
        for k, (wide, narrow) in enumerate(zip(out.teacher_features, out.features, strict=True)):
            if f"boundary{k}" in variables["encoders"]["params"]:
                fits["encoders", f"boundary{k}"].add(wide, narrow[0])
                fits["decoders", f"boundary{k}"].add(narrow[0], wide)
    fitted: dict[str, dict[str, Any]] = {"encoders": {}, "decoders": {}}
    for (name, boundary), fit in fits.items():
        fitted[name][boundary] = fit.solve()
    return {
        **variables,
        **{name: {**variables[name], "params": params} for name, params in fitted.items()},
    }
