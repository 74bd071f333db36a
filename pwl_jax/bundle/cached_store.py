"""A folder that keeps what another store fetched, for this process and others, now and later."""

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import IO

from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.file_lock import is_at, try_lock
from pwl_jax.bundle.integrity import CONTENT_NAME, check_name
from pwl_jax.bundle.stores import FolderStore, Store
from pwl_jax.bundle.verified_file import VerifiedFile

# Without progress for so long, another's download is not waited for.
_PATIENCE = 20.0
_POLL = 0.05


class CachedStore:
    """Keeps the content-addressed files of another store in a folder, named by their SHA-256.

    A file is fetched to `<sha256>.part`, verified there and renamed, so that files appear whole or
    not at all. Who fetches holds a lock on the part, which ends with its process; the next one
    goes on where it broke off. Another process, or thread, that wants the same file meanwhile
    waits for it; where files cannot be locked, each fetches for itself. A damaged file is fetched
    again. The manifest is never cached.
    """

    def __init__(self, store: Store, cache_dir: str | os.PathLike[str] | None = None) -> None:
        """Makes the folder, `default_cache_dir()` if none is named; raises BundleError."""
        self._store = store
        self._folder = default_cache_dir() if cache_dir is None else Path(cache_dir)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BundleError(f"cache_dir {self._folder}: {error.strerror or error}") from error

    def read(self, name: str, size: int | None = None, sha256: str | None = None) -> bytes:
        """See `Store`."""
        if size is None or sha256 is None:
            return self._store.read(name, size, sha256)
        with self.open(name, size, sha256) as file:
            return bytes(file.read(0, size))

    def open(self, name: str, size: int, sha256: str) -> VerifiedFile:
        """See `Store`."""
        check_name(name)
        match = CONTENT_NAME.match(name)
        if match is None or match[2] != sha256:
            return self._store.open(name, size, sha256)
        part = self._folder / f"{sha256}.part"
        seen, since = -1, time.monotonic()
        while True:
            kept = self._kept(name, size, sha256)
            if kept is not None:
                return kept
            try:
                file = part.open("a+b")
            except OSError:
                # A full or read-only disk costs only the next fetch.
                return self._store.open(name, size, sha256)
            locked = try_lock(file)
            if locked and is_at(file, part):
                return self._fetched(file, part, name, size, sha256)
            if locked is None:
                if not _length(file):
                    part.unlink(missing_ok=True)
                file.close()
                return self._fetched_alone(name, size, sha256)
            length = os.fstat(file.fileno()).st_size
            file.close()
            if length != seen:
                seen, since = length, time.monotonic()
            elif time.monotonic() - since > _PATIENCE:
                return self._store.open(name, size, sha256)
            time.sleep(_POLL)

    def receive(self, name: str, size: int, file: IO[bytes]) -> None:
        """See `Store`."""
        self._store.receive(name, size, file)

    def _kept(self, name: str, size: int, sha256: str) -> VerifiedFile | None:
        with contextlib.suppress(BundleError):
            kept = FolderStore(self._folder).open(sha256, size, sha256)
            kept.name = name
            return kept
        return None

    def _fetched(
        self, file: IO[bytes], part: Path, name: str, size: int, sha256: str
    ) -> VerifiedFile:
        """Completes a part that this process has locked, and gives it its name."""
        try:
            kept = self._kept(name, size, sha256)
            if kept is not None:
                # Another finished between the look and the lock.
                part.unlink(missing_ok=True)
                file.close()
                return kept
            try:
                whole = self._completed(file, name, size, sha256)
            except BundleError:
                if not _length(file):
                    part.unlink(missing_ok=True)
                raise
            part.replace(self._folder / sha256)
            return whole
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            file.close()
            return self._store.open(name, size, sha256)
        except BaseException:
            file.close()
            raise

    def _fetched_alone(self, name: str, size: int, sha256: str) -> VerifiedFile:
        """Fetches to a file that no other process knows, for want of locks; not to be resumed."""
        try:
            handle, path = tempfile.mkstemp(dir=self._folder, prefix=f"{sha256}.", suffix=".part")
        except OSError:
            return self._store.open(name, size, sha256)
        try:
            return self._fetched(os.fdopen(handle, "r+b"), Path(path), name, size, sha256)
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise

    def _completed(self, file: IO[bytes], name: str, size: int, sha256: str) -> VerifiedFile:
        begun = _length(file)
        self._store.receive(name, size, file)
        file.flush()
        try:
            return VerifiedFile(file, name, size, sha256)
        except BundleError:
            file.truncate(0)
            if not begun:
                raise
        # What an earlier process left may be at fault; once more without it.
        return self._completed(file, name, size, sha256)


def default_cache_dir() -> Path:
    """`pwl_jax/bundles` below $XDG_CACHE_HOME if that is an absolute path, else below ~/.cache."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
    return base / "pwl_jax" / "bundles"


def _length(file: IO[bytes]) -> int:
    return file.seek(0, os.SEEK_END)
