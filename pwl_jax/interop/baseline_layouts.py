"""Where every variable of our networks lies in a checkpoint of the PyTorch baseline.

Its names follow its modules: `resnet.blocks.1.0.layers.0.layer.0.convolution.weight`, and below
`teacher.`, `student.`, `encoders.<k>.linear.` and `decoders.<k>.linear.` in a pair. Only the order
of axes differs from ours, so reading and writing move bits and change none. Source: the baseline's
`pwl_model`, and `transformers` for the layers of ResNet and ViT.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Literal

import numpy as np

from pwl_jax.models.lenet5 import LeNet5Spec
from pwl_jax.models.registry import PairSpec
from pwl_jax.models.resnet import CONVOLUTIONS, ResNetSpec, layer_kernels
from pwl_jax.models.spec import NetworkSpec
from pwl_jax.models.vgg import VGGSpec
from pwl_jax.models.vit import ViTSpec

Naming = Literal["4", "5"]
"""Major version of `transformers`, by which the names inside a ViT layer differ."""

VIT_LAYER: dict[Naming, dict[str, str]] = {
    "4": {
        "attention/query": "attention.attention.query",
        "attention/key": "attention.attention.key",
        "attention/value": "attention.attention.value",
        "attention/output": "attention.output.dense",
        "mlp_in": "intermediate.dense",
        "mlp_out": "output.dense",
    },
    "5": {
        "attention/query": "attention.q_proj",
        "attention/key": "attention.k_proj",
        "attention/value": "attention.v_proj",
        "attention/output": "attention.o_proj",
        "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
    },
}

_QUERY_KEY_VALUE = ("attention/query", "attention/key", "attention/value")


@dataclasses.dataclass(frozen=True)
class Place:
    """One float32 tensor of a checkpoint, and the leaf of ours that holds the same numbers.

    Attributes:
      name: theirs.
      leaf: ours, as `leaf_names` has it.
      shape: theirs.
      split: theirs, with axes that PyTorch flattened taken apart again.
      axes: those of `split` in our order; ours may then be flattened in turn.
    """

    name: str
    leaf: str
    shape: tuple[int, ...]
    split: tuple[int, ...]
    axes: tuple[int, ...]

    def ours(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The leaf, of the shape that our network gives it."""
        return np.ascontiguousarray(tensor.reshape(self.split).transpose(self.axes)).reshape(shape)

    def theirs(self, leaf: np.ndarray) -> np.ndarray:
        """The tensor; inverse of `ours`."""
        turned = leaf.reshape([self.split[axis] for axis in self.axes])
        return np.ascontiguousarray(turned.transpose(np.argsort(self.axes))).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Layout:
    """All tensors of a checkpoint.

    Attributes:
      places: of those that we compute with.
      unused: the others by name, as a fresh network of the baseline has them: counters of batches,
        and ViT's final norm, which it holds and never applies.
    """

    places: tuple[Place, ...]
    unused: Mapping[str, np.ndarray]

    def below(self, name: str, leaf: str) -> "Layout":
        """The layout of a part whose names begin with `name` and leaves with `leaf`."""
        places = tuple(
            dataclasses.replace(p, name=name + p.name, leaf=leaf + p.leaf) for p in self.places
        )
        return Layout(places, {name + key: value for key, value in self.unused.items()})


def network_layout(spec: NetworkSpec, naming: Naming = "5") -> Layout:
    """A network by itself: names as in its own checkpoint, leaves `params/..`, `batch_stats/..`.

    Raises:
      TypeError: a family that the baseline does not have.
    """
    if isinstance(spec, LeNet5Spec):
        return _lenet5(spec)
    if isinstance(spec, VGGSpec):
        return _vgg(spec)
    if isinstance(spec, ResNetSpec):
        return _resnet(spec)
    if isinstance(spec, ViTSpec):
        return _vit(spec, VIT_LAYER[naming])
    raise TypeError(f"the baseline has no family '{spec.family}'")


def pair_layout(pair: PairSpec, naming: Naming = "5") -> Layout:
    """A pair: names without the checkpoint's `swapnet.`, leaves of the hybrid's tree.

    The student's running averages are those of its own stream; the baseline has no others.
    """
    student = network_layout(pair.student, naming).below("student.", "student/")
    own = tuple(
        dataclasses.replace(place, leaf=place.leaf.replace("/batch_stats/", "/batch_stats/own/"))
        for place in student.places
    )
    parts = [
        network_layout(pair.teacher, naming).below("teacher.", "teacher/"),
        Layout(own, student.unused),
    ]
    for k, (wide, narrow) in enumerate(pair.boundary_widths):
        if wide != narrow:
            for group, widths in (("encoders", (wide, narrow)), ("decoders", (narrow, wide))):
                linear = _linear("linear", f"boundary{k}", *widths)
                parts.append(linear.below(f"{group}.{k}.", f"{group}/"))
    return _joined(parts)


def lenet5_map(spec: LeNet5Spec) -> tuple[int, int]:
    """Height and width of the map that LeNet-5's dense layers see."""
    height, width = (((size - 4) // 2 - 4) // 2 for size in spec.input_shape[:2])
    return height, width


def _lenet5(spec: LeNet5Spec) -> Layout:
    (height, width), (first, second) = lenet5_map(spec), spec.features
    split = (first, spec.channels[1], height, width)
    dense = Place(
        name="lenet.blocks.2.1.weight",
        leaf="params/block2/dense/kernel",
        shape=(first, spec.channels[1] * height * width),
        split=split,
        axes=(2, 3, 1, 0),
    )
    return _joined(
        [
            _convolution(
                "lenet.blocks.0.0", "block0/conv", spec.input_shape[2], spec.channels[0], 5, True
            ),
            _convolution("lenet.blocks.1.0", "block1/conv", *spec.channels, 5, True),
            Layout((dense,), {}),
            _vector("lenet.blocks.2.1.bias", "params/block2/dense/bias", first),
            _linear("lenet.blocks.3.0", "block3/dense", first, second),
            _linear("classifier.1", "head/dense", second, spec.classes),
        ]
    )


def _vgg(spec: VGGSpec) -> Layout:
    parts, width_in = [], spec.input_shape[2]
    for i, (width, depth) in enumerate(zip(spec.widths, spec.depths, strict=True)):
        for j in range(depth):
            # Convolution, norm and ReLU take a number each.
            stem, leaf = f"vgg.blocks.{i}.0", f"block{i}"
            name = f"{stem}.{3 * j}"
            parts.append(_convolution(name, f"{leaf}/conv{j}", width_in, width, 3, True))
            parts.append(_batch_norm(f"{stem}.{3 * j + 1}", f"{leaf}/norm{j}", width))
            width_in = width
    parts.append(_linear("classifier.2", "head/dense", width_in, spec.classes))
    return _joined(parts)


def _resnet(spec: ResNetSpec) -> Layout:
    def convolved(name: str, leaf: str, width_in: int, width: int, size: int) -> Layout:
        convolution = _convolution(f"{name}.convolution", f"{leaf}conv", width_in, width, size)
        norm = _batch_norm(f"{name}.normalization", f"{leaf}norm", width)
        return _joined([convolution, norm])

    stem = "resnet.embedder.embedder"
    parts = [convolved(stem, "embedder/", spec.input_shape[2], spec.stem_width, spec.stem_kernel)]
    width_in = spec.stem_width
    for i, layers in enumerate(spec.blocks()):
        for j, (width, stride) in enumerate(layers):
            name, leaf = f"resnet.blocks.{i}.0.layers.{j}", f"block{i}/layer{j}/"
            if stride != 1 or width_in != width:
                parts.append(convolved(f"{name}.shortcut", f"{leaf}shortcut_", width_in, width, 1))
            kernels = layer_kernels(width, stride, spec.bottleneck, spec.stride_in_first)
            for k, (inner, size, _) in enumerate(kernels):
                at = f"{leaf}{CONVOLUTIONS[k]}_"
                parts.append(convolved(f"{name}.layer.{k}", at, width_in, inner, size))
                width_in = inner
    parts.append(_linear("classifier.2", "head/dense", width_in, spec.classes))
    return _joined(parts)


def _vit(spec: ViTSpec, names: Mapping[str, str]) -> Layout:
    height, width, channels = spec.input_shape
    tokens = 1 + (height // spec.patch) * (width // spec.patch)
    patch = "vit.embedder.patch_embeddings.projection"
    parts = [
        _vector("vit.embedder.cls_token", "params/embedder/class_token", 1, 1, spec.hidden),
        _vector(
            "vit.embedder.position_embeddings", "params/embedder/positions", 1, tokens, spec.hidden
        ),
        _convolution(patch, "embedder/patch", channels, spec.hidden, spec.patch, True),
    ]
    for i, depth in enumerate(spec.block_layers):
        for j in range(depth):
            name, leaf = f"vit.blocks.{i}.{j}.module", f"block{i}/layer{j}"
            parts.append(_norm(f"{name}.layernorm_before", f"{leaf}/attention_norm", spec.hidden))
            parts.append(_norm(f"{name}.layernorm_after", f"{leaf}/mlp_norm", spec.hidden))
            for ours, theirs in names.items():
                widths = {"mlp_in": (spec.hidden, spec.mlp), "mlp_out": (spec.mlp, spec.hidden)}
                size = widths.get(ours, (spec.hidden, spec.hidden))
                bias = spec.qkv_bias or ours not in _QUERY_KEY_VALUE
                parts.append(_linear(f"{name}.{theirs}", f"{leaf}/{ours}", *size, bias=bias))
    norm = f"vit.blocks.{len(spec.block_layers) - 1}.{spec.block_layers[-1]}.module"
    ones = np.ones(spec.hidden, np.float32)
    parts.append(Layout((), {f"{norm}.weight": ones, f"{norm}.bias": np.zeros_like(ones)}))
    parts.append(_linear("classifier", "head/dense", spec.hidden, spec.classes))
    return _joined(parts)


def _convolution(
    name: str, leaf: str, width_in: int, width: int, size: int, bias: bool = False
) -> Layout:
    shape = (width, width_in, size, size)
    kernel = Place(f"{name}.weight", f"params/{leaf}/kernel", shape, shape, (2, 3, 1, 0))
    biases = [_vector(f"{name}.bias", f"params/{leaf}/bias", width)] if bias else []
    return _joined([Layout((kernel,), {}), *biases])


def _linear(name: str, leaf: str, width_in: int, width: int, bias: bool = True) -> Layout:
    shape = (width, width_in)
    kernel = Place(f"{name}.weight", f"params/{leaf}/kernel", shape, shape, (1, 0))
    biases = [_vector(f"{name}.bias", f"params/{leaf}/bias", width)] if bias else []
    return _joined([Layout((kernel,), {}), *biases])


def _norm(name: str, leaf: str, width: int) -> Layout:
    scale = _vector(f"{name}.weight", f"params/{leaf}/scale", width)
    return _joined([scale, _vector(f"{name}.bias", f"params/{leaf}/bias", width)])


def _batch_norm(name: str, leaf: str, width: int) -> Layout:
    mean = _vector(f"{name}.running_mean", f"batch_stats/{leaf}/mean", width)
    var = _vector(f"{name}.running_var", f"batch_stats/{leaf}/var", width)
    counter = Layout((), {f"{name}.num_batches_tracked": np.zeros((), np.int64)})
    return _joined([_norm(name, leaf, width), mean, var, counter])


def _vector(name: str, leaf: str, *shape: int) -> Layout:
    return Layout((Place(name, leaf, shape, shape, tuple(range(len(shape)))),), {})


def _joined(parts: list[Layout]) -> Layout:
    places = itertools.chain.from_iterable(part.places for part in parts)
    return Layout(tuple(places), {k: v for part in parts for k, v in part.unused.items()})
