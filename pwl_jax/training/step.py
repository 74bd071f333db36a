"""The training step: one pure function a device, mapped over a one-axis mesh."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
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
    [Variables, jax.Array, jax.Array, Variables, jax.Array, jax.Array],
    tuple[jax.Array, LossOutputs],
]
"""`(variables, images, labels, stacked masks, rng, progress) -> (loss, outputs)`, of one device's
batch; progress is the share of the run that is done, a f32 scalar."""

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
      micro_batches: into how many parts a device's batch is cut; see `per_device_step`.
      steps: of the whole run, of which the loss is told the share that is done.
    """

    loss: Loss
    trained: str
    optimizer: optax.GradientTransformation
    labels: Any
    augment: Augment
    seed: int
    micro_batches: int = 1
    steps: int = 1

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

    With M micro-batches, micro-batch i is every M-th example from the i-th on, so that its
    examples over all devices are the same for any number of them. Their gradients and terms are
    averaged, which is the whole batch's where nothing depends on the batch. BatchNorm normalises
    by a micro-batch's moments, and running averages take one micro-batch after the other, as
    PyTorch's do when gradients are accumulated.

    Returns:
      The new state, and as scalars `loss`, every term, `gradient_norm`, `update_norm`, and
      `finite`: whether these and all that the step would write are.
    """
    rng = jax.random.fold_in(jax.random.key(program.seed), state.step)
    augment_rng, loss_rng = jax.random.split(rng)
    progress = state.step / program.steps
    params = params_of(state.variables)
    leaves, structure = jax.tree.flatten(params)
    frozen = [label == FROZEN for label in jax.tree.leaves(program.labels)]

    def merged(trained: list[jax.Array], fixed: Iterable[jax.Array]) -> Any:
        """The parameters' tree, its frozen leaves from `fixed`."""
        given = iter(trained)
        both = zip(frozen, fixed, strict=True)
        return jax.tree.unflatten(structure, [f if kept else next(given) for kept, f in both])

    def loss(trained: list[jax.Array], stats: Any, part: Batch) -> tuple[jax.Array, LossOutputs]:
        variables = with_params(state.variables, merged(trained, leaves))
        variables[program.trained] = {**variables[program.trained], "batch_stats": stats}
        images = program.augment(augment_rng, part["image"], part["index"])
        return program.loss(variables, images, part["label"], stacked_masks, loss_rng, progress)

    def found(stats: Any, part: Batch) -> tuple[Any, tuple[list[jax.Array], dict[str, jax.Array]]]:
        """Statistics after a micro-batch; its gradients, of trained leaves alone, and terms."""
        trained = [leaf for fixed, leaf in zip(frozen, leaves, strict=True) if not fixed]
        differentiated = jax.value_and_grad(loss, has_aux=True)
        (value, outputs), gradients = differentiated(trained, stats, part)
        return outputs.batch_stats, (gradients, {"loss": value, **outputs.terms})

    stats = state.variables[program.trained]["batch_stats"]
    stats, averaged = _mean_of_parts(found, stats, batch, program.micro_batches)
    (gradients, metrics), stats = jax.lax.pmean((averaged, stats), AXIS)
    # A frozen leaf's gradient is zero by definition: it is neither averaged nor applied.
    full = merged(gradients, map(jnp.zeros_like, leaves))
    updates, opt_state = program.optimizer.update(full, state.opt_state, params)
    updated = [
        p if fixed else p + u.astype(p.dtype)
        for fixed, p, u in zip(frozen, leaves, jax.tree.leaves(updates), strict=True)
    ]
    variables = with_params(state.variables, jax.tree.unflatten(structure, updated))
    variables[program.trained] = {**variables[program.trained], "batch_stats": stats}
    metrics["gradient_norm"] = optax.tree.norm(gradients)
    metrics["update_norm"] = optax.tree.norm(updates)
    done = TrainState(state.step + 1, variables, opt_state, state.finite)
    metrics["finite"] = all_finite((metrics, stats), AXIS)
    kept = dataclasses.replace(state, finite=jnp.zeros((), bool))
    return select(state.finite & metrics["finite"], done, kept), metrics


def _mean_of_parts(
    found: Callable[[Any, Batch], tuple[Any, Any]], carried: Any, batch: Batch, parts: int
) -> tuple[Any, Any]:
    """What `found` carries from part to part of a batch, and the mean of what it finds."""
    if parts == 1:
        return found(carried, batch)
    split = jax.tree.map(
        lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch
    )
    first = jax.tree.map(lambda x: x[0], split)
    zero = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(found, carried, first)[1]
    )

    def add(sums: tuple[Any, Any], part: Batch) -> tuple[tuple[Any, Any], None]:
        carried, new = found(sums[0], part)
        return (carried, jax.tree.map(jnp.add, sums[1], new)), None

    (carried, total), _ = jax.lax.scan(add, (carried, zero), split)
    return carried, jax.tree.map(lambda x: x / parts, total)


def per_device_steps(
    program: StepProgram,
    state: TrainState,
    examples: Batch,
    positions: jax.Array,
    count: jax.Array,
    stacked_masks: Variables,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The first `count` steps of a dispatch, on examples that lie on the device.

    Args:
      program, state, stacked_masks: as in `per_device_step`.
      examples: of the whole split, as a batch.
      positions: int32[K, this device's share of the batch], places in `examples` for K steps.
      count: int32 scalar, 1 to K, of them to do. One program serves all: bits depend on no cut.

    Returns:
      The state after `count` steps, and the metrics of each, f32[K]; zero beyond `count`.
    """

    def step(state: TrainState, chosen: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        batch = {name: array[chosen] for name, array in examples.items()}
        return per_device_step(program, state, batch, stacked_masks)

    if positions.shape[0] == 1:
        # Without a loop: XLA for CPU has slow gradients of convolutions inside of one.
        state, metrics = step(state, positions[0])
        return state, {name: m[None] for name, m in metrics.items()}
    metrics = jax.eval_shape(step, state, positions[0])[1]
    rows = {name: jnp.zeros(positions.shape[:1], m.dtype) for name, m in metrics.items()}

    def body(i: jax.Array, carry: tuple[TrainState, dict[str, jax.Array]]) -> Any:
        state, rows = carry
        state, metrics = step(state, positions[i])
        return state, {name: row.at[i].set(metrics[name]) for name, row in rows.items()}

    return jax.lax.fori_loop(0, count, body, (state, rows))


def device_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """The one-axis mesh of all devices, of every process; those of one process lie together."""
    devices = devices or sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    return Mesh(np.asarray(devices), (AXIS,))


def mapped_step(
    program: StepProgram, mesh: Mesh
) -> Callable[[TrainState, Batch, Variables], tuple[TrainState, dict[str, jax.Array]]]:
    """`per_device_step` over a mesh, compiled once; the state is donated.

    The batch is split along its first axis, state and masks are on every device. This is what
    `jax.pmap` has been since JAX 0.8.
    """
    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
    return _mapped(
        functools.partial(per_device_step, program), mesh, (everywhere, split, everywhere)
    )


def mapped_steps(
    program: StepProgram, mesh: Mesh
) -> Callable[
    [TrainState, Batch, jax.Array, jax.Array, Variables], tuple[TrainState, dict[str, jax.Array]]
]:
    """`per_device_steps` over a mesh, compiled once for any count; the state is donated.

    State, examples and masks are on every device, positions are split along their second axis.
    """
    everywhere, split = PartitionSpec(), PartitionSpec(None, AXIS)
    return _mapped(
        functools.partial(per_device_steps, program),
        mesh,
        (everywhere, everywhere, split, everywhere, everywhere),
    )


def _mapped(step: Callable[..., Any], mesh: Mesh, in_specs: tuple[PartitionSpec, ...]) -> Any:
    # Replication is by construction (every output is averaged); unchecked, as under pmap, so
    # that gradients are averaged where the step says so and nowhere else.
    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=in_specs, out_specs=PartitionSpec(), check_vma=False
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
