"""The rungs of a bundle in the order in which a client climbs them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

from pwl_jax.ladder.composition import CompositionError
from pwl_jax.ladder.ordering import candidate_rungs, paying_rungs
from pwl_jax.ladder.rung import EXACT, Rung, precision_rank

ClimbOrder = Literal["exported", "depth", "precision", "greedy"]
CLIMB_ORDERS: tuple[ClimbOrder, ...] = get_args(ClimbOrder)


def climb_plan(
    order: ClimbOrder,
    exported: Sequence[Rung],
    scores: Mapping[Rung, float],
    files: Callable[[Rung], Mapping[str, int] | None],
) -> tuple[Rung, ...]:
    """The rungs to climb, the last one that of the exported ladder.

    `exported` is the ladder as it is. `depth` swaps all blocks at the lowest precision, then
    refines; `precision` refines before the first swap, and each block arrives exact. `greedy` may
    use every rung that was measured, on the ladder or not: it begins with the one of fewest bytes
    and goes on with whatever gains most accuracy for a byte that was not fetched yet. At a
    constant speed of the link that is also the most for a second.

    But for `exported`, rungs measured to be no better than one before them are left out, the first
    and the last excepted.

    Args:
      order: one of `CLIMB_ORDERS`.
      exported: the bundle's ladder.
      scores: accuracy of the rungs that were measured, on the split that chose the ladder.
      files: what a rung reads, by name with the bytes; None where the bundle does not hold it.

    Raises:
      CompositionError: an unknown order, or `greedy` without any measurement.
    """
    if order not in CLIMB_ORDERS:
        raise CompositionError(f"unknown order '{order}'; expected {', '.join(CLIMB_ORDERS)}")
    if order == "exported" or not exported:
        return tuple(exported)
    if order == "greedy":
        return _greedy(exported[-1], scores, files)
    compositions = list(dict.fromkeys(rung.composition for rung in exported))
    bits = sorted({stage for rung in exported for stage in rung.bits}, key=precision_rank)
    if order == "depth":
        rungs = candidate_rungs(compositions, bits)
    else:
        rungs = [Rung.uniform(compositions[0], stage) for stage in bits]
        rungs += [Rung.uniform(composition, EXACT) for composition in compositions[1:]]
    return tuple(paying_rungs([rung for rung in rungs if files(rung) is not None], scores))


def _greedy(
    last: Rung,
    scores: Mapping[Rung, float],
    files: Callable[[Rung], Mapping[str, int] | None],
) -> tuple[Rung, ...]:
    read = {rung: found for rung in (*scores, last) if (found := files(rung)) is not None}
    measured = [rung for rung in read if rung in scores]
    if not measured:
        raise CompositionError("the greedy order needs measured accuracies; this bundle has none")
    plan = [min(measured, key=lambda rung: (sum(read[rung].values()), -scores[rung]))]
    fetched = dict(read[plan[0]])

    def worth(rung: Rung) -> float:
        new = sum(size for name, size in read[rung].items() if name not in fetched)
        return (scores[rung] - scores[plan[-1]]) / max(new, 1)

    while plan[-1] != last:
        better = [rung for rung in measured if scores[rung] > scores[plan[-1]] and rung != last]
        if last in scores and scores[last] > scores[plan[-1]]:
            better.append(last)
        plan.append(max(better, key=worth) if better else last)
        fetched |= read[plan[-1]]
    return tuple(plan)
