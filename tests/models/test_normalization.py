"""BatchNorm against moments worked out by hand, and its silence about running averages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from pwl_jax.models.block_network import MOMENTS
from pwl_jax.models.normalization import BatchNorm, blend_moments

VARIABLES = {
    "params": {"scale": jnp.array([2.0, 1.0, -1.0]), "bias": jnp.array([0.5, 0.0, 3.0])},
    "batch_stats": {"mean": jnp.array([1.0, 2.0, 3.0]), "var": jnp.array([4.0, 1.0, 0.25])},
}


def batch(shape=(8, 2, 2, 3)):
    return jnp.asarray(np.random.default_rng(0).normal(5, 3, shape), jnp.float32)


@functools.partial(jax.jit, static_argnames=("module", "train"))
def normalized(variables, x, train, module=None):
    """The output, and what was written besides."""
    return (module or BatchNorm()).apply(variables, x, train, mutable=[MOMENTS, "batch_stats"])


def test_four_numbers_by_hand():
    # 1, 2, 3, 6: mean 3, squared deviations 4 + 1 + 0 + 9 = 14; biased 3.5, unbiased 14/3.
    x = jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(4, 1)
    variables = {
        "params": {"scale": jnp.ones(1), "bias": jnp.zeros(1)},
        "batch_stats": {"mean": jnp.zeros(1), "var": jnp.ones(1)},
    }
    y, mutated = normalized(variables, x, train=True, module=BatchNorm(epsilon=0.0))
    np.testing.assert_allclose(y[:, 0], np.array([-2, -1, 0, 3]) / np.sqrt(3.5), rtol=1e-6)
    np.testing.assert_allclose(mutated[MOMENTS]["mean"], [3.0], rtol=1e-6)
    np.testing.assert_allclose(mutated[MOMENTS]["var"], [14 / 3], rtol=1e-6)
    np.testing.assert_array_equal(mutated["batch_stats"]["mean"], [0.0])
    np.testing.assert_array_equal(mutated["batch_stats"]["var"], [1.0])


def test_training_normalises_by_biased_and_reports_unbiased_variance():
    x = batch()
    y, mutated = normalized(VARIABLES, x, train=True)
    flat = np.asarray(x, np.float64).reshape(-1, 3)
    scale, bias = (np.asarray(VARIABLES["params"][k]) for k in ("scale", "bias"))
    expected = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5) * scale + bias
    np.testing.assert_allclose(np.asarray(y).reshape(-1, 3), expected, atol=1e-5)
    np.testing.assert_allclose(mutated[MOMENTS]["mean"], flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(mutated[MOMENTS]["var"], flat.var(0, ddof=1), rtol=1e-5)


def test_evaluation_reads_running_averages_and_reports_nothing(reference):
    x = batch()
    y, mutated = normalized(VARIABLES, x, train=False)
    expected = reference.batch_norm(
        np.asarray(x, np.float64), VARIABLES["params"], VARIABLES["batch_stats"]
    )
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert MOMENTS not in mutated
    jax.tree.map(np.testing.assert_array_equal, mutated["batch_stats"], VARIABLES["batch_stats"])


def test_training_does_not_read_running_averages():
    spoilt = {**VARIABLES, "batch_stats": {k: jnp.full(3, jnp.nan) for k in ("mean", "var")}}
    y, _ = normalized(spoilt, batch(), train=True)
    assert np.isfinite(y).all()


def test_a_large_mean_does_not_swallow_the_variance():
    # E[x^2] - E[x]^2 in float32 would be off by several units here.
    x = jnp.asarray(np.random.default_rng(0).normal(10_000, 1, (512, 1)), jnp.float32)
    variables = jax.tree.map(lambda a: a[:1], VARIABLES)
    _, mutated = normalized(variables, x, train=True)
    expected = np.asarray(x, np.float64).var(ddof=1)
    np.testing.assert_allclose(mutated[MOMENTS]["var"], [expected], rtol=1e-3)


@pytest.mark.skipif(jax.device_count() < 2, reason="one device only")
def test_moments_over_an_axis_are_those_of_the_whole_batch():
    devices = 2
    mesh = jax.make_mesh((devices,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    module = BatchNorm(axis_name="batch")

    def part(x):
        return module.apply(VARIABLES, x, True, mutable=[MOMENTS])

    x = batch()
    mapped = jax.shard_map(part, mesh=mesh, in_specs=P("batch"), out_specs=(P("batch"), P()))
    y, mutated = jax.jit(mapped)(x)
    whole, expected = normalized(VARIABLES, x, train=True)
    np.testing.assert_allclose(y, whole, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        mutated[MOMENTS],
        expected[MOMENTS],
    )


def test_streams_on_a_vmapped_axis_keep_moments_of_their_own():
    streams = jnp.stack([batch(), batch() * 2 + 1])
    _, mutated = jax.vmap(lambda x: normalized(VARIABLES, x, train=True))(streams)
    for i in range(2):
        flat = np.asarray(streams[i], np.float64).reshape(-1, 3)
        np.testing.assert_allclose(mutated[MOMENTS]["mean"][i], flat.mean(0), rtol=1e-5)
        np.testing.assert_allclose(mutated[MOMENTS]["var"][i], flat.var(0, ddof=1), rtol=1e-5)


def test_gradient_passes_through_the_moments():
    # Normalising by its own moments, the output ignores any shift of the batch.
    x = batch((4, 3))
    weights = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)

    @jax.jit
    @jax.grad
    def gradient_of(x):
        return (BatchNorm().apply(VARIABLES, x, True) * weights).sum()

    gradient = gradient_of(x)
    assert np.abs(gradient).max() > 0.1
    np.testing.assert_allclose(gradient.sum(0), np.zeros(3), atol=1e-5)


def test_bfloat16_output_with_float32_moments():
    x = batch().astype(jnp.bfloat16)
    y, mutated = normalized(VARIABLES, x, train=True, module=BatchNorm(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(mutated)} == {jnp.dtype(jnp.float32)}


def test_blend_is_pytorchs_momentum():
    blended = blend_moments({"mean": jnp.array([1.0])}, {"mean": jnp.array([11.0])})
    np.testing.assert_allclose(blended["mean"], [0.9 * 1 + 0.1 * 11], rtol=1e-6)
