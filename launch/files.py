"""Reading inputs and writing results, on local disks or where `etils.epath` reaches."""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from pwl_jax.errors import UserError


def read_input(path: str) -> Any:
    """What `predict` is to be given: the array of a `.npy` file, else an image.

    Raises:
      UserError: the file is missing or holds neither.
    """
    data = read_bytes(path)
    if path.endswith(".npy"):
        try:
            return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError, OSError, TypeError, SyntaxError, MemoryError) as error:
            raise UserError(f"{path} is no readable .npy array: {error}") from error
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow names the buffer it read from, which says nothing to anybody.
        problem = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"{path} is no readable image: {problem}") from error
    return image


def read_bytes(path: str) -> bytes:
    """A file's content.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return _remote(path).read_bytes() if is_remote(path) else Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def write_array(path: str, array: np.ndarray) -> None:
    """Writes a `.npy` file under exactly this name."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def write_bytes(path: str, data: bytes) -> None:
    """Writes a file as a whole: on failure nothing new, and nothing half-written, is left.

    Raises:
      UserError: it cannot be written.
    """
    with written_whole(path) as file:
        file.write(data)


@contextlib.contextmanager
def written_whole(path: str) -> Iterator[IO[bytes]]:
    """A seekable file to write, which is put at `path` only when the context ends well.

    Raises:
      UserError: it cannot be written.
    """
    try:
        if is_remote(path):
            with tempfile.TemporaryFile() as file:
                yield file
                file.seek(0)
                with _remote(path).open("wb") as target:
                    shutil.copyfileobj(file, target, 1 << 20)
            return
        place = Path(path)
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
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def is_remote(path: str) -> bool:
    """Whether a path is an address such as gs://bucket/name."""
    return "://" in path


def _remote(path: str) -> Any:
    try:
        from etils import epath
    except ImportError as error:
        raise UserError(f"reading or writing {path} needs the package etils[epath]") from error
    return epath.Path(path)
