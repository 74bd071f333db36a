"""The folder in which a bundle is written before it is put in place."""

import contextlib
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO

from pwl_jax.bundle.file_lock import try_lock

_LOCK = "lock"
# A writer makes its lock within milliseconds; a folder that lacks one for so long has no writer.
_LOCKLESS_SECONDS = 3600.0


class StagingFolder:
    """A folder beside the target, named `.<name>.partial-*`; it goes with this object.

    A process that is killed leaves its folder. It holds a lock in it that ends with the process,
    by which the next writer of the same target tells folders that nobody owns, and removes them.

    Attributes:
      path: the folder.
    """

    def __init__(self, name: str, beside: Path | None) -> None:
        """Makes the folder in `beside`, or in the system's temporary folder; raises OSError."""
        prefix = f".{name}.partial-"
        parent = Path(tempfile.gettempdir()) if beside is None else beside
        remove_ownerless(parent, prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        # Named `lock` only when it is locked, so that it is never found without its lock.
        unnamed = self.path / f"{_LOCK}.new"
        self._lock = unnamed.open("wb")
        try_lock(self._lock)
        unnamed.replace(self.path / _LOCK)
        self.remove: Callable[[], object] = weakref.finalize(self, _remove, self.path, self._lock)

    def release(self) -> None:
        """Takes the lock out of the folder, which is then ready to become the bundle."""
        (self.path / _LOCK).unlink()


def remove_ownerless(parent: Path, prefix: str) -> None:
    """Removes the folders of writers that were killed."""
    with contextlib.suppress(OSError):
        for folder in parent.iterdir():
            if folder.name.startswith(prefix) and not folder.is_symlink() and folder.is_dir():
                with contextlib.suppress(OSError):
                    _remove_if_ownerless(folder)


def _remove_if_ownerless(folder: Path) -> None:
    try:
        file = (folder / _LOCK).open("r+b")
    except FileNotFoundError:
        if time.time() - folder.stat().st_mtime > _LOCKLESS_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
        return
    with file:
        if try_lock(file):
            shutil.rmtree(folder, ignore_errors=True)


def _remove(path: Path, lock: IO[bytes]) -> None:
    shutil.rmtree(path, ignore_errors=True)
    lock.close()
