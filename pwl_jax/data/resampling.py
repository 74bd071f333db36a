"""Rotation and random-resized-crop as one affine map, sampled once, bilinearly."""

import jax
import jax.numpy as jnp


def crop_window(
    key: jax.Array, height: int, width: int, smallest: float
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """A random-resized-crop's window: `top, left, height, width`, f32 scalars, in pixels.

    Its share of the image's area is even over [smallest, 1], the logarithm of its aspect over
    [log 3/4, log 4/3] (Szegedy et al., arXiv 1409.4842). A side longer than the image's is cut to
    it. The window's place is even over all that lie inside, and need not fall on whole pixels.

    Args:
      key: of this draw.
      height, width: of the image.
      smallest: above 0, up to 1.
    """
    area_key, aspect_key, top_key, left_key = jax.random.split(key, 4)
    area = jax.random.uniform(area_key, minval=smallest, maxval=1.0) * height * width
    limit = jnp.log(4 / 3)
    aspect = jnp.exp(jax.random.uniform(aspect_key, minval=-limit, maxval=limit))
    tall = jnp.minimum(jnp.sqrt(area / aspect), float(height))
    wide = jnp.minimum(jnp.sqrt(area * aspect), float(width))
    top = jax.random.uniform(top_key) * (height - tall)
    left = jax.random.uniform(left_key) * (width - wide)
    return top, left, tall, wide


def affine_of(
    shape: tuple[int, int],
    window: tuple[jax.Array, jax.Array, jax.Array, jax.Array] | None,
    degrees: jax.Array | float,
) -> jax.Array:
    """Where each point of the result lies in the image: f32[2, 3], (row, column, 1) to there.

    Coordinates count pixels from the image's upper left corner, so that the first pixel's centre
    is at (1/2, 1/2). The image is turned about its centre, then the window is cut from it and
    stretched to the image's size.

    Args:
      shape: height and width.
      window: from `crop_window`; None for the whole image.
      degrees: counter-clockwise turn of the picture.
    """
    height, width = shape
    top, left, tall, wide = window or (0.0, 0.0, float(height), float(width))
    scale_row, scale_column = tall / height, wide / width
    angle = jnp.deg2rad(degrees)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    # From the result into the window, from there, about the centre, back by the angle.
    row, column = top - height / 2, left - width / 2
    return jnp.array(
        [
            [cosine * scale_row, sine * scale_column, cosine * row + sine * column + height / 2],
            [-sine * scale_row, cosine * scale_column, cosine * column - sine * row + width / 2],
        ],
        jnp.float32,
    )


def resampled(image: jax.Array, affine: jax.Array) -> jax.Array:
    """The image under an affine map, bilinear between the centres of pixels.

    The image covers [0, height] x [0, width]; what lies outside is black, and within half a pixel
    of its border its outermost pixels go on (the rule of Pillow's `Image.transform`).

    Args:
      image: [height, width, channels].
      affine: f32[2, 3] from `affine_of`.

    Returns:
      f32[height, width, channels].
    """
    height, width = image.shape[:2]
    rows, columns = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    row, column = (a[0] * rows + a[1] * columns + a[2] for a in affine)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row, column = row - 0.5, column - 0.5
    up, left = jnp.floor(row), jnp.floor(column)
    down_weight, right_weight = (row - up)[..., None], (column - left)[..., None]

    def pixels(row: jax.Array, column: jax.Array) -> jax.Array:
        row = jnp.clip(row.astype(jnp.int32), 0, height - 1)
        column = jnp.clip(column.astype(jnp.int32), 0, width - 1)
        return image[row, column].astype(jnp.float32)

    upper = pixels(up, left) * (1 - right_weight) + pixels(up, left + 1) * right_weight
    lower = pixels(up + 1, left) * (1 - right_weight) + pixels(up + 1, left + 1) * right_weight
    return jnp.where(inside[..., None], upper * (1 - down_weight) + lower * down_weight, 0.0)
