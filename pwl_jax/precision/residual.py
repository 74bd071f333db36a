"""Integer bit patterns, exactly: differences to an approximation, and planes of bytes.

Floats are mapped to integers in the order of their values, so that patterns of close values are
close, across zero and powers of two alike; NaN payloads, infinities, -0 and subnormals are
patterns like any other. All arithmetic is modulo 2^width, so every step has an exact inverse.
"""

from collections.abc import Sequence

import numpy as np


def residual(original: np.ndarray, approximation: np.ndarray) -> np.ndarray:
    """Small unsigned integers that lead from the approximation's bit patterns to the original's.

    Args:
      original, approximation: bit patterns of floats, u16/u32/u64[size].

    Returns:
      Differences, zigzag coded: 0, -1, 1, -2, ... as 0, 1, 2, 3, ...; of the same type.
    """
    difference = _ordered(original)
    difference -= _ordered(approximation)
    return _zigzag(difference)


def restored(differences: np.ndarray, approximation: np.ndarray) -> np.ndarray:
    """The original's bit patterns; inverse of `residual`."""
    patterns = _unzigzag(differences)
    patterns += _ordered(approximation)
    return _ordered(patterns)


def exponent_first(patterns: np.ndarray) -> np.ndarray:
    """Float patterns turned left by one bit: the sign leaves the exponent's byte."""
    return (patterns << 1) | (patterns >> (8 * patterns.itemsize - 1))


def sign_first(patterns: np.ndarray) -> np.ndarray:
    """Inverse of `exponent_first`."""
    return (patterns >> 1) | (patterns << (8 * patterns.itemsize - 1))


def byte_planes(values: np.ndarray) -> list[bytes]:
    """Byte 0 (the lowest) of all values, then byte 1, and so on."""
    columns = values.view(np.uint8).reshape(values.size, values.itemsize)
    return [columns[:, plane].tobytes() for plane in range(values.itemsize)]


def from_planes(planes: Sequence[bytes | memoryview], dtype: np.dtype) -> np.ndarray:
    """Unsigned integers from their byte planes, all of one length; inverse of `byte_planes`."""
    columns = np.empty((len(planes[0]), dtype.itemsize), np.uint8)
    for place, plane in enumerate(planes):
        columns[:, place] = np.frombuffer(plane, np.uint8)
    return columns.reshape(-1).view(dtype)


def zigzag(values: np.ndarray) -> np.ndarray:
    """int16 as u16, small magnitudes first."""
    return _zigzag(values.view("<u2"))


def unzigzag(values: np.ndarray) -> np.ndarray:
    """Inverse of `zigzag`."""
    return _unzigzag(values).view("<i2")


def _signs(patterns: np.ndarray) -> np.ndarray:
    """All bits set where the top bit is, none elsewhere."""
    signed = patterns.view(f"<i{patterns.itemsize}")
    return (signed >> (8 * patterns.itemsize - 1)).view(patterns.dtype)


def _ordered(patterns: np.ndarray) -> np.ndarray:
    """Sign and magnitude to two's complement; its own inverse."""
    mask = _signs(patterns)
    mask >>= 1
    mask ^= patterns
    return mask


def _zigzag(values: np.ndarray) -> np.ndarray:
    coded = _signs(values)
    coded ^= values << 1
    return coded


def _unzigzag(coded: np.ndarray) -> np.ndarray:
    values = coded & 1
    np.negative(values, out=values)
    values ^= coded >> 1
    return values
