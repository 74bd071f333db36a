"""Checkpoints of the PyTorch baseline as our networks and variables.

    found = read_checkpoint("ckpts/resnet/checkpoint-62500")   # ImportedPair or ImportedNetwork
    found.pair, found.variables                                # what HybridNetwork takes
    found.kept                                                 # what only the baseline holds

    variables_of(pair, tensors)             # a pair's tensors, under the baseline's names
    network_variables_of(spec, tensors)     # one network's
    tensors_of(pair, variables)             # the way back; network_tensors_of for one network

`tensors` are NumPy arrays by the names of a PyTorch `state_dict`. Reading is strict: every tensor
is used or kept, every variable is filled, shapes and types agree and all values are finite. Tensors
are float32 (counters int64), as the baseline saves them; other types are refused. PyTorch is not
needed. The files and names are described in `baseline_layouts` and `baseline_configs`.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from pwl_jax.bundle import BundleError, strict_json
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.hybrid.masks import leaf_names
from pwl_jax.interop.baseline_configs import spec_of
from pwl_jax.interop.baseline_layouts import Layout, Naming, network_layout, pair_layout
from pwl_jax.interop.safetensors_weights import InteropError, read_tensors
from pwl_jax.ladder import OWN_STREAM
from pwl_jax.models.block_network import Variables
from pwl_jax.models.registry import PairSpec
from pwl_jax.models.spec import NetworkSpec
from pwl_jax.precision import dtype_name

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
ROLES = ("teacher", "student")
PREFIX = "swapnet."
"""Before the names of a pair, where the baseline's trainer saved it."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """What a checkpoint holds that our networks do not, for the way back.

    Attributes:
      tensors: batch counters and ViT's unused norm, by their full names.
      configs: content of the `config.json` files by path below the checkpoint.
      metadata: of the safetensors file.
      prefix: before the names of all tensors.
      naming: major version of `transformers` whose names a ViT has.
    """

    tensors: Mapping[str, np.ndarray]
    configs: Mapping[str, bytes]
    metadata: Mapping[str, str]
    prefix: str
    naming: Naming


@dataclasses.dataclass(frozen=True)
class ImportedPair:
    """A teacher and student as the baseline distilled them.

    Attributes:
      pair: their complete spec; statistics are shared, ViTs lack the final norm.
      variables: the hybrid's tree, NumPy leaves.
      kept: the rest of the checkpoint.
    """

    pair: PairSpec
    variables: Variables
    kept: Kept


@dataclasses.dataclass(frozen=True)
class ImportedNetwork:
    """One network, which the baseline trained by itself.

    Attributes:
      spec: of the network.
      variables: its `{"params", "batch_stats"}`, NumPy leaves.
      kept: the rest of the checkpoint.
    """

    spec: NetworkSpec
    variables: Variables
    kept: Kept


def read_checkpoint(
    folder: epath.PathLike, image_size: int | None = None
) -> ImportedPair | ImportedNetwork:
    """What a checkpoint folder of the baseline holds.

    Args:
      folder: with `model.safetensors` and either `teacher_config/config.json` and
        `student_config/config.json`, or `config.json` for one network.
      image_size: height and width of images for families whose config does not say; None for 32.

    Raises:
      InteropError: a file that is missing, damaged or a pickle; a tensor that is missing, unknown,
        misshaped, of another type or not finite; a config that is not supported or contradicts
        the weights. Names what it is about.
      PairError: networks that do not fit each other.
    """
    root = epath.Path(folder)
    paths = [f"{role}_config/{CONFIG}" for role in ROLES]
    if not any((root / path).exists() for path in paths):
        paths = [CONFIG]
    configs = {path: _read_config(root / path) for path in paths}
    specs = [
        spec_of(_parsed(data, root / path), f"{root / path}", image_size)
        for path, data in configs.items()
    ]
    where = _weights_file(root)
    tensors, metadata = read_tensors(where)
    prefix, naming = prefix_of(tensors), naming_of(tensors)

    def kept(layout: Layout) -> Kept:
        unused = {name: tensors[name] for name in layout.unused}
        return Kept(unused, configs, metadata, prefix, naming)

    if len(specs) == 1:
        layout = network_layout(specs[0], naming)
        _check(layout, tensors, where)
        variables = _variables(layout, tensors, _abstract_network(specs[0]), where)
        return ImportedNetwork(specs[0], variables, kept(layout))
    for role, spec in zip(ROLES, specs, strict=True):
        # Before anything is built whose size only a config claims.
        _check(network_layout(spec, naming).below(f"{prefix}{role}.", ""), tensors, where)
    teacher, student = specs
    pair = PairSpec(
        name=f"baseline_{teacher.family}", teacher=teacher, student=student, statistics="shared"
    )
    layout = pair_layout(pair, naming).below(prefix, "")
    variables = _variables(layout, tensors, _abstract_pair(pair), where)
    return ImportedPair(pair, variables, kept(layout))


def variables_of(pair: PairSpec, tensors: Mapping[str, np.ndarray]) -> Variables:
    """A pair's variables, as NumPy arrays, from its tensors under the baseline's names.

    With statistics per stream, every stream gets the one set of averages that the baseline has.

    Args:
      pair: complete spec.
      tensors: with or without the prefix `swapnet.`, in either naming of ViT.

    Raises:
      InteropError: as `read_checkpoint`, for tensors.
    """
    layout = pair_layout(pair, naming_of(tensors)).below(prefix_of(tensors), "")
    return _variables(layout, tensors, _abstract_pair(pair), "the pair")


def network_variables_of(spec: NetworkSpec, tensors: Mapping[str, np.ndarray]) -> Variables:
    """One network's `{"params", "batch_stats"}` from its tensors; see `variables_of`."""
    layout = network_layout(spec, naming_of(tensors))
    return _variables(layout, tensors, _abstract_network(spec), "the network")


def tensors_of(
    pair: PairSpec,
    variables: Variables,
    unused: Mapping[str, np.ndarray] | None = None,
    *,
    prefix: str = PREFIX,
    naming: Naming = "5",
) -> dict[str, np.ndarray]:
    """A pair's tensors under the baseline's names; inverse of `variables_of`.

    Of statistics per stream only the student's own can be held.

    Args:
      pair: complete spec.
      variables: the hybrid's tree.
      unused: tensors that only the baseline holds, by full name; where not given, as fresh.
      prefix: before all names.
      naming: of the layers of a ViT.

    Raises:
      InteropError: a linear converter where widths agree: the baseline has none there.
    """
    hybrid = HybridNetwork.from_pair(pair)
    for k, (wide, narrow) in enumerate(pair.boundary_widths):
        if wide == narrow and not (hybrid.encoders[k].identity and hybrid.decoders[k].identity):
            raise InteropError(
                f"both networks have {wide} channels at boundary {k}, where the baseline converts "
                "nothing; this pair has a linear converter there"
            )
    return _tensors(pair_layout(pair, naming).below(prefix, ""), variables, unused or {})


def network_tensors_of(
    spec: NetworkSpec,
    variables: Variables,
    unused: Mapping[str, np.ndarray] | None = None,
    *,
    naming: Naming = "5",
) -> dict[str, np.ndarray]:
    """One network's tensors; inverse of `network_variables_of`, arguments as of `tensors_of`."""
    return _tensors(network_layout(spec, naming), variables, unused or {})


def prefix_of(names: Iterable[str]) -> str:
    """`swapnet.` where names begin so, else nothing."""
    return PREFIX if any(name.startswith(PREFIX) for name in names) else ""


def naming_of(names: Iterable[str]) -> Naming:
    """The version of `transformers` by whose names a ViT's layers go; "5" where there is none."""
    return "4" if any(".attention.attention." in name for name in names) else "5"


def _variables(
    layout: Layout, tensors: Mapping[str, np.ndarray], abstract: Variables, where: str
) -> Variables:
    _check(layout, tensors, where)
    known = {place.name for place in layout.places} | set(layout.unused)
    for name in sorted(tensors):
        if name not in known:
            raise InteropError(f"{where}: the networks of its config have no tensor {name[:200]!r}")
    places = {place.leaf: place for place in layout.places}

    def leaf(name: str, expected: jax.ShapeDtypeStruct) -> np.ndarray:
        place = places[_ENTRY.sub(f"student/batch_stats/{OWN_STREAM}/", name)]
        return place.ours(tensors[place.name], expected.shape)

    leaves = map(leaf, leaf_names(abstract), jax.tree.leaves(abstract))
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


_ENTRY = re.compile(r"^student/batch_stats/entry\d+/")


def _tensors(
    layout: Layout, variables: Variables, unused: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    for name, array in unused.items():
        fresh = layout.unused.get(name)
        if fresh is None or (dtype_name(fresh), fresh.shape) != (dtype_name(array), array.shape):
            raise InteropError(f"the tensor '{name}' that was kept is of another network")
    host = jax.device_get(variables)
    leaves = dict(zip(leaf_names(host), map(np.asarray, jax.tree.leaves(host)), strict=True))
    tensors = {place.name: place.theirs(leaves[place.leaf]) for place in layout.places}
    return tensors | {name: unused.get(name, fresh) for name, fresh in layout.unused.items()}


def _check(layout: Layout, tensors: Mapping[str, np.ndarray], where: str) -> None:
    """Raises InteropError, naming the first tensor of the layout that is not as it should be."""
    expected = {place.name: ("float32", place.shape) for place in layout.places}
    expected |= {name: (dtype_name(x), x.shape) for name, x in layout.unused.items()}
    for name, (dtype, shape) in expected.items():
        if name not in tensors:
            raise InteropError(f"{where} lacks the tensor '{name}', which its config asks for")
        array = tensors[name]
        if (dtype_name(array), array.shape) != (dtype, shape):
            raise InteropError(
                f"{where}: tensor '{name}' is {dtype_name(array)}{list(array.shape)}; its config "
                f"asks for {dtype}{list(shape)}"
            )
        if not np.isfinite(array).all():
            raise InteropError(f"{where}: tensor '{name}' holds a value that is not finite")
        if name.endswith(".running_var") and (array < 0).any():
            raise InteropError(f"{where}: tensor '{name}' holds a variance below zero")


def _abstract_pair(pair: PairSpec) -> Variables:
    return jax.eval_shape(HybridNetwork.from_pair(pair).init, jax.random.key(0))


def _abstract_network(spec: NetworkSpec) -> Variables:
    return jax.eval_shape(spec.build().init, jax.random.key(0))


def _read_config(path: epath.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InteropError(
            f"cannot read {path}: {error.strerror or error}; expected a checkpoint folder of the "
            f"baseline, with teacher_config/{CONFIG} and student_config/{CONFIG}, or {CONFIG}"
        ) from error


def _parsed(data: bytes, path: epath.Path) -> Mapping[str, Any]:
    try:
        return strict_json.items(strict_json.parse(data, f"{path}"), f"{path}")
    except BundleError as error:
        raise InteropError(str(error)) from error


def _weights_file(root: epath.Path) -> str:
    path = root / WEIGHTS
    if not path.exists():
        for name, problem in (
            ("pytorch_model.bin", "which is a pickle and never read"),
            (f"{WEIGHTS}.index.json", "the index of several files"),
        ):
            if (root / name).exists():
                raise InteropError(
                    f"{root} holds {name}, {problem}; expected all weights in {WEIGHTS}"
                )
    return f"{path}"
