"""Pieces of a file that is known by its hash."""

import hashlib
import tracemalloc

import numpy as np
import pytest

from pwl_jax.bundle import BundleError, FolderStore, VerifiedFile
from pwl_jax.bundle.verified_file import CHUNK

SMALL = bytes(range(256)) * 10
LARGE = np.random.default_rng(0).bytes(9 * CHUNK + 12345)


def opened(path, data, **other):
    expected = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **other}
    return FolderStore(path.parent).open(path.name, **expected)


@pytest.mark.parametrize("data", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
def test_any_piece_can_be_read(tmp_path, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    size = len(data)
    with opened(path, data) as file:
        for start, end in [
            (0, size),
            (size // 2, size),
            (0, 0),
            (size, size),
            (size // 3, size - size // 3),
        ]:
            assert file.read(start, end - start) == data[start:end]
        for start, count in [(0, size + 1), (size, 1), (-1, 1), (0, -1), (1 << 62, 1)]:
            with pytest.raises(BundleError, match=r"file.*beyond its end"):
                file.read(start, count)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_another_size_or_hash_is_refused(tmp_path, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(BundleError, match="damaged"):
        opened(path, data, sha256="0" * 64)
    for size in (len(data) - 1, len(data) + 1):
        with pytest.raises(BundleError, match=r"file has .* expected"):
            opened(path, data, size=size)
        with path.open("rb") as plain, pytest.raises(BundleError, match="bytes"):
            VerifiedFile(plain, "file", size, hashlib.sha256(data).hexdigest())


def test_what_changes_after_it_was_hashed_is_not_handed_out(tmp_path):
    """No unverified byte reaches a computation, although the file is read a second time."""
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    with opened(path, LARGE) as file:
        with path.open("r+b") as other:
            other.seek(3 * CHUNK + 5)
            other.write(b"?")
        assert file.read(0, 3 * CHUNK) == LARGE[: 3 * CHUNK]
        for start, count in [(3 * CHUNK, 1), (0, len(LARGE)), (4 * CHUNK - 1, 2)]:
            with pytest.raises(BundleError, match="file changed while it was read"):
                file.read(start, count)
        with path.open("r+b") as other:
            other.truncate(2 * CHUNK)
        with pytest.raises(BundleError, match="file changed while it was read"):
            file.read(5 * CHUNK, 1)


def test_memory_is_a_few_chunks_whatever_the_size(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(LARGE * 8)
    sha256 = hashlib.sha256(LARGE * 8).hexdigest()
    tracemalloc.start()
    try:
        with FolderStore(tmp_path).open("file", len(LARGE) * 8, sha256) as file:
            for start in range(0, len(LARGE) * 8, len(LARGE)):
                assert file.read(start, 100) == LARGE[:100]
        assert tracemalloc.get_traced_memory()[1] < 4 * CHUNK
    finally:
        tracemalloc.stop()
