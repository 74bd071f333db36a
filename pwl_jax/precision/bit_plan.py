"""Which tensor gets how many bits, so that a budget of bytes does the least damage."""

import dataclasses
import heapq
from collections.abc import Mapping, Sequence

from pwl_jax.ladder import Bits
from pwl_jax.precision.errors import PrecisionError


@dataclasses.dataclass(frozen=True)
class Choice:
    """One width that a tensor can be sent in.

    Attributes:
      bits: the width.
      bytes: what it costs.
      damage: what it does to the network's output, in any unit that adds up over tensors.
    """

    bits: Bits
    bytes: int
    damage: float


def plan_bits(choices: Mapping[str, Sequence[Choice]], budget: int) -> dict[str, Bits]:
    """A width for each tensor, all together within the budget.

    Begins with the cheapest widths and buys, again and again, what takes away the most damage for
    a byte; of a tensor's choices only those on the lower convex hull are worth buying. What this
    misses of the optimum is less than one step of one tensor.

    Args:
      choices: of each tensor, at least one.
      budget: bytes for all of them.

    Raises:
      PrecisionError: even the cheapest widths cost more.
    """
    hulls = {name: _hull(offered) for name, offered in choices.items()}
    chosen = dict.fromkeys(hulls, 0)
    spent = sum(hull[0].bytes for hull in hulls.values())
    if spent > budget:
        raise PrecisionError(
            f"a budget of {budget} bytes is below the {spent} that the fewest bits take"
        )
    offers = [offer for name, hull in hulls.items() if (offer := _offer(name, hull, 0))]
    heapq.heapify(offers)
    while offers:
        _, name, step = heapq.heappop(offers)
        price = hulls[name][step].bytes - hulls[name][step - 1].bytes
        if spent + price > budget:
            continue
        spent += price
        chosen[name] = step
        if offer := _offer(name, hulls[name], step):
            heapq.heappush(offers, offer)
    return {name: hulls[name][step].bits for name, step in chosen.items()}


def _hull(offered: Sequence[Choice]) -> list[Choice]:
    """Rising bytes, falling damage, falling worth of a byte."""
    hull: list[Choice] = []
    for choice in sorted(offered, key=lambda choice: (choice.bytes, choice.damage)):
        if hull and choice.damage >= hull[-1].damage:
            continue
        while len(hull) > 1 and _worth(hull[-2], hull[-1]) <= _worth(hull[-1], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _offer(name: str, hull: Sequence[Choice], step: int) -> tuple[float, str, int] | None:
    """The next step of a tensor, the most worthy first; names break ties."""
    if step + 1 == len(hull):
        return None
    return -_worth(hull[step], hull[step + 1]), name, step + 1


def _worth(cheap: Choice, dear: Choice) -> float:
    """Damage that each byte takes away."""
    if dear.bytes == cheap.bytes:
        return float("inf")
    return (cheap.damage - dear.damage) / (dear.bytes - cheap.bytes)
