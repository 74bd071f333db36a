"""What either side computes, in our layout, and how far two results are apart."""

import dataclasses
from typing import Any

import jax
import numpy as np

from pwl_jax.ladder import Composition
from pwl_jax.models.block_network import Variables

Tree = Any

TERMS = ("hard", "soft", "sync", "recon", "cross")

Logits = dict[Composition, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Loss:
    """Of one batch in train mode, the teacher in evaluation mode.

    Attributes:
      terms: by name, weighted.
      gradients: of the parameters of student and converters.
    """

    terms: dict[str, float]
    gradients: Tree


def trained_parameters(variables: Variables) -> Tree:
    """Parameters of student and converters."""
    return {
        name: jax.device_get(tree["params"])
        for name, tree in variables.items()
        if name != "teacher"
    }


def largest_difference(theirs: Tree, ours: Tree) -> float:
    """Of any element; 0 for trees without leaves."""
    pairs = zip(jax.tree.leaves(theirs), jax.tree.leaves(ours), strict=True)
    return max((float(np.abs(a - b).max()) for a, b in pairs), default=0.0)


def relative_difference(theirs: Tree, ours: Tree) -> float:
    """Norm of the difference over the norm of theirs, both over the whole tree."""
    a, b = (
        np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(tree)])
        for tree in (theirs, ours)
    )
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))
