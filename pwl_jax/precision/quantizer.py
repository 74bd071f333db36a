"""Symmetric quantization, one scale a channel, found by the least squared error."""

import dataclasses

import numpy as np

from pwl_jax.precision.dtypes import float_values
from pwl_jax.precision.errors import PrecisionError
from pwl_jax.precision.packing import WIDTHS

# Fractions of a channel's largest magnitude that are tried as the end of its grid. Few bits are
# better spent on the many small values; eight bits hardly ever clip.
_CLIPS = np.linspace(1.1, 0.3, 33, dtype=np.float32)
# Values a channel on which the search is done; more change nothing that can be measured.
_SAMPLES = 2048
# Keeps every product of code and scale a normal number, also after refinement, so that hosts that
# flush subnormals to zero decode the same bits.
_LEAST_SCALE = np.float32(2.0**-100)
_MOST_SCALE = np.float32(2.0**110)


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """Codes on a grid: value = code * scale of the channel.

    Attributes:
      codes: int8 or, once refined, int16, in the tensor's shape.
      scales: f32[channels], finite, not negative.
      bits: width of a code; after refinement the width that the grid's step corresponds to.
      axis: the axis of channels.
    """

    codes: np.ndarray
    scales: np.ndarray
    bits: int
    axis: int = -1


def quantize(array: np.ndarray, bits: int, axis: int = -1) -> QuantizedTensor:
    """The nearest codes in -2^(bits-1) .. 2^(bits-1) - 1 on the best grid of each channel.

    NaN takes code 0, an infinity the last code on its side.

    Args:
      array: float tensor of at least one axis.
      bits: 2 to 8.
      axis: the axis of channels.

    Raises:
      PrecisionError: another width.
    """
    if bits not in WIDTHS:
        raise PrecisionError(f"{bits} bits a code; expected 2 to 8")
    values = float_values(array)
    scales = _best_scales(np.moveaxis(values, axis, -1), bits)
    codes = _nearest(values, along(scales, axis, array.ndim), *_range(bits)).astype(np.int8)
    return QuantizedTensor(codes, scales, bits, axis)


def dequantize(tensor: QuantizedTensor) -> np.ndarray:
    """f32 values: one IEEE multiplication each, so the same bits on every machine."""
    scales = along(tensor.scales, tensor.axis, tensor.codes.ndim)
    return np.multiply(tensor.codes, scales, dtype=np.float32)


def refine(
    array: np.ndarray, base: QuantizedTensor, bits: int
) -> tuple[QuantizedTensor, np.ndarray]:
    """The tensor on a grid 2^(bits - base.bits) times finer, and what leads there.

    Values that the base's grid clipped are followed up to four times beyond its end.

    Returns:
      The refined tensor, and int16 differences to the base's codes on the finer grid.
    """
    scales = finer_scales(base.scales, bits - base.bits)
    lowest, highest = _range(bits)
    spread = along(scales, base.axis, array.ndim)
    codes = _nearest(float_values(array), spread, 4 * lowest, 4 * highest).astype(np.int16)
    differences = codes - (base.codes.astype(np.int16) << (bits - base.bits))
    return QuantizedTensor(codes, scales, bits, base.axis), differences


def refined(base: QuantizedTensor, differences: np.ndarray, bits: int) -> QuantizedTensor:
    """The tensor on the finer grid; inverse of `refine`."""
    codes = base.codes.astype(np.int16)
    codes <<= bits - base.bits
    codes += differences
    scales = finer_scales(base.scales, bits - base.bits)
    return QuantizedTensor(codes, scales, bits, base.axis)


def finer_scales(scales: np.ndarray, bits: int) -> np.ndarray:
    """Scales of a grid 2^bits times finer; exact, as they are far from subnormal."""
    return scales * np.float32(2.0**-bits)


def along(scales: np.ndarray, axis: int, dimensions: int) -> np.ndarray:
    """Scales in a shape that broadcasts over a tensor along its axis of channels."""
    shape = [1] * dimensions
    shape[axis] = -1
    return scales.reshape(shape)


def _range(bits: int) -> tuple[int, int]:
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def _nearest(values: np.ndarray, scales: np.ndarray, lowest: int, highest: int) -> np.ndarray:
    """Codes as f32; channels of scale 0 have code 0."""
    with np.errstate(all="ignore"):
        inverse = np.where(scales > 0, np.float32(1) / scales, np.float32(0))
        codes = values * inverse
        np.rint(codes, out=codes)
        np.clip(codes, lowest, highest, out=codes)
    return np.nan_to_num(codes, copy=False, nan=0.0)


def _best_scales(values: np.ndarray, bits: int) -> np.ndarray:
    """f32[channels] from values f32[..., channels]."""
    rows = values.reshape(-1, values.shape[-1])
    magnitudes = np.abs(rows)
    largest = np.max(magnitudes, axis=0, initial=0.0, where=np.isfinite(magnitudes))
    sample = rows[:: max(1, len(rows) // _SAMPLES)]
    lowest, highest = _range(bits)
    best = np.zeros_like(largest)
    least = np.full(largest.shape, np.inf)
    for clip in _CLIPS:
        scales = _within_limits(largest * (clip / np.float32(highest + 0.5)))
        with np.errstate(all="ignore"):
            error = _nearest(sample, scales, lowest, highest) * scales
            error -= sample
            np.square(error, out=error)
            total = np.nansum(np.where(np.isinf(error), 0, error), axis=0, dtype=np.float64)
        better = total < least
        best = np.where(better, scales, best)
        least = np.where(better, total, least)
    return best.astype("<f4")


def _within_limits(scales: np.ndarray) -> np.ndarray:
    return np.where(scales > 0, np.clip(scales, _LEAST_SCALE, _MOST_SCALE), np.float32(0))
