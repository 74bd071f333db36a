"""Reads a bundle: verified files in, tensors and programs out."""

import collections
import contextlib
import dataclasses
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence, Set

import numpy as np

from pwl_jax.bundle.entries import FileEntry, ProgramEntry
from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.integrity import sha256_of
from pwl_jax.bundle.manifest import MANIFEST_NAME, Manifest
from pwl_jax.bundle.signature import (
    SIGNATURE_NAME,
    Key,
    SignatureError,
    check_signature,
)
from pwl_jax.bundle.stores import Store, open_store
from pwl_jax.bundle.unit_files import LARGEST_TENSOR, Previous, UnitFiles
from pwl_jax.bundle.verified_file import VerifiedFile
from pwl_jax.errors import UserError
from pwl_jax.ladder import EXACT, Bits, Ladder, Unit

# Units of another bundle that stay open while tensors are taken from it by name.
_OPEN_UNITS = 4
LARGEST_PROGRAM = 256 << 20

Address = str | os.PathLike[str]


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
      manifest_sha256: its hash, by which a delta names the bundle it is told against.
    """

    def __init__(
        self,
        store: Store,
        *,
        public_key: Key = None,
        against: Sequence["BundleReader"] | None = (),
        largest_tensor: int = LARGEST_TENSOR,
    ) -> None:
        """Reads and checks the manifest; see `open`. Raises BundleError.

        With None for `against`, a delta may be opened of which only the manifest can be read.
        """
        data = store.read(MANIFEST_NAME)
        if public_key is not None:
            data = _signed_manifest(store, data, public_key)
        self.manifest = Manifest.from_json(data)
        self.manifest_bytes = len(data)
        self.manifest_sha256 = sha256_of(data)
        self._store = store
        self._largest_tensor = largest_tensor
        self._read_files: dict[str, int] = {MANIFEST_NAME: len(data)}
        self._lock = threading.Lock()
        self._previous: BundleReader | None = None
        self._find_previous(against)

    @classmethod
    def open(
        cls,
        path: Address,
        cache_dir: Address | None = None,
        *,
        public_key: Key = None,
        against: Sequence["Address | BundleReader"] = (),
        largest_tensor: int = LARGEST_TENSOR,
    ) -> "BundleReader":
        """Opens a folder, an http(s) address, or another address that `etils.epath` knows.

        Args:
          path: where the bundle's manifest.json lies.
          cache_dir: folder that keeps what is fetched; with an address and None, a temporary one
            that goes with the reader, because updates read their bases again.
          public_key: Ed25519, as PEM file or key of the package cryptography. With it a bundle
            that this key's owner has not signed is refused before its manifest is parsed; without
            it signatures are not looked at.
          against: of a delta bundle, the one it is told against, as address or reader; if that is
            a delta too, the ones before it, in any order. Their manifests are known by their
            hashes, so one signature vouches for the whole chain. Others are ignored.
          largest_tensor: bytes of a tensor; one that declares more is refused before it is read.

        Raises:
          BundleError: there is no readable bundle of this version, or a delta's other bundle is
            not among those given.
          UserError: what is given as key is none.
        """
        given = [
            entry
            if isinstance(entry, BundleReader)
            else cls._opened(entry, cache_dir, None, None, largest_tensor)
            for entry in against
        ]
        for entry in given:
            entry._previous = entry._previous or entry._among(given)
        return cls._opened(path, cache_dir, public_key, given, largest_tensor)

    @classmethod
    def _opened(
        cls,
        path: Address,
        cache_dir: Address | None,
        public_key: Key,
        against: Sequence["BundleReader"] | None,
        largest_tensor: int,
    ) -> "BundleReader":
        store, remote = open_store(path), "://" in os.fspath(path)
        if cache_dir is None and not remote:
            return cls(store, public_key=public_key, against=against, largest_tensor=largest_tensor)
        # Not for a folder, whose first answer need not wait for these.
        import shutil
        import tempfile

        from pwl_jax.bundle.cached_store import CachedStore

        temporary = None
        if cache_dir is None:
            cache_dir = temporary = tempfile.mkdtemp(prefix="pwl-bundle-")
        try:
            reader = cls(
                CachedStore(store, cache_dir),
                public_key=public_key,
                against=against,
                largest_tensor=largest_tensor,
            )
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
    def files_read(self) -> Set[str]:
        """Names of the files read so far."""
        with self._lock:
            return frozenset(self._read_files)

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

    def program(self, unit: Unit, format: str) -> tuple[bytes, Mapping[str, tuple[str, ...]]]:
        """A unit's verified program and its bindings.

        Raises:
          BundleError: no such program, or a missing or damaged file.
        """
        entries = self.manifest.programs.get(str(unit), ())
        for entry in entries:
            if entry.format == format:
                with self._program_file(entry) as file:
                    return bytes(file.read(0, file.size)), self.manifest.bindings[str(unit)]
        held = ", ".join(entry.format for entry in entries) or "none"
        raise BundleError(f"this bundle has no {format} program of {unit} (it has {held})")

    def tensors(self, unit: Unit, stage: Bits) -> dict[str, np.ndarray]:
        """A unit's tensors in their original types, as precise as `stage` makes them.

        Reads all shards up to `stage`. Every tensor that is complete by then is checked against
        the SHA-256 of the original.

        Raises:
          BundleError: no such unit or stage, or a missing or damaged file.
        """
        return dict(self.each_tensor(unit, stage))

    def each_tensor(self, unit: Unit, stage: Bits) -> Iterator[tuple[str, np.ndarray]]:
        """As `tensors`, one after the other; no more than one is held here at a time."""
        with self._previous_tensors() as previous, self._unit(unit, stage, previous) as files:
            yield from files.each()

    def exact_tensors(self) -> "ExactTensors":
        """All tensors of the bundle by name, each read and proven when it is asked for."""
        return ExactTensors(self)

    def verify(self) -> VerifyReport:
        """Reads every file and decodes every unit at every stage, and lists all problems."""
        problems: list[str] = []
        tensors = 0
        for unit, stages in self.manifest.stages.items():
            for stage in stages:
                with _noted(problems):
                    decoded = 0
                    for _, array in self.each_tensor(Unit.parse(unit), stage):
                        decoded += 1
                        # Else it would be held while the next is decoded.
                        del array
                    tensors += decoded if stage == stages[-1] else 0
        for entry in (entry for entries in self.manifest.programs.values() for entry in entries):
            with _noted(problems):
                self._program_file(entry).close()
        with self._lock:
            files, size = len(self._read_files), sum(self._read_files.values())
        return VerifyReport(files, size, tensors, tuple(dict.fromkeys(problems)))

    def _unit(self, unit: Unit, stage: Bits, previous: "ExactTensors | None") -> UnitFiles:
        told = None
        if previous is not None and self._previous is not None:
            told = Previous(self._previous.manifest, previous.__getitem__)
        return UnitFiles(self.manifest, unit, stage, self._file, told, self._largest_tensor)

    def _program_file(self, entry: ProgramEntry) -> VerifiedFile:
        if entry.bytes > LARGEST_PROGRAM:
            raise BundleError(
                f"{entry.file} declares {entry.bytes} bytes; a program has at most "
                f"{LARGEST_PROGRAM}, as it holds no weights"
            )
        return self._file(entry)

    def _file(self, entry: FileEntry) -> VerifiedFile:
        file = self._store.open(entry.file, entry.bytes, entry.sha256)
        with self._lock:
            self._read_files[entry.file] = entry.bytes
        return file

    @contextlib.contextmanager
    def _previous_tensors(self) -> Iterator["ExactTensors | None"]:
        if self._previous is None:
            yield None
            return
        with self._previous.exact_tensors() as tensors:
            yield tensors

    def _among(self, given: Sequence["BundleReader"]) -> "BundleReader | None":
        wanted = self.manifest.against
        return next((entry for entry in given if entry.manifest_sha256 == wanted), None)

    def _find_previous(self, given: Sequence["BundleReader"] | None) -> None:
        """Finds the bundles that this one is told against, to the first; None leaves it open."""
        if given is None:
            return
        self._previous = self._among(given)
        reader: BundleReader | None = self
        while reader is not None and reader.manifest.against is not None:
            if reader._previous is None:
                which = "the bundle" if reader is self else "a bundle given by --against"
                found = "none of those given is it" if given else "none is given"
                raise BundleError(
                    f"{which} is a delta against the bundle whose manifest.json has the SHA-256 "
                    f"{reader.manifest.against}; {found}: name that one's folder or address by "
                    "--against"
                )
            reader = reader._previous


class ExactTensors(Mapping[str, np.ndarray]):
    """A bundle's exact tensors by name, loaded when asked for and not kept.

    A context manager: the files of the last few units stay open until its end, so that taking
    tensors unit by unit verifies each shard once. For one thread.
    """

    def __init__(self, reader: BundleReader) -> None:
        self._reader = reader
        self._units = {
            name: unit
            for unit, stages in reader.manifest.stages.items()
            for name in reader.manifest.shards[f"{unit}@{stages[0]}"].tensors
        }
        self._open: collections.OrderedDict[str, UnitFiles] = collections.OrderedDict()
        self._stack = contextlib.ExitStack()
        self._previous = self._stack.enter_context(reader._previous_tensors())

    def __getitem__(self, name: str) -> np.ndarray:
        """The tensor; raises BundleError if it is damaged, KeyError if there is none."""
        unit = self._units[name]
        if unit not in self._open:
            while len(self._open) >= _OPEN_UNITS:
                self._open.popitem(last=False)[1].close()
            self._open[unit] = self._reader._unit(Unit.parse(unit), EXACT, self._previous)
        self._open.move_to_end(unit)
        return self._open[unit].tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._units)

    def __len__(self) -> int:
        return len(self._units)

    def close(self) -> None:
        """Closes the files."""
        while self._open:
            self._open.popitem()[1].close()
        self._stack.close()

    def __enter__(self) -> "ExactTensors":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _signed_manifest(store: Store, data: bytes, key: Key) -> bytes:
    """The manifest, once its signature is checked.

    Raises:
      SignatureError: missing, or not this key's.
    """
    where = getattr(store, "address", None) or getattr(store, "root", "the bundle")
    for last in (False, True):
        try:
            signatures = store.read(SIGNATURE_NAME)
        except BundleError as error:
            raise SignatureError(f"the bundle is not signed: {error}") from error
        try:
            check_signature(data, signatures, key, str(where))
        except SignatureError:
            # The bundle may have been replaced between the two reads.
            if last:
                raise
            data = store.read(MANIFEST_NAME)
        else:
            break
    return data


@contextlib.contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        problems.append(str(error))
