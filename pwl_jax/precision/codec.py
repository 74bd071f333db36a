"""Named byte codecs. What a name means never changes; a better coder gets a new name."""

import zstandard

from pwl_jax.precision.errors import PrecisionError

CODECS = ("raw", "zstd")
_LEVEL = 3


def encode(data: bytes) -> tuple[str, bytes]:
    """The name of the codec that makes `data` smallest, and what it makes of it."""
    coded = zstandard.ZstdCompressor(level=_LEVEL).compress(data)
    # Under one percent is not worth the decoder's time.
    return ("zstd", coded) if len(coded) < len(data) - len(data) // 128 else ("raw", bytes(data))


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
        decoder = zstandard.ZstdDecompressor()
        decoded = decoder.decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PrecisionError(f"damaged zstd data: {error}") from error
    if len(decoded) != size:
        raise PrecisionError(f"a zstd frame of {len(decoded)} bytes where {size} are declared")
    return decoded
