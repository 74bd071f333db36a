"""One tensor as a base of few bits and updates to the original, bit for bit.

A tensor that is not `quantizable` is stored exactly in its first stage and has no later ones.
Tensors are coded in slices (`planes.slices`), so that coding takes little memory beside the tensor
itself. What the parts of a payload are is said in docs/bundle_format.md.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pwl_jax.ladder import EXACT, Bits
from pwl_jax.precision import base_code, delta, dtypes, exact_code, planes, quantizer, residual
from pwl_jax.precision.codes import SliceCodes
from pwl_jax.precision.errors import PrecisionError
from pwl_jax.precision.payload import Part, PartReader, StagePayload, check_header, payload_of
from pwl_jax.precision.quantizer import Quantization

DEFAULT_MAX_BYTES = 1 << 32
_MOST_AXES = 32
_MOST_FLOAT16 = np.float32(65504)


def encode_tensor(
    array: np.ndarray,
    stages: Sequence[Bits],
    *,
    quantization: Quantization = Quantization(),
    widths: Sequence[Bits] | None = None,
) -> list[StagePayload]:
    """Codes an array so that its stages can be decoded one after the other.

    Args:
      array: any shape, memory layout and byte order.
      stages: from coarse to fine, such as (4, "exact"), (4, 8, "exact") or ("exact",).
      quantization: how codes are chosen.
      widths: bits of this tensor's codes at each stage, where a bit plan gives it others than the
        stages are named after: never falling, "exact" where and only where the stage is, or at all
        stages. A stage of the same width as the one before brings nothing.

    Returns:
      One payload a stage that brings something; a single one where the array is not
      `quantizable`. Equal arrays give equal bytes. An update holds the digest of the payload
      before it.

    Raises:
      PrecisionError: stages, widths or a dtype that cannot be coded.
    """
    names = check_stages(stages)
    planned = names if widths is None else _check_widths(names, widths)
    array = np.asarray(array)
    dtype = dtypes.dtype_name(array)
    common: dict[str, Any] = {"dtype": dtype, "shape": list(array.shape)}
    original = dtypes.patterns_of(array)
    if planned[0] == EXACT or not quantizable(array, quantization.channel_axis):
        return [exact_code.encode_exact(names[0], common, original)]
    coded = quantizer.quantize(array, int(planned[0]), quantization)
    payloads = [base_code.encode_codes(names[0], common, coded, quantization)]
    codes = [base_code.slice_codes(coded, here) for here in planes.slices(array.size)]
    for (_, before), (stage, bits) in itertools.pairwise(zip(names, planned, strict=True)):
        if bits == before:
            continue
        header = {**common, "base": payloads[-1].digest}
        if bits == EXACT:
            payloads.append(_encode_residual(header, original, codes))
        else:
            steps, codes = _refine(array, codes, int(bits))
            zeros = planes.has_many_zeros(steps)
            header = {**header, "kind": "finer", "bits": bits, "zeros": zeros}
            parts = [planes.encode_slice(steps[here], zeros) for here in planes.slices(array.size)]
            payloads.append(payload_of(stage, header, [*itertools.chain(*parts)]))
    return payloads


def decode_tensor(
    payloads: Sequence[StagePayload],
    *,
    previous: np.ndarray | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> np.ndarray:
    """The array at the stage of the last payload given, in the original dtype and shape.

    Args:
      payloads: from the base on, without a gap.
      previous: the tensor that a `delta` or `same` begins at.
      max_bytes: what the decoded array may hold; checked before anything is allocated.

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
    kind, dtype, shape = header["kind"], header["dtype"], tuple(header["shape"])
    _check_size(dtype, shape, max_bytes)
    if kind in ("same", "delta"):
        return delta.decode_delta(payloads[0], previous)
    patterns = np.empty(math.prod(shape), dtypes.pattern_dtype(dtype))
    if kind == "exact":
        exact_code.decode_exact(payloads[0], patterns)
    elif kind == "codes":
        _decode_chain(payloads, patterns)
    else:
        raise PrecisionError(f"kind '{kind}' cannot come first; expected its base")
    return dtypes.array_of(patterns, dtype, shape)


def expand(
    array: np.ndarray,
    bits: Bits,
    stages: Sequence[Bits],
    *,
    quantization: Quantization = Quantization(),
    widths: Sequence[Bits] | None = None,
) -> np.ndarray:
    """What a receiver decodes at stage `bits` of an array coded as `encode_tensor` codes it.

    Raises:
      PrecisionError: `bits` is not one of the stages.
    """
    names = check_stages(stages)
    if bits not in names:
        raise PrecisionError(f"stage {bits!r} is not one of {list(names)}")
    upto = names.index(bits) + 1
    array = np.asarray(array)
    if bits == EXACT:
        patterns = dtypes.patterns_of(array).copy()
        return dtypes.array_of(patterns, dtypes.dtype_name(array), array.shape)
    here = None if widths is None else _check_widths(names, widths)[:upto]
    payloads = encode_tensor(array, names[:upto], quantization=quantization, widths=here)
    return decode_tensor(payloads, max_bytes=1 << 62)


def quantizable(array: np.ndarray, channel_axis: int = -1) -> bool:
    """Whether an array is sent as codes first: floats with two axes or more, and at least 8
    values for each channel.
    """
    array = np.asarray(array)
    return (
        array.dtype.name in dtypes.FLOATS
        and array.ndim >= 2
        and array.size > 0
        and array.size >= base_code.LEAST_VALUES * array.shape[channel_axis]
    )


def is_exact(header: Mapping[str, Any]) -> bool:
    """Whether the payload with this header completes the original."""
    return header.get("kind") in ("exact", "residual", "same", "delta")


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


def _check_widths(stages: tuple[Bits, ...], widths: Sequence[Bits]) -> tuple[Bits, ...]:
    planned = tuple(widths)
    numbers = [bits for bits in planned if bits != EXACT]
    valid = all(type(number) is int and 2 <= number <= 8 for number in numbers)
    matched = [bits == EXACT for bits in planned] == [stage == EXACT for stage in stages]
    if (
        len(planned) != len(stages)
        or not valid
        or numbers != sorted(numbers)
        or not (matched or not numbers)
    ):
        raise PrecisionError(
            f"widths {list(planned)} for stages {list(stages)}; expected one each of 2 to 8 bits, "
            'never falling, and "exact" where the stage is exact, or at all'
        )
    return planned


def _refine(
    array: np.ndarray, codes: list[SliceCodes], bits: int
) -> tuple[np.ndarray, list[SliceCodes]]:
    """Steps to the codes on a finer grid, zigzag u16[size], and these codes.

    Values that the coarser grid clipped are followed up to four times beyond its end.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    coded = np.empty(array.size, "<u2")
    finer = []
    for here, old in zip(planes.slices(array.size), codes, strict=True):
        start = old.refined(np.zeros(old.codes.size, np.int16), bits)
        scales = start.scales() * np.float32(start.shrunk)
        wanted = quantizer.nearest(dtypes.float_values(flat[here]), scales)
        np.clip(wanted, -(4 << (bits - 1)), (4 << (bits - 1)) - 1, out=wanted)
        moves = wanted.astype(np.int16) - start.codes
        coded[here] = planes.zigzag(moves.view("<u2"))
        finer.append(old.refined(moves, bits))
    return coded, finer


def _encode_residual(
    header: Mapping[str, Any], original: np.ndarray, codes: list[SliceCodes]
) -> StagePayload:
    zeros = planes.has_many_zeros(original)
    header = {**header, "kind": "residual", "zeros": zeros}
    parts: list[Part] = []
    for here, at in zip(planes.slices(original.size), codes, strict=True):
        parts += residual.encode_slice(original[here], at, header["dtype"], zeros)
    return payload_of(EXACT, header, parts)


def _decode_chain(payloads: Sequence[StagePayload], out: np.ndarray) -> None:
    """Fills `out` from codes and their updates, slice by slice."""
    for before, payload in itertools.pairwise(payloads):
        _check_update(before, payload)
    first, *updates = payloads
    base = base_code.BaseReader(first)
    readers = [(payload.header, PartReader(payload)) for payload in updates]
    dtype = first.header["dtype"]
    for here in planes.slices(out.size):
        codes = base.read(here)
        for header, reader in readers:
            if header["kind"] == "residual":
                residual.decode_slice(reader, codes, dtype, header["zeros"], out[here])
            else:
                moves = np.empty(codes.codes.size, "<u2")
                planes.decode_slice(reader, header["zeros"], moves)
                codes = codes.refined(planes.unzigzag(moves).view("<i2"), header["bits"])
        if not is_exact(payloads[-1].header):
            values = codes.values()
            if not updates:
                # Finer codes have no mean error that is worth a correction.
                values += base.offsets(here)
            if dtype == "float16":
                np.clip(values, -_MOST_FLOAT16, _MOST_FLOAT16, out=values)
            out[here] = dtypes.cast_patterns(values, dtype)
    for reader in (base.reader, *(reader for _, reader in readers)):
        reader.finish()


def _check_update(before: StagePayload, payload: StagePayload) -> None:
    header = payload.header
    if header["kind"] not in ("finer", "residual"):
        raise PrecisionError(f"kind '{header['kind']}' is no update; expected finer or residual")
    if any(header[field] != before.header[field] for field in ("dtype", "shape")):
        raise PrecisionError("an update's dtype or shape is not that of its base")
    if header["base"] != before.digest:
        raise PrecisionError("an update belongs to another base than the one given")
    if header["kind"] == "residual" and payload.stage != EXACT:
        raise PrecisionError(f"an update to the original at stage {payload.stage!r}")
    if header["kind"] == "finer" and header["bits"] <= before.header["bits"]:
        raise PrecisionError(f"{header['bits']} bits cannot refine {before.header['bits']} bits")


def _check_size(dtype: str, shape: tuple[int, ...], max_bytes: int) -> None:
    # Axes of size 0 must not hide others that no array can have.
    size = dtypes.item_bytes(dtype) * math.prod(axis for axis in shape if axis)
    if len(shape) > _MOST_AXES or size > max_bytes:
        raise PrecisionError(
            f"a tensor of {dtype} with {len(shape)} axes, shape {list(shape[:8])}, is larger than "
            f"the {max_bytes} bytes and {_MOST_AXES} axes allowed"
        )
