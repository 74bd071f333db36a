"""The tensors that one composition reads, as one .safetensors file.

Names are those of the checkpoint tree and of bundles. The file's metadata hold `format`
("pwl-weights"), `version` ("1"), `composition` and `pair`, the complete spec as JSON. A student
alone is the composition of S only.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from pwl_jax.bundle import BundleError, safetensors_file
from pwl_jax.errors import UserError
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.hybrid.masks import leaf_names
from pwl_jax.ladder import Composition
from pwl_jax.models.block_network import Variables
from pwl_jax.models.registry import PairSpec
from pwl_jax.precision import canonical_json, dtype_name

FORMAT, VERSION = "pwl-weights", "1"


class InteropError(UserError):
    """A file of weights that cannot be written, read, or is of another network."""


@dataclasses.dataclass(frozen=True)
class ComposedWeights:
    """The weights of one composition.

    Attributes:
      pair: complete spec of both networks.
      composition: which of its blocks are filled.
      variables: the hybrid's whole tree, NumPy leaves; zero where the composition reads nothing.
    """

    pair: PairSpec
    composition: Composition
    variables: Variables


def write_weights(path: epath.PathLike, weights: ComposedWeights) -> int:
    """Writes what the composition reads of `weights.variables`; equal weights give equal bytes.

    Returns:
      Bytes of the tensors.

    Raises:
      InteropError: the path cannot be written; nothing is left there then.
    """
    hybrid = HybridNetwork.from_pair(weights.pair)
    host = jax.device_get(weights.variables)
    named = dict(zip(leaf_names(host), map(np.asarray, jax.tree.leaves(host)), strict=True))
    read = {name: named[name] for name in _names_read(hybrid, weights.variables, weights)}
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "composition": str(weights.composition),
        "pair": canonical_json(weights.pair.to_dict()).decode(),
    }
    _write_whole(epath.Path(path), safetensors_file.write_safetensors(read, metadata))
    return sum(array.nbytes for array in read.values())


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
    found, composition = _checked_metadata(metadata, where)
    if pair is not None:
        _check_pair(found, pair, where)
    hybrid = HybridNetwork.from_pair(found)
    if len(composition) != hybrid.num_blocks:
        raise InteropError(
            f"{where} names composition {composition}; its pair has {hybrid.num_blocks} blocks"
        )
    like = jax.eval_shape(hybrid.init, jax.random.key(0))
    weights = ComposedWeights(found, composition, like)
    _check_names(tensors, _names_read(hybrid, like, weights), where)

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


def _names_read(hybrid: HybridNetwork, tree: Variables, weights: ComposedWeights) -> list[str]:
    mask = hybrid.mask_of(tree, weights.composition)
    names = zip(leaf_names(mask), jax.tree.leaves(mask), strict=True)
    return [name for name, read in names if read]


def _check_names(tensors: Mapping[str, Any], expected: list[str], where: str) -> None:
    for name in expected:
        if name not in tensors:
            raise InteropError(f"{where} lacks the tensor '{name}'")
    for name in sorted(tensors):
        if name not in expected:
            raise InteropError(
                f"{where} holds the tensor '{name}', which its composition does not read"
            )


def _checked_metadata(metadata: Mapping[str, str], where: str) -> tuple[PairSpec, Composition]:
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
    try:
        composition = Composition.parse(metadata["composition"])
        spec = json.loads(metadata["pair"])
        if not isinstance(spec, dict):
            raise InteropError("its pair is no JSON object")
        return PairSpec.from_dict(spec), composition
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


def _write_whole(path: epath.Path, data: bytes) -> None:
    """All or nothing: written beside, then renamed. Remote stores publish objects whole."""
    partial = path if "://" in str(path) else path.parent / f".{path.name}.{os.getpid()}.part"
    try:
        try:
            partial.write_bytes(data)
            if partial != path:
                partial.replace(path)
        except BaseException:
            if partial != path:
                partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InteropError(f"cannot write {path}: {error.strerror or error}") from error
