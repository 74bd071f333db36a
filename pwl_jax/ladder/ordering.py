"""Which rungs a ladder keeps, and in which order they are climbed."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

from pwl_jax.ladder.composition import Composition
from pwl_jax.ladder.rung import EXACT, Bits, Rung, precision_rank


def candidate_rungs(order: Sequence[Composition], bits: Sequence[Bits]) -> list[Rung]:
    """The rungs of one climb: first through `order` at the lowest precision, then up in precision.

    Once the last composition of `order` is reached, each further precision arrives block by
    block. Student blocks get no update: a later rung discards them.

    Args:
      order: compositions from the student to the teacher.
      bits: precisions in ascending order; the last one is `exact`.
    """
    if not bits or bits[-1] != EXACT or list(bits) != sorted(set(bits), key=precision_rank):
        raise ValueError(f"bits must ascend and end in 'exact', each once; got {list(bits)}")
    rungs = [Rung.uniform(composition, bits[0]) for composition in order]
    last, blocks = order[-1], len(order[-1])
    for lower, higher in zip(bits, bits[1:], strict=False):
        rungs += [
            Rung(last, (higher,) * done + (lower,) * (blocks - done))
            for done in range(1, blocks + 1)
        ]
    return rungs


def paying_rungs(rungs: Sequence[Rung], gain: Mapping[Rung, float]) -> list[Rung]:
    """Drops every rung that gains nothing over the best one kept before it.

    The first and the last rung always stay: one is the earliest answer, the other the promise.

    Args:
      rungs: in the order of climbing.
      gain: what is worth more when larger (accuracy on the validation split), of each rung.
    """
    kept = [rungs[0]]
    best = gain[rungs[0]]
    for rung in rungs[1:-1]:
        if gain[rung] > best:
            kept.append(rung)
            best = gain[rung]
    return [*kept, rungs[-1]] if len(rungs) > 1 else kept


def greedy_order(
    start: Composition, gain: Callable[[Composition], float], cost: Callable[[Composition], float]
) -> list[Composition]:
    """An order of single swaps from `start` to the teacher by best gain per byte.

    At each step the block is swapped whose composition gains most accuracy per byte fetched;
    ties fall to the earliest block.

    Args:
      start: the composition to begin with.
      gain: accuracy of a composition (validation split).
      cost: bytes a composition reads.
    """
    order = [start]
    while not order[-1].is_teacher:
        here = order[-1]
        candidates: Iterable[Composition] = (
            Composition((*here.sources[:i], "T", *here.sources[i + 1 :]))
            for i, source in enumerate(here.sources)
            if source == "S"
        )
        order.append(
            max(
                candidates,
                key=lambda c: (gain(c) - gain(here)) / max(cost(c) - cost(here), 1.0),
            )
        )
    return order


def area(
    order: Sequence[Composition],
    gain: Callable[[Composition], float],
    cost: Callable[[Composition], float],
) -> float:
    """Mean accuracy over the bytes that arrive from the first composition to the last.

    While the bytes of a swap are on their way, the composition before it answers.
    """
    spans = [max(cost(there) - cost(here), 0.0) for here, there in itertools.pairwise(order)]
    total = sum(spans)
    if not total:
        return gain(order[0])
    return sum(s * gain(c) for s, c in zip(spans, order, strict=False)) / total
