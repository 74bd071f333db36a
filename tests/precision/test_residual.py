import numpy as np
import pytest

from pwl_jax.precision import residual
from pwl_jax.precision.dtypes import patterns_of


def test_neighbours_are_one_step_apart_across_zero_and_powers_of_two():
    """What makes residuals small: the order of patterns is the order of values."""
    values = np.array([-1.0000001, -0.5, -1e-45, -0.0, 0.0, 1e-45, 0.99999994, 3.0], np.float32)
    above = np.nextafter(values, np.float32(np.inf))
    steps = residual.residual(patterns_of(above), patterns_of(values))
    # Zigzag: +1 is 2. -1e-45 goes to -0 and to +0 next, so from -0 the first positive is two away.
    expected = np.where(values == 0, np.where(np.signbit(values), 4, 2), 2)
    np.testing.assert_array_equal(steps, expected)
    back = residual.residual(patterns_of(values), patterns_of(above))
    np.testing.assert_array_equal(back, expected - 1)


@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<u8"])
def test_any_pattern_is_reached_from_any_other(dtype):
    rng = np.random.default_rng(0)
    width = np.dtype(dtype).itemsize
    top = 1 << (8 * width - 1)
    edges = np.array([0, 1, top - 1, top, top + 1, 2 * top - 1], dtype)
    noise = np.frombuffer(rng.bytes(200 * width), dtype)
    original = np.concatenate([np.repeat(edges, len(edges)), noise])
    other = np.concatenate([np.tile(edges, len(edges)), noise[::-1]])
    steps = residual.residual(original, other)
    np.testing.assert_array_equal(residual.restored(steps, other), original, strict=True)
    turned = residual.exponent_first(original)
    np.testing.assert_array_equal(residual.sign_first(turned), original, strict=True)
    planes = residual.byte_planes(original)
    assert [plane[3] for plane in planes] == list(original[3:4].tobytes())
    restored = residual.from_planes(planes, np.dtype(dtype))
    np.testing.assert_array_equal(restored, original, strict=True)


def test_small_code_differences_are_small_numbers():
    differences = np.array([0, -1, 1, -2, 32767, -32768], np.int16)
    coded = residual.zigzag(differences)
    assert coded.tolist() == [0, 1, 2, 3, 65534, 65535]
    np.testing.assert_array_equal(residual.unzigzag(coded), differences, strict=True)
