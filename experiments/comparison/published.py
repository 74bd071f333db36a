"""The PyTorch baseline's published accuracies, and how a run of ours differs from its work."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from pwl_jax.errors import UserError
from pwl_jax.models import NetworkSpec, pair
from pwl_jax.training.config import RunConfig

FILE = Path(__file__).parents[1] / "published" / "pwl_baseline.json"
CLASSES = {"cifar10": 10, "cifar100": 100}


@dataclasses.dataclass(frozen=True)
class Published:
    """One column of the baseline's tables.

    Attributes:
      pair, data: which.
      top1: percent by composition, such as TTSS.
      caveats: what a reader must know of these figures.
      source: where they are from.
    """

    pair: str
    data: str
    top1: Mapping[str, float]
    caveats: tuple[str, ...]
    source: Mapping[str, str]

    @property
    def blocks(self) -> int:
        """Of the networks in the table, whatever the published configurations have."""
        return len(next(iter(self.top1)))


@functools.cache
def _document() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def published(pair: str, data: str) -> Published:
    """The published figures of a pair on a data set; raises UserError where there are none."""
    document = _document()
    tables = document["tables"]
    name = f"{pair} {data}"
    if name not in tables:
        raise UserError(
            f"nothing is published of '{pair}' on '{data}'; there are {', '.join(tables)}"
        )
    caveats = tuple(
        caveat["text"]
        for caveat in document["caveats"]
        if pair in caveat.get("pairs", [pair]) and name in caveat.get("tables", [name])
    )
    return Published(pair, data, tables[name], caveats, document["source"])


def work_differences(config: RunConfig, column: Published, examples: int) -> list[str]:
    """Why a run is not the same work as the published one: networks, data, epochs, recipe.

    How the teacher was trained is not looked at: a distillation's config does not say.

    Args:
      config: of the distillation.
      column: what it is compared with.
      examples: test images it was measured on.
    """
    document = _document()
    theirs = document["pairs"][column.pair]
    same = pair(column.pair, classes=CLASSES[column.data], **theirs["fields"])
    found = []
    counts = theirs["parameters"][column.data]
    for role, count in zip(("teacher", "student"), counts, strict=True):
        found += _network_differences(role, getattr(config.pair, role), getattr(same, role), count)
    if config.pair.num_blocks != column.blocks:
        found.append(f"{config.pair.num_blocks} blocks (published: {column.blocks})")
    recipe = document["recipe"]
    for name in ("epochs", "batch_size"):
        if getattr(config, name) != recipe[name]:
            found.append(f"{name.replace('_', ' ')} {getattr(config, name)} ({recipe[name]})")
    sections = {name: value for name, value in recipe.items() if isinstance(value, dict)}
    found += field_differences(config, sections)
    if examples != document["test_examples"]:
        found.append(f"{examples:,} test images ({document['test_examples']:,})")
    return found


def method_differences(config: RunConfig) -> list[str]:
    """In what our distillation differs from the baseline's by method: what is being compared."""
    return field_differences(config, _document()["method"])


def field_differences(config: RunConfig, theirs: Mapping[str, Any]) -> list[str]:
    """`field ours (theirs)` for each of their fields that a config has otherwise, or not at all."""
    ours = config.to_dict()
    found = []
    for name, value in theirs.items():
        nested = value if isinstance(value, dict) else {"": value}
        for field, their in nested.items():
            fields = ours[name] if field else ours
            our = fields.get(field or name, "none")
            if our != their:
                found.append(f"{field or name} {our} ({their})".replace("_", " "))
    return found


def parameter_count(spec: NetworkSpec) -> int:
    """Trainable parameters of a network."""
    network = spec.build()
    params = jax.eval_shape(network.init, jax.random.key(0))["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _network_differences(
    role: str, ours: NetworkSpec, theirs: NetworkSpec, count: int
) -> list[str]:
    if ours == theirs:
        return []
    fields = [name for name, value in ours.to_dict().items() if value != theirs.to_dict().get(name)]
    number = parameter_count(ours)
    # A norm that is held and never applied counts among their parameters, not among ours.
    if number not in (count, parameter_count(theirs)):
        size = "smaller" if number < count else "larger"
        return [f"{size} {role} of {number:,} parameters ({count:,})"]
    return [f"{role} with another {', '.join(fields)}".replace("_", " ")]
