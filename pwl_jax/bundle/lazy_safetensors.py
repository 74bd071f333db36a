"""A safetensors file as a mapping that reads a tensor when it is asked for."""

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from pwl_jax.bundle import strict_json
from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.safetensors_file import DTYPES, METADATA, PICKLES
from pwl_jax.bundle.unit_files import LARGEST_TENSOR
from pwl_jax.precision import byte_count, numpy_dtype

_LENGTH = struct.Struct("<Q")
# The most that the library itself accepts.
_LARGEST_HEADER = 100_000_000
_MOST_AXES = 32


class SafetensorsFile(Mapping[str, np.ndarray]):
    """The tensors of a local file, by name; each is read anew whenever it is asked for.

    Types that NumPy lacks come as `ml_dtypes` has them or, without it, as their bit patterns.

    Attributes:
      metadata: what the file says beside its tensors.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Reads and checks the header.

        Raises:
          BundleError: no such file, a pickle, damaged, or with a type this version does not know.
        """
        self._path = Path(path)
        try:
            with self._path.open("rb") as file:
                head = file.read(_LENGTH.size)
                size = os.fstat(file.fileno()).st_size
                length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else size + 1
                if length > min(size - _LENGTH.size, _LARGEST_HEADER):
                    # Asked here only: headers of 640 bytes, for one, begin like a pickle.
                    if head.startswith(PICKLES):
                        raise BundleError(
                            f"{path} is a pickle, which is never read; expected safetensors"
                        )
                    raise BundleError(f"{path} is no readable safetensors file: its header is cut")
                header = strict_json.parse(file.read(length), str(path))
            # The library makes sure that offsets have no gaps, and sizes are those of the shapes.
            with safetensors.safe_open(self._path, framework="numpy"):
                pass
        except OSError as error:
            raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
        except safetensors.SafetensorError as error:
            raise BundleError(f"{path} is no readable safetensors file: {error}") from error
        header = dict(strict_json.items(header, str(path)))
        self.metadata: dict[str, str] = header.pop(METADATA, None) or {}
        self._start = _LENGTH.size + length
        self._entries: dict[str, dict[str, Any]] = header
        for name, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise BundleError(f"{path}: tensor '{name}' has the unknown type {entry['dtype']}")
            # Axes of size 0 must not hide others that no array can have.
            held = byte_count(DTYPES[entry["dtype"]], [size for size in entry["shape"] if size])
            if len(entry["shape"]) > _MOST_AXES or held > LARGEST_TENSOR:
                raise BundleError(
                    f"{path}: tensor '{name}' with {len(entry['shape'])} axes, shape "
                    f"{entry['shape'][:8]}, is larger than the {LARGEST_TENSOR} bytes and "
                    f"{_MOST_AXES} axes that a bundle's readers take"
                )

    def __getitem__(self, name: str) -> np.ndarray:
        """One tensor; raises KeyError, or BundleError where the file cannot be read any more."""
        entry = self._entries[name]
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        size = byte_count(dtype, shape)
        try:
            with self._path.open("rb") as file:
                file.seek(self._start + entry["data_offsets"][0])
                data = file.read(size)
        except OSError as error:
            raise BundleError(f"cannot read {self._path}: {error.strerror or error}") from error
        if len(data) != size:
            raise BundleError(f"{self._path} changed while it was read")
        return np.frombuffer(data, numpy_dtype(dtype)).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
