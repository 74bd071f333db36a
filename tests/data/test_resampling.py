"""Rotation and random-resized-crop against a slow reference and Pillow."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pwl_jax.data.resampling import affine_of, crop_window, resampled

SHAPE = (12, 16)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SHAPE, 2), dtype=np.uint8)
WINDOW = (1.5, 2.25, 8.0, 9.0)
# Weights of f32 coordinates of up to 16, on values of up to 255.
TOLERANCE = 255 * 16 * 4 * np.finfo(np.float32).eps


def slowly(image, window, degrees):
    """The definition, pixel by pixel: turn about the centre, cut the window, stretch it."""
    height, width = image.shape[:2]
    top, left, tall, wide = window or (0.0, 0.0, height, width)
    angle = math.radians(degrees)
    result = np.zeros(image.shape)
    for i in range(height):
        for j in range(width):
            down = top + (i + 0.5) * tall / height - height / 2
            right = left + (j + 0.5) * wide / width - width / 2
            row = math.cos(angle) * down + math.sin(angle) * right + height / 2
            column = -math.sin(angle) * down + math.cos(angle) * right + width / 2
            if not (0 <= row < height and 0 <= column < width):
                continue
            row, column = row - 0.5, column - 0.5
            for r in (math.floor(row), math.floor(row) + 1):
                for c in (math.floor(column), math.floor(column) + 1):
                    weight = (1 - abs(row - r)) * (1 - abs(column - c))
                    pixel = image[min(max(r, 0), height - 1), min(max(c, 0), width - 1)]
                    result[i, j] += weight * pixel
    return result


@pytest.mark.parametrize("window", [None, WINDOW])
@pytest.mark.parametrize("degrees", [0.0, 15.0, -7.0])
def test_it_is_the_slow_definition(window, degrees):
    found = resampled(jnp.asarray(IMAGE), affine_of(SHAPE, window, degrees))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, slowly(IMAGE, window, degrees), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("degrees", [15.0, -7.0, 40.0])
def test_a_rotation_is_pillows(degrees):
    found = np.asarray(resampled(jnp.asarray(IMAGE), affine_of(SHAPE, None, degrees)))
    for channel in range(2):
        theirs = Image.fromarray(IMAGE[..., channel].astype(np.float32)).rotate(
            degrees, resample=Image.Resampling.BILINEAR
        )
        np.testing.assert_allclose(found[..., channel], theirs, rtol=0, atol=TOLERANCE)
    assert (found[0, 0] == 0).all()


def test_without_turn_and_window_nothing_changes():
    found = resampled(jnp.asarray(IMAGE), affine_of(SHAPE, None, 0.0))
    assert np.array_equal(found, IMAGE)


def test_windows_lie_inside_and_spread_over_areas_and_aspects():
    keys = jax.random.split(jax.random.key(0), 4000)
    draw = jax.vmap(lambda key: jnp.stack(crop_window(key, 32, 32, 0.25)))
    top, left, tall, wide = np.asarray(draw(keys)).T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + tall <= 32.001).all() and (left + wide <= 32.001).all()
    share, aspect = tall * wide / 32**2, wide / tall
    assert share.min() >= 0.2499 and share.max() > 0.97
    assert 0.7499 < aspect.min() < 0.77 and 1.3 < aspect.max() < 1.3334
    free = (tall < 31.9) & (wide < 31.9)
    # An even draw of the area, where no side was cut: half of those up to 0.5 lie below 0.375.
    below = share[free & (share < 0.5)] < 0.375
    assert abs(below.mean() - 0.5) < 5 * 0.5 / math.sqrt(len(below))
