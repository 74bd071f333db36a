"""How examples reach the step: from the host batch by batch, or from a set that the devices hold.

Both show the same examples in the same order with the same augmentation, and both put the same
state into a checkpoint: the number of batches taken.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pwl_jax.data import pipeline
from pwl_jax.errors import UserError
from pwl_jax.models.block_network import Variables
from pwl_jax.training.config import RunConfig
from pwl_jax.training.step import (
    AXIS,
    Batch,
    StepProgram,
    TrainState,
    mapped_step,
    mapped_steps,
    replicate,
    shard_batch,
)

Metrics = dict[str, jax.Array]

RESIDENT_SHARE = 0.5
"""Of a device's memory that a resident set may take; the rest is for weights and activations."""


class FeedError(UserError):
    """Data that cannot be fed as the config asks."""


@dataclasses.dataclass(frozen=True)
class Feed:
    """A run's examples and the compiled step that reads them.

    Attributes:
      iterator: what a checkpoint saves and restores.
      step: the mapped program that `run` calls.
      longest: most steps of one dispatch.
      take: a number of steps to their inputs, on the devices. All work and waiting of the host
        for data is here.
      run: `(state, inputs, masks) -> (state, metrics)`; the state is donated. Metrics are
        scalars, or f32[longest] where rows beyond the steps taken mean nothing.
    """

    iterator: grain.DatasetIterator
    step: Any
    longest: int
    take: Callable[[int], Any]
    run: Callable[[TrainState, Any, Variables], tuple[TrainState, Metrics]]


def step_of(config: RunConfig, program: StepProgram, mesh: Mesh) -> Any:
    """The mapped program of a feed: `mapped_steps` of resident examples, else `mapped_step`."""
    return (mapped_steps if config.feeding == "device" else mapped_step)(program, mesh)


def make_feed(
    config: RunConfig, program: StepProgram, source: pipeline.PreparedSource, mesh: Mesh
) -> Feed:
    """The feed that `config.feeding` names.

    Args:
      config: of the run.
      program: of its step.
      source: training images.
      mesh: all devices.

    Raises:
      FeedError: a set that is too large to be resident.
    """
    order = {
        "batch_size": config.batch_size,
        "seed": config.seed,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    if config.feeding == "device":
        return _resident(config, program, source, mesh, order)
    iterator = pipeline.train_iterator(
        source, **order, place=functools.partial(shard_batch, mesh=mesh)
    )

    def take(steps: int) -> Batch:
        del steps
        return next(iterator)

    step = step_of(config, program, mesh)
    return Feed(iterator, step, 1, take, step)


def _resident(
    config: RunConfig,
    program: StepProgram,
    source: pipeline.PreparedSource,
    mesh: Mesh,
    order: dict[str, int],
) -> Feed:
    """Every device holds the whole split; the host sends places in it, some steps at a time."""
    examples = resident_examples(source, mesh)
    iterator = pipeline.position_iterator(len(source), **order)
    longest = config.steps_per_dispatch
    steps_program = step_of(config, program, mesh)
    split = NamedSharding(mesh, PartitionSpec(None, AXIS))

    def take(steps: int) -> tuple[jax.Array, jax.Array]:
        rows = [next(iterator)["position"] for _ in range(steps)]
        rows += [np.zeros_like(rows[0])] * (longest - steps)
        shape = (longest, config.batch_size)
        positions = jax.make_array_from_process_local_data(split, np.stack(rows), shape)
        return positions, jnp.asarray(steps, jnp.int32)

    def run(
        state: TrainState, inputs: tuple[jax.Array, jax.Array], masks: Variables
    ) -> tuple[TrainState, Metrics]:
        return steps_program(state, examples, *inputs, masks)

    return Feed(iterator, steps_program, longest, take, run)


def resident_examples(source: pipeline.PreparedSource, mesh: Mesh) -> Batch:
    """The whole split as a batch, images in uint8, on every device of the mesh.

    Raises:
      FeedError: if it takes more than `RESIDENT_SHARE` of a device's memory.
    """
    count = len(source)
    first = source.batch(np.arange(1))
    needed = count * sum(array.nbytes for array in first.values())
    available = min(map(memory_bytes, mesh.local_devices))
    if needed > RESIDENT_SHARE * available:
        raise FeedError(
            f"'{source.source.name}' takes {needed:,} bytes on each device, more than half of the "
            f"{available:,} that one has; set feeding=grain and steps_per_dispatch=1"
        )
    return replicate(source.batch(np.arange(count)), mesh)


def memory_bytes(device: jax.Device) -> int:
    """Memory that a device may use, in bytes: its limit, or the machine's where it names none."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return int(limit)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(jax.local_devices())
