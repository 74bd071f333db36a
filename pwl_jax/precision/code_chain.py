"""Values from codes and the updates that refine them."""

import itertools
from collections.abc import Sequence

import numpy as np

from pwl_jax.ladder import EXACT
from pwl_jax.precision import base_code, dtypes, planes, residual
from pwl_jax.precision.errors import PrecisionError
from pwl_jax.precision.payload import PartReader, StagePayload, is_exact

_MOST_FLOAT16 = np.float32(65504)


def decode_chain(payloads: Sequence[StagePayload], out: np.ndarray) -> None:
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
