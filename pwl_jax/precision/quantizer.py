"""Uniform quantization: symmetric or affine; per tensor, channel or group.

A value is `code * scale + offset`, where a code is a signed number of steps from zero and the
offset is the mean error that the channel would have without it: errors that do not cancel over a
channel's inputs shift its output (bias correction, Nagel et al., arXiv 1906.04721, here without
data). Scales and offsets are floats with three bits of mantissa, 12 bits wide.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np

from pwl_jax.precision.dtypes import float_values
from pwl_jax.precision.errors import PrecisionError
from pwl_jax.precision.grid import Grid
from pwl_jax.precision.packing import WIDTHS

Scheme = Literal["symmetric", "affine"]
Granularity = Literal["tensor", "channel", "group"]
ScaleRule = Literal["minmax", "mse", "quartic", "percentile"]

SCALE_SHIFT = 20
"""A scale is stored as its float32 pattern without the lowest 20 bits, which are zero."""

# Keeps every product of code and scale a normal number, also after refinement, so that hosts that
# flush subnormals to zero decode the same bits.
_LEAST_SCALE, _MOST_SCALE = 2.0**-100, 2.0**110
# Scales tried by the search, an eighth of an octave apart. Few bits are better spent on the many
# small values; where a scale serves thousands, the largest are outliers.
_TRIED, _TRIED_OF_MANY, _MANY = 12, 24, 256
# A channel with more zeros than one in so many keeps them.
_FEW_ZEROS = 16
# Values searched at a time, and looked at of one channel: more change nothing that can be measured.
_BLOCK, _SAMPLES = 1 << 17, 2048


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How the codes of a tensor are chosen.

    Attributes:
      scheme: `symmetric`: codes -2^(bits-1) to 2^(bits-1) - 1; `affine`: as many codes, moved so
        that they cover the group's range, which always includes 0.
      granularity: what shares a scale: the tensor, a channel, or a group of a channel's values.
      group_size: values in a group, at least 1; in C order along all axes but the channels'.
      channel_axis: 0, or -1 for the last.
      scale: `minmax`: nothing is clipped; `mse`, `quartic`: the least sum of squares or of fourth
        powers of errors, the latter clipping less of the few large values, on which much depends;
        `percentile`: what lies beyond a percentile of the magnitudes is clipped.
      percentile: above 50, up to 100.
      bias_correction: whether there are offsets. Channels of many zeros never have one, so that
        pruned weights stay zero.

    Raises:
      PrecisionError: a value other than these.
    """

    scheme: Scheme = "symmetric"
    granularity: Granularity = "group"
    group_size: int = 128
    channel_axis: Literal[0, -1] = -1
    scale: ScaleRule = "quartic"
    percentile: float = 99.9
    bias_correction: bool = True

    def __post_init__(self) -> None:
        for field, known in (
            ("scheme", get_args(Scheme)),
            ("granularity", get_args(Granularity)),
            ("scale", get_args(ScaleRule)),
            ("channel_axis", (0, -1)),
        ):
            value = getattr(self, field)
            if value not in known:
                expected = ", ".join(map(str, known))
                raise PrecisionError(f"{field} is {value!r}; expected one of {expected}")
        if type(self.group_size) is not int or self.group_size < 1:
            raise PrecisionError(f"group_size is {self.group_size!r}; expected 1 or more")
        if not 50 < self.percentile <= 100:
            raise PrecisionError(f"percentile is {self.percentile}; expected above 50, to 100")

    def axis_and_group(self, shape: tuple[int, ...]) -> tuple[int | None, int]:
        """The axis of channels (None: there is but one) and the values that share a scale."""
        if self.granularity == "tensor":
            return None, math.prod(shape)
        axis = 0 if self.channel_axis == 0 else len(shape) - 1
        values = math.prod(shape) // shape[axis]
        return axis, values if self.granularity == "channel" else min(self.group_size, values)


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """Codes and their scales.

    Attributes:
      stored: u8[size], codes as they are packed: `code + zero point`, in 0..2^bits - 1.
      scales: f32[*grid.scales_shape], with three bits of mantissa; 0 where all values are 0.
      zero_points: u8[*grid.scales_shape], or None where all are 2^(bits-1).
      offsets: f32[channels], with three bits of mantissa.
      bits: width of a code.
      grid: which elements share a scale.
    """

    stored: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None
    offsets: np.ndarray
    bits: int
    grid: Grid


def quantize(
    array: np.ndarray, bits: int, quantization: Quantization = Quantization()
) -> QuantizedTensor:
    """The nearest codes on the grid that the rule chooses.

    NaN takes code 0, an infinity the last code on its side, if the group has other values than 0.
    Scales end at 2^110: larger steps than that are clipped, and left to the exact update.

    Args:
      array: float tensor of at least one axis and one element.
      bits: 2 to 8.
      quantization: the rule.

    Raises:
      PrecisionError: another width.
    """
    if bits not in WIDTHS:
        raise PrecisionError(f"{bits} bits a code; expected 2 to 8")
    axis, group = quantization.axis_and_group(array.shape)
    grid = Grid.of(array.shape, axis, group)
    matrix = np.ascontiguousarray(array).reshape(grid.rows, grid.columns)
    scales = np.zeros(grid.scales_shape, np.float32)
    zero_points = np.zeros(grid.scales_shape, np.uint8) if quantization.scheme == "affine" else None
    for place, values in _groups(matrix, grid):
        lowest, highest = _ends(values, quantization)
        chosen, moved = _choose(values, lowest, highest, bits, quantization)
        scales[place] = chosen.reshape(scales[place].shape)
        if zero_points is not None:
            zero_points[place] = moved.reshape(scales[place].shape)
    stored = np.empty(array.size, np.uint8)
    errors, zeros = np.zeros(grid.channels), np.zeros(grid.channels)
    flat = matrix.reshape(-1)
    for start, stop in _row_blocks(grid):
        values, spread = float_values(flat[start:stop]), grid.spread(scales, start, stop)
        half: Any = 1 << (bits - 1)
        zero_point = half if zero_points is None else grid.spread(zero_points, start, stop)
        codes = nearest(values, spread)
        codes += zero_point
        np.clip(codes, 0, (1 << bits) - 1, out=codes)
        stored[start:stop] = codes
        if quantization.bias_correction:
            codes -= zero_point
            codes *= spread
            with np.errstate(over="ignore", invalid="ignore"):
                missed = np.nan_to_num(values - codes, copy=False, nan=0, posinf=0, neginf=0)
            _add_by_channel(errors, missed, grid, start)
            _add_by_channel(zeros, values == 0, grid, start)
    count = flat.size // grid.channels
    errors[zeros * _FEW_ZEROS > count] = 0
    offsets = storable(errors / count)
    return QuantizedTensor(stored, scales, zero_points, offsets, bits, grid)


def nearest(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Codes as f32, not clipped; 0 for NaN and where the scale is 0; f32 in, same shape out."""
    with np.errstate(all="ignore"):
        inverse = np.where(scales > 0, np.float32(1) / scales, np.float32(0))
        codes = values * inverse
        np.rint(codes, out=codes)
    if not np.isfinite(codes).all():
        np.nan_to_num(codes, copy=False, nan=0.0)
        codes[np.broadcast_to(scales == 0, codes.shape)] = 0
    return codes


def _groups(matrix: np.ndarray, grid: Grid) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Blocks of groups: where their scales lie, and their values, f32, along axis 1.

    Values come as [groups, group, channels] where channels are last, else [channels * groups,
    group, 1].
    """
    outer, inner = (grid.rows, grid.columns) if grid.channels_last else (grid.columns, grid.rows)
    per_group = min(grid.group, outer)
    width = max(1, min(inner, _BLOCK // per_group))
    for channel in range(0, inner, width):
        channels = slice(channel, min(channel + width, inner))
        here = channels.stop - channels.start
        many = max(1, _BLOCK // (per_group * here)) * grid.group
        # Whole groups; a shorter one at the end comes by itself.
        whole = outer - outer % grid.group
        edges = [*range(0, whole, many), *([whole] if whole < outer else [])]
        for start, stop in zip(edges, [*edges[1:], outer], strict=True):
            groups = slice(start // grid.group, -(-stop // grid.group))
            count = groups.stop - groups.start
            if grid.channels_last:
                block = matrix[start:stop, channels].reshape(count, -1, here)
                yield (groups, channels), _finite(block)
            else:
                block = matrix[channels, start:stop].reshape(here * count, -1, 1)
                yield (channels, groups), _finite(block)


def _sampled(values: np.ndarray) -> np.ndarray:
    """Some thousand of the values along axis 1, one from each stretch, at uneven places.

    Even places would see only some columns of a tensor that is one group.
    """
    count = values.shape[1]
    if count <= _SAMPLES:
        return values
    stretches = np.arange(_SAMPLES, dtype=np.uint64)
    uneven = (stretches * np.uint64(2654435761) >> np.uint64(8)) % np.uint64(count // _SAMPLES)
    return values[:, (stretches * np.uint64(count) // np.uint64(_SAMPLES) + uneven).astype(int)]


def _row_blocks(grid: Grid) -> Iterator[tuple[int, int]]:
    """Runs of elements that are whole rows, or lie in one."""
    if grid.columns <= _BLOCK:
        step = _BLOCK // grid.columns * grid.columns
        for start in range(0, grid.rows * grid.columns, step):
            yield start, min(start + step, grid.rows * grid.columns)
        return
    for row in range(0, grid.rows * grid.columns, grid.columns):
        for start in range(row, row + grid.columns, _BLOCK):
            yield start, min(start + _BLOCK, row + grid.columns)


def _add_by_channel(sums: np.ndarray, values: np.ndarray, grid: Grid, start: int) -> None:
    """Adds a run of elements to the sums of their channels, f64[channels]."""
    row, column = divmod(start, grid.columns)
    block = values.reshape(-1, min(values.size, grid.columns))
    if grid.channels_last:
        sums[column : column + block.shape[1]] += block.sum(0, dtype=np.float64)
    else:
        sums[row : row + len(block)] += block.sum(1, dtype=np.float64)


def _finite(values: np.ndarray) -> np.ndarray:
    """As f32, 0 where a value is none."""
    wide = float_values(values)
    finite = np.isfinite(wide)
    return wide if finite.all() else np.where(finite, wide, np.float32(0))


def _ends(values: np.ndarray, rule: Quantization) -> tuple[np.ndarray, np.ndarray]:
    """The range that codes must reach, [groups, channels] each; it holds 0."""
    if rule.scale == "percentile":
        share = [100 - rule.percentile, rule.percentile]
        if rule.scheme == "symmetric":
            highest = np.percentile(np.abs(values), rule.percentile, axis=1).astype(np.float32)
            return -highest, highest
        lowest, highest = np.percentile(values, share, axis=1).astype(np.float32)
    else:
        lowest, highest = values.min(axis=1), values.max(axis=1)
    if rule.scheme == "symmetric":
        highest = np.maximum(-lowest, highest)
        return -highest, highest
    return np.minimum(lowest, 0), np.maximum(highest, 0)


def _choose(
    values: np.ndarray, lowest: np.ndarray, highest: np.ndarray, bits: int, rule: Quantization
) -> tuple[np.ndarray, np.ndarray]:
    """Scales f32 and zero points f32 of a block, in the shape of its part of the scales."""
    top, half = (1 << bits) - 1, 1 << (bits - 1)
    affine = rule.scheme == "affine"
    # Half a step beyond its last code, a group's largest magnitude is still rounded to it.
    with np.errstate(over="ignore"):
        span = highest - lowest if affine else highest
    widest = span / np.float32(top if affine else half - 0.5)
    tried = 1
    if rule.scale in ("mse", "quartic"):
        tried = _TRIED if values.shape[1] <= _MANY else _TRIED_OF_MANY
        # Eight bits hardly ever clip.
        tried = tried if bits <= 4 else max(4, tried >> (bits - 4))
    sample, largest = values, None
    if tried > 1:
        sample = _sampled(values)
        if rule.scale == "quartic":
            # In units in which fourth powers of small numbers do not vanish.
            largest = np.abs(sample).max(axis=1, keepdims=True)
            largest[largest == 0] = 1
    best = best_zeros = least = np.zeros(0)
    for step in range(tried):
        shrunk = np.float32(2.0 ** (-step / 8))
        scales = storable(widest * shrunk)
        zeros = np.full_like(scales, half)
        if affine:
            inverse = np.where(scales > 0, 1 / np.where(scales > 0, scales, 1), 0)
            zeros = np.clip(np.rint(-lowest * shrunk * inverse), 0, top)
        if tried == 1:
            return scales, zeros
        error = _error(sample, scales[:, None], zeros[:, None], np.float32(top), largest)
        if step == 0:
            best, best_zeros, least = scales, zeros, error
            continue
        better = error < least
        best, best_zeros = np.where(better, scales, best), np.where(better, zeros, best_zeros)
        least = np.where(better, error, least)
    return best, best_zeros


def _error(
    values: np.ndarray,
    scales: np.ndarray,
    zeros: np.ndarray,
    top: np.float32,
    largest: np.ndarray | None,
) -> np.ndarray:
    """Sum over axis 1 of squares, or of fourth powers in units of `largest`."""
    codes = nearest(values, scales)
    np.clip(codes, -zeros, top - zeros, out=codes)
    codes *= scales
    codes -= values
    with np.errstate(over="ignore"):
        if largest is not None:
            codes /= largest
            np.square(codes, out=codes)
        return np.einsum("ijk,ijk->ik", codes, codes)


def storable(numbers: np.ndarray) -> np.ndarray:
    """The next f32 away from zero with three bits of mantissa; 0, and what is tiny, becomes 0."""
    magnitudes = np.abs(numbers)
    bounded = np.where(magnitudes >= _LEAST_SCALE, np.minimum(magnitudes, _MOST_SCALE), 0)
    patterns = bounded.astype("<f4").view("<u4")
    below = np.uint32((1 << SCALE_SHIFT) - 1)
    wide = ((patterns + below) & ~below).view("<f4")
    return np.where((numbers < 0) & (wide > 0), -wide, wide)


def stored_numbers(numbers: np.ndarray) -> np.ndarray:
    """Storable numbers as u16 below 2^12; the sign is bit 11."""
    return (numbers.view("<u4") >> SCALE_SHIFT).astype("<u2")


def read_numbers(stored: np.ndarray) -> np.ndarray:
    """Inverse of `stored_numbers`; f32.

    Raises:
      PrecisionError: a number of 2^12 or more, or that stands for one of a magnitude of less than
        2^-100 that is not 0, or of more than 2^110.
    """
    numbers = np.empty(stored.size, np.float32)
    for start in range(0, stored.size, _BLOCK):
        # There may be as many as values, and NumPy makes eight bytes of each index.
        here = slice(start, start + _BLOCK)
        numbers[here] = _NUMBERS.take(stored[here], mode="clip")
    if np.isnan(numbers).any():
        raise PrecisionError("a scale or an offset is too small, too large or no number")
    return numbers


def _every_number() -> np.ndarray:
    """What each stored number stands for, f32[4096]; NaN where no encoder writes it."""
    numbers = (np.arange(1 << 12, dtype="<u4") << SCALE_SHIFT).view("<f4").copy()
    magnitudes = np.abs(numbers)
    usual = (magnitudes == 0) | ((magnitudes >= _LEAST_SCALE) & (magnitudes <= _MOST_SCALE))
    numbers[~usual] = np.nan
    return numbers


_NUMBERS = _every_number()
