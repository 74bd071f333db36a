"""Reading inputs and writing results, on local disks or where `etils.epath` reaches."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from pwl_jax.bundle.stores import remote_path
from pwl_jax.bundle.whole_file import written_whole
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
        return remote_path(path).read_bytes() if "://" in path else Path(path).read_bytes()
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
