"""Augmentation on the device: flip and reflect-padded crop, each example by its own key."""

import dataclasses

import chex
import jax
import jax.numpy as jnp

from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.errors import UserError

BASELINE_PADDING = -1
"""As `crop_padding`: an eighth of the image's size, as the PWL baseline has it. A number and not
None, so that a config keeps its type when a flag overrides it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """What is drawn anew for every example and step.

    Attributes:
      flip: mirror left to right with probability 1/2.
      crop_padding: pixels of reflected border from which a crop of the image's size is cut; 0 for
        none, -1 (`BASELINE_PADDING`) for an eighth of the size.
    """

    flip: bool = False
    crop_padding: int = 0

    def __post_init__(self) -> None:
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
      UserError: a crop_padding that such images cannot reflect.
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

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        flip_key, row_key, column_key = jax.random.split(key, 3)
        if config.flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        if vertical or horizontal:
            border = ((vertical, vertical), (horizontal, horizontal), (0, 0))
            padded = jnp.pad(image, border, mode="reflect")
            row = jax.random.randint(row_key, (), 0, 2 * vertical + 1)
            column = jax.random.randint(column_key, (), 0, 2 * horizontal + 1)
            image = jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)
        return image

    augmented = jax.vmap(one)(keys, images).astype(jnp.float32) / 255
    mean = jnp.asarray(preprocessing.mean, jnp.float32).reshape(1, 1, 1, -1)
    deviation = jnp.asarray(preprocessing.std, jnp.float32).reshape(1, 1, 1, -1)
    return (augmented - mean) / deviation
