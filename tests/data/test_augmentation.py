"""Augmentation by an example's own key, and its parts worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.data.augmentation import BASELINE_PADDING, AugmentationConfig, augment
from pwl_jax.errors import UserError

SIZE = 16
PLAIN = Preprocessing(input_shape=(SIZE, SIZE, 1), mean=(0.0,), std=(1.0,))
BOTH = AugmentationConfig(flip=True, crop_padding=BASELINE_PADDING)


def images_of(count, channels=1, seed=0):
    shape = (count, SIZE, SIZE, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels(images):
    """What PLAIN made of uint8 images, as uint8 again."""
    return np.asarray(jnp.round(images * 255)).astype(np.uint8)


def run(images, indices, config, seed=0, preprocessing=PLAIN):
    key = jax.random.key(seed)
    return augment(
        key, jnp.asarray(images), jnp.asarray(indices), config=config, preprocessing=preprocessing
    )


def test_without_augmentation_it_is_the_one_normalisation():
    images = images_of(6, channels=3)
    preprocessing = Preprocessing((SIZE, SIZE, 3), (0.49, 0.48, 0.44), (0.24, 0.25, 0.26))
    found = run(images, np.arange(6), AugmentationConfig(), preprocessing=preprocessing)
    assert found.dtype == jnp.float32
    # XLA may multiply by 1/255: one rounding of values up to 1/std more than NumPy's.
    np.testing.assert_allclose(found, preprocessing.normalize(images), rtol=0, atol=1e-6)


def test_what_happens_to_an_example_depends_on_key_and_index_alone():
    images, indices = images_of(8), np.arange(100, 108)
    whole = pixels(run(images, indices, BOTH))
    order = np.array([5, 2, 7])
    assert np.array_equal(pixels(run(images[order], indices[order], BOTH)), whole[order])
    assert not np.array_equal(pixels(run(images, indices, BOTH, seed=1)), whole)
    assert not np.array_equal(pixels(run(images, indices + 8, BOTH)), whole)


def test_equal_images_are_augmented_each_in_its_own_way():
    images = np.repeat(images_of(1), 40, axis=0)
    found = pixels(run(images, np.arange(40), BOTH))
    assert len({image.tobytes() for image in found}) > 20


def test_flip_mirrors_about_half_of_the_images_left_to_right():
    images = images_of(200)
    found = pixels(run(images, np.arange(200), AugmentationConfig(flip=True)))
    same = (found == images).all((1, 2, 3))
    mirrored = (found == images[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    # Five standard deviations of 200 fair coins.
    assert abs(mirrored.sum() - 100) < 36


def reflected(image, padding):
    """The image continued by mirroring about its outermost pixels, one pixel at a time."""
    size = len(image)

    def source(position):
        position = abs(position)
        return position if position < size else 2 * (size - 1) - position

    places = [source(position) for position in range(-padding, size + padding)]
    return np.array([[image[row, column] for column in places] for row in places])


def test_reflection_by_hand():
    assert list(reflected(np.arange(9).reshape(3, 3), 2)[2]) == [2, 1, 0, 1, 2, 1, 0]


@pytest.mark.parametrize(("crop_padding", "pixels_of_border"), [(3, 3), (BASELINE_PADDING, 2)])
def test_crop_is_a_window_of_the_reflected_image(crop_padding, pixels_of_border):
    images = images_of(150)
    found = pixels(run(images, np.arange(150), AugmentationConfig(crop_padding=crop_padding)))
    offsets = set()
    for image, cropped in zip(images, found, strict=True):
        padded = reflected(image, pixels_of_border)
        choices = range(2 * pixels_of_border + 1)
        matches = [
            (row, column)
            for row in choices
            for column in choices
            if np.array_equal(padded[row : row + SIZE, column : column + SIZE], cropped)
        ]
        assert len(matches) == 1
        offsets.update(matches)
    rows, columns = (set(axis) for axis in zip(*offsets, strict=True))
    assert rows == columns == set(range(2 * pixels_of_border + 1))


def test_jit_and_vmap_agree_with_the_plain_call():
    images, indices = jnp.asarray(images_of(8)), jnp.arange(8)
    plain = run(images, indices, BOTH)

    def call(images, indices):
        return augment(jax.random.key(0), images, indices, config=BOTH, preprocessing=PLAIN)

    assert np.array_equal(pixels(jax.jit(call)(images, indices)), pixels(plain))
    halves = jax.vmap(call)(images.reshape(2, 4, SIZE, SIZE, 1), indices.reshape(2, 4))
    assert np.array_equal(pixels(halves).reshape(plain.shape), pixels(plain))


@pytest.mark.parametrize("crop_padding", [SIZE, 40])
def test_more_border_than_an_image_can_reflect(crop_padding):
    with pytest.raises(UserError, match=rf"is {crop_padding}; images of 16x16 .* at most 15"):
        run(images_of(1), np.arange(1), AugmentationConfig(crop_padding=crop_padding))


def test_a_negative_border():
    with pytest.raises(UserError, match=r"crop_padding is -2"):
        AugmentationConfig(crop_padding=-2)


def test_images_that_are_no_longer_uint8():
    with pytest.raises(AssertionError, match="uint8"):
        run(images_of(1).astype(np.float32), np.arange(1), BOTH)
