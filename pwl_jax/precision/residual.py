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
2. high nibbles, class by class, each class in C order and packed by itself
3. bits 8 to 15, class by class, each in C order
4. low nibbles in C order, packed
5. byte planes of what is below the top words, from the lowest on, in C order
"""

import numpy as np

from pwl_jax.precision import codec, planes
from pwl_jax.precision.codes import SliceCodes
from pwl_jax.precision.packing import pack, packed_bytes, unpack
from pwl_jax.precision.payload import Part, PartReader


def encode_slice(patterns: np.ndarray, codes: SliceCodes, dtype: str, zeros: bool) -> list[Part]:
    """The parts of one slice.

    Args:
      patterns: bit patterns of floats, u16, u32 or u64, [n].
      codes: of these floats.
      dtype: name of their type.
      zeros: whether +0 is told by a bit.
    """
    differences = _words(patterns)[:, -1] - top_words(codes.edges(), dtype)
    places = [np.flatnonzero(members) for members in codes.classes()]
    parts: list[Part] = []
    rest = planes.columns(patterns)[:, : patterns.itemsize - 2]
    low = differences.astype(np.uint8) & 15
    if zeros:
        kept = patterns[places[0]] != 0
        parts.append(planes.bits_part(kept))
        places[0] = places[0][kept]
        present = np.sort(np.concatenate(places))
        rest, low = rest[present], low[present]
    by_class = [differences[place] for place in places]
    nibbles = [pack((here >> 4).astype(np.uint8) & 15, 4) for here in by_class]
    highest = [(here >> 8).astype(np.uint8).tobytes() for here in by_class]
    parts += [codec.encode_noise(nibbles), codec.encode_noise(highest)]
    parts.append(codec.encode_noise([pack(low, 4)]))
    return parts + [codec.encode_noise([plane.tobytes()]) for plane in rest.T]


def decode_slice(
    reader: PartReader, codes: SliceCodes, dtype: str, zeros: bool, out: np.ndarray
) -> None:
    """Fills `out` with bit patterns from the next parts; inverse of `encode_slice`."""
    # Wide arrays are made one after the other, so that a slice takes little memory.
    edges = top_words(codes.take_edges(), dtype)
    counts = [int(np.count_nonzero(members)) for members in codes.classes()]
    kept = planes.read_bits(reader, counts[0]) if zeros else None
    if kept is not None:
        counts[0] = int(np.count_nonzero(kept))
    nibbles = memoryview(reader.next(sum(packed_bytes(count, 4) for count in counts)))
    count = sum(counts)
    highest = np.frombuffer(reader.next(count), np.uint8)
    tops = _words(out)[:, -1]
    differences = tops if tops.flags.contiguous else np.empty(out.size, "<u2")
    dropped = None
    start = at = 0
    for index, (members, size) in enumerate(zip(codes.classes(), counts, strict=True)):
        place = np.flatnonzero(members)
        if index == 0 and kept is not None:
            dropped, place = place[~kept], place[kept]
        packed = packed_bytes(size, 4)
        difference = unpack(nibbles[at : at + packed], 4, size).astype("<u2")
        difference <<= 4
        high = highest[start : start + size]
        if high.any():
            difference |= high.astype("<u2") << 8
        differences[place] = difference
        start += size
        at += packed
    low = unpack(reader.next(packed_bytes(count, 4)), 4, count)
    rest = planes.columns(out)[:, : out.itemsize - 2].T
    if dropped is None:
        differences |= low
        for plane in rest:
            plane[:] = np.frombuffer(reader.next(count), np.uint8)
        np.add(differences, edges, out=tops)
        return
    present = np.ones(out.size, bool)
    present[dropped] = False
    differences[present] |= low
    np.add(differences, edges, out=tops)
    for plane in rest:
        plane[present] = np.frombuffer(reader.next(count), np.uint8)
    out[dropped] = 0


def _words(patterns: np.ndarray) -> np.ndarray:
    """u16[n, words], lowest first; a view."""
    return patterns.view("<u2").reshape(patterns.size, patterns.itemsize // 2)


def top_words(values: np.ndarray, dtype: str) -> np.ndarray:
    """The two highest bytes of f32 values in a type, u16[n]; the values are used up."""
    if dtype in ("float32", "bfloat16"):
        patterns = values.view("<u4")
        patterns >>= 16
        return patterns.astype("<u2")
    with np.errstate(over="ignore"):
        typed = values.astype({"float16": "<f2", "float64": "<f8"}[dtype])
    return typed.view("<u2")[typed.itemsize // 2 - 1 :: typed.itemsize // 2]
