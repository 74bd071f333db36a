"""Who made a bundle: Ed25519 signatures over the exact bytes of its manifest.

The manifest holds the hash of every file, so its signature covers the whole bundle. Keys are PEM
files as OpenSSL writes them:

  openssl genpkey -algorithm ed25519 -out private.pem
  openssl pkey -in private.pem -pubout -out public.pem
"""

import os
from pathlib import Path
from typing import Any

from pwl_jax.bundle.errors import BundleError
from pwl_jax.errors import UserError

SIGNATURE_NAME = "manifest.json.sig"
SIGNATURE_BYTES = 64
# While a bundle is replaced, the file holds the new signature and those before it.
MOST_SIGNATURES = 4
_LARGEST_KEY = 1 << 16

# A key as an object of the package cryptography, or the path of its PEM file.
Key = Any


class SignatureError(BundleError):
    """A bundle that is not signed, or not by the owner of the key; or a file that is no key."""


def sign(data: bytes, key: Key) -> bytes:
    """The 64 bytes of `data`'s signature by a private key or the PEM file of one.

    Raises:
      UserError: no unencrypted Ed25519 private key, or the package cryptography is missing.
    """
    return private_key(key).sign(data)


def check_signature(data: bytes, signatures: bytes, key: Key, where: str) -> None:
    """Makes sure that one of the signatures, 64 bytes each, is the key's over `data`.

    Raises:
      SignatureError: none is.
      UserError: no Ed25519 public key, or the package cryptography is missing.
    """
    public = public_key(key)
    from cryptography.exceptions import InvalidSignature

    count, rest = divmod(len(signatures), SIGNATURE_BYTES)
    if rest or not 1 <= count <= MOST_SIGNATURES:
        raise SignatureError(
            f"{SIGNATURE_NAME} of {where} has {len(signatures)} bytes; expected "
            f"{SIGNATURE_BYTES}, or while it is replaced up to {MOST_SIGNATURES} times as many"
        )
    for start in range(0, len(signatures), SIGNATURE_BYTES):
        try:
            public.verify(signatures[start : start + SIGNATURE_BYTES], data)
        except InvalidSignature:
            continue
        return
    raise SignatureError(
        f"{where}: its manifest.json is not signed by the owner of this public key"
    )


def private_key(key: Key) -> Any:
    """An Ed25519 private key from a PEM file, or the key itself; raises UserError."""
    from_pem, ed25519 = _cryptography()
    if isinstance(key, (str, os.PathLike)):
        data = _pem(key)
        try:
            key = from_pem.load_pem_private_key(data, password=None)
        except TypeError as error:
            raise SignatureError(
                f"key {path_of(key)} is encrypted; expected one without a password (openssl pkey "
                "-in KEY -out PLAIN)"
            ) from error
        except Exception as error:
            # Its own errors, OpenSSL's and ValueError, by what the file holds.
            raise SignatureError(f"{path_of(key)} holds no private key in PEM") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise SignatureError(f"a {type(key).__name__} cannot sign; expected Ed25519PrivateKey")
    return key


def public_key(key: Key) -> Any:
    """An Ed25519 public key from a PEM file, or the key itself; raises UserError."""
    from_pem, ed25519 = _cryptography()
    if isinstance(key, (str, os.PathLike)):
        data = _pem(key)
        if b"PRIVATE KEY" in data:
            raise SignatureError(
                f"{path_of(key)} is a private key; expected the public one (openssl pkey -in KEY "
                "-pubout)"
            )
        try:
            key = from_pem.load_pem_public_key(data)
        except Exception as error:
            raise SignatureError(f"{path_of(key)} holds no public key in PEM") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise SignatureError(f"a {type(key).__name__} cannot verify; expected Ed25519PublicKey")
    return key


def path_of(key: str | os.PathLike[str]) -> str:
    """A key file's path for messages."""
    return os.fspath(key)


def _pem(path: str | os.PathLike[str]) -> bytes:
    try:
        # A pipe or a device would block or never end.
        if Path(path).exists() and not Path(path).is_file():
            raise SignatureError(f"key {path_of(path)} is no file")
        with Path(path).open("rb") as file:
            data = file.read(_LARGEST_KEY + 1)
    except OSError as error:
        raise SignatureError(f"key {path_of(path)}: {error.strerror or error}") from error
    if len(data) > _LARGEST_KEY:
        raise SignatureError(f"key {path_of(path)} is no key: it has more than 64 KiB")
    return data


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise UserError(
            "signatures need the package cryptography: pip install 'pwl_jax[sign]'"
        ) from error
    return serialization, ed25519
