"""One tensor as a base of few bits and updates to the original, bit for bit.

A tensor that is not `quantizable` is stored exactly in its first stage and has no later ones.

The residual to the exact stage lies in the order of its codes' magnitudes, stable, within each
slice of 2^20 values: the wider a float is on its code's cell, the longer its residual, so that
neighbours in this order share their statistics and zstandard tells them apart block by block.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pwl_jax.ladder import EXACT, Bits
from pwl_jax.precision import delta, dtypes, quantizer, residual
from pwl_jax.precision.errors import PrecisionError
from pwl_jax.precision.packing import pack_bits, packed_bytes, unpack_bits
from pwl_jax.precision.payload import StagePayload, check_header, pack_parts, unpack_parts
from pwl_jax.precision.quantizer import QuantizedTensor

DEFAULT_MAX_BYTES = 1 << 32
_MOST_AXES = 32
_SLICE = 1 << 20
# With fewer values a channel the scales outweigh the codes.
_LEAST_VALUES = 8
_MOST_SCALE = 2.0**110
_MOST_FLOAT16 = np.float32(65504)


def encode_tensor(array: np.ndarray, stages: Sequence[Bits]) -> list[StagePayload]:
    """Codes an array so that its stages can be decoded one after the other.

    Args:
      array: any shape, memory layout and byte order.
      stages: from coarse to fine, such as (4, "exact"), (4, 8, "exact") or ("exact",).

    Returns:
      One payload a stage; a single one where the array is not `quantizable`. Equal arrays give
      equal bytes. An update holds the digest of the payload before it.

    Raises:
      PrecisionError: stages or a dtype that cannot be coded.
    """
    widths = check_stages(stages)
    array = np.asarray(array)
    dtype = dtypes.dtype_name(array)
    common: dict[str, Any] = {"dtype": dtype, "shape": list(array.shape)}
    original = dtypes.patterns_of(array)
    if widths[0] == EXACT or not quantizable(array):
        if dtype in dtypes.FLOATS:
            original = residual.exponent_first(original)
        planes = residual.byte_planes(original)
        return [pack_parts(widths[0], {"kind": "exact", **common}, planes)]
    payloads: list[StagePayload] = []
    coded = None
    for stage in widths:
        if coded is None:
            coded = quantizer.quantize(array, int(stage))
            header = {"kind": "codes", "bits": stage, "axis": array.ndim - 1, **common}
            parts = [pack_bits(coded.codes, coded.bits), coded.scales.astype("<f4").tobytes()]
        elif stage == EXACT:
            header = {"kind": "residual", "base": payloads[-1].digest, **common}
            approximation = _patterns(coded, dtype)
            differences = residual.residual(original, approximation)
            parts = residual.byte_planes(_by_magnitude(differences, coded.codes))
        else:
            header = {"kind": "finer", "bits": stage, "base": payloads[-1].digest, **common}
            coded, differences = quantizer.refine(array, coded, int(stage))
            parts = residual.byte_planes(residual.zigzag(differences.reshape(-1)))
        payloads.append(pack_parts(stage, header, parts))
    return payloads


def decode_tensor(
    payloads: Sequence[StagePayload],
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
    previous: np.ndarray | None = None,
) -> np.ndarray:
    """The array at the stage of the last payload given, in the original dtype and shape.

    Args:
      payloads: from the base on, without a gap.
      max_bytes: what the decoded array may hold; checked before anything is allocated.
      previous: the version of the tensor that a `delta` or `same` is told against.

    Raises:
      PrecisionError: payloads that do not fit together, are damaged, unknown or too large.
    """
    if not payloads:
        raise PrecisionError("no payload to decode; expected the base first")
    for payload in payloads:
        check_header(payload.header)
    if any(is_exact(payload.header) for payload in payloads[:-1]):
        raise PrecisionError("no stage can follow the exact one")
    header = payloads[0].header
    dtype, shape = header["dtype"], tuple(header["shape"])
    _check_size(dtype, shape, max_bytes)
    count = math.prod(shape)
    width = dtypes.item_bytes(dtype)
    if header["kind"] in delta.DELTA_KINDS:
        if len(payloads) > 1:
            raise PrecisionError("no stage can follow a difference")
        return delta.decode_delta(payloads[0], previous)
    if header["kind"] == "exact":
        planes = unpack_parts(payloads[0], [count] * width)
        patterns = residual.from_planes(planes, dtypes.pattern_dtype(dtype))
        if dtype in dtypes.FLOATS:
            patterns = residual.sign_first(patterns)
        return dtypes.array_of(patterns, dtype, shape)
    if header["kind"] != "codes":
        raise PrecisionError(f"kind '{header['kind']}' cannot come first; expected its base")
    coded = _decode_codes(payloads[0], shape)
    for before, payload in itertools.pairwise(payloads):
        _check_update(before, payload)
        header = payload.header
        if header["kind"] == "residual":
            planes = unpack_parts(payload, [count] * width)
            differences = residual.from_planes(planes, dtypes.pattern_dtype(dtype))
            differences = _in_place(differences, coded.codes)
            patterns = residual.restored(differences, _patterns(coded, dtype))
            return dtypes.array_of(patterns, dtype, shape)
        if header["bits"] <= coded.bits:
            raise PrecisionError(f"{header['bits']} bits cannot refine {coded.bits} bits")
        planes = unpack_parts(payload, [count] * 2)
        steps = residual.unzigzag(residual.from_planes(planes, np.dtype("<u2")))
        coded = quantizer.refined(coded, steps.reshape(shape), header["bits"])
    return dtypes.array_of(_patterns(coded, dtype), dtype, shape)


def expand(array: np.ndarray, bits: Bits, stages: Sequence[Bits]) -> np.ndarray:
    """What a receiver decodes at stage `bits` of an array coded with `stages`, bit for bit.

    Raises:
      PrecisionError: `bits` is not one of the stages.
    """
    widths = check_stages(stages)
    if bits not in widths:
        raise PrecisionError(f"stage {bits!r} is not one of {list(widths)}")
    array = np.asarray(array)
    dtype = dtypes.dtype_name(array)
    if bits == EXACT or not quantizable(array):
        return dtypes.array_of(dtypes.patterns_of(array).copy(), dtype, array.shape)
    coded = quantizer.quantize(array, int(widths[0]))
    for width in widths[1 : widths.index(bits) + 1]:
        coded, _ = quantizer.refine(array, coded, int(width))
    return dtypes.array_of(_patterns(coded, dtype), dtype, array.shape)


def quantizable(array: np.ndarray) -> bool:
    """Whether an array is sent as codes first: floats with two axes or more, and at least 8
    values for each entry of the last axis, which is the axis of channels.
    """
    array = np.asarray(array)
    return (
        array.dtype.name in dtypes.FLOATS
        and array.ndim >= 2
        and array.size > 0
        and array.size >= _LEAST_VALUES * array.shape[-1]
    )


def is_exact(header: Mapping[str, Any]) -> bool:
    """Whether the payload with this header completes the original."""
    return header.get("kind") in ("exact", "residual", *delta.DELTA_KINDS)


def check_stages(stages: Sequence[Bits]) -> tuple[Bits, ...]:
    """The stages as a tuple.

    Raises:
      PrecisionError: they are not rising widths of 2 to 8 bits, "exact" at most once and last.
    """
    widths = tuple(stages)
    numbers = list(widths[:-1] if widths[-1:] == (EXACT,) else widths)
    valid = all(type(number) is int and 2 <= number <= 8 for number in numbers)
    if not widths or not valid or numbers != sorted(set(numbers)):
        raise PrecisionError(
            f"stages {list(widths)} do not refine each other; expected rising widths of 2 to 8 "
            'bits and "exact" last, such as [4, "exact"]'
        )
    return widths


def _by_magnitude(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Values sorted by their codes' magnitudes within slices."""
    ordered = np.empty_like(values)
    for piece, order in _orders(codes):
        ordered[piece] = values[piece][order]
    return ordered


def _in_place(ordered: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Inverse of `_by_magnitude`."""
    values = np.empty_like(ordered)
    for piece, order in _orders(codes):
        values[piece][order] = ordered[piece]
    return values


def _orders(codes: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    flat = codes.reshape(-1)
    for start in range(0, flat.size, _SLICE):
        piece = slice(start, min(start + _SLICE, flat.size))
        # Eight bits have -128, and are sorted in one pass.
        narrow = flat.dtype == np.int8
        keys = np.abs(flat[piece].astype(np.int16)).astype(np.uint8 if narrow else np.uint16)
        yield piece, np.argsort(keys, kind="stable")


def _patterns(coded: QuantizedTensor, dtype: str) -> np.ndarray:
    """Bit patterns of the dequantized tensor; always finite."""
    values = quantizer.dequantize(coded)
    if dtype == "float16":
        np.clip(values, -_MOST_FLOAT16, _MOST_FLOAT16, out=values)
    return dtypes.cast_patterns(values, dtype)


def _decode_codes(payload: StagePayload, shape: tuple[int, ...]) -> QuantizedTensor:
    bits, axis = payload.header["bits"], payload.header["axis"]
    if payload.stage != bits:
        raise PrecisionError(f"codes of {bits} bits at stage {payload.stage!r}")
    count = math.prod(shape)
    packed, scale_bytes = unpack_parts(payload, [packed_bytes(count, bits), 4 * shape[axis]])
    scales = np.frombuffer(scale_bytes, "<f4")
    # False for NaN too.
    if not np.all((scales >= 0) & (scales <= _MOST_SCALE)):
        raise PrecisionError("a scale is negative, too large or no number")
    return QuantizedTensor(unpack_bits(packed, bits, count).reshape(shape), scales, bits, axis)


def _check_update(before: StagePayload, payload: StagePayload) -> None:
    header = payload.header
    if header["kind"] not in ("finer", "residual"):
        raise PrecisionError(f"kind '{header['kind']}' is no update; expected finer or residual")
    if any(header[field] != before.header[field] for field in ("dtype", "shape")):
        raise PrecisionError("an update's dtype or shape is not that of its base")
    if header["base"] != before.digest:
        raise PrecisionError("an update belongs to another base than the one given")
    expected = header["bits"] if header["kind"] == "finer" else EXACT
    if payload.stage != expected:
        raise PrecisionError(f"an update to {expected!r} at stage {payload.stage!r}")


def _check_size(dtype: str, shape: tuple[int, ...], max_bytes: int) -> None:
    # Axes of size 0 must not hide others that no array can have.
    size = dtypes.item_bytes(dtype) * math.prod(axis for axis in shape if axis)
    if len(shape) > _MOST_AXES or size > max_bytes:
        raise PrecisionError(
            f"a tensor of {dtype} with {len(shape)} axes, shape {list(shape[:8])}, is larger than "
            f"the {max_bytes} bytes and {_MOST_AXES} axes allowed"
        )
