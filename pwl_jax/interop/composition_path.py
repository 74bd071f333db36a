"""What a composition runs: its units in order, the variables each takes, and their names."""

from typing import NamedTuple

import jax

from pwl_jax.hybrid import HybridNetwork
from pwl_jax.hybrid.masks import leaf_name
from pwl_jax.ladder import Composition, Unit
from pwl_jax.models.block_network import Variables


class PathUnit(NamedTuple):
    """A unit on a composition's path.

    Attributes:
      unit: block or converter.
      variables: what its program takes.
      names: of the tensors, in a tree of the same structure.
    """

    unit: Unit
    variables: Variables
    names: Variables


def composition_path(
    hybrid: HybridNetwork, variables: Variables, composition: Composition
) -> list[PathUnit]:
    """The units of a composition in order, without identities.

    Args:
      hybrid: the network.
      variables: the tree (arrays or shapes), at least what the composition reads of it.
      composition: which blocks.
    """
    names = jax.tree_util.tree_map_with_path(lambda path, _: leaf_name(path), variables)
    path = []
    for unit in composition.units():
        entry = composition.entry(unit)
        taken = hybrid.unit_variables(variables, unit, entry)
        if jax.tree.leaves(taken) or unit.kind in ("teacher", "student"):
            path.append(PathUnit(unit, taken, hybrid.unit_variables(names, unit, entry)))
    return path


def tensors_of(path: list[PathUnit]) -> Variables:
    """Every tensor on a path by its name."""
    return {
        name: tensor
        for step in path
        for name, tensor in zip(
            jax.tree.leaves(step.names), jax.tree.leaves(step.variables), strict=True
        )
    }
