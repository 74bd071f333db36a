"""From a checkpoint to a bundle."""

from pwl_jax.export.exporter import BundleOptions, export_bundle, versions

__all__ = ["BundleOptions", "export_bundle", "versions"]
