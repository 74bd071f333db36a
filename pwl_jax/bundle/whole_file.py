"""Files that are written whole or not at all, on local disks or where `etils.epath` reaches."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pwl_jax.bundle.stores import remote_path
from pwl_jax.errors import UserError


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A seekable file to write, which is put at `path` only when the context ends well.

    Raises:
      UserError: it cannot be written.
    """
    address = os.fspath(path)
    try:
        if "://" in address:
            with tempfile.TemporaryFile() as file:
                yield file
                file.seek(0)
                with remote_path(address).open("wb") as target:
                    shutil.copyfileobj(file, target, 1 << 20)
            return
        place = Path(address)
        temporary = place.with_name(f".{place.name}.{os.getpid()}.part")
        try:
            with temporary.open("wb") as file:
                yield file
            temporary.replace(place)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise UserError(f"cannot write {address}: {error.strerror or error}") from error
