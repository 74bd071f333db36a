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

FIELDS: Mapping[str, tuple[str, ...]] = {
    "exact": ("zeros",),
    "codes": ("bits", "axis", "group", "affine"),
    "finer": ("bits", "base", "zeros"),
    "residual": ("base", "zeros"),
    "same": ("base",),
    "delta": ("base", "zeros"),
}
"""Kinds of payloads, with the header's fields that not all of them have."""

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_COMMON = ("kind", "dtype", "shape", "parts")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")

Part = tuple[str, bytes]
"""The name of a codec, and what it made of some bytes."""


@dataclasses.dataclass(frozen=True, eq=False)
class StagePayload:
    """Header and data of one tensor at one stage.

    Attributes:
      stage: the stage of the bundle with which it arrives.
      header: JSON-able: `kind`, `dtype`, `shape`, `parts` ([codec, bytes] each), and the fields
        that `FIELDS` names for the kind. `base` ties an update: the digest of the payload before
        it, or the SHA-256 of the tensor that a delta begins at.
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
    return _ENCODER.encode(value).encode()


def payload_of(stage: Bits, header: Mapping[str, Any], parts: Sequence[Part]) -> StagePayload:
    """A payload of coded parts."""
    header = {**header, "parts": [[name, len(data)] for name, data in parts]}
    return StagePayload(stage, header, b"".join(data for _, data in parts))


class PartReader:
    """The parts of a payload, decoded one after the other."""

    def __init__(self, payload: StagePayload) -> None:
        """Makes sure that the data have the declared size; raises PrecisionError."""
        self._view = memoryview(payload.data)
        if payload.byte_count != len(self._view):
            raise PrecisionError(
                f"{len(self._view)} bytes of data where {payload.byte_count} are declared"
            )
        self._parts = payload.header["parts"]
        self._next = self._start = 0

    def next(self, size: int) -> bytes | memoryview:
        """The next part, which must have this size when decoded.

        Raises:
          PrecisionError: there is none, or it is damaged or of another size.
        """
        if self._next == len(self._parts):
            raise PrecisionError(f"{len(self._parts)} parts are fewer than expected")
        name, stored = self._parts[self._next]
        data = self._view[self._start : self._start + stored]
        self._next += 1
        self._start += stored
        return codec.decode(name, data, size)

    def finish(self) -> None:
        """Raises PrecisionError if parts are left."""
        if self._next < len(self._parts):
            raise PrecisionError(f"{len(self._parts)} parts where {self._next} are expected")


def is_exact(header: Mapping[str, Any]) -> bool:
    """Whether the payload with this header completes the original."""
    return header.get("kind") in ("exact", "residual", "same", "delta")


def check_header(header: Any) -> None:
    """Makes sure that a header read from a file has the fields and types of its kind.

    Raises:
      PrecisionError: it has not; the message names the field.
    """
    if not isinstance(header, dict):
        raise PrecisionError(f"a payload's header is a {type(header).__name__}, not an object")
    kind = header.get("kind")
    if not isinstance(kind, str) or kind not in FIELDS:
        raise PrecisionError(f"unknown kind {kind!r} of payload; expected {', '.join(FIELDS)}")
    fields = {*_COMMON, *FIELDS[kind]}
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
    if "axis" in fields and header["axis"] is not None:
        axis = header["axis"]
        if not _is_size(axis) or axis not in {0, len(shape) - 1}:
            raise PrecisionError(f"axis {axis!r} of {len(shape)}; expected the first or the last")
    if kind == "codes" and len(shape) < 2:
        raise PrecisionError(f"codes of a tensor of shape {shape}; expected two axes or more")
    if "group" in fields and not (_is_size(header["group"]) and header["group"]):
        raise PrecisionError(f"groups of {header['group']!r} values; expected 1 or more")
    for flag in fields & {"affine", "zeros"}:
        if type(header[flag]) is not bool:
            raise PrecisionError(f"{flag} is {header[flag]!r}; expected true or false")
    if "base" in fields and not _is_sha256(header["base"]):
        raise PrecisionError(f"base {header['base']!r} is no SHA-256 in hexadecimal")
    if kind in ("codes", "finer", "residual") and header["dtype"] not in dtypes.FLOATS:
        raise PrecisionError(f"'{kind}' of a tensor of {header['dtype']}; only floats are coded")
    if kind == "same" and parts:
        raise PrecisionError(f"'same' with parts {parts!r}; expected none")


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
