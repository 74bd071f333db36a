"""Blocks computed anew in the backward pass: fewer bytes, the same step."""

import dataclasses

import jax
import numpy as np
import pytest

from pwl_jax.models.initialisation import initial_variables
from pwl_jax.models.resnet import ResNetSpec
from pwl_jax.training import losses

SPEC = ResNetSpec(
    input_shape=(16, 16, 1), classes=10, stem_width=8, widths=(8, 8, 8), depths=(2, 2, 2)
)
# XLA for CPU takes the barriers out that keep the second computation apart from the first, and
# merges them; other back ends keep them. So this compiles without that pass.
OPTIONS = {"xla_disable_hlo_passes": "cse_barrier_expander"}


def gradient_of(remat):
    """The compiled gradient of the network's loss."""
    network = dataclasses.replace(SPEC.build(), remat=remat)

    def loss(params, variables, images, labels):
        outputs = network.apply({**variables, "params": params}, images, train=True)
        return losses.cross_entropy(outputs.logits, labels)

    return jax.jit(jax.grad(loss))


@pytest.mark.slow
def test_gradients_are_the_same_and_take_fewer_bytes():
    variables = initial_variables(SPEC.build().init, jax.random.key(0))
    rng = np.random.default_rng(0)
    images = rng.normal(size=(32, 16, 16, 1)).astype(np.float32)
    labels = rng.integers(0, 10, 32).astype(np.int32)
    inputs = (variables["params"], variables, images, labels)
    kept, anew = (
        gradient_of(remat).lower(*inputs).compile(compiler_options=OPTIONS)
        for remat in (False, True)
    )
    sizes = [compiled.memory_analysis().temp_size_in_bytes for compiled in (kept, anew)]
    assert sizes[1] < 0.9 * sizes[0]
    for a, b in zip(jax.tree.leaves(kept(*inputs)), jax.tree.leaves(anew(*inputs)), strict=True):
        # Float sums in another order.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
