"""Unsigned integers as byte planes, slice by slice.

Each slice becomes one part a byte of the type: byte 0 (the lowest) of all values, then byte 1, and
so on. Where a tensor has many zeros, a part with a bit a value comes first, lowest bit first, set
where the value is not zero; the planes then hold those values only.
"""

from collections.abc import Iterator

import numpy as np

from pwl_jax.precision import codec
from pwl_jax.precision.payload import Part, PartReader

_LEAST_SLICE, _MOST_SLICE = 1 << 15, 1 << 17


def slices(count: int) -> Iterator[slice]:
    """The slices of so many values; the last one may be shorter.

    Small tensors have smaller ones, so that decoding takes little memory beside the tensor.
    """
    size = _MOST_SLICE
    while size > _LEAST_SLICE and 2 * size > count:
        size //= 2
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def has_many_zeros(values: np.ndarray) -> bool:
    """Whether a bit a value costs less than coding the zeros; flat unsigned integers."""
    return are_many_zeros(values.size - int(np.count_nonzero(values)), values)


def are_many_zeros(zeros: int, values: np.ndarray) -> bool:
    """The same of so many zeros among values of this number and type."""
    return zeros * values.itemsize * 4 > values.size


def encode_slice(values: np.ndarray, zeros: bool) -> list[Part]:
    """The parts of one slice of unsigned integers, [n]; `zeros`: with a part of bits first."""
    parts = []
    if zeros:
        kept = values != 0
        parts.append(bits_part(kept))
        values = values[kept]
    return parts + [codec.encode(plane.tobytes()) for plane in columns(values).T]


def decode_slice(reader: PartReader, zeros: bool, out: np.ndarray) -> None:
    """Fills `out`, unsigned integers [n], from the next parts; inverse of `encode_slice`."""
    if not zeros:
        for plane in columns(out).T:
            plane[:] = np.frombuffer(reader.next(out.size), np.uint8)
        return
    kept = read_bits(reader, out.size)
    values = np.empty(np.count_nonzero(kept), out.dtype)
    decode_slice(reader, False, values)
    out[:] = 0
    out[kept] = values


def bits_part(flags: np.ndarray) -> Part:
    """Booleans, [n], as a part of ceil(n / 8) bytes, lowest bit first."""
    return codec.encode(np.packbits(flags, bitorder="little").tobytes())


def read_bits(reader: PartReader, count: int) -> np.ndarray:
    """Inverse of `bits_part`: bool[count]."""
    packed = np.frombuffer(reader.next((count + 7) // 8), np.uint8)
    return np.unpackbits(packed, count=count, bitorder="little").view(bool)


def columns(values: np.ndarray) -> np.ndarray:
    """The bytes of contiguous integers, u8[n, bytes], lowest first; a view."""
    return values.view(np.uint8).reshape(values.size, values.itemsize)


def exponent_first(patterns: np.ndarray) -> np.ndarray:
    """Float patterns turned left by one bit: the sign leaves the exponent's byte."""
    return (patterns << 1) | (patterns >> (8 * patterns.itemsize - 1))


def sign_first(patterns: np.ndarray) -> np.ndarray:
    """Inverse of `exponent_first`."""
    return (patterns >> 1) | (patterns << (8 * patterns.itemsize - 1))


def ordered(patterns: np.ndarray) -> np.ndarray:
    """Float patterns in the order of their values: sign and magnitude to two's complement.

    Its own inverse.
    """
    mask = _signs(patterns)
    mask >>= 1
    mask ^= patterns
    return mask


def zigzag(values: np.ndarray) -> np.ndarray:
    """Differences modulo 2^width, as unsigned integers: 0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
    coded = _signs(values)
    coded ^= values << 1
    return coded


def unzigzag(coded: np.ndarray) -> np.ndarray:
    """Inverse of `zigzag`."""
    values = coded & 1
    np.negative(values, out=values)
    values ^= coded >> 1
    return values


def _signs(patterns: np.ndarray) -> np.ndarray:
    """All bits set where the top bit is, none elsewhere."""
    signed = patterns.view(f"<i{patterns.itemsize}")
    return (signed >> (8 * patterns.itemsize - 1)).view(patterns.dtype)
