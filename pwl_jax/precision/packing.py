"""Signed codes of 2 to 8 bits, packed without gaps.

Code i takes bits i * bits to (i + 1) * bits - 1 of the stream, least significant bit first; bit j
of the stream is bit j % 8 of byte j // 8. A code is stored plus 2^(bits - 1), as an unsigned
number. Bits after the last code are zero.
"""

import numpy as np

from pwl_jax.precision.errors import PrecisionError

WIDTHS = range(2, 9)
# A multiple of 8, so that every slice of codes ends on a byte.
_SLICE = 1 << 18


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take."""
    return (count * bits + 7) // 8


def pack_bits(codes: np.ndarray, bits: int) -> bytes:
    """Packs int8 codes in -2^(bits-1) .. 2^(bits-1) - 1, in C order.

    Raises:
      PrecisionError: a width other than 2 to 8, or a code that does not fit.
    """
    _check_width(bits)
    half = 1 << (bits - 1)
    flat = np.ascontiguousarray(codes).reshape(-1)
    if flat.size and not (-half <= int(flat.min()) and int(flat.max()) < half):
        raise PrecisionError(f"codes from {flat.min()} to {flat.max()} do not fit in {bits} bits")
    unsigned = (flat.astype(np.int16) + half).astype(np.uint8)
    if bits == 8:
        return unsigned.tobytes()
    if bits in (2, 4):
        per_byte = 8 // bits
        padded = np.zeros(-(-unsigned.size // per_byte) * per_byte, np.uint8)
        padded[: unsigned.size] = unsigned
        packed = padded[0::per_byte].copy()
        for place in range(1, per_byte):
            packed |= padded[place::per_byte] << (place * bits)
        return packed.tobytes()
    pieces = []
    for start in range(0, unsigned.size, _SLICE):
        piece = unsigned[start : start + _SLICE, None]
        spread = np.unpackbits(piece, axis=1, count=bits, bitorder="little")
        pieces.append(np.packbits(spread, bitorder="little").tobytes())
    return b"".join(pieces)


def unpack_bits(data: bytes | memoryview, bits: int, count: int) -> np.ndarray:
    """The int8[count] codes that `pack_bits` packed.

    Raises:
      PrecisionError: a width other than 2 to 8, or data of the wrong size.
    """
    _check_width(bits)
    if len(data) != packed_bytes(count, bits):
        raise PrecisionError(
            f"{count} codes of {bits} bits take {packed_bytes(count, bits)} bytes, not {len(data)}"
        )
    packed = np.frombuffer(data, np.uint8)
    # Flipping the top bit of a byte is adding 128: the offset in one operation.
    if bits == 8:
        return (packed ^ np.uint8(128)).view(np.int8)
    if bits in (2, 4):
        per_byte = 8 // bits
        places = np.empty((packed.size, per_byte), np.int8)
        for place in range(per_byte):
            # Up to the byte's top, then down again with the sign.
            shifted = packed << np.uint8(8 - bits * (place + 1)) if place < per_byte - 1 else packed
            np.right_shift((shifted ^ np.uint8(128)).view(np.int8), 8 - bits, out=places[:, place])
        return places.reshape(-1)[:count]
    codes = np.empty(count, np.int8)
    step = _SLICE * bits // 8
    for start, first in zip(range(0, count, _SLICE), range(0, packed.size, step), strict=True):
        here = min(_SLICE, count - start)
        spread = np.unpackbits(packed[first : first + step], count=here * bits, bitorder="little")
        unsigned = np.packbits(spread.reshape(here, bits), axis=1, bitorder="little")
        codes[start : start + here] = unsigned[:, 0].astype(np.int16) - (1 << (bits - 1))
    return codes


def _check_width(bits: int) -> None:
    if bits not in WIDTHS:
        raise PrecisionError(f"{bits} bits a code; expected 2 to 8")
