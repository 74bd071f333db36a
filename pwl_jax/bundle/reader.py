"""Reads a bundle: verified files in, tensors and programs out."""

import contextlib
import dataclasses
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping

import numpy as np

from pwl_jax.bundle import shard_file
from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest, ShardEntry
from pwl_jax.bundle.stores import CachedStore, Store, open_store
from pwl_jax.errors import UserError
from pwl_jax.ladder import EXACT, Bits, Ladder, Unit
from pwl_jax.precision import (
    PrecisionError,
    StagePayload,
    byte_count,
    decode_tensor,
    dtype_name,
    tensor_sha256,
)

# A file of a few bytes can declare a tensor of any size; nothing larger is ever allocated.
LARGEST_TENSOR = 4 << 30


@dataclasses.dataclass(frozen=True)
class VerifyReport:
    """What `BundleReader.verify` found: how much was checked, and every problem."""

    files: int
    bytes: int
    tensors: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the bundle is whole and every tensor is the original."""
        return not self.problems


class BundleReader:
    """An open bundle. Its methods may be called from any thread.

    Attributes:
      manifest: the checked manifest.
      manifest_bytes: its size.
    """

    def __init__(self, store: Store) -> None:
        """Reads and checks the manifest; raises BundleError."""
        data = store.read(MANIFEST_NAME)
        self.manifest = Manifest.from_json(data)
        self.manifest_bytes = len(data)
        self._store = store
        self._read_files: dict[str, int] = {MANIFEST_NAME: len(data)}
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None = None
    ) -> "BundleReader":
        """Opens a folder, an http(s) address, or another address that `etils.epath` knows.

        Args:
          path: where the bundle's manifest.json lies.
          cache_dir: folder that keeps what is fetched; with an address and None, a temporary one
            that goes with the reader, because updates read their bases again.

        Raises:
          BundleError: there is no readable bundle of this version.
        """
        store, remote = open_store(path), "://" in os.fspath(path)
        temporary = None
        if cache_dir is None and remote:
            cache_dir = temporary = tempfile.mkdtemp(prefix="pwl-bundle-")
        try:
            reader = cls(store if cache_dir is None else CachedStore(store, cache_dir))
        except BaseException:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
            raise
        if temporary is not None:
            weakref.finalize(reader, shutil.rmtree, temporary, ignore_errors=True)
        return reader

    @property
    def bytes_fetched(self) -> int:
        """Bytes of all distinct files read so far, the manifest's included."""
        with self._lock:
            return sum(self._read_files.values())

    @property
    def ladder(self) -> Ladder:
        """The manifest's ladder; `cumulative_bytes` includes the manifest here."""
        return Ladder(
            tuple(
                dataclasses.replace(
                    rung, cumulative_bytes=rung.cumulative_bytes + self.manifest_bytes
                )
                for rung in self.manifest.ladder
            )
        )

    def fetch(self, shard_id: str) -> bytes:
        """A shard's file, verified.

        Raises:
          BundleError: an unknown shard, or a missing or damaged file.
        """
        return self._file(self._shard(shard_id))

    def program(self, unit: Unit, format: str) -> tuple[bytes, Mapping[str, tuple[str, ...]]]:
        """A unit's verified program and its bindings.

        Raises:
          BundleError: no such program, or a missing or damaged file.
        """
        entries = self.manifest.programs.get(str(unit), ())
        for entry in entries:
            if entry.format == format:
                return self._file(entry), entry.bindings
        held = ", ".join(entry.format for entry in entries) or "none"
        raise BundleError(f"this bundle has no {format} program of {unit} (it has {held})")

    def tensors(self, unit: Unit, stage: Bits) -> dict[str, np.ndarray]:
        """A unit's tensors in their original types, as precise as `stage` makes them.

        Reads all shards up to `stage`. Every tensor that is complete by then is checked against
        the SHA-256 of the original.

        Raises:
          BundleError: no such unit or stage, or a missing or damaged file.
        """
        stages = self.manifest.stages.get(str(unit), ())
        if stage not in stages:
            held = ", ".join(map(str, stages)) or "nothing"
            raise BundleError(f"this bundle has no {unit} at {stage} (it has {held})")
        chains: dict[str, list[StagePayload]] = {}
        plain: dict[str, np.ndarray] = {}
        for at in stages[: stages.index(stage) + 1]:
            entry = self._shard(f"{unit}@{at}")
            self._check_declared(entry)
            data = self._file(entry)
            if entry.file.endswith(".safetensors"):
                plain = shard_file.read_safetensors(data, entry.file)
                names = list(plain)
            else:
                payloads = shard_file.read_p2u(data, unit, at, entry.file)
                names = list(payloads)
                for name, payload in payloads.items():
                    chains.setdefault(name, []).append(payload)
            if sorted(names) != sorted(entry.tensors):
                raise BundleError(f"{entry.file} does not hold the tensors that the manifest lists")
        where = self._shard(f"{unit}@{stage}").file
        for name, array in plain.items():
            self._check_tensor(name, array, complete=True, where=where)
        decoded = {name: self._decoded(name, chain, stage, where) for name, chain in chains.items()}
        return plain | decoded

    def verify(self) -> VerifyReport:
        """Reads every file and decodes every unit at every stage, and lists all problems."""
        problems: list[str] = []
        tensors = 0
        for unit, stages in self.manifest.stages.items():
            for stage in stages:
                with _noted(problems):
                    decoded = self.tensors(Unit.parse(unit), stage)
                    tensors += len(decoded) if stage == stages[-1] else 0
        for entry in (entry for entries in self.manifest.programs.values() for entry in entries):
            with _noted(problems):
                self._file(entry)
        with self._lock:
            files, size = len(self._read_files), sum(self._read_files.values())
        return VerifyReport(files, size, tensors, tuple(dict.fromkeys(problems)))

    def _shard(self, shard_id: str) -> ShardEntry:
        if shard_id not in self.manifest.shards:
            raise BundleError(f"this bundle has no shard '{shard_id}'")
        return self.manifest.shards[shard_id]

    def _file(self, entry: FileEntry) -> bytes:
        data = self._store.read(entry.file, entry.bytes, entry.sha256)
        with self._lock:
            self._read_files[entry.file] = len(data)
        return data

    def _check_declared(self, entry: ShardEntry) -> None:
        for name in entry.tensors:
            tensor = self.manifest.tensors[name]
            # Without the zeros, so that they cannot hide sizes that no array can have.
            shape = [size for size in tensor.shape if size]
            if len(tensor.shape) > 32 or byte_count(tensor.dtype, shape) > LARGEST_TENSOR:
                raise BundleError(
                    f"{entry.file}: tensor '{name}' declares a shape {list(tensor.shape)[:8]} of "
                    f"more than {LARGEST_TENSOR} bytes"
                )

    def _decoded(self, name: str, chain: list[StagePayload], stage: Bits, where: str) -> np.ndarray:
        expected = self.manifest.tensors[name]
        for payload in chain:
            header = payload.header
            if (header["dtype"], tuple(header["shape"])) != (expected.dtype, expected.shape):
                raise BundleError(f"{where}: tensor '{name}' is not as the manifest declares it")
        try:
            array = decode_tensor(chain)
        except PrecisionError as error:
            raise BundleError(f"{where}: tensor '{name}': {error}") from error
        complete = stage == EXACT or chain[-1].header["kind"] in ("exact", "residual")
        self._check_tensor(name, array, complete, where)
        return array

    def _check_tensor(self, name: str, array: np.ndarray, complete: bool, where: str) -> None:
        expected = self.manifest.tensors[name]
        # Without ml_dtypes an array of bit patterns stands for bfloat16.
        width = byte_count(expected.dtype, expected.shape)
        same_type = dtype_name(array) == expected.dtype or array.nbytes == width
        if array.shape != expected.shape or not same_type:
            raise BundleError(f"{where}: tensor '{name}' is not as the manifest declares it")
        if complete and tensor_sha256(array) != expected.sha256:
            raise BundleError(f"{where}: tensor '{name}' does not hash to the original")


@contextlib.contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        problems.append(str(error))
