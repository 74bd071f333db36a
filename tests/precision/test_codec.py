import os

import pytest
import zstandard

from pwl_jax.precision import PrecisionError, StagePayload, codec


@pytest.mark.parametrize("data", [b"", b"a", bytes(100_000), os.urandom(5000), b"ab" * 999])
def test_comes_back(data):
    name, coded = codec.encode(data)
    assert bytes(codec.decode(name, coded, len(data))) == data
    assert len(coded) <= len(data)


def test_noise_is_stored_as_it_is():
    assert codec.encode(os.urandom(5000))[0] == "raw"


@pytest.mark.parametrize(
    ("name", "data", "size", "message"),
    [
        ("rot13", b"abc", 3, "unknown codec 'rot13'"),
        ("raw", b"abc", 4, "3 raw bytes where 4"),
        ("zstd", b"abc", 3, "damaged|frame"),
        ("zstd", zstandard.compress(bytes(1000)), 999, "frame of 1000 bytes where 999"),
        ("zstd", zstandard.compress(bytes(1000)) + b"hidden", 1000, "damaged"),
        ("zstd", zstandard.compress(bytes(1000))[:-2], 1000, "damaged|frame"),
        ("zstd", zstandard.compress(bytes(1 << 30)), 1000, "frame of 1073741824 bytes"),
    ],
)
def test_refuses(name, data, size, message):
    with pytest.raises(PrecisionError, match=message):
        codec.decode(name, data, size)


def test_a_frame_that_does_not_state_its_size_is_refused():
    data = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 20))
    with pytest.raises(PrecisionError):
        codec.decode("zstd", data, 1 << 20)


def test_the_digest_covers_header_and_data():
    header = {"kind": "exact", "dtype": "int8", "shape": [1], "parts": [["raw", 1]]}
    digests = {
        StagePayload(4, header, b"a").digest,
        StagePayload(4, header, b"b").digest,
        StagePayload(4, {**header, "dtype": "uint8"}, b"a").digest,
    }
    assert len(digests) == 3
    reordered = dict(reversed(header.items()))
    assert StagePayload(4, reordered, memoryview(b"a")).digest in digests
