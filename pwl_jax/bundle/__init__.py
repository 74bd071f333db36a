"""Bundles: what passes from the wing that learns to the wing that lives. No JAX."""

from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    ProgramEntry,
    ShardEntry,
    TensorEntry,
)
from pwl_jax.bundle.preprocessing import Preprocessing, PreprocessingError
from pwl_jax.bundle.reader import BundleReader, VerifyReport
from pwl_jax.bundle.stores import (
    CachedStore,
    FolderStore,
    HttpStore,
    Store,
    default_cache_dir,
    open_store,
)
from pwl_jax.bundle.writer import BundleWriter

__all__ = [
    "MANIFEST_NAME",
    "BundleError",
    "BundleReader",
    "BundleWriter",
    "CachedStore",
    "FileEntry",
    "FolderStore",
    "HttpStore",
    "Manifest",
    "Preprocessing",
    "PreprocessingError",
    "ProgramEntry",
    "ShardEntry",
    "Store",
    "TensorEntry",
    "VerifyReport",
    "default_cache_dir",
    "open_store",
]
