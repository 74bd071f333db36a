"""A tensor from an earlier version of itself: what a new model sends to who has the old one."""

import numpy as np

from pwl_jax.ladder import EXACT
from pwl_jax.precision import dtypes, planes
from pwl_jax.precision.errors import PrecisionError
from pwl_jax.precision.exact_code import encode_exact
from pwl_jax.precision.payload import Part, PartReader, StagePayload, payload_of


def encode_delta(array: np.ndarray, previous: np.ndarray) -> StagePayload:
    """What leads from `previous` to `array`, both of any type and layout.

    Returns:
      A payload of stage "exact": of kind `same` or `delta`, tied to `previous` by its SHA-256; or
      of kind `exact`, where the two differ in type or shape or where that is smaller.

    Raises:
      PrecisionError: a type that cannot be coded.
    """
    array, previous = np.asarray(array), np.asarray(previous)
    dtype = dtypes.dtype_name(array)
    common = {"dtype": dtype, "shape": list(array.shape)}
    new, old = dtypes.patterns_of(array), dtypes.patterns_of(previous)
    if dtypes.dtype_name(previous) != dtype or previous.shape != array.shape:
        return encode_exact(EXACT, common, new)
    header = {**common, "base": dtypes.tensor_sha256(previous)}
    if np.array_equal(new, old):
        return payload_of(EXACT, {**header, "kind": "same"}, [])
    steps = [_steps(new[here], old[here], dtype) for here in planes.slices(new.size)]
    nonzero = sum(int(np.count_nonzero(values)) for values in steps)
    many = planes.are_many_zeros(new.size - nonzero, new)
    parts: list[Part] = []
    for values in steps:
        parts += planes.encode_slice(values, many)
    delta = payload_of(EXACT, {**header, "kind": "delta", "zeros": many}, parts)
    whole = encode_exact(EXACT, common, new)
    return delta if delta.byte_count < whole.byte_count else whole


def decode_delta(payload: StagePayload, previous: np.ndarray | None) -> np.ndarray:
    """The array that `encode_delta` was given.

    Args:
      payload: of kind `same` or `delta`, with a checked header.
      previous: the earlier version.

    Raises:
      PrecisionError: another tensor than the one it was made from, or damaged data.
    """
    header = payload.header
    dtype, shape = header["dtype"], tuple(header["shape"])
    if previous is None:
        raise PrecisionError(f"kind '{header['kind']}' begins at an earlier tensor; none is given")
    old = dtypes.patterns_of(previous)
    # Without ml_dtypes an array of bit patterns stands for bfloat16.
    fits = previous.shape == shape and old.itemsize == dtypes.item_bytes(dtype)
    if not fits or dtypes.tensor_sha256(previous) != header["base"]:
        raise PrecisionError("a delta belongs to another tensor than the one given")
    reader = PartReader(payload)
    if header["kind"] == "same":
        reader.finish()
        return dtypes.array_of(old.copy(), dtype, shape)
    out = np.empty_like(old)
    for here in planes.slices(out.size):
        planes.decode_slice(reader, header["zeros"], out[here])
        differences = planes.unzigzag(out[here])
        if dtype in dtypes.FLOATS:
            out[here] = planes.ordered(differences + planes.ordered(old[here]))
        else:
            out[here] = differences + old[here]
    reader.finish()
    return dtypes.array_of(out, dtype, shape)


def _steps(new: np.ndarray, old: np.ndarray, dtype: str) -> np.ndarray:
    """Differences of patterns in the order of their values, zigzag."""
    if dtype in dtypes.FLOATS:
        new, old = planes.ordered(new), planes.ordered(old)
    return planes.zigzag(new - old)
