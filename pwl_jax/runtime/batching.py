"""How requests of any size are cut and padded to a few batch shapes.

Each batch shape costs one compilation per block, so sizes are rounded up to powers of two. Logits
of one image are equal bit for bit between two calls only if both ran in the same batch shape.
"""

from collections.abc import Iterator

import numpy as np

LARGEST_BATCH = 64


def bucket(size: int, largest: int) -> int:
    """The batch size that `size` examples are padded to: a power of two, or `largest`.

    >>> [bucket(size, 64) for size in (1, 3, 8, 33, 64)]
    [1, 4, 8, 64, 64]
    """
    return min(1 << (size - 1).bit_length(), largest)


def padded_batches(
    images: np.ndarray, largest: int, *, exact: bool = False
) -> Iterator[tuple[np.ndarray, int]]:
    """Cuts f32[batch, ...] into pieces of at most `largest` and pads each to its bucket.

    Padding repeats the last image: zeros could leave the range of numbers a network was made for.

    Args:
      images: at least one image.
      largest: examples in a piece at most.
      exact: leave each piece at its own size instead of padding it.

    Yields:
      (piece, how many of its examples are real).
    """
    for start in range(0, len(images), largest):
        piece = images[start : start + largest]
        count = len(piece)
        missing = 0 if exact else bucket(count, largest) - count
        if missing:
            piece = np.concatenate([piece, np.repeat(piece[-1:], missing, axis=0)])
        yield np.ascontiguousarray(piece), count
