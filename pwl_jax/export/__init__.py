"""From a checkpoint to a bundle."""

from pwl_jax.export.exporter import export_bundle

__all__ = ["export_bundle"]
