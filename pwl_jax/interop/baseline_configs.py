"""The `config.json` of the PyTorch baseline's networks, from and to our specs.

Fields that do not change what a network computes when it is evaluated (dropout, labels' names,
initial values, versions) are ignored. Fields that do are checked; what ours cannot compute is
refused. A field that is absent has the default of the baseline's config class.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pwl_jax.interop.baseline_layouts import lenet5_map
from pwl_jax.interop.huggingface import ACTIVATIONS, BOTTLENECK
from pwl_jax.interop.safetensors_weights import InteropError
from pwl_jax.models.lenet5 import LeNet5Spec
from pwl_jax.models.resnet import ResNetSpec
from pwl_jax.models.spec import NetworkSpec, SpecError
from pwl_jax.models.vgg import VGGSpec
from pwl_jax.models.vit import EPSILON, ViTSpec

IMAGE_SIZE = 32
"""Height and width of images where a config does not name them: the baseline's own, but for ViT."""

MOST_LAYERS = 1000
"""What a config may claim; nothing is built of more."""


def spec_of(config: Mapping[str, Any], where: str, image_size: int | None = None) -> NetworkSpec:
    """The network that a config describes.

    Args:
      config: parsed `config.json`.
      where: what errors call it.
      image_size: height and width of images for families whose config does not say; None for 32.

    Raises:
      InteropError: a field that is missing, of another type, or not supported; names it.
    """
    fields = _Fields(config, where)
    kind = config.get("model_type")
    if kind == "vit" and "layers_per_block" in config:
        kind = "block_vit"
    if not isinstance(kind, str) or kind not in _READERS:
        raise InteropError(
            f"{where}: model_type is {kind!r}; expected one of {', '.join(_READERS)} (networks of "
            "Hugging Face's own types are for launch.import_teacher)"
        )
    try:
        spec = _READERS[kind](fields, IMAGE_SIZE if image_size is None else image_size)
    except SpecError as error:
        raise InteropError(f"{where}: {error}") from error
    if image_size not in (None, spec.input_shape[0]):
        raise InteropError(f"{where}: image_size is {spec.input_shape[0]}, not {image_size}")
    return spec


def config_of(spec: NetworkSpec) -> dict[str, Any]:
    """What `from_pretrained` of the baseline's config classes needs to build this network.

    Raises:
      InteropError: the baseline has no such network; says why.
    """
    if type(spec) not in _WRITERS:
        raise InteropError(
            f"the baseline has no family '{spec.family}'; expected lenet5, vgg, resnet or vit"
        )
    # Its LeNet-5 reads the number of classes from the one field, the others from the other.
    labels = {f"label{i}": i for i in range(spec.classes)}
    config = {
        **_WRITERS[type(spec)](spec),
        "num_labels": spec.classes,
        "id2label": {str(i): label for label, i in labels.items()},
        "label2id": labels,
        "dtype": "float32",
    }
    _check_described(spec, config)
    return config


def _check_described(spec: NetworkSpec, config: Mapping[str, Any]) -> None:
    """Raises InteropError where a config cannot say all of a spec, as of imported teachers."""
    found = spec_of(config, f"the baseline's {spec.family}", spec.input_shape[0]).to_dict()
    for name, value in spec.to_dict().items():
        # The first is partly, the second not at all a matter of these configs.
        if name not in ("input_shape", "dtype") and found[name] != value:
            raise InteropError(
                f"the baseline has no {spec.family} with {name} {value!r}; its own has "
                f"{found[name]!r}"
            )


@dataclasses.dataclass(frozen=True)
class _Fields:
    """A config's fields, each checked when it is asked for."""

    config: Mapping[str, Any]
    where: str

    def size(self, name: str, default: int, most: int = 65535) -> int:
        def valid(value: Any) -> bool:
            return type(value) is int and 0 < value <= most

        return self._checked(name, default, valid, f"a whole number from 1 to {most}")

    def sizes(self, name: str, default: list[int], most_in_all: int = 1 << 20) -> tuple[int, ...]:
        def valid(value: Any) -> bool:
            numbers = isinstance(value, list) and all(type(n) is int and n > 0 for n in value)
            return numbers and 0 < sum(value) <= most_in_all

        expected = f"a list of whole numbers from 1 up, {most_in_all} at most in all"
        return tuple(self._checked(name, default, valid, expected))

    def switch(self, name: str, default: bool) -> bool:
        return self._checked(name, default, lambda value: isinstance(value, bool), "true or false")

    def number(self, name: str, default: float) -> float:
        def valid(value: Any) -> bool:
            return isinstance(value, float) and 0 < value < 1

        return self._checked(name, default, valid, "a number between 0 and 1")

    def choice(self, name: str, known: Mapping[str, Any], default: str) -> Any:
        """What a field's value stands for."""

        def valid(value: Any) -> bool:
            return isinstance(value, str) and value in known

        return known[self._checked(name, default, valid, f"one of {', '.join(known)}")]

    def only(self, name: str, supported: Any, default: Any) -> None:
        """A field of which ours have one value alone."""
        self._checked(name, default, lambda value: value == supported, f"{supported!r}, as ours")

    def classes(self, default: int = 2) -> int:
        """Number of logits, which is the number of names where classes have names."""
        names = self.config.get("id2label")
        if names is None:
            return self.size("num_labels", default)
        if not isinstance(names, Mapping) or not names:
            raise InteropError(f"{self.where}: id2label is no object of classes' names")
        if self.size("num_labels", len(names)) != len(names):
            raise InteropError(
                f"{self.where}: num_labels is {self.config['num_labels']}, and id2label names "
                f"{len(names)} classes; expected the same number"
            )
        return len(names)

    def _checked(self, name: str, default: Any, valid: Any, expected: str) -> Any:
        value = self.config.get(name, default)
        if not valid(value):
            raise InteropError(f"{self.where}: {name} is {value!r}; expected {expected}")
        return value


def _read_lenet5(fields: _Fields, image_size: int) -> LeNet5Spec:
    channels, sizes = (
        fields.sizes("cnn_channels", [6, 16]),
        fields.sizes("fc_sizes", [400, 120, 84]),
    )
    if len(channels) != 2 or len(sizes) != 3:
        raise InteropError(
            f"{fields.where}: cnn_channels has {len(channels)} and fc_sizes {len(sizes)} numbers; "
            "expected 2 and 3"
        )
    spec = LeNet5Spec(
        input_shape=(image_size, image_size, fields.size("in_channels", 3)),
        classes=fields.classes(default=10),
        channels=(channels[0], channels[1]),
        features=(sizes[1], sizes[2]),
    )
    height, width = lenet5_map(spec)
    if sizes[0] != channels[1] * height * width:
        raise InteropError(
            f"{fields.where}: fc_sizes begins with {sizes[0]}; expected {channels[1]} channels x "
            f"{height} x {width}, with images of {image_size}x{image_size}"
        )
    return spec


def _write_lenet5(spec: NetworkSpec) -> dict[str, Any]:
    assert isinstance(spec, LeNet5Spec)
    if lenet5_map(spec) != (5, 5):
        raise InteropError(
            f"the baseline's LeNet-5 takes images of 32x32 alone; this one takes "
            f"{spec.input_shape[0]}x{spec.input_shape[1]}"
        )
    return {
        "model_type": "block_lenet5",
        "architectures": ["BlockLeNet5ForImageClassification"],
        "in_channels": spec.input_shape[2],
        "cnn_channels": list(spec.channels),
        "fc_sizes": [spec.channels[1] * 25, *spec.features],
    }


def _read_vgg(fields: _Fields, image_size: int) -> VGGSpec:
    fields.only("pool_kernel", 2, 2)
    fields.only("pool_stride", 2, 2)
    return VGGSpec(
        input_shape=(image_size, image_size, fields.size("in_channels", 3)),
        classes=fields.classes(),
        widths=fields.sizes("hidden_sizes", [64, 128, 256, 512, 512]),
        depths=fields.sizes("depths", [2, 2, 3, 3, 3], MOST_LAYERS),
    )


def _write_vgg(spec: NetworkSpec) -> dict[str, Any]:
    assert isinstance(spec, VGGSpec)
    return {
        "model_type": "block_vgg",
        "architectures": ["BlockVGGForImageClassification"],
        "in_channels": spec.input_shape[2],
        "hidden_sizes": list(spec.widths),
        "depths": list(spec.depths),
        "pool_kernel": 2,
        "pool_stride": 2,
    }


def _read_resnet(fields: _Fields, image_size: int) -> ResNetSpec:
    fields.only("hidden_act", "relu", "relu")
    return ResNetSpec(
        input_shape=(image_size, image_size, fields.size("num_channels", 3)),
        classes=fields.classes(),
        widths=fields.sizes("hidden_sizes", [256, 512, 1024, 2048]),
        depths=fields.sizes("depths", [3, 4, 6, 3], MOST_LAYERS),
        stem_width=fields.size("embedding_size", 64),
        stem_kernel=fields.size("embedder_kernel_size", 7),
        stem_stride=fields.size("embedder_kernel_stride", 2),
        stem_pool=fields.switch("embedder_use_pooler", True),
        downsample_first=fields.switch("downsample_in_first_stage", False),
        bottleneck=fields.choice("layer_type", BOTTLENECK, "bottleneck"),
        stride_in_first=fields.switch("downsample_in_bottleneck", False),
    )


def _write_resnet(spec: NetworkSpec) -> dict[str, Any]:
    assert isinstance(spec, ResNetSpec)
    return {
        "model_type": "block_resnet",
        "architectures": ["BlockResNetForImageClassification"],
        "num_channels": spec.input_shape[2],
        "embedding_size": spec.stem_width,
        "hidden_sizes": list(spec.widths),
        "depths": list(spec.depths),
        "layer_type": "bottleneck" if spec.bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": spec.downsample_first,
        "downsample_in_bottleneck": spec.stride_in_first,
        "embedder_kernel_size": spec.stem_kernel,
        "embedder_kernel_stride": spec.stem_stride,
        "embedder_use_pooler": spec.stem_pool,
    }


def _read_vit(fields: _Fields, image_size: int) -> ViTSpec:
    del image_size
    size = fields.size("image_size", 224)
    return ViTSpec(
        input_shape=(size, size, fields.size("num_channels", 3)),
        classes=fields.classes(),
        hidden=fields.size("hidden_size", 768),
        heads=fields.size("num_attention_heads", 12),
        mlp=fields.size("intermediate_size", 3072),
        layers=fields.size("num_hidden_layers", 12, MOST_LAYERS),
        layers_per_block=fields.size("layers_per_block", 1),
        patch=fields.size("patch_size", 16),
        final_norm=False,
        epsilon=fields.number("layer_norm_eps", EPSILON),
        activation=fields.choice("hidden_act", ACTIVATIONS, "gelu"),
        qkv_bias=fields.switch("qkv_bias", True),
    )


def _write_vit(spec: NetworkSpec) -> dict[str, Any]:
    assert isinstance(spec, ViTSpec)
    height, width, channels = spec.input_shape
    if spec.final_norm:
        raise InteropError(
            "the baseline's ViT never applies its final norm, and a norm cannot be folded into "
            "what follows; expected a ViT trained with final_norm=False"
        )
    if height != width:
        raise InteropError(
            f"the baseline's ViT takes square images; this one takes {height}x{width}"
        )
    return {
        "model_type": "block_vit",
        "architectures": ["BlockViTForImageClassification"],
        "num_channels": channels,
        "image_size": height,
        "patch_size": spec.patch,
        "hidden_size": spec.hidden,
        "num_attention_heads": spec.heads,
        "intermediate_size": spec.mlp,
        "num_hidden_layers": spec.layers,
        "layers_per_block": spec.layers_per_block,
        "hidden_act": "gelu" if spec.activation == "gelu" else "gelu_pytorch_tanh",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": spec.epsilon,
        "qkv_bias": spec.qkv_bias,
    }


_READERS = {
    "block_lenet5": _read_lenet5,
    "block_vgg": _read_vgg,
    "block_resnet": _read_resnet,
    "block_vit": _read_vit,
}
_WRITERS = {
    LeNet5Spec: _write_lenet5,
    VGGSpec: _write_vgg,
    ResNetSpec: _write_resnet,
    ViTSpec: _write_vit,
}
