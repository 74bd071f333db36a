"""A tensor from the payloads that came of it; what one kind alone needs is imported for it."""

import math
from collections.abc import Sequence

import numpy as np

from pwl_jax.precision import dtypes, exact_code
from pwl_jax.precision.errors import PrecisionError
from pwl_jax.precision.payload import StagePayload, check_header, is_exact

DEFAULT_MAX_BYTES = 1 << 32
_MOST_AXES = 32


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
        from pwl_jax.precision import delta

        return delta.decode_delta(payloads[0], previous)
    patterns = dtypes.aligned_empty(math.prod(shape), dtypes.pattern_dtype(dtype))
    if kind == "exact":
        exact_code.decode_exact(payloads[0], patterns)
    elif kind == "codes":
        # Blocks that come in full are decoded without ever importing what reads codes.
        from pwl_jax.precision.code_chain import decode_chain

        decode_chain(payloads, patterns)
    else:
        raise PrecisionError(f"kind '{kind}' cannot come first; expected its base")
    return dtypes.array_of(patterns, dtype, shape)


def _check_size(dtype: str, shape: tuple[int, ...], max_bytes: int) -> None:
    # Axes of size 0 must not hide others that no array can have.
    size = dtypes.item_bytes(dtype) * math.prod(axis for axis in shape if axis)
    if len(shape) > _MOST_AXES or size > max_bytes:
        raise PrecisionError(
            f"a tensor of {dtype} with {len(shape)} axes, shape {list(shape[:8])}, is larger than "
            f"the {max_bytes} bytes and {_MOST_AXES} axes allowed"
        )
