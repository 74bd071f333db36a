"""One tensor as a base of few bits and updates to the original, bit for bit.

A tensor that is not `quantizable` is stored exactly in its first stage and has no later ones.
Tensors are coded in slices (`planes.slices`), so that coding takes little memory beside the tensor
itself. What the parts of a payload are is said in docs/bundle_format.md.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pwl_jax.ladder import EXACT, Bits
from pwl_jax.precision import base_code, dtypes, exact_code, planes, quantizer, residual
from pwl_jax.precision.codes import SliceCodes
from pwl_jax.precision.decoding import decode_tensor
from pwl_jax.precision.errors import PrecisionError
from pwl_jax.precision.payload import Part, StagePayload, payload_of
from pwl_jax.precision.quantizer import Quantization
from pwl_jax.precision.stages import check_stages


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
