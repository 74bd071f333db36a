"""Locks that end with the process that holds them, even when it is killed."""

import errno
import os
import sys
from pathlib import Path
from typing import IO


def try_lock(file: IO[bytes]) -> bool | None:
    """Locks an open file for this process alone, without waiting.

    False where another holds the lock; None where the system or the file system has no locks.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def is_at(file: IO[bytes], path: Path) -> bool:
    """Whether `path` still leads to the open file; another may have moved or removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
