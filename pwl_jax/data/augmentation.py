"""Augmentation on the device, in the step: each example by its own key."""

import dataclasses

import chex
import jax
import jax.numpy as jnp

from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.data.colour import jittered
from pwl_jax.data.resampling import affine_of, crop_window, resampled
from pwl_jax.errors import UserError

BASELINE_PADDING = -1
"""As `crop_padding`: an eighth of the image's size, as the PWL baseline has it. A number and not
None, so that a config keeps its type when a flag overrides it."""

_LARGEST = {
    "rotation": 180,
    "resized_crop": 1,
    "brightness": 1,
    "contrast": 1,
    "saturation": 1,
    "hue": 0.5,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """What is drawn anew for every example and step; done in the order of the attributes.

    Attributes:
      rotation: largest turn in degrees, either way about the centre; what comes in is black.
      resized_crop: smallest share of the image's area that a random-resized-crop keeps, of aspect
        3/4 to 4/3; 0 for no such crop. Rotation and crop are one bilinear sampling.
      flip: mirror left to right with probability 1/2.
      crop_padding: pixels of reflected border from which a crop of the image's size is cut; 0 for
        none, -1 (`BASELINE_PADDING`) for an eighth of the size.
      brightness, contrast, saturation: factors drawn from 1 - value to 1 + value.
      hue: largest turn of the colours, in whole turns, either way; at most 1/2.
    """

    rotation: float = 0.0
    resized_crop: float = 0.0
    flip: bool = False
    crop_padding: int = 0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name, largest in _LARGEST.items():
            if not 0 <= getattr(self, name) <= largest:
                raise UserError(f"{name} is {getattr(self, name)}; expected 0 to {largest}")
        if self.crop_padding < BASELINE_PADDING:
            raise UserError(f"crop_padding is {self.crop_padding}; expected -1, 0 or more pixels")


def augment(
    rng: jax.Array,
    images: jax.Array,
    indices: jax.Array,
    *,
    config: AugmentationConfig,
    preprocessing: Preprocessing,
) -> jax.Array:
    """Augmented and normalised images.

    What happens to an example depends on the key and its index alone, not on its place in the
    batch, so that one device and many agree.

    Args:
      rng: a key, of this step.
      images: uint8[batch, height, width, channels].
      indices: int32[batch], place of each example in the data set.
      config: what to do.
      preprocessing: mean and deviation.

    Returns:
      f32[batch, height, width, channels], (x / 255 - mean) / std.

    Raises:
      UserError: a crop_padding that such images cannot reflect, or saturation or hue where they
        have no three channels.
      AssertionError: arguments of other ranks or types.
    """
    chex.assert_rank([images, indices], [4, 1])
    chex.assert_type(images, jnp.uint8)
    chex.assert_equal_shape_prefix([images, indices], 1)
    keys = jax.vmap(lambda index: jax.random.fold_in(rng, index))(indices)
    height, width = images.shape[1:3]
    eighth = config.crop_padding == BASELINE_PADDING
    vertical = height // 8 if eighth else config.crop_padding
    horizontal = width // 8 if eighth else config.crop_padding
    if vertical >= height or horizontal >= width:
        raise UserError(
            f"crop_padding is {config.crop_padding}; images of {height}x{width} reflect at most "
            f"{min(height, width) - 1} pixels"
        )

    if (config.saturation or config.hue) and images.shape[-1] != 3:
        raise UserError(
            f"saturation is {config.saturation} and hue {config.hue}; images of "
            f"{images.shape[-1]} channels have neither"
        )

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        flip_key, row_key, column_key, turn_key, window_key, colour_key = jax.random.split(key, 6)
        if config.rotation or config.resized_crop:
            window = None
            if config.resized_crop:
                window = crop_window(window_key, height, width, config.resized_crop)
            turn = jax.random.uniform(turn_key, minval=-config.rotation, maxval=config.rotation)
            image = resampled(image, affine_of((height, width), window, turn))
        if config.flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        if vertical or horizontal:
            border = ((vertical, vertical), (horizontal, horizontal), (0, 0))
            padded = jnp.pad(image, border, mode="reflect")
            row = jax.random.randint(row_key, (), 0, 2 * vertical + 1)
            column = jax.random.randint(column_key, (), 0, 2 * horizontal + 1)
            image = jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)
        return _recoloured(colour_key, image, config)

    augmented = jax.vmap(one)(keys, images).astype(jnp.float32) / 255
    mean = jnp.asarray(preprocessing.mean, jnp.float32).reshape(1, 1, 1, -1)
    deviation = jnp.asarray(preprocessing.std, jnp.float32).reshape(1, 1, 1, -1)
    return (augmented - mean) / deviation


def _recoloured(key: jax.Array, image: jax.Array, config: AugmentationConfig) -> jax.Array:
    """The image with drawn brightness, contrast, saturation and hue."""
    spans = (config.brightness, config.contrast, config.saturation, config.hue)
    if not any(spans):
        return image
    draws = jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
    brightness, contrast, saturation, hue = (
        draw * span for draw, span in zip(draws, spans, strict=True)
    )
    return jittered(image.astype(jnp.float32), 1 + brightness, 1 + contrast, 1 + saturation, hue)
