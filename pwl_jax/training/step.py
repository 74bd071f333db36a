"""The training step: one pure function a device, mapped over a one-axis mesh."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pwl_jax.errors import UserError
from pwl_jax.models.block_network import Variables
from pwl_jax.training.finite import all_finite, select
from pwl_jax.training.objective import LossOutputs
from pwl_jax.training.optimizer import FROZEN, params_of, with_params

AXIS = "data"
"""The mapped axis: examples."""

Batch = Mapping[str, Any]
"""`image`: uint8[batch, height, width, channels], `label`: int32[batch] or multi-hot
uint8[batch, classes], `index`: int32[batch]."""

Loss = Callable[
    [Variables, jax.Array, jax.Array, Variables, jax.Array], tuple[jax.Array, LossOutputs]
]
"""`(variables, images, labels, stacked masks, rng) -> (loss, outputs)`, of one device's batch."""

Augment = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""`(rng, uint8 images, global example indices) -> normalised f32 images`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step reads and writes.

    Attributes:
      step: int32 scalar, steps done.
      variables: `{network: {"params", "batch_stats"}}`.
      opt_state: of the optimizer over `params_of(variables)`.
      finite: bool scalar; False once a step was not finite, and from then on steps change nothing.
    """

    step: jax.Array
    variables: Variables
    opt_state: Any
    finite: jax.Array


@dataclasses.dataclass(frozen=True)
class StepProgram:
    """The static parts of a step.

    Attributes:
      loss: see `Loss`.
      trained: name of the network whose statistics the loss updates.
      optimizer: over the whole parameter tree.
      labels: tree of labels; what is `frozen` keeps its bits.
      augment: see `Augment`.
      seed: of all randomness, which depends on nothing else but step and example index.
    """

    loss: Loss
    trained: str
    optimizer: optax.GradientTransformation
    labels: Any
    augment: Augment
    seed: int

    def init(self, variables: Variables) -> TrainState:
        """The state before the first step."""
        opt_state = self.optimizer.init(params_of(variables))
        return TrainState(jnp.zeros((), jnp.int32), variables, opt_state, jnp.ones((), bool))


def per_device_step(
    program: StepProgram, state: TrainState, batch: Batch, stacked_masks: Variables
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step on one device's share of the batch, under the mapped axis `data`.

    Gradients, terms and statistics are averaged over the axis, so that every device ends in the
    same state. Works under `jax.shard_map` and under literal `jax.pmap`. A step that is not finite
    on any device is none: all of them keep the state they had, now marked as not `finite`.

    Returns:
      The new state, and as scalars `loss`, every term, `gradient_norm`, `update_norm`, and
      `finite`: whether these and all that the step would write are.
    """
    rng = jax.random.fold_in(jax.random.key(program.seed), state.step)
    augment_rng, loss_rng = jax.random.split(rng)
    images = program.augment(augment_rng, batch["image"], batch["index"])
    params = params_of(state.variables)
    frozen = jax.tree.map(lambda label: label == FROZEN, program.labels)

    def loss(trained: Any) -> tuple[jax.Array, LossOutputs]:
        full = jax.tree.map(lambda fixed, old, new: old if fixed else new, frozen, params, trained)
        variables = with_params(state.variables, full)
        return program.loss(variables, images, batch["label"], stacked_masks, loss_rng)

    (value, outputs), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    # A frozen leaf's gradient is zero by definition: it is neither averaged nor applied.
    gradients = jax.tree.map(
        lambda fixed, g: jnp.zeros_like(g) if fixed else jax.lax.pmean(g, AXIS), frozen, gradients
    )
    updates, opt_state = program.optimizer.update(gradients, state.opt_state, params)
    updated = jax.tree.map(
        lambda fixed, p, u: p if fixed else p + u.astype(p.dtype), frozen, params, updates
    )
    variables = with_params(state.variables, updated)
    variables[program.trained] = {
        **variables[program.trained],
        "batch_stats": jax.lax.pmean(outputs.batch_stats, AXIS),
    }
    metrics = jax.lax.pmean({"loss": value, **outputs.terms}, AXIS)
    metrics["gradient_norm"] = optax.tree.norm(gradients)
    metrics["update_norm"] = optax.tree.norm(updates)
    done = TrainState(state.step + 1, variables, opt_state, state.finite)
    metrics["finite"] = all_finite((metrics, variables[program.trained]["batch_stats"]), AXIS)
    kept = dataclasses.replace(state, finite=jnp.zeros((), bool))
    return select(state.finite & metrics["finite"], done, kept), metrics


def device_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """The one-axis mesh of all devices, of every process."""
    return Mesh(np.asarray(devices or jax.devices()), (AXIS,))


def mapped_step(
    program: StepProgram, mesh: Mesh
) -> Callable[[TrainState, Batch, Variables], tuple[TrainState, dict[str, jax.Array]]]:
    """`per_device_step` over a mesh, compiled once; the state is donated.

    The batch is split along its first axis, state and masks are on every device. This is what
    `jax.pmap` has been since JAX 0.8.
    """
    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
    # Replication is by construction (every output is averaged); unchecked, as under pmap, so
    # that gradients are averaged where the step says so and nowhere else.
    mapped = jax.shard_map(
        lambda state, batch, stacked: per_device_step(program, state, batch, stacked),
        mesh=mesh,
        in_specs=(everywhere, split, everywhere),
        out_specs=(everywhere, everywhere),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The tree on every device of the mesh, as arrays of its own that may be donated."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda t: jax.tree.map(jnp.copy, t), out_shardings=sharding)(tree)


def placed_like(abstract: Any, mesh: Mesh) -> Any:
    """Shapes and types of a tree with the placement that `replicate` gives it."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract
    )


T = TypeVar("T")


def settled(results: T, mesh: Mesh) -> T:
    """What a mapped program returned, waited for where its executions must not overlap.

    Several devices of one CPU share its threads. Collectives of two executions that are under way
    at once can each hold threads that the other needs; XLA then ends the process after a minute.
    Running ahead gains nothing there. Elsewhere the results come back at once.
    """
    if mesh.size > 1 and jax.default_backend() == "cpu":
        jax.block_until_ready(results)
    return results


def shard_batch(batch: Batch, mesh: Mesh, *, replicated_input: bool = False) -> Batch:
    """A batch laid over the mesh's first axis.

    Args:
      batch: arrays with examples on the first axis.
      mesh: from `device_mesh`.
      replicated_input: whether every process holds the whole batch; else each holds its part.

    Raises:
      UserError: if the examples do not divide among the devices.
    """
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    examples = len(batch["label"]) * (1 if replicated_input else jax.process_count())
    if examples % mesh.size:
        raise UserError(
            f"a batch of {examples} examples does not divide among {mesh.size} devices; choose a "
            f"batch size that is a multiple of {mesh.size}"
        )

    def place(array: Any) -> jax.Array:
        array = np.asarray(array)
        shape = (examples, *array.shape[1:])
        return jax.make_array_from_process_local_data(sharding, array, shape)

    return {name: place(array) for name, array in batch.items()}
