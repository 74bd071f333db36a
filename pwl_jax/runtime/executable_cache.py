"""Compiled executables, kept for this user on this machine.

Loading one unpickles, so a file is only read if this user owns it and nobody else can write it or
the folder; executables never travel with a bundle.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

LARGEST_CACHE = 1 << 30
"""Bytes kept; the executables that were not used for longest go first."""

VARIABLE = "PWL_EXECUTABLE_CACHE"
"""Environment variable that names the folder; empty for no cache."""

_DIGEST_BYTES = 32
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class ExecutableCache:
    """A folder of files named by what they were compiled from.

    Nothing here raises for what is on disk: a file that is missing, damaged or not this user's own
    is no hit, and a folder that cannot be written keeps nothing.
    """

    def __init__(self, folder: Path, largest: int = LARGEST_CACHE) -> None:
        self.folder = folder
        self._largest = largest

    @classmethod
    def default(cls) -> "ExecutableCache | None":
        """That of the environment, or in the user's cache folder; None where there is none.

        Where the system knows no owners of files there is none.
        """
        named = os.environ.get(VARIABLE)
        if named == "" or not hasattr(os, "geteuid"):
            return None
        if named is None:
            base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            named = str(Path(base) / "pwl_jax" / "executables")
        return cls(Path(named))

    def load(self, *key: str) -> bytes | None:
        """What was stored under `key`, if it is whole and this user's own."""
        path = self._path(key)
        try:
            if not _is_own(self.folder.lstat()):
                return None
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                if not _is_own(os.fstat(file.fileno())):
                    return None
                digest, data = file.read(_DIGEST_BYTES), file.read()
        except OSError:
            return None
        if hashlib.sha256(data).digest() != digest:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return data

    def store(self, data: bytes, *key: str) -> None:
        """Keeps `data` under `key`; replaced as a whole, readable by this user alone."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_own(self.folder.lstat()):
                return
            with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
                partial = Path(file.name)
                try:
                    file.write(hashlib.sha256(data).digest() + data)
                    file.flush()
                    partial.replace(self._path(key))
                finally:
                    partial.unlink(missing_ok=True)
            self._prune()

    def _path(self, key: tuple[str, ...]) -> Path:
        return self.folder / hashlib.sha256("\0".join(key).encode()).hexdigest()

    def _prune(self) -> None:
        found = sorted(
            ((file.stat(), file) for file in self.folder.iterdir()),
            key=lambda entry: entry[0].st_mtime,
            reverse=True,
        )
        total = 0
        for status, file in found:
            total += status.st_size
            if total > self._largest:
                file.unlink(missing_ok=True)


def _is_own(status: os.stat_result) -> bool:
    """Whether this user owns it and no other can write it; links are nobody's."""
    return (
        not stat.S_ISLNK(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & _OTHERS_WRITE
    )
