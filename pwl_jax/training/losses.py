"""The losses of training and distillation, each a pure function of logits or features.

PWL (arXiv 2509.22319) and its PyTorch baseline define `hard`, `soft`, `sync`, `recon` and `cross`;
`align`, the alignment of every prefix stream, is this project's own (see BUILD_NOTES.md).
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Logits = Float[Array, "batch classes"]
Labels = Int[Array, " batch"]
MultiHot = Int[Array, "batch classes"]
Scalar = Float[Array, ""]
Features = Float[Array, "batch *positions channels"]
Converter = Callable[[jax.Array], jax.Array]


def cross_entropy(logits: Logits, labels: Labels) -> Scalar:
    """Mean cross-entropy in nats. logits: f32[batch, classes], labels: int[batch]."""
    chex.assert_rank([logits, labels], [2, 1])
    chex.assert_equal_shape_prefix([logits, labels], 1)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def binary_cross_entropy(logits: Logits, labels: MultiHot) -> Scalar:
    """Mean over the classes and the batch of each class's own cross-entropy, in nats.

    Args:
      logits: f32[batch, classes], of one sigmoid a class.
      labels: [batch, classes] of 0 and 1.
    """
    chex.assert_rank([logits, labels], 2)
    chex.assert_equal_shape([logits, labels])
    return optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype)).mean()


def soft_cross_entropy(teacher_logits: Logits, logits: Logits, temperature: float) -> Scalar:
    """T^2 KL(teacher || other) of the softened distributions, mean over the batch.

    Args:
      teacher_logits, logits: f32[batch, classes].
      temperature: T; the factor T^2 keeps gradients on the scale of the hard loss.
    """
    chex.assert_equal_shape([teacher_logits, logits])
    teacher = jax.nn.log_softmax(teacher_logits / temperature)
    other = jax.nn.log_softmax(logits / temperature)
    divergence = (jnp.exp(teacher) * (teacher - other)).sum(-1)
    return temperature**2 * divergence.mean()


def decoupled_distillation(
    teacher_logits: Logits,
    logits: Logits,
    labels: Labels,
    temperature: float,
    w_target: float,
    w_others: float,
) -> Scalar:
    """Decoupled knowledge distillation (Zhao et al. 2022, arXiv 2203.08679, eq. 7), times T^2.

    The soft loss is taken apart: KL of the probability of the right class against all others, and
    KL of the distributions among the others alone, each with a weight of its own. With weights 1
    and the teacher's probability of the others it would be `soft_cross_entropy` again.

    Args:
      teacher_logits, logits: f32[batch, classes].
      labels: int[batch].
      temperature: T.
      w_target, w_others: weights of the two parts (alpha and beta there).
    """
    chex.assert_equal_shape([teacher_logits, logits])
    right = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)

    def parts(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Log-probabilities of [right, wrong], and of the wrong classes among themselves."""
        each = jax.nn.log_softmax(x / temperature)
        # Finite where it is left out: its probability underflows to 0, its gradient is cut off.
        wrong = jnp.where(right, -1e9, each)
        among = jax.nn.log_softmax(wrong)
        binary = [jnp.where(right, each, 0.0).sum(-1), jax.nn.logsumexp(wrong, axis=-1)]
        return jnp.stack(binary, axis=-1), among

    def divergence(teacher: jax.Array, other: jax.Array) -> jax.Array:
        return (jnp.exp(teacher) * (teacher - other)).sum(-1).mean()

    (teacher_binary, teacher_among), (binary, among) = parts(teacher_logits), parts(logits)
    target, others = divergence(teacher_binary, binary), divergence(teacher_among, among)
    return temperature**2 * (w_target * target + w_others * others)


def cosine_similarity(
    a: Float[Array, "batch n"], b: Float[Array, "batch n"], epsilon: float = 1e-8
) -> Float[Array, " batch"]:
    """Cosine of the angle between rows. a, b: [batch, n] to [batch]; each norm at least epsilon."""
    dot = (a * b).sum(-1)
    norm_a = jnp.sqrt(jnp.maximum((a * a).sum(-1), epsilon**2))
    norm_b = jnp.sqrt(jnp.maximum((b * b).sum(-1), epsilon**2))
    return dot / (norm_a * norm_b)


def feature_distance(a: Features, b: Features) -> Scalar:
    """MSE(a, b) + mean over the batch of 1 - cosine, features flattened per example.

    a, b: [batch, ...] of equal shape; computed in float32.
    """
    chex.assert_equal_shape([a, b])
    a = a.astype(jnp.float32).reshape(a.shape[0], -1)
    b = b.astype(jnp.float32).reshape(b.shape[0], -1)
    return jnp.square(a - b).mean() + (1 - cosine_similarity(a, b)).mean()


def synchronisation(
    student: Features, teacher: Features, encoded: Features, decoder: Converter
) -> Scalar:
    """d(f_s, E f_t) + d(f_t, D f_s) at one boundary.

    Args:
      student: f_s, [batch, ..., student width].
      teacher: f_t, [batch, ..., teacher width].
      encoded: E f_t, in the student's width.
      decoder: D, student to teacher width.
    """
    return feature_distance(student, encoded) + feature_distance(teacher, decoder(student))


def reconstruction(
    student: Features,
    teacher: Features,
    encoded: Features,
    encoder: Converter,
    decoder: Converter,
) -> Scalar:
    """d(f_t, D E f_t) + d(f_s, E D f_s) at one boundary; arguments as in `synchronisation`."""
    return feature_distance(teacher, decoder(encoded)) + feature_distance(
        student, encoder(decoder(student))
    )
