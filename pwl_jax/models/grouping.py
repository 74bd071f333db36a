"""How a network's layers are dealt out to N blocks, in order and without a gap."""

import itertools
from collections.abc import Sequence

from pwl_jax.models.spec import SpecError


def even_groups(layers: int, blocks: int) -> tuple[int, ...]:
    """Layers of each of `blocks` blocks, as even as can be, larger ones first.

    12 layers in 5 blocks are 3, 3, 2, 2 and 2.

    Raises:
      SpecError: fewer layers than blocks, or no block.
    """
    _check_blocks(layers, blocks)
    each, more = divmod(layers, blocks)
    return (each + 1,) * more + (each,) * (blocks - more)


def stage_groups(depths: Sequence[int], blocks: int) -> tuple[int, ...]:
    """Layers of each of `blocks` blocks, cut where stages end as far as their number allows.

    While there are too few, the longest is halved (its first half takes the odd layer); while
    there are too many, the two neighbours with the fewest layers become one. The first of equals
    is taken: depths 3,4,6,3 give 7,6,3 for three blocks and 3,4,3,3,3 for five.

    Raises:
      SpecError: fewer layers than blocks, or no block.
    """
    groups = list(depths)
    _check_blocks(sum(groups), blocks)
    while len(groups) < blocks:
        at = groups.index(max(groups))
        groups[at : at + 1] = even_groups(groups[at], 2)
    while len(groups) > blocks:
        pairs = [a + b for a, b in itertools.pairwise(groups)]
        at = pairs.index(min(pairs))
        groups[at : at + 2] = [pairs[at]]
    return tuple(groups)


def _check_blocks(layers: int, blocks: int) -> None:
    if not 1 <= blocks <= layers:
        raise SpecError(f"{layers} layers in {blocks} blocks; expected 1 to {layers} blocks")
