"""A student's first weights: layers of its teacher's blocks.

A block whose parts are numbered (`layer0`, `layer1`; `conv0`, `norm0`) is a run of layers, and the
student's takes as many of the teacher's as it has. Layers that a ResNet's or a VGG's stage begins
with have shapes of their own, so that only `first` fits those.
"""

import re
from typing import Any

import jax

from pwl_jax.errors import UserError
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.hybrid.masks import leaf_names
from pwl_jax.models.block_network import Variables

_NUMBERED = re.compile(r"(.*?)(\d+)")


class StudentInitError(UserError):
    """A student whose layers are not shaped as its teacher's."""


def student_from_teacher(hybrid: HybridNetwork, variables: Variables, layer: str) -> Variables:
    """The variables with the student's blocks copied from layers of the teacher's.

    Embedder and head are copied where all their shapes agree, and stay as they are elsewhere.
    BatchNorm statistics come along, in every stream.

    Args:
      hybrid: the network.
      variables: its tree.
      layer: which of a teacher block's layers the first student layer of that block is: `first`,
        `last` (so that the last one is the last) or a number from 0.

    Raises:
      StudentInitError: a block of the student is not made of layers like the teacher's; names it
        and the first shape that differs.
    """
    teacher, student = variables["teacher"], variables["student"]
    params = dict(student["params"])
    streams = {name: dict(tree) for name, tree in student["batch_stats"].items()}
    for part, ours in student["params"].items():
        theirs = teacher["params"].get(part, {})
        if part.startswith("block"):
            sources = _sources(part, theirs, ours, layer)
            _check_shapes(part, {name: theirs[source] for name, source in sources.items()}, ours)
        elif _shapes(theirs) == _shapes(ours):
            sources = {name: name for name in ours}
        else:
            continue
        params[part] = {name: theirs[source] for name, source in sources.items()}
        for stream in streams.values():
            if part in stream:
                statistics = teacher["batch_stats"][part]
                stream[part] = {name: statistics[sources[name]] for name in stream[part]}
    return {**variables, "student": {"params": params, "batch_stats": streams}}


def _sources(part: str, theirs: dict[str, Any], ours: dict[str, Any], layer: str) -> dict[str, str]:
    """For each entry of a student's block, the teacher's entry that it is copied from."""
    sources = {}
    for name in ours:
        match = _NUMBERED.fullmatch(name)
        source = name
        if match:
            stem, number = match[1], int(match[2])
            offset = {"first": 0, "last": _count(theirs, stem) - _count(ours, stem)}.get(layer)
            source = f"{stem}{number + (int(layer) if offset is None else offset)}"
        if source not in theirs:
            raise StudentInitError(
                f"the student cannot begin as layers of its teacher: {part} of the student has "
                f"'{name}', and the teacher's has no '{source}'"
            )
        sources[name] = source
    return sources


def _count(block: dict[str, Any], stem: str) -> int:
    matches = (_NUMBERED.fullmatch(name) for name in block)
    return sum(match is not None and match[1] == stem for match in matches)


def _check_shapes(part: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    wanted, found = _shapes(ours), _shapes(theirs)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise StudentInitError(
                f"the student cannot begin as layers of its teacher: {part}/{name} is "
                f"{wanted.get(name, 'missing')} in the student and {found.get(name, 'missing')} in "
                "the teacher's layer; expected equal widths and layers of equal shapes"
            )


def _shapes(tree: Any) -> dict[str, list[int]]:
    leaves = jax.tree.leaves(tree)
    return {name: list(leaf.shape) for name, leaf in zip(leaf_names(tree), leaves, strict=True)}
