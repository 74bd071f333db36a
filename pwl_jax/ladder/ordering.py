"""Which rungs a ladder keeps, and in which order they are climbed."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence, Set

from pwl_jax.ladder.composition import STUDENT, TEACHER, Composition, Unit
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
    for lower, higher in itertools.pairwise(bits):
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
      gain: what is worth more when larger (accuracy on the validation split), of each rung; one
        that it lacks stays.
    """
    kept = [rungs[0]]
    best = gain.get(rungs[0], -math.inf)
    for rung in rungs[1:-1]:
        if gain.get(rung, math.inf) > best:
            kept.append(rung)
            best = gain.get(rung, best)
    return [*kept, rungs[-1]] if len(rungs) > 1 else kept


def greedy_order(
    start: Composition,
    gains: Callable[[Sequence[Composition]], Mapping[Composition, float]],
    unit_bytes: Callable[[Unit], float],
) -> list[Composition]:
    """An order of single swaps from `start` to the teacher by best gain per byte.

    At each step the block is swapped whose composition gains most accuracy per byte fetched;
    ties fall to the earliest block.

    Args:
      start: the composition to begin with.
      gains: accuracies of compositions (validation split); asked once a step, for all candidates.
      unit_bytes: what fetching a block or converter costs. One that came before costs nothing.
    """
    order = [start]
    fetched = set(start.units())
    while not order[-1].is_teacher:
        here = order[-1]
        candidates = _swaps(here)
        found = gains([here, *candidates])
        worth = [
            (found[c] - found[here]) / max(_new_bytes(c, fetched, unit_bytes), 1.0)
            for c in candidates
        ]
        order.append(candidates[worth.index(max(worth))])
        fetched.update(order[-1].units())
    return order


def best_order(
    blocks: int,
    gain: Mapping[Composition, float],
    unit_bytes: Callable[[Unit], float],
) -> list[Composition]:
    """The order of single swaps from the student to the teacher with the largest `area`.

    Exact, over all N! orders in N 2^N steps: what a swap brings depends only on which blocks were
    swapped before, as each boundary fetches one converter, once. The area is a ratio, whose
    denominator a path may change (encoder or decoder): the ratio to beat is raised until no path
    does better (Dinkelbach 1967).

    Args:
      blocks: N.
      gain: accuracy of all 2^N compositions (but the teacher's, which is never waited under).
      unit_bytes: what fetching a block or converter costs.
    """
    ratio = -math.inf
    order = Composition.prefixes(blocks)
    while (found := area(order, gain, unit_bytes)) > ratio:
        best, ratio = order, found
        order = _longest_path(blocks, gain, unit_bytes, ratio)
    return best


def _longest_path(
    blocks: int,
    gain: Mapping[Composition, float],
    unit_bytes: Callable[[Unit], float],
    ratio: float,
) -> list[Composition]:
    """The order with the largest sum of bytes times gain above `ratio`."""
    start = Composition.prefix(blocks, 0)
    best: dict[Composition, tuple[float, list[Composition]]] = {start: (0.0, [start])}
    for _ in range(blocks):
        longer: dict[Composition, tuple[float, list[Composition]]] = {}
        for here, (value, path) in best.items():
            for there in _swaps(here):
                # A converter of this step was never fetched before: its boundary had none.
                span = _new_bytes(there, set(here.units()), unit_bytes)
                reached = value + span * (gain[here] - ratio)
                if there not in longer or reached > longer[there][0]:
                    longer[there] = reached, [*path, there]
        best = longer
    ((_, path),) = best.values()
    return path


def _swaps(here: Composition) -> list[Composition]:
    """The compositions with one more of the teacher's blocks, the earliest first."""
    return [
        Composition((*here.sources[:i], TEACHER, *here.sources[i + 1 :]))
        for i, source in enumerate(here.sources)
        if source == STUDENT
    ]


def area(
    order: Sequence[Composition],
    gain: Mapping[Composition, float],
    unit_bytes: Callable[[Unit], float],
) -> float:
    """Mean accuracy over the bytes that arrive from the first composition to the last.

    While the bytes of a swap are on their way, the composition before it answers. Only blocks and
    converters that did not come before are fetched.

    Args:
      order: compositions in the order of climbing.
      gain: accuracy of each.
      unit_bytes: what fetching a block or converter costs.
    """
    fetched = set(order[0].units())
    total = weighted = 0.0
    for here, there in itertools.pairwise(order):
        span = _new_bytes(there, fetched, unit_bytes)
        fetched.update(there.units())
        total += span
        weighted += span * gain[here]
    return weighted / total if total else gain[order[0]]


def _new_bytes(
    composition: Composition, fetched: Set[Unit], unit_bytes: Callable[[Unit], float]
) -> float:
    return sum(unit_bytes(unit) for unit in composition.units() if unit not in fetched)
