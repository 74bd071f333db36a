"""From the cell of a code to the float in it, exactly.

All arithmetic is on the two highest bytes of a float, its top word: sign, exponent and the first
bits of the mantissa. What a code says of a float, it says of these; the bytes below are noise and
are sent as they are. The difference is taken to the edge of the cell that is nearer to zero, so
that it counts floats from there on: a small number, spread evenly over the cell's width. How wide
a cell is follows from its code, so that differences are sorted by the code's class, and each class
has an entropy code of its own. Differences are modulo 2^16: whatever lies outside of its cell (NaN
payloads, infinities, clipped values) is merely dearer.

Parts of a slice, of which a difference's bits 0 to 3 are its low nibble, 4 to 7 its high one:

1. with `zeros`, a bit for each code 0, set where the float is not +0; floats that are +0 are in
   none of the parts below
2. high nibbles, sorted by class, those of a class in C order; two neighbours a byte
3. bits 8 to 15, in the order of 2
4. low nibbles in C order, packed
5. byte planes of what is below the top words, from the lowest on, in C order
"""

from collections.abc import Sequence

import numpy as np

from pwl_jax.precision import codec, planes
from pwl_jax.precision.codes import SliceCodes
from pwl_jax.precision.packing import (
    pack,
    pack_neighbours,
    packed_bytes,
    unpack,
    unpack_neighbours,
)
from pwl_jax.precision.payload import Part, PartReader

_LEAST_PIECE = 1 << 11
"""Fewer elements share an entropy code with the class beside theirs."""


def encode_slice(patterns: np.ndarray, codes: SliceCodes, dtype: str, zeros: bool) -> list[Part]:
    """The parts of one slice.

    Args:
      patterns: bit patterns of floats, u16, u32 or u64, [n].
      codes: of these floats.
      dtype: name of their type.
      zeros: whether +0 is told by a bit.
    """
    differences = _words(patterns)[:, -1] - top_words(codes.edges(), dtype)
    classes = codes.classes()
    parts: list[Part] = []
    if zeros:
        present = (classes != 0) | (patterns != 0)
        parts.append(planes.bits_part(present[classes == 0]))
        patterns, differences, classes = patterns[present], differences[present], classes[present]
    by_class = differences[classes.argsort(kind="stable")]
    nibbles = pack_neighbours((by_class >> 4).astype(np.uint8) & 15)
    parts.append(codec.encode_noise(_pieces(nibbles, [end // 2 for end in _piece_ends(classes)])))
    nearest = classes.size - int(np.count_nonzero(classes))
    parts.append(codec.encode_noise(_pieces((by_class >> 8).astype(np.uint8), [nearest])))
    parts.append(codec.encode_noise([pack(differences.astype(np.uint8) & 15, 4)]))
    rest = planes.columns(patterns)[:, : patterns.itemsize - 2]
    return parts + [codec.encode_noise([plane.tobytes()]) for plane in rest.T]


def decode_slice(
    reader: PartReader, codes: SliceCodes, dtype: str, zeros: bool, out: np.ndarray
) -> None:
    """Fills `out` with bit patterns from the next parts; inverse of `encode_slice`."""
    classes, present = codes.classes(), None
    if zeros:
        present = classes != 0
        nearest = np.flatnonzero(~present)
        present[nearest] = planes.read_bits(reader, nearest.size)
        classes = classes[present]
    lower, order, upper = _read_differences(reader, classes)
    del classes
    tops = top_words(codes.edges(), dtype)
    if present is not None:
        tops = tops[present]
    # NumPy is twice as fast in a view of one axis.
    upper_bytes = planes.columns(tops)[:, 1]
    upper_bytes[order] += upper
    if present is None:
        _join(reader, tops, lower, out)
        return
    kept = np.empty(tops.size, out.dtype)
    _join(reader, tops, lower, kept)
    out[:] = 0
    out[present] = kept


def _read_differences(
    reader: PartReader, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Their lower bytes, u8[n]; and where upper ones are not 0, the places and these.

    The classes' memory is used for the lower bytes.
    """
    count, half = classes.size, packed_bytes(classes.size, 4)
    nibbles = unpack_neighbours(reader.next(half), count)
    upper = np.frombuffer(reader.next(count), np.uint8)
    nearest = count - int(np.count_nonzero(classes))
    # Beyond class 0 there are few.
    far = nearest + np.flatnonzero(upper[nearest:] != 0)
    upper = np.concatenate([upper[:nearest], upper[far]])
    order = classes.argsort(kind="stable")
    lower = classes
    lower[order] = nibbles
    del nibbles
    order = np.concatenate([order[:nearest], order[far]])
    lower |= unpack(reader.next(half), 4, count)
    return lower, order, upper


def _join(reader: PartReader, tops: np.ndarray, lower: np.ndarray, out: np.ndarray) -> None:
    """Fills `out` with patterns from their top words, to which the lower bytes of differences are
    added, and from the next parts, the bytes below.
    """
    below = out.itemsize - 2
    np.add(tops, lower, out=out)
    if below:
        out <<= 8 * below
    for index in range(below):
        plane = np.frombuffer(reader.next(out.size), np.uint8).astype(out.dtype)
        plane <<= 8 * index
        out |= plane


def _pieces(by_class: np.ndarray, ends: Sequence[int]) -> list[bytes]:
    """Cut at these places."""
    return [piece.tobytes() for piece in np.split(by_class, ends)]


def _piece_ends(classes: np.ndarray) -> list[int]:
    """Where an entropy code ends in what is sorted by class: where a class does, unless it leaves
    a piece that is too small for a code of its own.
    """
    ends: list[int] = []
    for end in np.cumsum(np.bincount(classes)).tolist():
        start = ends[-1] if ends else 0
        if min(end - start, classes.size - end) >= _LEAST_PIECE:
            ends.append(end)
    return ends


def _words(patterns: np.ndarray) -> np.ndarray:
    """u16[n, words], lowest first; a view."""
    return patterns.view("<u2").reshape(patterns.size, patterns.itemsize // 2)


def top_words(values: np.ndarray, dtype: str) -> np.ndarray:
    """The two highest bytes of f32 values in a type, u16[n], contiguous; the values are used up."""
    if dtype in ("float32", "bfloat16"):
        patterns = values.view("<u4")
        patterns >>= 16
        return patterns.astype("<u2")
    with np.errstate(over="ignore"):
        typed = values.astype({"float16": "<f2", "float64": "<f8"}[dtype])
    return _words(typed)[:, -1].copy()
