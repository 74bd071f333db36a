"""The base of a tensor: codes, their scales and zero points, as a payload and back.

Parts: byte planes of scales and offsets as u16; zero points u8 where the scheme is affine; then,
slice by slice, the packed fields of the codes.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pwl_jax.ladder import Bits
from pwl_jax.precision import codec, packing, planes, quantizer
from pwl_jax.precision.codes import SliceCodes
from pwl_jax.precision.errors import PrecisionError
from pwl_jax.precision.grid import Grid
from pwl_jax.precision.payload import PartReader, StagePayload, payload_of
from pwl_jax.precision.quantizer import Quantization, QuantizedTensor

LEAST_VALUES = 8
"""With fewer values a channel, scales and offsets outweigh the codes."""


def encode_codes(
    stage: Bits, common: Mapping[str, Any], coded: QuantizedTensor, quantization: Quantization
) -> StagePayload:
    """The payload of a quantized tensor; `common`: the header's `dtype` and `shape`."""
    axis, group = quantization.axis_and_group(tuple(common["shape"]))
    numbers = np.concatenate([coded.scales.reshape(-1), coded.offsets])
    parts = planes.encode_slice(quantizer.stored_numbers(numbers), False)
    if coded.zero_points is not None:
        parts.append(codec.encode(coded.zero_points.tobytes()))
    for here in planes.slices(coded.stored.size):
        packed = packing.split(coded.stored[here], coded.bits)
        parts += [codec.encode_noise([field]) for field in packed]
    header = {
        **common,
        "kind": "codes",
        "bits": coded.bits,
        "axis": axis,
        "group": group,
        "affine": coded.zero_points is not None,
    }
    return payload_of(stage, header, parts)


def slice_codes(coded: QuantizedTensor, here: slice) -> SliceCodes:
    """The codes of one slice of a quantized tensor."""
    signed = _signed(coded.stored[here], coded.bits, coded.zero_points, coded.grid, here)
    spread = functools.partial(coded.grid.spread, coded.scales, here.start, here.stop)
    return SliceCodes(signed, spread, coded.bits)


class BaseReader:
    """Codes of a tensor, slice by slice.

    Attributes:
      reader: of the payload's parts.
    """

    def __init__(self, payload: StagePayload) -> None:
        """Reads scales and offsets.

        Args:
          payload: of kind `codes`, of a tensor that is not empty, with a checked header.

        Raises:
          PrecisionError: an empty tensor, or damaged scales or offsets.
        """
        header = payload.header
        if not all(header["shape"]):
            raise PrecisionError(f"codes of a tensor of shape {header['shape']}")
        self.reader = PartReader(payload)
        self._bits = header["bits"]
        self._grid = Grid.of(header["shape"], header["axis"], header["group"])
        if LEAST_VALUES * self._grid.channels > math.prod(header["shape"]):
            raise PrecisionError(f"{self._grid.channels} channels of a tensor of {header['shape']}")
        shape = self._grid.scales_shape
        count = shape[0] * shape[1]
        stored = np.empty(count + self._grid.channels, "<u2")
        planes.decode_slice(self.reader, False, stored)
        numbers = quantizer.read_numbers(stored)
        if np.signbit(numbers[:count]).any():
            raise PrecisionError("a scale below 0")
        self._scales, self._offsets = numbers[:count].reshape(shape), numbers[count:]
        self._zero_points = None
        if header["affine"]:
            zeros = np.frombuffer(self.reader.next(count), np.uint8)
            self._zero_points = zeros.reshape(shape)

    def offsets(self, here: slice) -> np.ndarray:
        """What is added to the values of a slice, f32[n]."""
        return self._grid.spread_channels(self._offsets, here.start, here.stop)

    def read(self, here: slice) -> SliceCodes:
        """The next slice; raises PrecisionError where it is damaged."""
        count = here.stop - here.start
        widths = packing.fields(self._bits)
        packed = [self.reader.next(packing.packed_bytes(count, width)) for width in widths]
        stored = packing.join(packed, self._bits, count)
        signed = _signed(stored, self._bits, self._zero_points, self._grid, here)
        spread = functools.partial(self._grid.spread, self._scales, here.start, here.stop)
        return SliceCodes(signed, spread, self._bits)


def _signed(
    stored: np.ndarray, bits: int, zero_points: np.ndarray | None, grid: Grid, here: slice
) -> np.ndarray:
    """Stored codes without their zero points: i8, or i16 where they may not fit."""
    if zero_points is None:
        half = 1 << (bits - 1)
        return (stored ^ half).view(np.int8) if bits == 8 else stored.view(np.int8) - np.int8(half)
    return stored.astype(np.int16) - grid.spread(zero_points, here.start, here.stop)
