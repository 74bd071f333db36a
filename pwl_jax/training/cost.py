"""What a step costs: parameters, bytes and operations; once compiled, memory and time too."""

import dataclasses
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pwl_jax.training.config import RunConfig
from pwl_jax.training.step import AXIS, Batch, mapped_step, placed_like
from pwl_jax.training.tasks import Task

PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "Tesla V100": 125e12,
    "Tesla T4": 65e12,
}
"""Operations a second of a device whose kind begins so: dense matrix products in bfloat16, float16
where it has no bfloat16, without sparsity; of SXM modules where no other form is named. From Google
Cloud's pages of TPU versions and NVIDIA's data sheets."""


def peak_flops(device: jax.Device) -> float | None:
    """The device's entry in `PEAKS`; None where it has none, as CPUs."""
    found = [kind for kind in PEAKS if re.match(rf"{kind}\b", device.device_kind)]
    return PEAKS[max(found, key=len)] if found else None


def step_cost(
    config: RunConfig,
    task: Task,
    mesh: Mesh,
    step: Any,
    examples: int | None = None,
    *,
    compiled: bool = True,
) -> dict[str, Any]:
    """Shapes, parameters, bytes and operations of one step, found without running it.

    Args:
      config: of the run.
      task: from `tasks`.
      mesh: all devices.
      step: what the run calls: `mapped_step`, or with `feeding=device` `mapped_steps`, of `task`.
        It is compiled for the shapes that the run gives it, and need not be again.
      examples: of the training split, None where they are not at hand.
      compiled: whether to compile it, for `memory_bytes` and `compile_seconds`.

    Returns:
      `networks`: parameters and bytes of each; `batch`; `metrics`; `state_bytes`; `flops` of a
      step over all devices, as XLA counts them before it optimises (with `remat`, what is
      computed twice counts twice); `boundaries`; `memory_bytes`: what the compiled step needs on
      each device, arguments and results included, None where XLA does not say;
      `compile_seconds`.
    """
    state = placed_like(jax.eval_shape(task.program.init, task.abstract), mesh)
    masks = placed_like(jax.eval_shape(lambda: task.masks(task.abstract)), mesh)
    batch = _abstract_batch(config, task, config.batch_size, mesh, PartitionSpec(AXIS))
    inputs: tuple[Any, ...] = (batch,)
    if config.feeding == "device":
        held = _abstract_batch(config, task, examples or config.batch_size, mesh, PartitionSpec())
        shape = (config.steps_per_dispatch, config.batch_size)
        split = NamedSharding(mesh, PartitionSpec(None, AXIS))
        positions = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=split)
        inputs = (held, positions, jax.ShapeDtypeStruct((), jnp.int32))
    start = time.perf_counter()
    lowered = step.lower(state, *inputs, masks)
    memory = lowered.compile().memory_analysis() if compiled else None
    seconds = time.perf_counter() - start
    new_state, metrics = jax.eval_shape(step, state, *inputs, masks)
    counted = lowered
    if task.program.micro_batches > 1:
        # Loops count once, however often they turn: the same work in one piece.
        whole = dataclasses.replace(task.program, micro_batches=1)
        alone: Any = mapped_step(whole, mesh)
        counted = alone.lower(state, batch, masks)
    cost = counted.cost_analysis() or {}
    facts = {
        "networks": {
            name: (
                sum(leaf.size for leaf in jax.tree.leaves(tree["params"])),
                sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)),
            )
            for name, tree in new_state.variables.items()
        },
        "batch": {k: (v.shape, str(v.dtype)) for k, v in batch.items()},
        "metrics": sorted(metrics.keys() - {"finite"}),
        "state_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(new_state)),
        # Counted for the share of one device.
        "flops": float(cost.get("flops", float("nan"))) * mesh.size,
        "boundaries": {
            role: getattr(config.pair, role).build().boundary_shapes()
            for role in ("teacher", "student")
        },
    }
    if compiled:
        facts["compile_seconds"] = seconds
        facts["memory_bytes"] = memory and (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.generated_code_size_in_bytes
        )
    return facts


def cost_lines(facts: dict[str, Any]) -> list[str]:
    """What a run prints of `step_cost` before its first step."""
    lines = [
        f"{name:<9} {count:>12,} parameters {size:>14,} bytes"
        for name, (count, size) in facts["networks"].items()
    ]
    lines.append(f"state {facts['state_bytes']:,} bytes")
    lines.append(f"{facts['flops'] / 1e9:,.3f} GFLOP a step over all devices")
    if facts.get("memory_bytes"):
        lines.append(f"{facts['memory_bytes']:,} bytes of memory on each device")
    if "compile_seconds" in facts:
        lines.append(f"compiled in {facts['compile_seconds']:.1f} s")
    return lines


def _abstract_batch(
    config: RunConfig, task: Task, count: int, mesh: Mesh, spec: PartitionSpec
) -> Batch:
    """Shapes, types and placement of a batch of so many examples."""
    classes = (config.pair.teacher.classes,)
    shapes = {
        "image": ((count, *config.pair.teacher.input_shape), jnp.uint8),
        "label": ((count, *classes), jnp.uint8) if task.multi_label else ((count,), jnp.int32),
        "index": ((count,), jnp.int32),
    }
    sharding = NamedSharding(mesh, spec)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, (shape, dtype) in shapes.items()
    }
