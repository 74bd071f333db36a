"""The two kinds of shard file: .p2u, payloads of one unit and stage; .safetensors, plain tensors.

A .p2u file is the magic b"PWLP2U01", the header's length as u64 little-endian, the header as
canonical JSON, then the data of all payloads in the header's order, to the last byte.
"""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors

from pwl_jax.bundle import strict_json
from pwl_jax.bundle.errors import BundleError
from pwl_jax.ladder import Bits, Unit
from pwl_jax.precision import (
    PrecisionError,
    StagePayload,
    canonical_json,
    check_header,
    dtype_name,
    numpy_dtype,
)

MAGIC = b"PWLP2U01"
_LENGTH = struct.Struct("<Q")
_SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
_METADATA = "__metadata__"


def write_p2u(unit: Unit, stage: Bits, payloads: Mapping[str, StagePayload]) -> bytes:
    """The bytes of a .p2u file; names are sorted, so equal payloads give equal bytes."""
    names = sorted(payloads)
    header = canonical_json(
        {
            "unit": str(unit),
            "stage": str(stage),
            "tensors": [{"name": name, **payloads[name].header} for name in names],
        }
    )
    data = (payloads[name].data for name in names)
    return b"".join((MAGIC, _LENGTH.pack(len(header)), header, *data))


def read_p2u(data: bytes, unit: Unit, stage: Bits, where: str) -> dict[str, StagePayload]:
    """The payloads of a .p2u file, as views of `data`.

    Raises:
      BundleError: not such a file, of another unit or stage, or with sizes that do not add up.
    """
    start = len(MAGIC) + _LENGTH.size
    if data[: len(MAGIC)] != MAGIC or len(data) < start:
        raise BundleError(f"{where} is no .p2u file of this version")
    (length,) = _LENGTH.unpack_from(data, len(MAGIC))
    if length > len(data) - start:
        raise BundleError(f"{where} declares a header of {length} bytes; the file is shorter")
    view = memoryview(data)
    header = strict_json.parse(view[start : start + length], where)
    strict_json.fields(header, where, ["unit", "stage", "tensors"])
    if (header["unit"], header["stage"]) != (str(unit), str(stage)):
        raise BundleError(f"{where} holds {header['unit']}@{header['stage']}, not {unit}@{stage}")
    payloads: dict[str, StagePayload] = {}
    at = start + length
    for record in strict_json.array(header["tensors"], f"{where}: tensors"):
        record = strict_json.items(record, f"{where}: a tensor")
        name = strict_json.typed(record.get("name"), str, f"{where}: a tensor's name")
        fields = {field: value for field, value in record.items() if field != "name"}
        try:
            check_header(fields)
        except PrecisionError as error:
            raise BundleError(f"{where}: tensor '{name}': {error}") from error
        if name in payloads:
            raise BundleError(f"{where} holds tensor '{name}' twice")
        size = sum(stored for _, stored in fields["parts"])
        if size > len(data) - at:
            raise BundleError(f"{where}: tensor '{name}' reaches beyond the end of the file")
        payloads[name] = StagePayload(stage, fields, view[at : at + size])
        at += size
    if at != len(data):
        raise BundleError(f"{where} has {len(data) - at} bytes that belong to no tensor")
    return payloads


def write_safetensors(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The bytes of a .safetensors file; wide types first, so that all are aligned, then by name.

    Written by hand, as the library's own writer does not take bit patterns of bfloat16, and puts
    metadata in an order of its own.
    """
    types = {dtype: name for name, dtype in _SAFETENSORS_DTYPES.items()}
    header: dict[str, Any] = {} if metadata is None else {_METADATA: dict(metadata)}
    pieces: list[bytes] = []
    at = 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        dtype = dtype_name(tensors[name])
        piece = tensors[name].astype(numpy_dtype(dtype), copy=False).tobytes()
        header[name] = {
            "dtype": types[dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [at, at + len(piece)],
        }
        pieces.append(piece)
        at += len(piece)
    encoded = canonical_json(header)
    encoded += b" " * (-len(encoded) % 8)
    return b"".join((_LENGTH.pack(len(encoded)), encoded, *pieces))


def read_safetensors(data: bytes, where: str) -> dict[str, np.ndarray]:
    """The tensors of a .safetensors file.

    Raises:
      BundleError: damaged, or with a type this version does not know.
    """
    try:
        entries: list[tuple[str, dict[str, Any]]] = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise BundleError(f"{where} is no readable .safetensors file: {error}") from error
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _SAFETENSORS_DTYPES:
            raise BundleError(f"{where}: tensor '{name}' has the unknown type {entry['dtype']}")
        dtype = numpy_dtype(_SAFETENSORS_DTYPES[entry["dtype"]])
        tensors[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
    return tensors


def read_metadata(data: bytes, where: str) -> dict[str, str]:
    """The metadata of a .safetensors file; nothing where it has none.

    Raises:
      BundleError: the header is damaged.
    """
    start = _LENGTH.size
    length = _LENGTH.unpack_from(data)[0] if len(data) >= start else len(data)
    if length > len(data) - start:
        raise BundleError(f"{where} declares a header of {length} bytes; the file is shorter")
    header = strict_json.items(strict_json.parse(data[start : start + length], where), where)
    metadata = strict_json.items(header.get(_METADATA, {}), f"{where}: metadata")
    return {name: strict_json.typed(v, str, f"{where}: {name}") for name, v in metadata.items()}
