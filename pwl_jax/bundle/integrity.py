"""What is checked of a file before anything of it is used."""

import hashlib
import re
from pathlib import PurePosixPath

from pwl_jax.bundle.errors import BundleError

# `shards/<sha256>.<suffix>` or `programs/<sha256>.<suffix>`.
CONTENT_NAME = re.compile(r"(shards|programs)/([0-9a-f]{64})\.([a-z0-9]{1,16})\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def sha256_of(data: bytes | memoryview) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def is_sha256(text: object) -> bool:
    """Whether a value is a SHA-256 in lower-case hexadecimal."""
    return isinstance(text, str) and _SHA256.match(text) is not None


def check_name(name: str) -> None:
    """Refuses a file name that could lead out of the bundle.

    Raises:
      BundleError: an absolute name, `..`, a backslash, a drive, a control character, or no name.
    """
    parts = PurePosixPath(name).parts
    harmless = (
        parts
        and str(PurePosixPath(name)) == name
        and not name.startswith("/")
        and not any(part in ("..", ".") for part in parts)
        and not any(character in "\\:?#%" or ord(character) < 32 for character in name)
    )
    if not harmless:
        raise BundleError(f"{name!r} is no name of a file inside a bundle")


def check_file(name: str, data: bytes, size: int | None, sha256: str | None) -> None:
    """Refuses data that are not what the manifest says.

    Raises:
      BundleError: another size, or another hash.
    """
    if size is not None and len(data) != size:
        raise BundleError(f"{name} has {len(data)} bytes; the manifest says {size}")
    if sha256 is not None and sha256_of(data) != sha256:
        raise BundleError(f"{name} is damaged: its SHA-256 is not the one in the manifest")
