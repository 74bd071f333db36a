"""What goes wrong in this room."""

from pwl_jax.errors import UserError


class PrecisionError(UserError):
    """A tensor that cannot be coded, or a payload that is damaged, foreign or unknown."""
