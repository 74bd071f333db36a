"""A file that is known by its hash, read piece by piece without ever trusting it twice."""

import hashlib
import io
from types import TracebackType
from typing import IO

from pwl_jax.bundle.errors import BundleError

CHUNK = 1 << 20
# Up to this size a file is held in memory: else it is read twice, and hashed three times.
_HELD = 8 << 20


class VerifiedFile:
    """Hands out bytes of a file of the expected size and SHA-256.

    The whole file is hashed first; a small one is kept. A larger one on disk can be changed after
    that, so each chunk of it has a hash of its own, made in the same pass, that is checked whenever
    the chunk is read. Memory is then one chunk, 32 bytes for each chunk of the file, and what a
    read asks for. Not for several threads at once.
    """

    def __init__(self, file: IO[bytes], name: str, size: int, sha256: str) -> None:
        """Hashes `file` from its start and keeps it; on failure the caller still owns it.

        Args:
          file: seekable and readable.
          name: of the file, for messages.
          size: bytes that it must have.
          sha256: what it must hash to.

        Raises:
          BundleError: another size or hash, or it cannot be read.
        """
        self.name, self.size = name, size
        self._file = file
        self._marks: list[bytes] = []
        self._at, self._chunk = 0, b""
        whole = hashlib.sha256()
        found = 0
        try:
            file.seek(0)
            held = size <= _HELD
            while chunk := file.read(size + 1 if held else CHUNK):
                found += len(chunk)
                if found > size:
                    raise BundleError(f"{name} has more than the {size} bytes that are declared")
                whole.update(chunk)
                if held:
                    self._chunk += chunk
                else:
                    self._marks.append(hashlib.sha256(chunk).digest())
        except OSError as error:
            raise BundleError(f"{name} cannot be read: {error.strerror or error}") from error
        if found != size:
            raise BundleError(f"{name} has {found} bytes; the manifest says {size}")
        if whole.hexdigest() != sha256:
            raise BundleError(f"{name} is damaged: its SHA-256 is not the one in the manifest")

    @classmethod
    def of_bytes(cls, data: bytes, name: str) -> "VerifiedFile":
        """The same face on bytes that are trusted already."""
        return cls(io.BytesIO(data), name, len(data), hashlib.sha256(data).hexdigest())

    def read(self, start: int, size: int) -> memoryview:
        """Exactly `size` bytes from `start` on.

        Raises:
          BundleError: they reach beyond the file, or changed since the file was hashed.
        """
        if start < 0 or size < 0 or start + size > self.size:
            raise BundleError(f"{self.name}: {size} bytes from {start} on reach beyond its end")
        if not self._marks:
            return memoryview(self._chunk)[start : start + size]
        buffer = bytearray(size)
        view, done = memoryview(buffer), 0
        while done < size:
            index, offset = divmod(start + done, CHUNK)
            piece = memoryview(self._verified_chunk(index))[offset : offset + size - done]
            view[done : done + len(piece)] = piece
            done += len(piece)
        return view.toreadonly()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> "VerifiedFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _verified_chunk(self, index: int) -> bytes:
        if self._chunk and self._at == index:
            return self._chunk
        try:
            self._file.seek(index * CHUNK)
            chunk = self._file.read(CHUNK)
        except OSError as error:
            raise BundleError(f"{self.name} cannot be read: {error.strerror or error}") from error
        if hashlib.sha256(chunk).digest() != self._marks[index]:
            raise BundleError(f"{self.name} changed while it was read")
        self._at, self._chunk = index, chunk
        return chunk
