"""Where the files of a bundle come from. A folder here; see also http_store and cached_store."""

import os
from pathlib import Path
from typing import IO, Any, Protocol

from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.integrity import check_file, check_name
from pwl_jax.bundle.verified_file import CHUNK, VerifiedFile

# Of a file whose size nothing declares: the manifest. Parsed JSON takes up to 40 times its text.
LARGEST_UNDECLARED = 16 << 20


class Store(Protocol):
    """Reads files of one bundle, and hands out none that is not as expected."""

    def read(self, name: str, size: int | None = None, sha256: str | None = None) -> bytes:
        """The whole of a small file.

        Args:
          name: relative, with "/", such as programs/<sha256>.onnx.
          size: bytes it must have; without, it may have up to `LARGEST_UNDECLARED`.
          sha256: what it must hash to.

        Raises:
          BundleError: missing, unreadable, or of another size or hash; names the file.
        """

    def open(self, name: str, size: int, sha256: str) -> VerifiedFile:
        """A file of any size, verified, to be read piece by piece; the caller closes it.

        Raises:
          BundleError: as for `read`.
        """

    def receive(self, name: str, size: int, file: IO[bytes]) -> None:
        """Appends to `file` what it lacks of a file's `size` bytes, in chunks and unverified.

        What `file` holds already is taken for the beginning. If the source cannot go on from
        there, it is emptied and all is written anew. It never grows beyond `size`.

        Raises:
          BundleError: missing, or broken off; what came is in `file`.
          OSError: `file` cannot be written.
        """


class FolderStore:
    """Files below a folder: a `pathlib.Path`, or what `etils.epath` makes of gs:// and the like."""

    def __init__(self, root: Any) -> None:
        self.root = root

    def read(self, name: str, size: int | None = None, sha256: str | None = None) -> bytes:
        """See `Store`."""
        with self._opened(name, size) as (file, length):
            try:
                data = file.read(length + 1)
            except OSError as error:
                raise self._unreadable(name, error) from error
        if len(data) != length:
            raise BundleError(f"{name} in {self.root} changed while it was read")
        check_file(name, data, size, sha256)
        return data

    def open(self, name: str, size: int, sha256: str) -> VerifiedFile:
        """See `Store`."""
        opened = self._opened(name, size)
        try:
            return VerifiedFile(opened.file, name, size, sha256)
        except BaseException:
            opened.file.close()
            raise

    def receive(self, name: str, size: int, file: IO[bytes]) -> None:
        """See `Store`."""
        with self._opened(name, size) as (source, _):
            at = start_of_rest(file, size)
            while at < size:
                try:
                    source.seek(at)
                    chunk = source.read(min(CHUNK, size - at))
                except OSError as error:
                    raise self._unreadable(name, error) from error
                if not chunk:
                    raise BundleError(f"{name} in {self.root} changed while it was read")
                file.write(chunk)
                at += len(chunk)

    def _opened(self, name: str, size: int | None) -> "_Opened":
        check_name(name)
        path = self.root / name
        limit = LARGEST_UNDECLARED if size is None else size
        try:
            # A pipe or a device would block or never end.
            if not path.is_file():
                raise BundleError(f"{name} is missing in {self.root}")
            status = path.stat()
            length = status.st_size if hasattr(status, "st_size") else status.length
            if length > limit or (size is not None and length != size):
                expected = "at most " * (size is None) + str(limit)
                raise BundleError(f"{name} has {length} bytes; expected {expected}")
            return _Opened(path.open("rb"), length)
        except OSError as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: OSError) -> BundleError:
        return BundleError(f"{name} in {self.root} cannot be read: {error.strerror or error}")


class _Opened:
    """An open file and its length; closed at the end of its context."""

    def __init__(self, file: IO[bytes], length: int) -> None:
        self.file, self.length = file, length

    def __enter__(self) -> tuple[IO[bytes], int]:
        return self.file, self.length

    def __exit__(self, *_: object) -> None:
        self.file.close()


def start_of_rest(file: IO[bytes], size: int) -> int:
    """Bytes that `file` holds of `size`; it is emptied if it holds more. Stands at its end."""
    at = file.seek(0, os.SEEK_END)
    if at > size:
        file.seek(0)
        file.truncate()
        at = 0
    return at


def remote_path(path: str) -> Any:
    """What `etils.epath` makes of an address such as gs://bucket/name.

    Raises:
      BundleError: etils is not installed.
    """
    try:
        from etils import epath
    except ImportError as error:
        raise BundleError(f"{path} needs the package etils[epath]") from error
    return epath.Path(path)


def open_store(path: str | os.PathLike[str]) -> Store:
    """The store of a folder, an http(s) address, or another address that `etils.epath` knows.

    Raises:
      BundleError: no such folder, or no package that knows the address.
    """
    address = os.fspath(path)
    if address.startswith(("http://", "https://")):
        # Python's HTTP client is half of what there would be to import.
        from pwl_jax.bundle.http_store import HttpStore

        return HttpStore(address)
    return folder_store(path)


def folder_store(path: str | os.PathLike[str]) -> FolderStore:
    """The store of a folder, here or at an address that `etils.epath` knows.

    Raises:
      BundleError: no such folder, or no package that knows the address.
    """
    address = os.fspath(path)
    if "://" in address:
        return FolderStore(remote_path(address))
    if not Path(address).is_dir():
        raise BundleError(f"{address} is no folder with a bundle")
    return FolderStore(Path(address))
