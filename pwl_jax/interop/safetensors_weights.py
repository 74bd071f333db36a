"""The tensors that one composition reads, as one .safetensors file.

Names are those of the checkpoint tree and of bundles. The file's metadata hold `format`
("pwl-weights"), `version` ("1"), `composition` and `pair`, the complete spec as JSON; where they
are known `classes`, the names as a JSON list, and `preprocessing`, as a manifest has it; and
`folded` ("batch_norm") if BatchNorms are folded. A student alone is the composition of S only.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from pwl_jax.bundle import BundleError, Preprocessing, safetensors_file
from pwl_jax.bundle.whole_file import written_whole
from pwl_jax.errors import UserError
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.hybrid.masks import leaf_names
from pwl_jax.interop.composed_weights import (
    VERSION,
    ComposedWeights,
    composed_path,
    metadata_of,
)
from pwl_jax.interop.composition_path import composition_path, tensors_of
from pwl_jax.ladder import Composition
from pwl_jax.models.registry import PairSpec
from pwl_jax.precision import dtype_name

FORMAT = "pwl-weights"


class InteropError(UserError):
    """A file of weights that cannot be written, read, or is of another network."""


def write_weights(
    path: epath.PathLike, weights: ComposedWeights, fold_batch_norm: bool = False
) -> int:
    """Writes what the composition reads of `weights.variables`; equal weights give equal bytes.

    Args:
      path: of the file.
      weights: of one composition.
      fold_batch_norm: write convolutions with their BatchNorms folded into them (see `folding`).
        Such a file is for other programs: `read_weights` refuses it.

    Returns:
      Bytes of the tensors.

    Raises:
      FoldingError: a BatchNorm that cannot be folded.
      UserError: the path cannot be written; nothing is left there then.
    """
    _, _, tensors = composed_path(weights, fold_batch_norm)
    metadata = metadata_of(weights, FORMAT, fold_batch_norm)
    with written_whole(path) as file:
        file.write(safetensors_file.write_safetensors(tensors, metadata))
    return sum(tensor.nbytes for tensor in tensors.values())


def read_weights(path: epath.PathLike, pair: PairSpec | None = None) -> ComposedWeights:
    """Reads a file that `write_weights` wrote, strictly.

    Args:
      path: of the file.
      pair: what it must be of; None takes the pair that the file names.

    Raises:
      InteropError: no such file, damaged, of another pair, or with a tensor that is missing,
        unknown, or of another shape or type than the pair has it.
    """
    where = os.fspath(path)
    tensors, metadata = read_tensors(path)
    weights = _described(metadata, where)
    if pair is not None:
        _check_pair(weights.pair, pair, where)
    hybrid = HybridNetwork.from_pair(weights.pair)
    if len(weights.composition) != hybrid.num_blocks:
        raise InteropError(
            f"{where} names composition {weights.composition}; its pair has {hybrid.num_blocks} "
            "blocks"
        )
    like = jax.eval_shape(hybrid.init, jax.random.key(0))
    read = tensors_of(composition_path(hybrid, like, weights.composition))
    _check_names(tensors, list(read), where)

    def leaf(name: str, expected: jax.ShapeDtypeStruct) -> np.ndarray:
        array = tensors.get(name)
        if array is None:
            return np.zeros(expected.shape, expected.dtype)
        if array.shape != expected.shape or dtype_name(array) != expected.dtype.name:
            raise InteropError(
                f"{where}: tensor '{name}' is {dtype_name(array)}{list(array.shape)}; expected "
                f"{expected.dtype.name}{list(expected.shape)}"
            )
        return array

    leaves = map(leaf, leaf_names(like), jax.tree.leaves(like))
    variables = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return dataclasses.replace(weights, variables=variables)


def read_tensors(path: epath.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors of a .safetensors file, and its metadata.

    Raises:
      InteropError: no such file, a pickle, damaged, or with a type this version does not know.
    """
    data = _read_whole(epath.Path(path))
    where = os.fspath(path)
    try:
        tensors = safetensors_file.read_safetensors(data, where)
        return tensors, safetensors_file.read_metadata(data, where)
    except BundleError as error:
        # Asked here only: headers of 640 bytes, for one, begin like a pickle.
        if data.startswith(safetensors_file.PICKLES):
            raise InteropError(
                f"{where} is a pickle, which is never read; expected .safetensors"
            ) from error
        raise InteropError(str(error)) from error


def _check_names(tensors: Mapping[str, Any], expected: list[str], where: str) -> None:
    for name in expected:
        if name not in tensors:
            raise InteropError(f"{where} lacks the tensor '{name}'")
    for name in sorted(tensors):
        if name not in expected:
            raise InteropError(
                f"{where} holds the tensor '{name}', which its composition does not read"
            )


def _described(metadata: Mapping[str, str], where: str) -> ComposedWeights:
    """What the metadata say, the variables left empty."""
    if metadata.get("format") != FORMAT:
        raise InteropError(
            f"{where} holds no weights of a composition (its metadata name no format '{FORMAT}')"
        )
    if metadata.get("version") != VERSION:
        raise InteropError(
            f"{where} has version {metadata.get('version')!r}; this reader knows {VERSION!r}"
        )
    for name in ("composition", "pair"):
        if name not in metadata:
            raise InteropError(f"{where} lacks '{name}' in its metadata")
    if "folded" in metadata:
        raise InteropError(
            f"{where} holds folded BatchNorms, which cannot be taken apart again; expected weights "
            "that were written without --fold_batch_norm"
        )
    try:
        composition = Composition.parse(metadata["composition"])
        spec = json.loads(metadata["pair"])
        if not isinstance(spec, dict):
            raise InteropError("its pair is no JSON object")
        classes = json.loads(metadata.get("classes", "[]"))
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise InteropError("its classes are no JSON list of names")
        preprocessing = json.loads(metadata.get("preprocessing", "null"))
        if preprocessing is not None:
            preprocessing = Preprocessing.from_dict(preprocessing)
        pair = PairSpec.from_dict(spec)
        return ComposedWeights(pair, composition, {}, tuple(classes), preprocessing)
    except (UserError, ValueError, TypeError, RecursionError) as error:
        raise InteropError(f"{where}: {error}") from error


def _check_pair(found: PairSpec, expected: PairSpec, where: str) -> None:
    """A pair's name only abbreviates it; everything else must agree."""
    theirs, ours = found.to_dict(), expected.to_dict()
    for part in ("teacher", "student"):
        for field in dict.fromkeys([*theirs[part], *ours[part]]):
            _check_equal(theirs[part].get(field), ours[part].get(field), f"{part}.{field}", where)
    for field in ("converters", "statistics"):
        _check_equal(theirs[field], ours[field], field, where)


def _check_equal(found: Any, expected: Any, field: str, where: str) -> None:
    if found != expected:
        raise InteropError(f"{where} is of another pair: {field} is {found}; expected {expected}")


def _read_whole(path: epath.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InteropError(f"cannot read {path}: {error.strerror or error}") from error
