"""Tensors as names of types and integer bit patterns; the only place that knows bfloat16.

NumPy has no bfloat16 or float8. Where `ml_dtypes` is installed its types are used; elsewhere such
a tensor is handed out as the unsigned integers of its bit patterns.
"""

import functools
import hashlib
import math
from collections.abc import Sequence

import numpy as np

from pwl_jax.precision.errors import PrecisionError

FLOATS = ("float64", "float32", "float16", "bfloat16")
_ALIGNMENT = 64
_EXTENSIONS = {"bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
_NATIVE = (
    "bool",
    *(f"{sign}int{width}" for sign in ("", "u") for width in (8, 16, 32, 64)),
    *(name for name in FLOATS if name not in _EXTENSIONS),
)
ITEM_BYTES = {name: np.dtype(name).itemsize for name in _NATIVE} | _EXTENSIONS


def dtype_name(array: np.ndarray) -> str:
    """The name under which an array's type is stored; byte order plays no part."""
    name = array.dtype.name
    if name not in ITEM_BYTES:
        raise PrecisionError(f"no tensor can be {name}; expected one of {', '.join(ITEM_BYTES)}")
    return name


def item_bytes(dtype: str) -> int:
    """Bytes of one element.

    Raises:
      PrecisionError: an unknown type.
    """
    if dtype not in ITEM_BYTES:
        raise PrecisionError(f"unknown type '{dtype}'; expected one of {', '.join(ITEM_BYTES)}")
    return ITEM_BYTES[dtype]


def byte_count(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a whole tensor."""
    return item_bytes(dtype) * math.prod(shape)


def numpy_dtype(dtype: str) -> np.dtype:
    """The NumPy type; unsigned integers for an extension type where `ml_dtypes` is missing."""
    if dtype not in _EXTENSIONS:
        return np.dtype(dtype).newbyteorder("<")
    try:
        import ml_dtypes
    except ImportError:
        return pattern_dtype(dtype)
    return np.dtype(getattr(ml_dtypes, dtype))


@functools.cache
def pattern_dtype(dtype: str) -> np.dtype:
    """The little-endian unsigned integer as wide as one element."""
    return np.dtype(f"<u{item_bytes(dtype)}")


def patterns_of(array: np.ndarray) -> np.ndarray:
    """Bit patterns, u8/u16/u32/u64[size] in C order; a view where the array allows it."""
    dtype = dtype_name(array)
    flat = np.ascontiguousarray(array).reshape(-1)
    if dtype not in _EXTENSIONS:
        flat = flat.astype(numpy_dtype(dtype), copy=False)
    return flat.view(pattern_dtype(dtype))


def aligned_empty(size: int, dtype: np.dtype) -> np.ndarray:
    """As `np.empty`, [size], at an address from which XLA can compute on a CPU without a copy."""
    held = np.empty(size * dtype.itemsize + _ALIGNMENT, np.uint8)
    start = -held.ctypes.data % _ALIGNMENT
    return held[start : start + size * dtype.itemsize].view(dtype)


def array_of(patterns: np.ndarray, dtype: str, shape: Sequence[int]) -> np.ndarray:
    """The array that has these bit patterns; it shares their memory."""
    return patterns.view(numpy_dtype(dtype)).reshape(tuple(shape))


def tensor_sha256(array: np.ndarray) -> str:
    """SHA-256 of the elements, little-endian, in C order."""
    return hashlib.sha256(patterns_of(array).data).hexdigest()


def cast_patterns(values: np.ndarray, dtype: str) -> np.ndarray:
    """Finite f32 values rounded to nearest even in a float type, as bit patterns of that type.

    The rounding to bfloat16 is done on integers, so it needs no other package and gives the same
    bits everywhere.
    """
    flat = values.reshape(-1)
    if dtype == "bfloat16":
        wide = flat.view("<u4")
        wide = wide + ((wide >> 16) & 1) + np.uint32(0x7FFF)
        return (wide >> 16).astype("<u2")
    with np.errstate(over="ignore", under="ignore"):
        return flat.astype(numpy_dtype(dtype), copy=False).view(pattern_dtype(dtype))


def float_values(array: np.ndarray) -> np.ndarray:
    """A float tensor as f32; values beyond its range become infinite."""
    if array.dtype.name == "bfloat16":
        return (patterns_of(array).astype("<u4") << 16).view("<f4").reshape(array.shape)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return array.astype(np.float32, copy=False)
