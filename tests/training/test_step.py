"""The mapped step: one compile, any number of devices, literal pmap, a teacher kept to the bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.data.augmentation import AugmentationConfig, augment
from pwl_jax.errors import UserError
from pwl_jax.hybrid import HybridNetwork, masks
from pwl_jax.hybrid.masks import leaf_names
from pwl_jax.ladder import Composition
from pwl_jax.models.initialisation import initial_variables
from pwl_jax.training.objective import Objective, distillation_loss, prefix_masks
from pwl_jax.training.optimizer import (
    OptimizerConfig,
    distillation_labels,
    make_optimizer,
)
from pwl_jax.training.step import (
    AXIS,
    StepProgram,
    device_mesh,
    mapped_step,
    mapped_steps,
    per_device_step,
    replicate,
    shard_batch,
)
from tests.tiny_pairs import tiny_pair

BATCH = 16
STEPS = 5


@functools.cache
def setting(family="vgg", micro_batches=1, clip_norm=0.0, remat=False, axis=AXIS, **objective):
    spec = tiny_pair(family)
    hybrid = HybridNetwork.from_pair(spec, axis_name=axis, remat=remat)
    variables = initial_variables(hybrid.init, jax.random.key(0))
    labels = distillation_labels(hybrid, variables)
    config = OptimizerConfig(learning_rate=0.01, clip_norm=clip_norm)
    shape = spec.teacher.input_shape
    preprocessing = Preprocessing(input_shape=shape, mean=(0.5,), std=(0.25,))
    program = StepProgram(
        loss=functools.partial(distillation_loss, hybrid, Objective(**objective)),
        trained="student",
        optimizer=make_optimizer(config, 100, labels),
        labels=labels,
        augment=functools.partial(
            augment,
            config=AugmentationConfig(flip=True, crop_padding=2),
            preprocessing=preprocessing,
        ),
        seed=3,
        micro_batches=micro_batches,
    )
    return hybrid, variables, program


def batch(step, shape=(8, 8, 1)):
    rng = np.random.default_rng(step)
    return {
        "image": rng.integers(0, 256, (BATCH, *shape), dtype=np.uint8),
        "label": rng.integers(0, 10, BATCH).astype(np.int32),
        "index": (np.arange(BATCH) + BATCH * step).astype(np.int32),
    }


@functools.cache
def train(devices, **objective):
    """State and metrics after five steps, and the step; compiled once for all tests."""
    hybrid, variables, program = setting(**objective)
    mesh = device_mesh(jax.devices()[:devices])
    state = replicate(program.init(variables), mesh)
    stacked = replicate(prefix_masks(hybrid, variables), mesh)
    step = mapped_step(program, mesh)
    shape = hybrid.teacher.input_shape
    for i in range(STEPS):
        state, metrics = step(state, shard_batch(batch(i, shape), mesh), stacked)
        # Fake devices share this machine's threads: no two steps may be under way at once.
        jax.block_until_ready(state)
    return jax.device_get(state), jax.device_get(metrics), step


def relative_difference(a, b):
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (a, b))
    return np.linalg.norm(a - b) / np.linalg.norm(a)


@pytest.mark.slow
def test_a_dispatch_of_one_step_is_no_loop():
    # XLA for CPU computes gradients of convolutions many times slower inside of one.
    hybrid, variables, program = setting("lenet5")
    mesh = device_mesh(jax.devices()[:1])
    state, stacked = program.init(variables), prefix_masks(hybrid, variables)
    examples = batch(0, hybrid.teacher.input_shape)

    def loops(step, *arguments):
        return step(program, mesh).lower(state, examples, *arguments).as_text().count("while")

    def dispatched(steps):
        positions = jnp.zeros((steps, BATCH), jnp.int32)
        return loops(mapped_steps, positions, jnp.asarray(steps), stacked)

    alone = loops(mapped_step, stacked)
    assert dispatched(1) == alone
    assert dispatched(2) == alone + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective", [{}, pytest.param({"cross": "random"}, marks=pytest.mark.long)]
)
def test_eight_devices_end_with_the_parameters_of_one(objective):
    one, one_metrics, _ = train(1, **objective)
    eight, eight_metrics, _ = train(8, **objective)
    # Float sums in another order, over five steps with synchronised BatchNorm and augmentation.
    assert relative_difference(one.variables, eight.variables) < 1e-4
    assert one_metrics["loss"] == pytest.approx(eight_metrics["loss"], rel=1e-3)
    # Not a vacuous bound: the steps moved the student by far more than that.
    start = setting(**objective)[1]["student"]["params"]
    assert relative_difference(start, one.variables["student"]["params"]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("family", ["lenet5", pytest.param("vit", marks=pytest.mark.long)])
def test_accumulated_gradients_are_the_large_batchs_without_batch_norm(family):
    whole, whole_metrics, _ = train(1, family=family)
    parts, parts_metrics, _ = train(1, family=family, micro_batches=4)
    # Float sums in another order, over five steps.
    assert relative_difference(whole.variables, parts.variables) < 1e-5
    for name, value in whole_metrics.items():
        assert parts_metrics[name] == pytest.approx(value, rel=1e-3), name
    start = setting(family)[1]["student"]["params"]
    assert relative_difference(start, whole.variables["student"]["params"]) > 1e-3


@pytest.mark.slow
def test_micro_batches_and_clipping_do_not_depend_on_the_number_of_devices():
    # Two examples a device: a micro-batch is one of each, whose moments all devices share.
    one, one_metrics, _ = train(1, micro_batches=2, clip_norm=0.05)
    eight, eight_metrics, _ = train(8, micro_batches=2, clip_norm=0.05)
    assert relative_difference(one.variables, eight.variables) < 1e-4
    assert one_metrics["loss"] == pytest.approx(eight_metrics["loss"], rel=1e-3)
    # Moments of half a batch are others than the whole's, and clipping did something.
    unclipped, _, _ = train(1)
    assert relative_difference(one.variables, unclipped.variables) > 1e-3


@pytest.mark.slow
def test_each_devices_own_moments_are_those_of_a_micro_batch_of_its_examples():
    examples = batch(0)
    # Micro-batch i is every eighth example: device i's two, where those lie one after the other.
    apart = {k: v.reshape(8, 2, *v.shape[1:]).swapaxes(0, 1) for k, v in examples.items()}
    apart = {k: v.reshape(BATCH, *v.shape[2:]) for k, v in apart.items()}
    params = {}
    for devices, micro_batches, data in ((8, 1, examples), (1, 8, apart)):
        hybrid, variables, program = setting(micro_batches=micro_batches, axis=None)
        mesh = device_mesh(jax.devices()[:devices])
        stacked = replicate(prefix_masks(hybrid, variables), mesh)
        state = replicate(program.init(variables), mesh)
        step = mapped_step(program, mesh)
        state, metrics = jax.block_until_ready(step(state, shard_batch(data, mesh), stacked))
        assert metrics["finite"]
        params[devices] = jax.device_get(state.variables["student"]["params"])
        # All devices took the mean of their statistics.
        copies = [np.asarray(s.data) for s in _running_mean(state).addressable_shards]
        assert all(copy.tobytes() == copies[0].tobytes() for copy in copies)
    assert relative_difference(params[1], params[8]) < 1e-6
    start = variables["student"]["params"]
    assert relative_difference(start, params[8]) > 1e-4


def _running_mean(state):
    """One of the student's running averages."""
    return jax.tree.leaves(state.variables["student"]["batch_stats"]["own"])[0]


@pytest.mark.slow
def test_blocks_computed_anew_give_the_same_gradients_under_shared_moments():
    plain, _, _ = train(8)
    anew, _, _ = train(8, remat=True)
    # XLA fuses, and so rounds, otherwise.
    assert relative_difference(plain.variables, anew.variables) < 1e-5


@pytest.mark.slow
def test_literal_pmap_of_the_per_device_step_gives_the_same_parameters():
    hybrid, variables, program = setting()
    ours, _, _ = train(8)
    mapped = jax.pmap(functools.partial(per_device_step, program), axis_name=AXIS)
    copies = functools.partial(jax.tree.map, lambda x: jnp.stack([x] * 8))
    state, stacked = copies(program.init(variables)), copies(prefix_masks(hybrid, variables))
    for i in range(STEPS):
        split = {k: v.reshape(8, BATCH // 8, *v.shape[1:]) for k, v in batch(i).items()}
        state, _ = jax.block_until_ready(mapped(state, split, stacked))
    for device in (0, 7):
        theirs = jax.device_get(jax.tree.map(lambda x, d=device: x[d], state))
        for a, b in zip(
            jax.tree.leaves(ours.variables), jax.tree.leaves(theirs.variables), strict=True
        ):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_one_compile_whatever_is_drawn_or_masked_and_the_teacher_keeps_its_bits():
    hybrid, variables, program = setting(cross="random")
    _, _, step = train(8, cross="random")
    # Bits that adding an update of zero would not keep.
    bias = variables["teacher"]["params"]["head"]["dense"]["bias"]
    odd = bias.at[0].set(-0.0)
    variables = jax.tree.map(lambda x: odd if x is bias else x, variables)
    mesh = device_mesh(jax.devices()[:8])
    state = first = replicate(program.init(variables), mesh)
    for i, names in enumerate((("SSS", "TSS", "TTS"), ("TTS", "TTS", "SSS"), ("SSS",) * 3)):
        chosen = [hybrid.mask_of(variables, Composition.parse(c)) for c in names]
        stacked = replicate(masks.stack_masks(chosen), mesh)
        state, _ = jax.block_until_ready(step(state, shard_batch(batch(i), mesh), stacked))
    assert step._cache_size() == 1
    # Donated: the new state lies where the old one was.
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))
    before, after = (jax.tree.leaves(v["teacher"]) for v in (variables, state.variables))
    for a, b in zip(before, after, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_labels_come_from_the_masks():
    hybrid, variables, program = setting()
    for name, label in zip(
        leaf_names(program.labels), jax.tree.leaves(program.labels), strict=True
    ):
        expected = {"teacher": "frozen", "student": "student"}.get(name.split("/")[0], "converter")
        assert label == expected
    frozen = program.optimizer.init(
        jax.tree.map(jnp.zeros_like, {k: v["params"] for k, v in variables.items()})
    )
    momentum_leaves = [x for x in jax.tree.leaves(frozen) if getattr(x, "ndim", 0) > 1]
    teacher = sum(x.size for x in jax.tree.leaves(variables["teacher"]["params"]))
    assert sum(x.size for x in momentum_leaves) < teacher * 2
    del hybrid


def test_a_batch_that_does_not_divide_is_refused():
    mesh = device_mesh(jax.devices()[:8])
    with pytest.raises(UserError, match="12 examples does not divide among 8 devices"):
        shard_batch({"label": np.zeros(12, np.int32)}, mesh)
