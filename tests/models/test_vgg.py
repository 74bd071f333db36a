"""VGG against NumPy, and its max-pooling against Linen's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pwl_jax.models.spec import SpecError
from pwl_jax.models.vgg import VGGSpec, max_pool_2x2


def test_network_by_hand(reference, randomized):
    spec = VGGSpec(input_shape=(9, 8, 2), classes=4, widths=(3, 5), depths=(1, 2))
    network = spec.build()
    variables = randomized(jax.eval_shape(network.init, jax.random.key(0)))
    images = np.random.default_rng(0).normal(size=(2, 9, 8, 2)).astype(np.float32)
    outputs = jax.jit(network.apply)(variables, images)

    x = images
    for block, depth in enumerate(spec.depths):
        params, stats = (variables[c][f"block{block}"] for c in ("params", "batch_stats"))
        for i in range(depth):
            x = reference.conv(x, params[f"conv{i}"]["kernel"], params[f"conv{i}"]["bias"])
            x = reference.batch_norm(x, params[f"norm{i}"], stats[f"norm{i}"])
            x = reference.relu(x)
        x = reference.pool(x, np.max)
        np.testing.assert_allclose(outputs.features[f"block{block}"], x, rtol=1e-4, atol=1e-4)
    assert x.shape == (2, 2, 2, 5)
    expected = reference.dense(x.mean((1, 2)), variables["params"]["head"]["dense"])
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (2, 5, 7, 3)])
def test_max_pool_equals_linens_in_value_and_gradient(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def value_and_gradient(pool):
        def compute(x):
            y, pull_back = jax.vjp(pool, x)
            return y, pull_back(jnp.cos(y))[0]

        return jax.jit(compute)(x)

    jax.tree.map(
        np.testing.assert_array_equal,
        value_and_gradient(max_pool_2x2),
        value_and_gradient(lambda x: nn.max_pool(x, (2, 2), (2, 2))),
    )


def test_smallest_image_gives_one_pixel():
    spec = VGGSpec(input_shape=(16, 16, 1), classes=3, widths=(2,) * 4, depths=(1,) * 4)
    network = spec.build()
    outputs = jax.eval_shape(
        lambda x: network.apply(network.init(jax.random.key(0)), x), jnp.zeros((1, 16, 16, 1))
    )
    assert outputs.features["block3"].shape == (1, 1, 1, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_shape": (16, 64, 3)}, r"5 VGG stages .* at least 32x32 pixels.*\(16, 64, 3\)"),
        ({"widths": (4, 4)}, "disagree; expected one entry a block"),
        ({"depths": (1, 1, 1, 1, 0)}, "depths is .*expected positive integers"),
        ({"widths": (4, 4, 4, 4, 4.5)}, "widths is .*expected positive integers"),
    ],
)
def test_wrong_specs_are_refused(change, message):
    with pytest.raises(SpecError, match=message):
        VGGSpec(**{"input_shape": (32, 32, 3), "classes": 10, **change})
