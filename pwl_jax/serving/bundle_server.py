"""A plain HTTP server over one folder, on localhost, limited in bytes per second.

Stands for a slow link in demonstrations and tests. It knows GET, HEAD and single byte ranges, as
any static file host does, and serves no path outside its folder.
"""

import contextlib
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pwl_jax.errors import UserError

_SLICE_SECONDS = 0.02
_UNLIMITED_SLICE = 1 << 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z")


class BundleServer(ThreadingHTTPServer):
    """Serves `root`; all connections together send at most `bytes_per_second`."""

    daemon_threads = True

    def __init__(self, root: Path, bytes_per_second: float | None, port: int = 0) -> None:
        self.root = root
        self.bytes_per_second = bytes_per_second
        self.bytes_sent = 0
        self._lock = threading.Lock()
        self._free_at = time.monotonic()
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """The address of the folder."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def slice_bytes(self) -> int:
        """How much is sent at a time, so that the flow is even."""
        if self.bytes_per_second is None:
            return _UNLIMITED_SLICE
        return max(1, int(self.bytes_per_second * _SLICE_SECONDS))

    def take_turn(self, size: int) -> None:
        """Waits until `size` bytes may be sent."""
        with self._lock:
            self.bytes_sent += size
            if self.bytes_per_second is None:
                return
            self._free_at = max(self._free_at, time.monotonic()) + size / self.bytes_per_second
            wait = self._free_at - time.monotonic()
        if wait > 0:
            time.sleep(wait)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BundleServer

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps quiet."""

    def _answer(self, with_body: bool) -> None:
        path = self._file()
        if path is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        size = path.stat().st_size
        try:
            span = _byte_range(self.headers.get("Range"), size)
        except ValueError:
            self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, f"bytes */{size}")
            return
        start, stop = span or (0, size)
        self.send_response(HTTPStatus.OK if span is None else HTTPStatus.PARTIAL_CONTENT)
        if span is not None:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()
        if with_body:
            self._send(path, start, stop)

    def _send(self, path: Path, start: int, stop: int) -> None:
        step = self.server.slice_bytes()
        with path.open("rb") as file, contextlib.suppress(ConnectionError):
            file.seek(start)
            while start < stop:
                data = file.read(min(step, stop - start))
                if not data:
                    self.close_connection = True
                    return
                self.server.take_turn(len(data))
                self.wfile.write(data)
                start += len(data)
            return
        self.close_connection = True

    def _refuse(self, status: HTTPStatus, content_range: str | None = None) -> None:
        body = f"{status.value} {status.phrase}\n".encode()
        self.send_response(status)
        if content_range is not None:
            self.send_header("Content-Range", content_range)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _file(self) -> Path | None:
        """The file asked for; None if there is none or it lies outside the folder."""
        name = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).lstrip("/")
        try:
            path = (self.server.root / name).resolve()
            inside = path.is_relative_to(self.server.root) and path.is_file()
        except (OSError, ValueError):
            return None
        return path if inside else None


def _byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """(start, stop) of `bytes=a-b`, `bytes=a-` or `bytes=-n`; None without one.

    Raises:
      ValueError: no byte of the file lies in the range.
    """
    match = _RANGE.match(header.strip()) if header else None
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
    if start >= stop:
        raise ValueError(f"range {header} of {size} bytes")
    return start, stop


@contextlib.contextmanager
def serve_folder(
    path: str | os.PathLike[str], bytes_per_second: float | None = None, port: int = 0
) -> Iterator[str]:
    """Serves a folder on localhost while the context lasts.

    Args:
      path: the folder, such as a bundle.
      bytes_per_second: what all connections together may send; None for no limit.
      port: 0 takes any free one.

    Yields:
      The folder's address, `http://127.0.0.1:<port>`.

    Raises:
      UserError: `path` is no folder, or the limit is not positive.
    """
    root = Path(path).resolve()
    if not root.is_dir():
        raise UserError(f"{path} is no folder to serve")
    if bytes_per_second is not None and bytes_per_second <= 0:
        raise UserError(f"bytes_per_second must be positive, not {bytes_per_second}")
    server = BundleServer(root, bytes_per_second, port)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    )
    thread.start()
    try:
        yield server.url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
