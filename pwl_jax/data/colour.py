"""Colour jitter: brightness, contrast, saturation and hue, each by a drawn amount."""

import jax
import jax.numpy as jnp
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Share of red, green and blue in an image's brightness (ITU-R BT.601, as Pillow has it)."""

_TO_YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32)
_FROM_YIQ = np.linalg.inv(_TO_YIQ).astype(np.float32)
_MATRIX_PRECISION = jax.lax.Precision.HIGHEST


def jittered(
    image: jax.Array,
    brightness: jax.Array | float = 1.0,
    contrast: jax.Array | float = 1.0,
    saturation: jax.Array | float = 1.0,
    hue: jax.Array | float = 0.0,
) -> jax.Array:
    """The image in other colours: brightness first, then contrast, saturation, hue.

    Each step ends in 0 to 255. Images of other than three channels have neither saturation nor
    hue, which leave them as they are.

    Args:
      image: f32[height, width, channels] in 0 to 255; three channels are red, green, blue.
      brightness: factor on every value.
      contrast: factor on the distance from the image's mean brightness.
      saturation: factor on the distance from each pixel's own brightness.
      hue: turn of every colour about the grey axis of YIQ, in whole turns.
    """
    image = _clipped(image * brightness)
    mean = _luma(image).mean()
    image = _clipped(mean + (image - mean) * contrast)
    if image.shape[-1] != 3:
        return image
    grey = _luma(image)
    image = _clipped(grey + (image - grey) * saturation)
    angle = 2 * jnp.pi * hue
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    zero, one = jnp.zeros_like(cosine), jnp.ones_like(cosine)
    turn = jnp.array([[one, zero, zero], [zero, cosine, -sine], [zero, sine, cosine]])
    matrix = jnp.matmul(
        jnp.matmul(_FROM_YIQ, turn, precision=_MATRIX_PRECISION),
        _TO_YIQ,
        precision=_MATRIX_PRECISION,
    )
    return _clipped(jnp.matmul(image, matrix.T, precision=_MATRIX_PRECISION))


def _luma(image: jax.Array) -> jax.Array:
    """Brightness of each pixel: [height, width, 1]."""
    if image.shape[-1] != 3:
        return image.mean(-1, keepdims=True)
    return (image * LUMA.reshape(1, 1, 3)).sum(-1, keepdims=True)


def _clipped(image: jax.Array) -> jax.Array:
    return jnp.clip(image, 0.0, 255.0)
