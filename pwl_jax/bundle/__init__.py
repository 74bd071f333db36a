"""Bundles: what passes from the wing that learns to the wing that lives. No JAX."""

from typing import TYPE_CHECKING

from pwl_jax.bundle.entries import FileEntry, ProgramEntry, ShardEntry, TensorEntry
from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.manifest import MANIFEST_NAME, Manifest
from pwl_jax.bundle.preprocessing import Preprocessing, PreprocessingError
from pwl_jax.bundle.reader import BundleReader, ExactTensors, VerifyReport
from pwl_jax.bundle.signature import SIGNATURE_NAME, SignatureError
from pwl_jax.bundle.stores import FolderStore, Store, open_store
from pwl_jax.bundle.verified_file import VerifiedFile
from pwl_jax.lazy import lazily

if TYPE_CHECKING:
    from pwl_jax.bundle.cached_store import CachedStore, default_cache_dir
    from pwl_jax.bundle.http_store import HttpStore
    from pwl_jax.bundle.writer import BundleWriter
else:
    # What a bundle in a folder is answered from without.
    __getattr__ = lazily(
        __name__,
        {
            "BundleWriter": "writer",
            "CachedStore": "cached_store",
            "HttpStore": "http_store",
            "default_cache_dir": "cached_store",
        },
    )

__all__ = [
    "MANIFEST_NAME",
    "SIGNATURE_NAME",
    "BundleError",
    "BundleReader",
    "BundleWriter",
    "CachedStore",
    "ExactTensors",
    "FileEntry",
    "FolderStore",
    "HttpStore",
    "Manifest",
    "Preprocessing",
    "PreprocessingError",
    "ProgramEntry",
    "ShardEntry",
    "SignatureError",
    "Store",
    "TensorEntry",
    "VerifiedFile",
    "VerifyReport",
    "default_cache_dir",
    "open_store",
]
