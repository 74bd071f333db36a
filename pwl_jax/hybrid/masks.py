"""The mask: a tree of booleans over the variables that says which leaves a composition reads."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pwl_jax.errors import UserError
from pwl_jax.ladder import OWN_STREAM, Composition, Unit
from pwl_jax.models.block_network import Variables

_KINDS = {"teacher": "teacher", "student": "student", "encoders": "encoder", "decoders": "decoder"}


class MaskError(UserError):
    """A tree of booleans that is not the mask of any composition."""


def entry_name(entry: int | None) -> str:
    """The name of a stream's statistics: `own`, or `entry<k>` behind boundary k."""
    return OWN_STREAM if entry is None else f"entry{entry}"


def leaf_name(path: tuple[Any, ...]) -> str:
    """A leaf's path joined by slashes: its name as a tensor on disk."""
    return "/".join(str(getattr(key, "key", key)) for key in path)


def leaf_names(tree: Any) -> list[str]:
    """The names of all leaves, in the order of `jax.tree.leaves`."""
    return [leaf_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def unit_of(name: str, blocks: int) -> Unit:
    """The unit that the tensor `name` belongs to; embedder to block 0, head to the last block."""
    top, collection, *rest = name.split("/")
    kind = _KINDS[top]
    if kind in ("encoder", "decoder"):
        return Unit(kind, int(rest[0].removeprefix("boundary")))  # type: ignore[arg-type]
    part = rest[1] if top == "student" and collection == "batch_stats" else rest[0]
    if part == "embedder":
        index = 0
    elif part == "head":
        index = blocks - 1
    else:
        index = int(part.removeprefix("block"))
    return Unit(kind, index)  # type: ignore[arg-type]


def _stream_of(name: str) -> str | None:
    """The stream whose statistics the student tensor `name` is; None for any other tensor."""
    top, collection, *rest = name.split("/")
    return rest[0] if (top, collection) == ("student", "batch_stats") else None


def mask_from_sources(variables: Variables, sources: Any, *, streams: bool = True) -> Variables:
    """The mask of the blocks' sources, which may be traced.

    Args:
      variables: the tree whose structure the mask gets (arrays or shapes).
      sources: bool[N], True where the block is the teacher's; NumPy or JAX.
      streams: whether the student keeps statistics per stream; otherwise `own` serves all.

    Returns:
      A tree of boolean scalars, of the array type of `sources`.
    """
    blocks = len(sources)

    def all_student(start: int, stop: int) -> Any:
        read = ~sources[start]
        for i in range(start + 1, stop):
            read = read & ~sources[i]
        return read

    def is_read(name: str) -> Any:
        kind, index = unit_of(name, blocks)
        if kind == "teacher":
            return sources[index]
        if kind == "encoder":
            return sources[index] & ~sources[index + 1]
        if kind == "decoder":
            return ~sources[index] & sources[index + 1]
        stream = _stream_of(name)
        if stream is None or not streams:
            return ~sources[index]
        if stream == OWN_STREAM:
            return all_student(0, index + 1)
        entry = int(stream.removeprefix("entry"))
        return sources[entry] & all_student(entry + 1, index + 1)

    return jax.tree_util.tree_map_with_path(lambda path, _: is_read(leaf_name(path)), variables)


def mask_of(variables: Variables, composition: Composition, *, streams: bool = True) -> Variables:
    """The mask of a composition, as NumPy booleans. Inverse of `composition_of`."""
    sources = np.array([s == "T" for s in composition.sources])
    return mask_from_sources(variables, sources, streams=streams)


def sources_of(mask: Variables) -> jax.Array:
    """Which blocks are the teacher's: bool[N], or bool[M, N] of M stacked masks. May be traced."""
    return jnp.stack(_block_leaves(mask), axis=-1)


def _block_leaves(mask: Variables) -> list[Any]:
    """One leaf of each teacher block."""
    params = mask["teacher"]["params"]
    blocks = sum(part.startswith("block") for part in params)
    return [jax.tree.leaves(params[f"block{i}"])[0] for i in range(blocks)]


def composition_of(mask: Variables, *, streams: bool = True) -> Composition:
    """The composition whose mask this is; raises MaskError where there is none."""
    sources = np.stack([np.asarray(leaf) for leaf in _block_leaves(mask)], axis=-1)
    if sources.dtype != np.bool_ or sources.ndim != 1:
        raise MaskError(
            f"a mask's leaves are single booleans; found {sources.dtype} of rank {sources.ndim - 1}"
        )
    composition = Composition(tuple("T" if source else "S" for source in sources))
    expected = mask_of(mask, composition, streams=streams)
    for name, got, wanted in zip(
        leaf_names(mask), jax.tree.leaves(mask), jax.tree.leaves(expected), strict=True
    ):
        if bool(got) != bool(wanted):
            raise MaskError(
                f"no composition has this mask: with the teacher blocks of {composition}, leaf "
                f"'{name}' must be {bool(wanted)}"
            )
    return composition


def stack_masks(masks: list[Variables]) -> Variables:
    """Masks stacked along a new first axis: bool[M] leaves, what the training loss takes."""
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *masks)


def masked(variables: Variables, mask: Variables) -> Variables:
    """The variables with every leaf outside the mask replaced by zeros.

    What is not read can then hold anything, NaN included, and neither values nor gradients of
    what is read depend on it.
    """
    return jax.tree.map(lambda m, v: jnp.where(m, v, jnp.zeros_like(v)), mask, variables)


def live_bytes(variables: Variables, mask: Variables) -> int:
    """Bytes of the leaves that a concrete mask reads."""
    return sum(
        leaf.size * leaf.dtype.itemsize
        for read, leaf in zip(jax.tree.leaves(mask), jax.tree.leaves(variables), strict=True)
        if bool(read)
    )
