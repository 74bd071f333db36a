"""Checks on the sizes that an architecture spec holds."""

from typing import Any

from pwl_jax.models.spec import SpecError


def check_positive(spec: Any, *names: str) -> None:
    """Raises SpecError unless each named field is a positive integer or a tuple of such."""
    for name in names:
        value = getattr(spec, name)
        sizes = value if isinstance(value, tuple) else (value,)
        if not sizes or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in sizes):
            raise SpecError(f"{name} is {value!r}; expected positive integers")


def check_same_length(spec: Any, first: str, second: str) -> None:
    """Raises SpecError unless both fields are tuples of one length, one entry a block."""
    a, b = getattr(spec, first), getattr(spec, second)
    if not isinstance(a, tuple) or not isinstance(b, tuple) or len(a) != len(b):
        raise SpecError(f"{first} {a!r} and {second} {b!r} disagree; expected one entry a block")
