"""The weights of one composition, the path that they make, and what their files say of them."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from pwl_jax.bundle import Preprocessing
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.interop.composition_path import PathUnit, composition_path, tensors_of
from pwl_jax.interop.folding import folded_path
from pwl_jax.ladder import Composition
from pwl_jax.models.block_network import Variables
from pwl_jax.models.registry import PairSpec
from pwl_jax.precision import canonical_json

VERSION = "1"
"""Of the metadata."""


@dataclasses.dataclass(frozen=True)
class ComposedWeights:
    """The weights of one composition.

    Attributes:
      pair: complete spec of both networks.
      composition: which of its blocks are filled.
      variables: of the hybrid's tree at least what the composition reads; as `read_weights` gives
        it the whole, NumPy leaves, zero where the composition reads nothing.
      classes: their names, in the order of the logits; empty where they are not known.
      preprocessing: how images become the network's input; None where that is not known.
    """

    pair: PairSpec
    composition: Composition
    variables: Variables
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None


class ComposedPath(NamedTuple):
    """What a file of weights is made from.

    Attributes:
      hybrid: the network.
      units: what the composition runs, in order.
      tensors: all that it reads, by name.
    """

    hybrid: HybridNetwork
    units: list[PathUnit]
    tensors: dict[str, np.ndarray]


def composed_path(weights: ComposedWeights, fold_batch_norm: bool) -> ComposedPath:
    """The path of a composition, with its BatchNorms folded where that is asked for.

    Raises:
      FoldingError: a BatchNorm that cannot be folded.
    """
    hybrid = HybridNetwork.from_pair(weights.pair)
    units = composition_path(hybrid, jax.device_get(weights.variables), weights.composition)
    if fold_batch_norm:
        units = folded_path(hybrid, units)
    tensors = {name: np.asarray(tensor) for name, tensor in tensors_of(units).items()}
    return ComposedPath(hybrid, units, tensors)


def metadata_of(weights: ComposedWeights, format: str, folded: bool) -> dict[str, str]:
    """What a file of such weights says of itself."""
    metadata = {
        "format": format,
        "version": VERSION,
        "composition": str(weights.composition),
        "pair": _json(weights.pair.to_dict()),
    }
    if weights.classes:
        metadata["classes"] = _json(list(weights.classes))
    if weights.preprocessing is not None:
        metadata["preprocessing"] = _json(weights.preprocessing.to_dict())
    return metadata | ({"folded": "batch_norm"} if folded else {})


def _json(value: Any) -> str:
    return canonical_json(value).decode()
