"""Statistics measured anew, and converters fitted, against what is computed by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pwl_jax.hybrid import HybridNetwork, walk
from pwl_jax.hybrid.converters import LeastSquares
from pwl_jax.ladder import Unit
from pwl_jax.models.initialisation import initial_variables
from pwl_jax.training.calibration import calibrated, initialised_converters, make_moments
from pwl_jax.training.step import AXIS, device_mesh
from tests.tiny_pairs import tiny_pair


def normalize(images):
    return images.astype(np.float32) / 128 - 1


def batches(count=2, size=8):
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 256, (size, 8, 8, 1), dtype=np.uint8),
            "label": np.zeros(size, np.int32),
        }
        for _ in range(count)
    ]


def moments_by_hand(hybrid, variables, images):
    """Batch moments of the student's parts by stream, each stream alone, block after block."""
    run = jax.jit(
        lambda index, params, x: hybrid.student.apply_block(index, params, x, train=True),
        static_argnums=0,
    )
    run_unit = jax.jit(hybrid.run, static_argnums=0)
    found = {}
    wide, teacher_features = images, []
    for k in range(hybrid.num_blocks - 1):
        teacher = Unit("teacher", k)
        wide = run_unit(teacher, hybrid.unit_variables(variables, teacher), wide)
        teacher_features.append(wide)
    for entry in (None, *range(hybrid.num_blocks - 1)):
        if entry is None:
            x, first, name = images, 0, "own"
        else:
            encoder = Unit("encoder", entry)
            converter = hybrid.unit_variables(variables, encoder)
            x = run_unit(encoder, converter, teacher_features[entry])
            first, name = entry + 1, f"entry{entry}"
        found[name] = {}
        for index in range(first, hybrid.num_blocks):
            block = hybrid.unit_variables(variables, Unit("student", index))
            x, moments = run(index, block, x)
            found[name] |= moments
    return found


@pytest.mark.parametrize(
    "statistics", ["per_stream", pytest.param("shared", marks=pytest.mark.slow)]
)
def test_statistics_are_the_mean_of_each_streams_batch_moments(statistics):
    spec = tiny_pair("vgg", statistics=statistics)
    hybrid = HybridNetwork.from_pair(spec, AXIS)
    variables = initial_variables(hybrid.init, jax.random.key(0))
    mesh = device_mesh(jax.devices()[:2])
    moments_of = make_moments(hybrid, mesh)
    data = batches()
    got = calibrated(hybrid, variables, data, normalize, moments_of, mesh)
    alone = HybridNetwork.from_pair(spec)
    by_hand = [
        moments_by_hand(alone, variables, jnp.asarray(normalize(batch["image"]))) for batch in data
    ]
    expected = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *by_hand)
    if statistics == "shared":
        parts = {p for stream in expected.values() for p in stream}
        streams = {p: [s[p] for s in expected.values() if p in s] for p in parts}
        mean = {
            p: jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *found)
            for p, found in streams.items()
        }
        expected = {"own": mean}
    measured = got["student"]["batch_stats"]
    assert jax.tree.structure(measured) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(measured), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    # All else keeps its bits: the teacher, converters, and the student's parameters.
    for name in ("teacher", "encoders", "decoders"):
        assert got[name] is variables[name]
    assert got["student"]["params"] is variables["student"]["params"]


def test_a_student_without_statistics_comes_back_as_it_is():
    hybrid = HybridNetwork.from_pair(tiny_pair("lenet5"))
    variables = jax.eval_shape(hybrid.init, jax.random.key(0))
    assert calibrated(hybrid, variables, [], normalize, None, None) is variables


def least_squares(x, y, ridge=1e-4, batches=1):
    fit = LeastSquares()
    for a, b in zip(np.array_split(x, batches), np.array_split(y, batches), strict=True):
        fit.add(a, b)
    return fit.solve(ridge)


def test_least_squares_finds_an_exactly_linear_relation():
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 1.0, (16, 4, 4, 5)).astype(np.float32)
    kernel, bias = rng.normal(size=(5, 3)), rng.normal(size=3)
    fitted = least_squares(x, x @ kernel + bias)
    # The ridge of 1e-4 of the mean variance shrinks what it finds by as much.
    np.testing.assert_allclose(fitted["kernel"], kernel, atol=1e-3)
    np.testing.assert_allclose(fitted["bias"], bias, atol=5e-3)
    exact = least_squares(x, x @ kernel + bias, ridge=0.0)
    np.testing.assert_allclose(exact["kernel"], kernel, atol=1e-6)
    np.testing.assert_allclose(exact["bias"], bias, atol=1e-6)
    parts = least_squares(x, x @ kernel + bias, ridge=0.0, batches=3)
    np.testing.assert_allclose(parts["kernel"], kernel, atol=1e-6)
    assert exact["kernel"].dtype == exact["bias"].dtype == jnp.float32


def test_least_squares_of_a_channel_that_never_varies_stays_finite():
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    x[:, 1] = 7.0
    fitted = least_squares(x, x[:, :2] + 1)
    kernel, bias = np.asarray(fitted["kernel"]), np.asarray(fitted["bias"])
    np.testing.assert_allclose(x @ kernel + bias, x[:, :2] + 1, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("train", [True, False])
def test_initialised_converters_map_features_onto_each_other_better_than_chance(train):
    hybrid = HybridNetwork.from_pair(tiny_pair("vgg"))
    variables = initial_variables(hybrid.init, jax.random.key(0))
    images = jnp.asarray(normalize(batches(1, 32)[0]["image"]))
    parts = [images] if train else [images[:16], images[16:]]
    fitted = initialised_converters(hybrid, variables, parts, train=train)
    assert fitted["teacher"] is variables["teacher"]
    assert fitted["student"] is variables["student"]
    assert jax.tree.structure(fitted) == jax.tree.structure(variables)
    out = jax.jit(functools.partial(walk, hybrid, entries=False, train=train))(variables, images)
    for k, (wide, (narrow,)) in enumerate(zip(out.teacher_features, out.features, strict=True)):
        for unit, x, y in ((Unit("encoder", k), wide, narrow), (Unit("decoder", k), narrow, wide)):
            found = hybrid.run(unit, hybrid.unit_variables(fitted, unit), x)
            # Better than the best constant, which is each channel's mean.
            constant = y - y.mean((0, 1, 2), keepdims=True)
            assert jnp.square(found - y).sum() < 0.95 * jnp.square(constant).sum(), unit
