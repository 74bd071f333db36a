"""HTTP around a live model: predict, status, metrics, Open Inference Protocol v2, a small page."""

from pwl_jax.serving.app import create_app, status_document
from pwl_jax.serving.bundle_server import BundleServer, serve_folder
from pwl_jax.serving.server import run_server, serve_in_thread

__all__ = [
    "BundleServer",
    "create_app",
    "run_server",
    "serve_folder",
    "serve_in_thread",
    "status_document",
]
