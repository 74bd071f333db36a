"""Updates by hand: labels, decay by leaf, clipping by the whole tree's norm, schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pwl_jax.errors import UserError
from pwl_jax.training.optimizer import OptimizerConfig, learning_rate_schedule, make_optimizer

PARAMS = {
    "teacher": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full((2,), 3.0)},
    "student": {"kernel": jnp.full((2, 2), 2.0), "scale": jnp.full((2,), 2.0)},
    "encoders": {"kernel": jnp.full((2, 2), 1.0), "bias": jnp.full((2,), 1.0)},
}
LABELS = {
    "teacher": {"kernel": "frozen", "bias": "frozen"},
    "student": {"kernel": "student", "scale": "student"},
    "encoders": {"kernel": "converter", "bias": "converter"},
}
PLAIN = {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "learning_rate": 0.5}


def first_update(gradients, **fields):
    """What the first step adds to `PARAMS`, by network and leaf."""
    optimizer = make_optimizer(OptimizerConfig(**{**PLAIN, **fields}), 10, LABELS)
    return optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)[0]


def filled(value):
    """Gradients of one value on every trained leaf."""
    return {
        name: jax.tree.map(lambda p, n=name: jnp.full_like(p, value * (n != "teacher")), leaves)
        for name, leaves in PARAMS.items()
    }


def test_each_label_has_its_learning_rate():
    found = first_update(filled(1.0), converter_rate=0.2)
    for name, update in (("teacher", 0.0), ("student", -0.5), ("encoders", -0.1)):
        for leaf in jax.tree.leaves(found[name]):
            np.testing.assert_allclose(leaf, update, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("everything", [True, False])
def test_decay_falls_on_matrices_and_where_asked_on_norms_and_biases(name, everything):
    found = first_update(
        filled(0.0),
        name=name,
        weight_decay=0.1,
        converter_rate=1.0,
        converter_decay=3.0,
        decay_norms_and_biases=everything,
    )
    # learning rate x decay x weight; three times the decay for converters of half the weight.
    np.testing.assert_allclose(found["student"]["kernel"], -0.5 * 0.1 * 2, rtol=1e-6)
    np.testing.assert_allclose(found["encoders"]["kernel"], -0.5 * 0.3 * 1, rtol=1e-6)
    np.testing.assert_allclose(found["student"]["scale"], -0.1 * everything, atol=1e-7)
    np.testing.assert_allclose(found["encoders"]["bias"], -0.15 * everything, atol=1e-7)
    assert not jax.tree.leaves(jax.tree.map(lambda leaf: leaf.any(), found["teacher"]))[0]


def test_gradients_are_clipped_by_the_norm_of_all_of_them():
    # Twelve trained numbers: their norm is 12 ** 0.5 times one of them.
    found = first_update(filled(5.0), clip_norm=1.0, converter_rate=1.0)
    norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(found)))
    assert norm == pytest.approx(0.5 * 1.0, rel=1e-5)
    assert len({float(leaf.ravel()[0]) for leaf in jax.tree.leaves(found) if leaf.any()}) == 1
    short = first_update(filled(0.01), clip_norm=1.0, converter_rate=1.0)
    np.testing.assert_allclose(short["student"]["kernel"], -0.005, rtol=1e-6)


def test_schedules_by_hand():
    cosine = learning_rate_schedule(OptimizerConfig(learning_rate=0.05), 100)
    assert float(cosine(0)) == pytest.approx(0.05)
    assert float(cosine(50)) == pytest.approx((0.05 + 1e-5) / 2)
    # The floor is min(lr / 20, 1e-5): the PyTorch baseline's rule.
    assert float(cosine(100)) == pytest.approx(1e-5)
    tiny = learning_rate_schedule(OptimizerConfig(learning_rate=1e-4), 10)
    assert float(tiny(10)) == pytest.approx(5e-6)
    warm = learning_rate_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=10), 20)
    assert [float(warm(s)) for s in (0, 5, 10)] == pytest.approx([0.0, 0.5, 1.0])


def test_a_constant_rate_stays_after_its_warm_up():
    rate = learning_rate_schedule(
        OptimizerConfig(learning_rate=1.0, schedule="constant", warmup_steps=4), 20
    )
    assert [float(rate(s)) for s in (0, 1, 4, 19)] == pytest.approx([0.0, 0.25, 1.0, 1.0])


@pytest.mark.parametrize("fields", [{"clip_norm": -1.0}, {"converter_decay": -0.5}])
def test_negative_amounts_are_refused(fields):
    ((name, value),) = fields.items()
    with pytest.raises(UserError, match=f"{name} is {value}; expected 0 or more"):
        OptimizerConfig(**fields)


@pytest.mark.parametrize("fields", [{"name": "lion"}, {"schedule": "linear"}])
def test_unknown_choices_are_named(fields):
    with pytest.raises(UserError, match=next(iter(fields.values()))):
        make_optimizer(OptimizerConfig(**fields), 10, {"a": "student"})
