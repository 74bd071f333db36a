"""Where the files of a bundle come from: a folder, a web server, and a cache in front of one."""

import contextlib
import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Protocol

from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.integrity import CONTENT_NAME, check_file, check_name

# Of a file whose size nothing declares: the manifest.
LARGEST_UNDECLARED = 64 << 20
_CHUNK = 1 << 20
_TIMEOUT = 30.0


class Store(Protocol):
    """Reads files of one bundle, and hands out none that is not as expected."""

    def read(self, name: str, size: int | None = None, sha256: str | None = None) -> bytes:
        """The whole file `name`.

        Args:
          name: relative, with "/", such as shards/<sha256>.p2u.
          size: bytes it must have; without, it may have up to `LARGEST_UNDECLARED`.
          sha256: what it must hash to.

        Raises:
          BundleError: missing, unreadable, or of another size or hash; names the file.
        """


class FolderStore:
    """Files below a folder: a `pathlib.Path`, or what `etils.epath` makes of gs:// and the like."""

    def __init__(self, root: Any) -> None:
        self.root = root

    def read(self, name: str, size: int | None = None, sha256: str | None = None) -> bytes:
        """See `Store`."""
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
            with path.open("rb") as file:
                data = file.read(length + 1)
        except OSError as error:
            reason = error.strerror or error
            raise BundleError(f"{name} in {self.root} cannot be read: {reason}") from error
        if len(data) != length:
            raise BundleError(f"{name} in {self.root} changed while it was read")
        check_file(name, data, size, sha256)
        return data


class HttpStore:
    """Files below an address. A read that breaks off is taken up by the next read of that file.

    It does not retry by itself: the caller knows how long to wait.
    """

    def __init__(self, address: str, timeout: float = _TIMEOUT) -> None:
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BundleError(f"{address} is no http address")
        self.address = address
        self._parts = parts
        self._timeout = timeout
        self._unfinished: dict[str, bytearray] = {}

    def read(self, name: str, size: int | None = None, sha256: str | None = None) -> bytes:
        """See `Store`."""
        check_name(name)
        limit = LARGEST_UNDECLARED if size is None else size
        data = self._unfinished.pop(name, bytearray()) if size is not None else bytearray()
        try:
            self._receive(name, data, limit)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # 416: the server's file is shorter than what came before; the next read starts anew.
            begun = size is not None and 0 < len(data) < size
            if begun and getattr(error, "code", None) != 416:
                self._unfinished[name] = data
            raise BundleError(f"{name} from {self.address}: {_reason(error)}") from error
        # The bytes so far are good only if what follows completes them, so none are kept here.
        whole = bytes(data)
        check_file(name, whole, size, sha256)
        return whole

    def _receive(self, name: str, data: bytearray, limit: int) -> None:
        request = urllib.request.Request(self._url(name))
        # What is asked for is hashed as it is stored; no coding may come between.
        request.add_header("Accept-Encoding", "identity")
        if data:
            request.add_header("Range", f"bytes={len(data)}-")
        with urllib.request.urlopen(request, timeout=self._timeout) as response:
            if data and not self._continues(response, len(data)):
                data.clear()
            declared = response.headers.get("Content-Length")
            if declared is not None and len(data) + int(declared) > limit:
                data.clear()
                raise BundleError(f"{name} from {self.address} is larger than {limit} bytes")
            expected = None if declared is None else len(data) + int(declared)
            while len(data) <= limit and (chunk := response.read(_CHUNK)):
                data += chunk
        if len(data) > limit:
            data.clear()
            raise BundleError(f"{name} from {self.address} is larger than {limit} bytes")
        if expected is not None and len(data) < expected:
            raise http.client.IncompleteRead(b"", expected - len(data))

    def _continues(self, response: Any, start: int) -> bool:
        content_range = response.headers.get("Content-Range", "")
        return response.status == 206 and content_range.startswith(f"bytes {start}-")

    def _url(self, name: str) -> str:
        path = f"{self._parts.path.rstrip('/')}/{urllib.parse.quote(name)}"
        return urllib.parse.urlunsplit(self._parts._replace(path=path, fragment=""))


class CachedStore:
    """Keeps the content-addressed files of another store in a folder, named by their SHA-256.

    Files appear there whole or not at all, so processes may share the folder. A damaged one is
    fetched again. The manifest is never cached.
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
        match = CONTENT_NAME.match(name)
        if match is None or sha256 is None or match[2] != sha256:
            return self._store.read(name, size, sha256)
        kept = self._folder / match[2]
        with contextlib.suppress(OSError, BundleError):
            data = FolderStore(self._folder).read(kept.name, size)
            if hashlib.sha256(data).hexdigest() == sha256:
                return data
        data = self._store.read(name, size, sha256)
        self._keep(kept, data)
        return data

    def _keep(self, path: Path, data: bytes) -> None:
        """Writes atomically; a full or read-only disk costs only the next fetch."""
        with contextlib.suppress(OSError):
            handle, name = tempfile.mkstemp(dir=self._folder, prefix=".part-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise


def open_store(path: str | os.PathLike[str]) -> Store:
    """The store of a folder, an http(s) address, or another address that `etils.epath` knows.

    Raises:
      BundleError: no such folder, or no package that knows the address.
    """
    address = os.fspath(path)
    if address.startswith(("http://", "https://")):
        return HttpStore(address)
    if "://" in address:
        return FolderStore(remote_path(address))
    if not Path(address).is_dir():
        raise BundleError(f"{address} is no folder with a bundle")
    return FolderStore(Path(address))


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


def default_cache_dir() -> Path:
    """`pwl_jax/bundles` below $XDG_CACHE_HOME if that is an absolute path, else below ~/.cache."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
    return base / "pwl_jax" / "bundles"


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        # Holds the connection open otherwise.
        error.close()
        return f"the server answers {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"no connection: {error.reason}"
    return str(error) or type(error).__name__
