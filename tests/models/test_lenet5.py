"""LeNet-5 against NumPy."""

import jax
import numpy as np
import pytest

from pwl_jax.models.lenet5 import LeNet5Spec
from pwl_jax.models.spec import SpecError


def test_blocks_by_hand(reference, randomized):
    spec = LeNet5Spec(input_shape=(16, 18, 3), classes=7, channels=(2, 3), features=(5, 4))
    network = spec.build()
    params = randomized(jax.eval_shape(network.init, jax.random.key(0))["params"])
    images = np.random.default_rng(0).normal(size=(2, 16, 18, 3)).astype(np.float32)
    outputs = jax.jit(network.apply)({"params": params, "batch_stats": {}}, images)

    x = images
    for i in range(2):
        conv = params[f"block{i}"]["conv"]
        x = reference.conv(x, conv["kernel"], conv["bias"], padding=0)
        x = reference.pool(reference.relu(x), np.mean)
        np.testing.assert_allclose(outputs.features[f"block{i}"], x, rtol=1e-4, atol=1e-4)
    x = x.reshape(2, -1)
    for i in (2, 3):
        x = reference.relu(reference.dense(x, params[f"block{i}"]["dense"]))
        np.testing.assert_allclose(outputs.features[f"block{i}"], x, rtol=1e-4, atol=1e-4)
    x = reference.dense(x, params["head"]["dense"])
    np.testing.assert_allclose(outputs.logits, x, rtol=1e-4, atol=1e-4)


def test_too_small_an_image_is_refused_by_name():
    with pytest.raises(SpecError, match=r"at least 16x16.*\(12, 32, 3\)"):
        LeNet5Spec(input_shape=(12, 32, 3), classes=10).build()
