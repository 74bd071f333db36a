"""Small unsigned numbers without gaps between them.

Numbers of 1, 2, 4 or 8 bits share bytes in runs: of n numbers of f bits, byte j holds numbers j,
j + m, j + 2m, ... from its lowest bits up, where m = ceil(n f / 8) is the number of bytes. What is
missing in the last run is zero. So packing is a few operations on whole runs.

Codes of 2 to 8 bits are cut into fields of these widths, the highest bits first: 7 bits are 4, 2
and 1. An entropy coder finds in the first field nearly all that there is to be found.
"""

from collections.abc import Sequence

import numpy as np

from pwl_jax.precision.errors import PrecisionError

WIDTHS = range(2, 9)


def fields(bits: int) -> tuple[int, ...]:
    """Widths of the fields of a code, the highest first; their sum is `bits`.

    Raises:
      PrecisionError: a width other than 2 to 8.
    """
    if bits not in WIDTHS:
        raise PrecisionError(f"{bits} bits a code; expected 2 to 8")
    return tuple(width for width in (8, 4, 2, 1) if bits & width)


def packed_bytes(count: int, width: int) -> int:
    """Bytes that `count` numbers of 1, 2, 4 or 8 bits take."""
    return -(-count * width // 8)


def pack(numbers: np.ndarray, width: int) -> bytes:
    """Packs u8[n] below 2^width; width 1, 2, 4 or 8."""
    if width == 8:
        return numbers.tobytes()
    size, runs = packed_bytes(numbers.size, width), 8 // width
    padded = np.zeros((runs, size), np.uint8)
    padded.reshape(-1)[: numbers.size] = numbers
    packed = padded[0]
    for run in range(1, runs):
        packed |= padded[run] << (run * width)
    return packed.tobytes()


def unpack(data: bytes | memoryview, width: int, count: int) -> np.ndarray:
    """The u8[count] that `pack` packed; of 8 bits, a view that may be read-only."""
    packed = np.frombuffer(data, np.uint8)
    if width == 8:
        return packed
    runs = 8 // width
    numbers = np.empty((runs, packed.size), np.uint8)
    for run in range(runs):
        np.right_shift(packed, run * width, out=numbers[run])
    # The highest run has no bits of others above its own.
    numbers[:-1] &= (1 << width) - 1
    return numbers.reshape(-1)[:count]


def pack_neighbours(numbers: np.ndarray) -> np.ndarray:
    """u8[n] below 16, two neighbours a byte, the first in its lower half."""
    padded = np.zeros(2 * packed_bytes(numbers.size, 4), np.uint8)
    padded[: numbers.size] = numbers
    return padded[::2] | padded[1::2] << 4


def unpack_neighbours(data: bytes | memoryview, count: int) -> np.ndarray:
    """The numbers that `pack_neighbours` packed, each times 16: u8[count]."""
    wide = np.frombuffer(data, np.uint8).astype("<u2")
    wide |= wide << 4
    wide <<= 4
    wide &= 0xF0F0
    return wide.view(np.uint8)[:count]


def split(codes: np.ndarray, bits: int) -> list[bytes]:
    """The packed fields of codes, u8[n].

    Raises:
      PrecisionError: a width other than 2 to 8, or a code that does not fit.
    """
    widths = fields(bits)
    if codes.size and int(codes.max()) >> bits:
        raise PrecisionError(f"code {codes.max()} does not fit in {bits} bits")
    packed, below = [], bits
    for width in widths:
        below -= width
        packed.append(pack((codes >> below) & ((1 << width) - 1), width))
    return packed


def join(packed: Sequence[bytes | memoryview], bits: int, count: int) -> np.ndarray:
    """The u8[count] codes whose fields these are; inverse of `split`."""
    widths = fields(bits)
    codes = unpack(packed[0], widths[0], count)
    for width, data in zip(widths[1:], packed[1:], strict=True):
        codes <<= width
        codes |= unpack(data, width, count)
    return codes
