"""Convolution against its definition, on both of its routes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pwl_jax.models import convolution
from pwl_jax.models.convolution import Convolution


@pytest.fixture
def example(randomized):
    """A module, variables and input by the input's shape and the module's configuration."""

    def built(shape, **config):
        module = Convolution(features=5, **config)
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        return module, randomized(jax.eval_shape(module.init, jax.random.key(0), x)), x

    return built


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride"),
    [
        ((1, 1), 3, 1),
        ((2, 2), 3, 1),
        ((1, 2), 5, 1),
        ((2, 2), 1, 2),
        ((3, 4), 3, 2),
        ((4, 4), 1, 2),
        ((3, 3), 3, 1),
        ((5, 6), 3, 2),
        ((8, 6), 5, 2),
        ((7, 5), 1, 2),
    ],
)
def test_equals_the_definition(example, reference, size, kernel_size, stride):
    module, variables, x = example((2, *size, 3), kernel_size=kernel_size, stride=stride)
    y = jax.jit(module.apply)(variables, x)
    expected = reference.conv(x, variables["params"]["kernel"], stride=stride)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, atol=5e-6)


@pytest.mark.parametrize(("size", "stride"), [(2, 1), (4, 2)])
def test_both_routes_agree_in_value_and_gradient(example, monkeypatch, size, stride):
    module, variables, x = example((4, size, size, 8), stride=stride, use_bias=True)

    def value_and_gradient(largest):
        monkeypatch.setattr(convolution, "LARGEST_PATCHED_MAP", largest)

        @jax.jit
        def compute(variables, x):
            y, pull_back = jax.vjp(module.apply, variables, x)
            return y, pull_back(jnp.sin(y))

        return compute(variables, x)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        value_and_gradient(largest=0),
        value_and_gradient(largest=100),
    )


def test_small_maps_take_the_route_without_a_convolution(example):
    def operations(size, stride=1):
        module, variables, x = example((1, size, size, 3), stride=stride)
        return str(jax.make_jaxpr(module.apply)(variables, x))

    assert "conv_general_dilated" not in operations(2)
    assert "conv_general_dilated" not in operations(4, stride=2)
    assert "conv_general_dilated" in operations(4)


def test_bias_is_added_once_a_channel(example):
    module, variables, x = example((2, 4, 4, 3), use_bias=True)
    zero, raised = (
        {"params": {**variables["params"], "bias": bias}}
        for bias in (jnp.zeros(5), jnp.arange(5.0))
    )
    apply = jax.jit(module.apply)
    difference = np.asarray(apply(raised, x)) - np.asarray(apply(zero, x))
    np.testing.assert_allclose(
        difference, np.broadcast_to(np.arange(5.0), difference.shape), atol=1e-5
    )


@pytest.mark.parametrize("size", [2, 4])
def test_bfloat16_computes_on_float32_parameters(example, size):
    module, variables, x = example((2, size, size, 3), use_bias=True, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    assert jax.eval_shape(module.apply, variables, x).dtype == jnp.bfloat16
