"""safetensors files: written tensor by tensor in any order, read whole."""

import io
import struct
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
import safetensors

from pwl_jax.bundle import strict_json
from pwl_jax.bundle.errors import BundleError
from pwl_jax.precision import byte_count, canonical_json, dtype_name, item_bytes, numpy_dtype

_LENGTH = struct.Struct("<Q")
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
_CODES = {dtype: code for code, dtype in DTYPES.items()}
METADATA = "__metadata__"
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How files begin that torch.save and pickle write."""


class SafetensorsLayout:
    """Where each tensor lies in a safetensors file whose names, types and shapes are known.

    Wide types first, so that all are aligned, then by name: equal tensors give equal bytes. Made
    by hand, as the library's own writer needs all tensors at once, does not take bit patterns of
    bfloat16, and puts metadata in an order of its own.

    Attributes:
      size: bytes of the whole file.
    """

    def __init__(
        self,
        tensors: Mapping[str, tuple[str, tuple[int, ...]]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Lays out tensors given by (dtype, shape)."""
        header: dict[str, Any] = {} if metadata is None else {METADATA: dict(metadata)}
        at = 0
        self._tensors = dict(tensors)
        starts: dict[str, int] = {}
        for name in sorted(tensors, key=lambda name: (-item_bytes(tensors[name][0]), name)):
            dtype, shape = tensors[name]
            starts[name] = at
            at += byte_count(dtype, shape)
            header[name] = {
                "dtype": _CODES[dtype],
                "shape": list(shape),
                "data_offsets": [starts[name], at],
            }
        encoded = canonical_json(header)
        encoded += b" " * (-len(encoded) % 8)
        self._head = _LENGTH.pack(len(encoded)) + encoded
        self._starts = {name: len(self._head) + start for name, start in starts.items()}
        self.size = len(self._head) + at

    def write_header(self, file: IO[bytes]) -> None:
        """Writes what comes before the tensors."""
        file.seek(0)
        file.write(self._head)

    def write_tensor(self, file: IO[bytes], name: str, array: np.ndarray) -> None:
        """Writes one tensor to its place.

        Raises:
          BundleError: it is not of the type and shape that were laid out.
        """
        dtype, shape = self._tensors[name]
        if (dtype_name(array), array.shape) != (dtype, tuple(shape)):
            raise BundleError(
                f"tensor '{name}' is {dtype_name(array)} {list(array.shape)}; expected {dtype} "
                f"{list(shape)}"
            )
        file.seek(self._starts[name])
        little = np.ascontiguousarray(array).astype(numpy_dtype(dtype), copy=False)
        file.write(little.reshape(-1).view(np.uint8).data)


def write_safetensors(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The bytes of a .safetensors file."""
    kinds = {name: (dtype_name(array), array.shape) for name, array in tensors.items()}
    layout, file = SafetensorsLayout(kinds, metadata), io.BytesIO()
    layout.write_header(file)
    for name, array in tensors.items():
        layout.write_tensor(file, name, array)
    return file.getvalue()


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
        if entry["dtype"] not in DTYPES:
            raise BundleError(f"{where}: tensor '{name}' has the unknown type {entry['dtype']}")
        dtype = numpy_dtype(DTYPES[entry["dtype"]])
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
    metadata = strict_json.items(header.get(METADATA, {}), f"{where}: metadata")
    return {name: strict_json.typed(v, str, f"{where}: {name}") for name, v in metadata.items()}
