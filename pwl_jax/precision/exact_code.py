"""A whole tensor at once, exactly: its bit patterns as byte planes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pwl_jax.ladder import Bits
from pwl_jax.precision import dtypes, planes
from pwl_jax.precision.payload import Part, PartReader, StagePayload, payload_of


def encode_exact(stage: Bits, common: Mapping[str, Any], original: np.ndarray) -> StagePayload:
    """The payload of bit patterns [size]; `common`: the header's `dtype` and `shape`."""
    zeros = planes.has_many_zeros(original)
    parts: list[Part] = []
    for here in planes.slices(original.size):
        values = original[here]
        if common["dtype"] in dtypes.FLOATS:
            values = planes.exponent_first(values)
        parts += planes.encode_slice(values, zeros)
    return payload_of(stage, {**common, "kind": "exact", "zeros": zeros}, parts)


def decode_exact(payload: StagePayload, out: np.ndarray) -> None:
    """Fills `out`, bit patterns [size], from a payload of kind `exact` with a checked header.

    Raises:
      PrecisionError: damaged data.
    """
    reader, floats = PartReader(payload), payload.header["dtype"] in dtypes.FLOATS
    for here in planes.slices(out.size):
        planes.decode_slice(reader, payload.header["zeros"], out[here])
        if floats:
            out[here] = planes.sign_first(out[here])
    reader.finish()
