import hashlib
import sys

import ml_dtypes
import numpy as np
import pytest

from pwl_jax.precision import PrecisionError, decode_tensor, encode_tensor, tensor_sha256
from pwl_jax.precision.dtypes import (
    aligned_empty,
    cast_patterns,
    dtype_name,
    float_values,
    patterns_of,
)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_rounds_to_nearest_even(dtype):
    """All ties between neighbouring bfloat16 and float16 values are among these."""
    rng = np.random.default_rng(0)
    ties = (np.arange(0x3800, 0x4800, dtype=np.uint32) << 16) | 0x8000
    half = np.arange(0x38000000, 0x48000000, 0x00401000, dtype=np.uint32)
    values = np.concatenate([ties, ties + 1, ties - 1, half]).view(np.float32)
    values = np.concatenate([values, -values, rng.normal(size=999).astype(np.float32)])
    with np.errstate(over="ignore"):
        expected = values.astype(getattr(ml_dtypes, dtype, dtype))
    np.testing.assert_array_equal(cast_patterns(values, dtype), patterns_of(expected), strict=True)


def test_bfloat16_widens_exactly():
    every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    finite = every[np.isfinite(every.astype(np.float32))]
    np.testing.assert_array_equal(float_values(finite), finite.astype(np.float32), strict=True)


def test_hash_is_of_little_endian_bytes_in_c_order():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = hashlib.sha256(array.astype("<f4").tobytes()).hexdigest()
    for same in (array, array.astype(">f4"), np.asfortranarray(array), array[::-1][::-1]):
        assert tensor_sha256(same) == expected
    assert tensor_sha256(np.zeros((0, 3))) == hashlib.sha256(b"").hexdigest()


def test_without_ml_dtypes_bit_patterns_stand_for_bfloat16(monkeypatch):
    array = np.random.default_rng(0).normal(size=(16, 4)).astype(ml_dtypes.bfloat16)
    payloads = encode_tensor(array, (4, "exact"))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    decoded = decode_tensor(payloads)
    np.testing.assert_array_equal(decoded, array.view(np.uint16), strict=True)


@pytest.mark.parametrize("array", [np.zeros(2, complex), np.array(["a"]), np.array([None])])
def test_other_types_are_refused(array):
    with pytest.raises(PrecisionError, match="no tensor can be"):
        dtype_name(array)


@pytest.mark.parametrize("dtype", ["u1", "<u4", "<u8"])
def test_aligned_arrays_begin_where_xla_takes_them(dtype):
    for size in (1, 7, 1000):
        found = aligned_empty(size, np.dtype(dtype))
        assert (found.shape, found.dtype) == ((size,), np.dtype(dtype))
        assert found.ctypes.data % 64 == 0 and found.flags.writeable
    assert aligned_empty(0, np.dtype(dtype)).shape == (0,)
