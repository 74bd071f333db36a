"""The stages in which a tensor comes."""

from collections.abc import Sequence

from pwl_jax.ladder import EXACT, Bits
from pwl_jax.precision.errors import PrecisionError


def check_stages(stages: Sequence[Bits]) -> tuple[Bits, ...]:
    """The stages as a tuple.

    Raises:
      PrecisionError: they are not rising widths of 2 to 8 bits, "exact" at most once and last.
    """
    widths = tuple(stages)
    numbers = list(widths[:-1] if widths[-1:] == (EXACT,) else widths)
    valid = all(type(number) is int and 2 <= number <= 8 for number in numbers)
    if not widths or not valid or numbers != sorted(set(numbers)):
        raise PrecisionError(
            f"stages {list(widths)} do not refine each other; expected rising widths of 2 to 8 "
            'bits and "exact" last, such as [4, "exact"]'
        )
    return widths
