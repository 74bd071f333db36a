"""From a checkpoint to a bundle."""

from pwl_jax.export.exporter import (
    DEFAULT_BUDGET,
    MOST_PLANNED,
    BundleOptions,
    export_bundle,
    versions,
)

__all__ = ["DEFAULT_BUDGET", "MOST_PLANNED", "BundleOptions", "export_bundle", "versions"]
