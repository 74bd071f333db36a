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
COLOURED = Preprocessing(input_shape=(SIZE, SIZE, 3), mean=(0.0,) * 3, std=(1.0,) * 3)
EVERYTHING = AugmentationConfig(
    rotation=15.0,
    resized_crop=0.5,
    flip=True,
    crop_padding=BASELINE_PADDING,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
)


def images_of(count, channels=1, seed=0):
    shape = (count, SIZE, SIZE, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels(images):
    """What PLAIN made of uint8 images, as uint8 again."""
    return np.asarray(jnp.round(images * 255)).astype(np.uint8)


compiled = jax.jit(augment, static_argnames=("config", "preprocessing"))


def run(images, indices, config, seed=0, preprocessing=PLAIN):
    key = jax.random.key(seed)
    return compiled(
        key, jnp.asarray(images), jnp.asarray(indices), config=config, preprocessing=preprocessing
    )


def test_without_augmentation_it_is_the_one_normalisation():
    images = images_of(6, channels=3)
    preprocessing = Preprocessing((SIZE, SIZE, 3), (0.49, 0.48, 0.44), (0.24, 0.25, 0.26))
    found = run(images, np.arange(6), AugmentationConfig(), preprocessing=preprocessing)
    assert found.dtype == jnp.float32
    # XLA may multiply by 1/255: one rounding of values up to 1/std more than NumPy's.
    np.testing.assert_allclose(found, preprocessing.normalize(images), rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [BOTH, EVERYTHING])
def test_what_happens_to_an_example_depends_on_key_and_index_alone(config):
    images, indices = images_of(8, channels=3), np.arange(100, 108)
    whole = pixels(run(images, indices, config, preprocessing=COLOURED))
    order = np.array([5, 2, 7])
    some = run(images[order], indices[order], config, preprocessing=COLOURED)
    assert np.array_equal(pixels(some), whole[order])
    for seed, moved in ((1, 0), (0, 8)):
        other = run(images, indices + moved, config, seed=seed, preprocessing=COLOURED)
        assert not np.array_equal(pixels(other), whole)


@pytest.mark.parametrize(
    "field", ["rotation", "resized_crop", "brightness", "contrast", "saturation", "hue"]
)
def test_every_part_by_itself_changes_images_each_in_its_own_way(field):
    images = np.repeat(images_of(1, channels=3), 12, axis=0)
    config = AugmentationConfig(**{field: 0.3})
    found = pixels(run(images, np.arange(12), config, preprocessing=COLOURED))
    assert len({image.tobytes() for image in found}) == 12
    # A factor near 1 may round to the image itself.
    assert (found == images).all((1, 2, 3)).sum() <= 1


def test_turns_go_both_ways_up_to_the_largest():
    # A white row through the middle: its ends rise or fall by the angle.
    image = np.zeros((SIZE + 1, SIZE + 1, 1), np.uint8)
    image[SIZE // 2] = 255
    images = np.repeat(image[None], 300, axis=0)
    plain = Preprocessing((SIZE + 1, SIZE + 1, 1), (0.0,), (1.0,))
    config = AugmentationConfig(rotation=15.0)
    found = pixels(run(images, np.arange(300), config, preprocessing=plain))[..., 0]
    rows = np.arange(SIZE + 1)[None, :]
    right, left = ((found[:, :, c] * rows).sum(1) / found[:, :, c].sum(1) for c in (SIZE - 2, 2))
    degrees = np.rad2deg(np.arctan2(left - right, SIZE - 4))
    assert np.abs(degrees).max() < 16
    assert degrees.min() < -13 and degrees.max() > 13
    # Five standard deviations of the mean of 300 draws that are even over -15 to 15.
    assert abs(degrees.mean()) < 5 * 15 / np.sqrt(3 * 300)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rotation": -1.0}, "rotation is -1.0; expected 0 to 180"),
        ({"resized_crop": 1.5}, "resized_crop is 1.5; expected 0 to 1"),
        ({"hue": 0.6}, "hue is 0.6; expected 0 to 0.5"),
    ],
)
def test_amounts_that_mean_nothing_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        AugmentationConfig(**fields)


def test_grey_images_have_no_saturation():
    with pytest.raises(UserError, match="images of 1 channels have neither"):
        run(images_of(2), np.arange(2), AugmentationConfig(saturation=0.2))


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

    def call(images, indices):
        return augment(jax.random.key(0), images, indices, config=BOTH, preprocessing=PLAIN)

    plain = call(images, indices)
    assert np.array_equal(pixels(run(images, indices, BOTH)), pixels(plain))
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
