"""Every loss against numbers worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pwl_jax.training import losses


def test_cross_entropy_by_hand():
    # softmax of (0, ln 3) is (1/4, 3/4); of (0, 0) it is (1/2, 1/2).
    logits = jnp.array([[0.0, math.log(3)], [0.0, 0.0]])
    expected = (math.log(4 / 3) + math.log(2)) / 2
    assert float(losses.cross_entropy(logits, jnp.array([1, 0]))) == pytest.approx(expected)


def test_binary_cross_entropy_by_hand():
    # The sigmoid of ln 3 is 3/4, that of 0 is 1/2.
    logits = jnp.array([[math.log(3), 0.0], [math.log(3), 0.0]])
    labels = jnp.array([[1, 0], [0, 1]], jnp.uint8)
    expected = (math.log(4 / 3) + math.log(4) + 2 * math.log(2)) / 4
    assert float(losses.binary_cross_entropy(logits, labels)) == pytest.approx(expected)


def test_soft_cross_entropy_by_hand():
    # At T = 2, logits (0, 2 ln 3) soften to (1/4, 3/4) and (0, 0) to (1/2, 1/2).
    teacher = jnp.array([[0.0, 2 * math.log(3)]])
    student = jnp.array([[0.0, 0.0]])
    divergence = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    got = float(losses.soft_cross_entropy(teacher, student, 2.0))
    assert got == pytest.approx(4 * divergence, rel=1e-6)
    assert float(losses.soft_cross_entropy(teacher, teacher, 2.0)) == pytest.approx(0, abs=1e-7)


def decoupled_by_numpy(teacher, student, label, temperature, w_target, w_others):
    """Eq. 4 to 7 of arXiv 2203.08679 in float64, one example after the other."""

    def softmax(x):
        e = np.exp(x - x.max())
        return e / e.sum()

    total = 0.0
    for t, s, y in zip(teacher, student, label, strict=True):
        p, q = softmax(t / temperature), softmax(s / temperature)
        rest = np.arange(len(p)) != y
        target = p[y] * np.log(p[y] / q[y]) + (1 - p[y]) * np.log((1 - p[y]) / (1 - q[y]))
        among = softmax(t[rest] / temperature), softmax(s[rest] / temperature)
        others = (among[0] * np.log(among[0] / among[1])).sum()
        total += temperature**2 * (w_target * target + w_others * others)
    return total / len(label)


def test_decoupled_distillation_and_its_gradient_against_numpy():
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(0, 3, (2, 5, 7))
    label = rng.integers(0, 7, 5)
    settings = (4.0, 1.0, 8.0)

    def ours(x):
        return losses.decoupled_distillation(
            jnp.asarray(teacher, jnp.float32), x, jnp.asarray(label), *settings
        )

    value, gradient = jax.value_and_grad(ours)(jnp.asarray(student, jnp.float32))
    expected = decoupled_by_numpy(teacher, student, label, *settings)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    step = 1e-5
    for i in np.ndindex(student.shape):
        shift = np.zeros_like(student)
        shift[i] = step
        higher, lower = (
            decoupled_by_numpy(teacher, student + sign * shift, label, *settings)
            for sign in (1, -1)
        )
        # Central differences in float64 against reverse mode in float32.
        assert gradient[i] == pytest.approx((higher - lower) / (2 * step), rel=1e-3, abs=1e-5)


def test_decoupled_distillation_is_the_soft_loss_where_others_weigh_what_the_teacher_gives_them():
    # KD = TCKD + (1 - p_t) NCKD (eq. 6); one example, so that one weight serves.
    teacher, student = jnp.array([[2.0, 0.0, 1.0]]), jnp.array([[0.5, 1.0, -1.0]])
    wrong = 1 - float(jax.nn.softmax(teacher / 2.0)[0, 0])
    got = losses.decoupled_distillation(teacher, student, jnp.array([0]), 2.0, 1.0, wrong)
    assert float(got) == pytest.approx(float(losses.soft_cross_entropy(teacher, student, 2.0)))


def test_decoupled_distillation_of_a_teacher_that_is_certain_stays_finite():
    certain = jnp.array([[200.0, 0.0, 0.0]])
    value, gradient = jax.value_and_grad(
        lambda x: losses.decoupled_distillation(certain, x, jnp.array([0]), 1.0, 1.0, 8.0)
    )(jnp.array([[-200.0, 1.0, 0.0]]))
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_feature_distance_by_hand():
    # Rows (1, 0) and (0, 1) are orthogonal; (3, 4) and (6, 8) point the same way.
    a = jnp.array([[1.0, 0.0], [3.0, 4.0]])
    b = jnp.array([[0.0, 1.0], [6.0, 8.0]])
    mse = (1 + 1 + 9 + 16) / 4
    assert float(losses.feature_distance(a, b)) == pytest.approx(mse + (1 + 0) / 2, rel=1e-6)


def test_feature_distance_flattens_each_example():
    a = jnp.arange(12.0).reshape(2, 2, 3) + 1
    b = a[:, ::-1]
    flat = losses.feature_distance(a.reshape(2, 6), b.reshape(2, 6))
    assert float(losses.feature_distance(a, b)) == float(flat)


def test_feature_distance_of_dead_features_has_finite_gradient():
    zero = jnp.zeros((2, 3))
    gradient = jax.grad(lambda x: losses.feature_distance(x, zero))(zero)
    assert np.isfinite(gradient).all()


def test_synchronisation_and_reconstruction_by_hand():
    # Student width 1, teacher width 2; E sums the channels, D repeats the one channel.
    def encoder(x):
        return x.sum(-1, keepdims=True)

    def decoder(x):
        return jnp.concatenate([x, x], axis=-1)

    student, teacher = jnp.array([[1.0]]), jnp.array([[2.0, 0.0]])
    encoded = encoder(teacher)
    # d(1, 2) = 1 + 0; d((2, 0), (1, 1)) = (1 + 1) / 2 + 1 - 1/sqrt(2)
    slant = 1 - 1 / math.sqrt(2)
    sync = losses.synchronisation(student, teacher, encoded, decoder)
    assert float(sync) == pytest.approx(1 + 1 + slant, rel=1e-6)
    # d((2, 0), (2, 2)) = 4 / 2 + 1 - 1/sqrt(2); d(1, 2) = 1
    recon = losses.reconstruction(student, teacher, encoded, encoder, decoder)
    assert float(recon) == pytest.approx(2 + slant + 1, rel=1e-6)
