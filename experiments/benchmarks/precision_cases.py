"""The tensors that are measured: trained teachers, and a model of the size of ViT-L/16.

Without a checkpoint of its own the large model is drawn. Drawn tensors have the shapes of ViT-L/16
(1024 wide, 24 layers, 304 million parameters), and for each kind of tensor (a tensor's name
without the numbers of block and layer: query kernel, MLP-in kernel, LayerNorm scale, ...) two
things fitted to the trained ViT teacher:

- the distribution of a channel's scale: the empirical quantile function of the root mean squares
  of the channels (last axis) of all of the teacher's tensors of that kind;
- the distribution of values in a channel: the empirical quantile function of all values of that
  kind, each divided by its channel's root mean square.

Quantile functions are 4096 points, read with linear interpolation at uniform random numbers. A
value is the product of a draw of each, in float64, rounded to float32. Tensors of one axis are
drawn from the quantile function of their values alone. Dependence between values is not fitted.
"""

import dataclasses
import functools
import importlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from pwl_jax.errors import UserError
from pwl_jax.precision import numpy_dtype
from pwl_jax.precision.dtypes import FLOATS, array_of, cast_patterns, float_values

DTYPES = ("float32", "bfloat16")
_POINTS = 4096
Tensors = Callable[[], Iterator[tuple[str, np.ndarray]]]


class CaseError(UserError):
    """A workdir or checkpoint whose tensors cannot be measured."""


@dataclasses.dataclass(frozen=True)
class Case:
    """The tensors of one model.

    Attributes:
      name: for the table.
      source: where the tensors come from, in words.
      tensors: yields name and f32 array of each, the same ones every time.
      sampled: which names the slow methods are run on; None takes all.
      dtypes: in which types they are measured; those the source's precision allows.
    """

    name: str
    source: str
    tensors: Tensors
    sampled: Callable[[str], bool] | None = None
    dtypes: tuple[str, ...] = DTYPES

    def sample(self) -> Iterator[tuple[str, np.ndarray]]:
        """The tensors that slow methods are run on."""
        for name, array in self.tensors():
            if self.is_sampled(name):
                yield name, array

    def is_sampled(self, name: str) -> bool:
        """Whether slow methods are run on this tensor."""
        return self.sampled is None or self.sampled(name)


def typed(array: np.ndarray, dtype: str) -> np.ndarray:
    """f32 values in a type, rounded to nearest even; same shape."""
    if dtype == "float32":
        return array
    return array_of(cast_patterns(np.ascontiguousarray(array), dtype), dtype, array.shape)


def in_memory(name: str, source: str, tensors: Mapping[str, np.ndarray]) -> Case:
    """A case of arrays at hand; only those of floats are measured."""
    floats = {
        key: np.ascontiguousarray(float_values(array))
        for key, array in tensors.items()
        if array.dtype.name in FLOATS
    }
    if not floats:
        raise CaseError(f"{name} holds no tensor of floats")
    return Case(name, source, lambda: iter(floats.items()))


def checkpoint(path: Path) -> Case:
    """A safetensors file, read tensor by tensor.

    Raises:
      CaseError: it is none, or holds no tensor of floats.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CaseError(f"'{path}' is no safetensors file: {error}") from error
    floats = [name for name, kind in kinds.items() if kind in ("F64", "F32", "F16", "BF16")]
    if not floats:
        raise CaseError(f"'{path}' holds no tensor of floats")
    wide = all(kinds[name] in ("F64", "F32") for name in floats)

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        with safe_open(path, framework="numpy") as file:
            for name in floats:
                yield name, np.ascontiguousarray(float_values(file.get_tensor(name)))

    dtypes = DTYPES if wide else ("bfloat16",)
    few = set(floats[:: max(1, len(floats) // 16)])
    return Case(path.stem, f"tensors of {path.name}", tensors, few.__contains__, dtypes)


def large(teacher: Mapping[str, np.ndarray], fitted_to: str, quick: bool) -> Case:
    """ViT-L/16, drawn; see above.

    Args:
      teacher: tensors of a trained ViT of this repository, by name.
      fitted_to: which one, in words.
      quick: only a layer's worth of tensors.
    """
    shapes = large_shapes()
    fits = {kind: Fit.of(arrays) for kind, arrays in _by_kind(teacher).items()}
    missing = {_kind(name) for name in shapes} - set(fits)
    if missing:
        raise CaseError(f"{fitted_to} has no tensors of kinds {', '.join(sorted(missing))}")

    def sampled(name: str) -> bool:
        return "block0/layer0" in name or "/block" not in name

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for name, shape in shapes.items():
            if not quick or ("block0/layer0" in name and "attention" in name):
                # A seed of its own, so that a part of the tensors is the same as in the whole.
                random = np.random.default_rng(zlib.crc32(name.encode()))
                yield name, fits[_kind(name)].draw(shape, random)

    source = (
        f"shapes of ViT-L/16, values drawn: per kind of tensor the empirical quantile function of "
        f"values over their channel's root mean square, times that of the channels' root mean "
        f"squares, fitted to {fitted_to}; values independent"
    )
    name = "ViT-L/16, drawn" + (", a part" if quick else "")
    return Case(name, source, tensors, sampled)


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """The two quantile functions of a kind of tensor; f64[4096] each, ascending.

    Attributes:
      scales: of channels' root mean squares.
      values: of values over their channel's; of values alone where tensors have one axis.
    """

    scales: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, arrays: list[np.ndarray]) -> "Fit":
        """Fitted to all tensors of a kind."""
        ranks = np.linspace(0, 1, _POINTS)
        if arrays[0].ndim < 2:
            values = np.concatenate([array.reshape(-1) for array in arrays])
            return cls(np.ones(_POINTS), np.quantile(values.astype(np.float64), ranks))
        scales, values_ = [], []
        for array in arrays:
            matrix = array.reshape(-1, array.shape[-1]).astype(np.float64)
            here = np.sqrt(np.square(matrix).mean(axis=0))
            scales.append(here)
            values_.append((matrix / np.where(here > 0, here, 1)).reshape(-1))
        return cls(
            np.quantile(np.concatenate(scales), ranks), np.quantile(np.concatenate(values_), ranks)
        )

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        """f32[shape]."""
        out = np.empty((int(np.prod(shape[:-1])), shape[-1]), np.float32)
        scales = np.ones(shape[-1])
        if len(shape) > 1:
            scales = _at(self.scales, random.random(shape[-1]))
        rows = max(1, (1 << 20) // shape[-1])
        for start in range(0, len(out), rows):
            part = out[start : start + rows]
            part[:] = _at(self.values, random.random(part.shape)) * scales
        return out.reshape(shape)


def _at(quantiles: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """A quantile function at ranks in [0, 1)."""
    places = ranks * (len(quantiles) - 1)
    below = places.astype(np.int32)
    places -= below
    steps = np.append(np.diff(quantiles), 0.0)
    places *= steps[below]
    places += quantiles[below]
    return places


def _by_kind(tensors: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = {}
    for name, array in tensors.items():
        found.setdefault(_kind(name), []).append(array)
    return found


def _kind(name: str) -> str:
    return re.sub(r"(block|layer)\d+/", "", name)


@functools.cache
def large_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of ViT-L/16 for 1000 classes, by name."""
    import jax

    from pwl_jax.hybrid.masks import leaf_names
    from pwl_jax.models.vit import ViTSpec

    spec = ViTSpec(
        input_shape=(224, 224, 3),
        classes=1000,
        patch=16,
        hidden=1024,
        heads=16,
        mlp=4096,
        layers=24,
        layers_per_block=6,
    )
    network = spec.build()
    tree = jax.eval_shape(network.init, jax.random.key(0))
    return dict(zip(leaf_names(tree), (leaf.shape for leaf in jax.tree.leaves(tree)), strict=True))


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained network of this repository.

    Attributes:
      family: `resnet` or `vit`.
      workdir: of its run.
      source: in words.
    """

    family: str
    workdir: Path
    source: str

    def tensors(self) -> dict[str, np.ndarray]:
        """Its tensors by name."""
        import jax

        from pwl_jax.hybrid.masks import leaf_names
        from pwl_jax.training import workdir

        config = workdir.read_config(self.workdir)
        tree = workdir.load_teacher(self.workdir, config)
        arrays = map(np.asarray, jax.tree.leaves(tree))
        return dict(zip(leaf_names(tree), arrays, strict=True))

    def case(self) -> Case:
        """Its tensors as a case."""
        from pwl_jax.training import workdir

        name = workdir.read_config(self.workdir).pair.name
        return in_memory(f"{self.family} teacher ({name})", self.source, self.tensors())


def given_teacher(family: str, path: str) -> Teacher:
    """The teacher of a workdir.

    Raises:
      CaseError: it is of another family.
      CheckpointError: there is no run.
    """
    from pwl_jax.training import workdir

    found = workdir.read_config(path).pair.teacher.to_dict()["family"]
    if found != family:
        raise CaseError(f"'{path}' holds a {found}; expected a {family}")
    return Teacher(family, Path(path), f"the teacher in {Path(path).name}")


def trained_teacher(family: str, folder: Path) -> Teacher:
    """The demonstration's teacher, trained now on scikit-learn's digits in `folder`."""
    from pwl_jax.training import loop
    from pwl_jax.training.config import run_config

    config = importlib.import_module(f"experiments.configs.{family}_digits").get_config()
    result = loop.train(run_config(config, "teacher"), folder / family, progress=False)
    if not result.finished:
        raise CaseError(f"the training of the {family} teacher was stopped")
    return Teacher(family, folder / family, "the demonstration's teacher, trained on digits here")


def nbytes(array: np.ndarray, dtype: str) -> int:
    """Bytes of an array's elements in a type."""
    return array.size * numpy_dtype(dtype).itemsize
