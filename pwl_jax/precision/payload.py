"""A payload: what one stage brings of one tensor."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pwl_jax.ladder import Bits
from pwl_jax.precision import codec, dtypes
from pwl_jax.precision.errors import PrecisionError
from pwl_jax.precision.packing import WIDTHS

KINDS = ("exact", "codes", "finer", "residual", "delta", "same")
UPDATES = ("finer", "residual", "delta", "same")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclasses.dataclass(frozen=True, eq=False)
class StagePayload:
    """Header and data of one tensor at one stage.

    Attributes:
      stage: the stage of the bundle with which it arrives.
      header: JSON-able: `kind`, `dtype`, `shape`, `parts` ([codec, bytes] each); `bits` for codes
        and finer ones, `axis` for codes, `base` (a digest) for updates.
      data: the parts, one after the other.
    """

    stage: Bits
    header: Mapping[str, Any]
    data: bytes | memoryview

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical header, a zero byte, and the data."""
        digest = hashlib.sha256(canonical_json(self.header) + b"\0")
        digest.update(self.data)
        return digest.hexdigest()

    @property
    def byte_count(self) -> int:
        """Bytes of the data that the header declares."""
        return sum(size for _, size in self.header["parts"])


def canonical_json(value: Any) -> bytes:
    """The one spelling of JSON-able data: keys sorted, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def pack_parts(stage: Bits, header: Mapping[str, Any], parts: Sequence[bytes]) -> StagePayload:
    """A payload whose parts are coded each by the codec that suits it."""
    coded = [codec.encode(part) for part in parts]
    header = {**header, "parts": [[name, len(data)] for name, data in coded]}
    return StagePayload(stage, header, b"".join(data for _, data in coded))


def unpack_parts(payload: StagePayload, sizes: Sequence[int]) -> list[bytes | memoryview]:
    """The decoded parts, which must have exactly these sizes.

    Raises:
      PrecisionError: another number of parts, missing or surplus bytes, or a damaged part.
    """
    parts = payload.header["parts"]
    if len(parts) != len(sizes):
        raise PrecisionError(f"{len(parts)} parts where {len(sizes)} are expected")
    view = memoryview(payload.data)
    if payload.byte_count != len(view):
        raise PrecisionError(f"{len(view)} bytes of data where {payload.byte_count} are declared")
    decoded, start = [], 0
    for (name, stored), size in zip(parts, sizes, strict=True):
        decoded.append(codec.decode(name, view[start : start + stored], size))
        start += stored
    return decoded


def check_header(header: Any) -> None:
    """Makes sure that a header read from a file has the fields and types of its kind.

    Raises:
      PrecisionError: it has not; the message names the field.
    """
    if not isinstance(header, dict):
        raise PrecisionError(f"a payload's header is a {type(header).__name__}, not an object")
    kind = header.get("kind")
    if kind not in KINDS:
        raise PrecisionError(f"unknown kind {kind!r} of payload; expected {', '.join(KINDS)}")
    fields = {"kind", "dtype", "shape", "parts"}
    fields |= {"bits"} if kind in ("codes", "finer") else set()
    fields |= {"axis"} if kind == "codes" else set()
    fields |= {"base"} if kind in UPDATES else set()
    if set(header) != fields:
        raise PrecisionError(
            f"the header of '{kind}' has fields {sorted(header)}, expected {sorted(fields)}"
        )
    shape, parts = header["shape"], header["parts"]
    if not isinstance(header["dtype"], str):
        raise PrecisionError(f"dtype {header['dtype']!r} is no name of a type")
    dtypes.item_bytes(header["dtype"])
    if not isinstance(shape, list) or not all(_is_size(size) for size in shape):
        raise PrecisionError(f"shape {shape!r} is no list of sizes")
    if not isinstance(parts, list) or not all(_is_part(part) for part in parts):
        raise PrecisionError(f"parts {parts!r} are no list of [codec, bytes]")
    if "bits" in fields and not (_is_size(header["bits"]) and header["bits"] in WIDTHS):
        raise PrecisionError(f"{header['bits']!r} bits a code; expected 2 to 8")
    if "axis" in fields and not (_is_size(header["axis"]) and header["axis"] < len(shape)):
        raise PrecisionError(f"axis {header['axis']!r} of a tensor of {len(shape)} axes")
    if "base" in fields and not _is_sha256(header["base"]):
        raise PrecisionError(f"base {header['base']!r} is no SHA-256 in hexadecimal")
    if kind in ("codes", "finer", "residual") and header["dtype"] not in dtypes.FLOATS:
        raise PrecisionError(f"'{kind}' of a tensor of {header['dtype']}; only floats are coded")


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_part(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and _is_size(value[1])
    )


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.match(value) is not None
