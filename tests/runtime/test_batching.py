import numpy as np
import pytest

from pwl_jax.runtime import bucket, padded_batches


@pytest.mark.parametrize(
    ("size", "expected"), [(1, 1), (2, 2), (3, 4), (17, 32), (40, 48), (48, 48)]
)
def test_bucket(size, expected):
    assert bucket(size, 48) == expected


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 20])
def test_pieces_hold_all_images_in_order_and_have_few_shapes(size):
    images = np.arange(size, dtype=np.float32).reshape(size, 1, 1, 1)
    pieces = list(padded_batches(images, 8))
    real = np.concatenate([piece[:count] for piece, count in pieces])
    np.testing.assert_array_equal(real, images)
    assert {len(piece) for piece, _ in pieces} <= {1, 2, 4, 8}
    last, count = pieces[-1]
    np.testing.assert_array_equal(last[count:], np.full_like(last[count:], size - 1))


def test_exact_pieces_are_not_padded():
    images = np.zeros((11, 2, 2, 1), np.float32)
    assert [len(piece) for piece, _ in padded_batches(images, 8, exact=True)] == [8, 3]
