"""The file of one unit at one stage: .p2u, payloads of tensors, written and read one by one.

A .p2u file is the magic b"PWLP2U01", the length of the frame that follows as u64 little-endian, the
header as canonical JSON in a Zstandard frame, then the data of all payloads in the header's order,
to the last byte.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pwl_jax.bundle import strict_json
from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.verified_file import CHUNK, VerifiedFile
from pwl_jax.ladder import Bits, Unit
from pwl_jax.precision import (
    PrecisionError,
    StagePayload,
    canonical_json,
    check_header,
    decode_frame,
    encode_frame,
)

MAGIC = b"PWLP2U01"
# Parsed JSON takes up to 40 times its text; 16 MiB name some 50,000 tensors.
LARGEST_HEADER = 16 << 20
_LENGTH = struct.Struct("<Q")


class P2uSpool:
    """Keeps the payloads of one shard on disk until all are there and the header can be written.

    Payloads come in the order of their names, so that equal ones give equal bytes.
    """

    def __init__(self, path: Path) -> None:
        """Makes the file `path`; raises OSError."""
        self._path = path
        self._file = path.open("w+b")
        self._records: list[dict[str, Any]] = []

    @property
    def names(self) -> list[str]:
        """Names of the tensors so far."""
        return [record["name"] for record in self._records]

    def add(self, name: str, payload: StagePayload) -> None:
        """Writes one payload; raises OSError."""
        self._records.append({"name": name, **payload.header})
        self._file.write(payload.data)

    def pieces(self, unit: Unit, stage: Bits) -> Iterator[bytes]:
        """The bytes of the .p2u file, in pieces of at most a few MiB.

        Raises:
          BundleError: so many tensors, or so long names, that no reader takes the header.
          OSError: the spooled payloads cannot be read.
        """
        header = canonical_json({"unit": str(unit), "stage": str(stage), "tensors": self._records})
        if len(header) > LARGEST_HEADER:
            raise BundleError(
                f"the header of {unit}@{stage} has {len(header)} bytes; expected at most "
                f"{LARGEST_HEADER}: put its {len(self._records)} tensors in several units"
            )
        frame = encode_frame(header)
        yield b"".join((MAGIC, _LENGTH.pack(len(frame)), frame))
        self._file.seek(0)
        while chunk := self._file.read(CHUNK):
            yield chunk

    def close(self) -> None:
        """Removes the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)


class PayloadPlace(NamedTuple):
    """Where in a .p2u file a tensor's payload lies; `header` is the payload's."""

    header: dict[str, Any]
    start: int
    size: int

    def payload(self, file: VerifiedFile, stage: Bits) -> StagePayload:
        """Reads the payload from its file."""
        return StagePayload(stage, self.header, file.read(self.start, self.size))


def payload_places(file: VerifiedFile, unit: Unit, stage: Bits) -> dict[str, PayloadPlace]:
    """Where the payloads of a .p2u file lie, by the names of their tensors.

    Raises:
      BundleError: not such a file, of another unit or stage, or with sizes that do not add up.
    """
    where = file.name
    at = len(MAGIC) + _LENGTH.size
    if file.size < at or file.read(0, len(MAGIC)) != MAGIC:
        raise BundleError(f"{where} is no .p2u file of this version")
    (length,) = _LENGTH.unpack(file.read(len(MAGIC), _LENGTH.size))
    if length > file.size - at:
        raise BundleError(f"{where} declares a header of {length} bytes; the file is shorter")
    if length > LARGEST_HEADER:
        raise BundleError(f"{where} has a header of {length} bytes, more than {LARGEST_HEADER}")
    try:
        text = decode_frame(file.read(at, length), LARGEST_HEADER)
    except PrecisionError as error:
        raise BundleError(f"{where}: its header: {error}") from error
    header = strict_json.parse(text, where)
    strict_json.fields(header, where, ["unit", "stage", "tensors"])
    if (header["unit"], header["stage"]) != (str(unit), str(stage)):
        held = f"{header['unit']}@{header['stage']}"
        raise BundleError(f"{where} holds {held[:80]}, not {unit}@{stage}")
    places: dict[str, PayloadPlace] = {}
    at += length
    for record in strict_json.array(header["tensors"], f"{where}: tensors"):
        record = strict_json.items(record, f"{where}: a tensor")
        name = strict_json.typed(record.get("name"), str, f"{where}: a tensor's name")
        fields = {field: value for field, value in record.items() if field != "name"}
        try:
            check_header(fields)
        except PrecisionError as error:
            raise BundleError(f"{where}: tensor '{name}': {error}") from error
        if name in places:
            raise BundleError(f"{where} holds tensor '{name}' twice")
        size = sum(stored for _, stored in fields["parts"])
        if size > file.size - at:
            raise BundleError(f"{where}: tensor '{name}' reaches beyond the end of the file")
        places[name] = PayloadPlace(fields, at, size)
        at += size
    if at != file.size:
        raise BundleError(f"{where} has {file.size - at} bytes that belong to no tensor")
    return places
