"""Colour jitter against Pillow's enhancers and the definition of hue."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from pwl_jax.data.colour import LUMA, jittered

IMAGE = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
FLOATS = jnp.asarray(IMAGE, jnp.float32)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.4])
@pytest.mark.parametrize(
    ("name", "enhancer"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_it_is_what_pillow_makes(name, enhancer, factor):
    theirs = np.asarray(enhancer(Image.fromarray(IMAGE)).enhance(factor), np.float32)
    # Pillow rounds the grey value and the result to whole numbers.
    np.testing.assert_allclose(jittered(FLOATS, **{name: factor}), theirs, rtol=0, atol=2.0)


def test_nothing_drawn_changes_nothing():
    # Float sums about the mean and through YIQ and back.
    np.testing.assert_allclose(jittered(FLOATS), IMAGE, rtol=0, atol=2e-3)


def test_hue_turns_colours_and_keeps_grey_and_brightness():
    muted = 128 + (FLOATS - 128) * 0.2
    turned = np.asarray(jittered(muted, hue=0.25))
    np.testing.assert_allclose(turned @ LUMA, np.asarray(muted) @ LUMA, rtol=0, atol=0.2)
    assert np.abs(turned - muted).max() > 10
    there_and_back = jittered(jnp.asarray(turned), hue=-0.25)
    np.testing.assert_allclose(there_and_back, muted, rtol=0, atol=5e-3)
    grey = jnp.full((2, 2, 3), 77.0)
    # The coefficients of I and Q are rounded to three digits and sum to nothing.
    np.testing.assert_allclose(jittered(grey, hue=0.4), grey, rtol=0, atol=1e-2)


def test_one_channel_has_brightness_and_contrast_alone():
    grey = FLOATS[..., :1]
    mean = float(grey.mean())
    np.testing.assert_allclose(
        jittered(grey, contrast=0.5, saturation=0.0, hue=0.3), mean + (grey - mean) / 2, rtol=1e-5
    )
    assert np.array_equal(jittered(grey, brightness=10.0), np.minimum(grey * 10, 255))
