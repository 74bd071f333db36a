"""What goes wrong in this room."""

from pwl_jax.errors import UserError


class BundleError(UserError):
    """A bundle, or a file of it, that cannot be read or written; the message names the file."""
