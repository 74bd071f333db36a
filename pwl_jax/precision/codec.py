"""Named byte codecs. What a name means never changes; a better coder gets a new name."""

import threading
from collections.abc import Sequence

import zstandard

from pwl_jax.precision.errors import PrecisionError

CODECS = ("raw", "zstd")
_LEVEL = 3
# In noise there is nothing to match: what looks like it costs more than its bytes' own codes.
_NO_MATCHES = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST,
    window_log=18,
    hash_log=6,
    chain_log=6,
    search_log=1,
    min_match=7,
)
_KEPT = threading.local()


def encode(data: bytes) -> tuple[str, bytes]:
    """The name of the codec that makes `data` smallest, and what it makes of it."""
    coded = encode_frame(data)
    return ("zstd", coded) if _pays(coded, len(data)) else ("raw", bytes(data))


def encode_noise(pieces: Sequence[bytes]) -> tuple[str, bytes]:
    """As `encode`, of pieces joined, in which only the frequencies of bytes are worth coding.

    Each piece has a code of its own, of blocks that end with it.
    """
    size = sum(map(len, pieces))
    coder = zstandard.ZstdCompressor(compression_params=_NO_MATCHES).compressobj(size=size)
    coded = bytearray()
    for piece in pieces:
        if piece:
            coded += coder.compress(piece)
            coded += coder.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    coded += coder.flush()
    return ("zstd", bytes(coded)) if _pays(coded, size) else ("raw", b"".join(pieces))


def encode_frame(data: bytes) -> bytes:
    """A Zstandard frame that states its content's size."""
    return zstandard.ZstdCompressor(level=_LEVEL).compress(data)


def decode_frame(data: bytes | memoryview, most: int) -> bytes:
    """The content of a frame, at most `most` bytes; never allocates more.

    Raises:
      PrecisionError: damaged data, or larger content.
    """
    try:
        size = zstandard.frame_content_size(data)
    except zstandard.ZstdError as error:
        raise PrecisionError(f"damaged zstd data: {error}") from error
    if not 0 <= size <= most:
        raise PrecisionError(f"a zstd frame of {size} bytes; expected at most {most}")
    return bytes(decode("zstd", data, size))


def decode(codec: str, data: bytes | memoryview, size: int) -> bytes | memoryview:
    """The `size` bytes that were encoded; never allocates more.

    Raises:
      PrecisionError: an unknown codec, damaged data, or data of another size.
    """
    if codec == "raw":
        if len(data) != size:
            raise PrecisionError(f"{len(data)} raw bytes where {size} are declared")
        return data
    if codec != "zstd":
        raise PrecisionError(f"unknown codec '{codec}'; this version knows {', '.join(CODECS)}")
    try:
        declared = zstandard.frame_content_size(data)
        if declared != size:
            raise PrecisionError(f"a zstd frame of {declared} bytes where {size} are declared")
        decoded = _decoder().decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PrecisionError(f"damaged zstd data: {error}") from error
    if len(decoded) != size:
        raise PrecisionError(f"a zstd frame of {len(decoded)} bytes where {size} are declared")
    return decoded


def _decoder() -> zstandard.ZstdDecompressor:
    """This thread's own; to make one takes longer than to decode a small part."""
    if not hasattr(_KEPT, "decoder"):
        _KEPT.decoder = zstandard.ZstdDecompressor()
    return _KEPT.decoder


def _pays(coded: bytes | bytearray, size: int) -> bool:
    """Under one percent is not worth the decoder's time."""
    return len(coded) < size - size // 128
