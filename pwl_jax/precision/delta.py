"""A tensor as the difference to an earlier version of it, bit for bit.

Bit patterns are subtracted modulo 2^width, so every step has an exact inverse whatever the values.
"""

import numpy as np

from pwl_jax.precision import dtypes, residual
from pwl_jax.precision.errors import PrecisionError
from pwl_jax.precision.payload import StagePayload, pack_parts, unpack_parts

DELTA_KINDS = ("delta", "same")


def encode_delta(array: np.ndarray, previous: np.ndarray) -> StagePayload:
    """An array by what changed since `previous`: kind `same`, `delta`, or `exact` if smaller.

    Args:
      array, previous: any arrays; of other shapes or types, the result is `exact`.

    Returns:
      A payload of stage "exact"; `same` and `delta` hold the SHA-256 of `previous` as `base`.

    Raises:
      PrecisionError: a dtype that cannot be coded.
    """
    array, previous = np.asarray(array), np.asarray(previous)
    dtype = dtypes.dtype_name(array)
    common = {"dtype": dtype, "shape": list(array.shape)}
    new = dtypes.patterns_of(array)
    turned = residual.exponent_first(new) if dtype in dtypes.FLOATS else new
    exact = pack_parts("exact", {"kind": "exact", **common}, residual.byte_planes(turned))
    if (dtypes.dtype_name(previous), previous.shape) != (dtype, array.shape):
        return exact
    old = dtypes.patterns_of(previous)
    base = dtypes.tensor_sha256(previous)
    if np.array_equal(new, old):
        return pack_parts("exact", {"kind": "same", "base": base, **common}, [])
    planes = residual.byte_planes(residual.residual(new, old))
    delta = pack_parts("exact", {"kind": "delta", "base": base, **common}, planes)
    return delta if delta.byte_count < exact.byte_count else exact


def decode_delta(payload: StagePayload, previous: np.ndarray | None) -> np.ndarray:
    """The array that `encode_delta` made a `delta` or `same` of, given the same `previous`.

    Raises:
      PrecisionError: no `previous`, or another one, or damaged data.
    """
    header = payload.header
    dtype, shape = header["dtype"], tuple(header["shape"])
    if previous is None:
        raise PrecisionError(f"kind '{header['kind']}' needs the previous version of the tensor")
    if (dtypes.dtype_name(previous), previous.shape) != (dtype, shape):
        raise PrecisionError("a difference to a tensor of another dtype or shape")
    if dtypes.tensor_sha256(previous) != header["base"]:
        raise PrecisionError("a difference to another version than the one given")
    old = dtypes.patterns_of(previous)
    if header["kind"] == "same":
        unpack_parts(payload, [])
        return dtypes.array_of(old.copy(), dtype, shape)
    planes = unpack_parts(payload, [old.size] * old.itemsize)
    differences = residual.from_planes(planes, dtypes.pattern_dtype(dtype))
    return dtypes.array_of(residual.restored(differences, old), dtype, shape)
