"""The best order of swaps of a trained pair, kept in its workdir for the bundles made of it."""

import dataclasses
import itertools
import json
from collections.abc import Sequence

from etils import epath

from pwl_jax.bundle.whole_file import written_whole
from pwl_jax.data import sources
from pwl_jax.errors import UserError
from pwl_jax.export.exporter import unit_tensors
from pwl_jax.export.measure import arriving_bytes
from pwl_jax.ladder import EXACT, Composition, Unit, area, best_order
from pwl_jax.training import workdir
from pwl_jax.training.checkpoints import read_json

FILE = "order.json"
MOST_BLOCKS = 10
"""All 2^N compositions are measured, which takes as long as 2^N students and teachers."""


class OrderError(UserError):
    """An order that cannot be found or read."""


@dataclasses.dataclass(frozen=True)
class BestOrder:
    """The order with the largest area under accuracy over bytes.

    Attributes:
      order: compositions from the student to the teacher, one more of its blocks each.
      area: mean accuracy over the bytes that arrive, 0..1 (see `ladder.area`).
      prefix_area: that of the prefixes.
      top1: accuracy by composition, of all 2^N.
      data, split, examples: what it was measured on.
      step: of the checkpoint that was measured.
    """

    order: Sequence[Composition]
    area: float
    prefix_area: float
    top1: dict[str, float]
    data: str
    split: str
    examples: int
    step: int


def find_best_order(
    model: workdir.TrainedModel, validation: sources.Source, batch_size: int = 256
) -> BestOrder:
    """Measures all compositions, exact, and finds the order that is best by exact bytes.

    Args:
      model: the pair.
      validation: images to choose by.
      batch_size: images a step.

    Raises:
      OrderError: too many blocks, or no images.
    """
    blocks = model.hybrid.num_blocks
    if blocks > MOST_BLOCKS:
        raise OrderError(f"{blocks} blocks have too many orders to measure; expected {MOST_BLOCKS}")
    if not len(validation):
        raise OrderError("there is no validation split to choose an order by")
    found = workdir.measure(model, Composition.all(blocks), validation, batch_size)
    gain = {composition: accuracy.score for composition, accuracy in found.items()}
    tensors = unit_tensors(model.hybrid, model.variables)
    sizes = {unit: arriving_bytes(arrays.values(), EXACT) for unit, arrays in tensors.items()}

    def unit_bytes(unit: Unit) -> float:
        return sizes.get(unit, 0.0)

    order = best_order(blocks, gain, unit_bytes)
    return BestOrder(
        order,
        area(order, gain, unit_bytes),
        area(Composition.prefixes(blocks), gain, unit_bytes),
        {str(composition): value for composition, value in gain.items()},
        validation.name,
        validation.split,
        len(validation),
        model.step,
    )


def write_order(path: epath.PathLike, found: BestOrder) -> None:
    """Writes `order.json` into a workdir."""
    content = dataclasses.asdict(found) | {"order": [str(c) for c in found.order]}
    with written_whole(epath.Path(path) / FILE) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def read_order(path: epath.PathLike, blocks: int, step: int) -> list[Composition]:
    """The order that `write_order` left in a workdir.

    Args:
      path: the workdir.
      blocks: of the pair.
      step: of the checkpoint that the order is for.

    Raises:
      OrderError: what is there is no order of a pair of so many blocks, or that of another step.
      CheckpointError: there is none.
    """
    file = epath.Path(path) / FILE
    held = read_json(file, "best order (launch.evaluate --best_order finds it)")
    names = held.get("order") if isinstance(held, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise OrderError(f"'{file}' holds no order; expected names of compositions")
    order = [Composition.parse(name, blocks) for name in names]
    swaps = [sum(s == "T" for s in composition.sources) for composition in order]
    grows = all(
        b == "T" or a == "S"
        for here, there in itertools.pairwise(order)
        for a, b in zip(here.sources, there.sources, strict=True)
    )
    if swaps != list(range(blocks + 1)) or not grows:
        raise OrderError(
            f"'{file}' is no order of single swaps from the student to the teacher: "
            f"{', '.join(names)}"
        )
    if held.get("step") != step:
        raise OrderError(
            f"'{file}' holds the best order of step {held.get('step')}, not of step {step}; "
            "launch.evaluate --best_order finds it, with the same --checkpoint"
        )
    return order
