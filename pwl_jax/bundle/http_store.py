"""The files of a bundle behind any web server."""

import http.client
import io
import os
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import weakref
from typing import IO, Any

from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.integrity import check_file, check_name
from pwl_jax.bundle.stores import LARGEST_UNDECLARED, start_of_rest
from pwl_jax.bundle.verified_file import CHUNK, VerifiedFile

_TIMEOUT = 30.0
_NETWORK = (OSError, http.client.HTTPException, ValueError)


class HttpStore:
    """Files below an address. A read that breaks off is taken up by the next read of that file.

    It does not retry by itself: the caller knows how long to wait. Without a cache in front,
    opened files lie in the system's temporary folder.
    """

    def __init__(self, address: str, timeout: float = _TIMEOUT) -> None:
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BundleError(f"{address} is no http address")
        self.address = address
        self._parts = parts
        self._timeout = timeout
        self._unfinished: dict[str, IO[bytes]] = {}
        weakref.finalize(self, _close_all, self._unfinished)

    def read(self, name: str, size: int | None = None, sha256: str | None = None) -> bytes:
        """See `Store`."""
        if size is not None and sha256 is not None:
            with self.open(name, size, sha256) as file:
                return bytes(file.read(0, size))
        check_name(name)
        buffer = io.BytesIO()
        self._receive(name, buffer, LARGEST_UNDECLARED if size is None else size)
        data = buffer.getvalue()
        check_file(name, data, size, sha256)
        return data

    def open(self, name: str, size: int, sha256: str) -> VerifiedFile:
        """See `Store`."""
        check_name(name)
        file = self._unfinished.pop(name, None) or tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self.receive(name, size, file)
        except OSError as error:
            file.close()
            raise BundleError(f"{name}: no room to keep it: {error.strerror or error}") from error
        except BundleError:
            if file.seek(0, os.SEEK_END):
                self._unfinished[name] = file
            else:
                file.close()
            raise
        # The bytes so far are good only if what follows completes them, so none are kept here.
        try:
            return VerifiedFile(file, name, size, sha256)
        except BaseException:
            file.close()
            raise

    def receive(self, name: str, size: int, file: IO[bytes]) -> None:
        """See `Store`."""
        check_name(name)
        if start_of_rest(file, size) < size or not size:
            self._receive(name, file, size)

    def _receive(self, name: str, file: IO[bytes], limit: int) -> None:
        """Takes what follows the bytes in `file`, or all, up to `limit`."""
        at = file.seek(0, os.SEEK_END)
        request = urllib.request.Request(self._url(name))
        # What is asked for is hashed as it is stored; no coding may come between.
        request.add_header("Accept-Encoding", "identity")
        if at:
            request.add_header("Range", f"bytes={at}-")
        try:
            response = urllib.request.urlopen(request, timeout=self._timeout)
        except _NETWORK as error:
            if getattr(error, "code", None) == 416:
                # The server's file is shorter than what came before; the next read starts anew.
                _empty(file)
            raise self._broken(name, error) from error
        with response:
            if at and not self._continues(response, at):
                at = _empty(file)
            try:
                expected = self._expected(response, at)
                if expected is not None and expected > limit:
                    _empty(file)
                    raise BundleError(f"{name} from {self.address} is larger than {limit} bytes")
                while chunk := response.read(CHUNK):
                    at += len(chunk)
                    if at > limit:
                        _empty(file)
                        raise BundleError(
                            f"{name} from {self.address} is larger than {limit} bytes"
                        )
                    _write(file, chunk)
                if expected is not None and at < expected:
                    raise http.client.IncompleteRead(b"", expected - at)
            except _Unwritable as error:
                raise error.reason from error
            except _NETWORK as error:
                raise self._broken(name, error) from error

    def _expected(self, response: Any, at: int) -> int | None:
        declared = response.headers.get("Content-Length")
        return None if declared is None else at + int(declared)

    def _continues(self, response: Any, start: int) -> bool:
        content_range = response.headers.get("Content-Range", "")
        return response.status == 206 and content_range.startswith(f"bytes {start}-")

    def _url(self, name: str) -> str:
        path = f"{self._parts.path.rstrip('/')}/{urllib.parse.quote(name)}"
        return urllib.parse.urlunsplit(self._parts._replace(path=path, fragment=""))

    def _broken(self, name: str, error: Exception) -> BundleError:
        return BundleError(f"{name} from {self.address}: {_reason(error)}")


class _Unwritable(Exception):
    """Tells a full disk from a broken connection, which are both an OSError."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(reason)
        self.reason = reason


def _write(file: IO[bytes], chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise _Unwritable(error) from error


def _close_all(files: dict[str, IO[bytes]]) -> None:
    for file in files.values():
        file.close()


def _empty(file: IO[bytes]) -> int:
    file.seek(0)
    return file.truncate()


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        # Holds the connection open otherwise.
        error.close()
        return f"the server answers {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"no connection: {error.reason}"
    return str(error) or type(error).__name__
