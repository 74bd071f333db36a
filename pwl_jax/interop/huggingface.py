"""Checkpoints of Hugging Face's `transformers`: ResNet, ViT and DeiT, read without it."""

import re
from pathlib import Path

from pwl_jax.interop.checkpoint_config import CheckpointConfig
from pwl_jax.interop.imported_teacher import (
    ImportedTeacher,
    Normalization,
    TeacherRequest,
    new_head,
    number_of_classes,
    replaced,
)
from pwl_jax.interop.resnet_weights import ResNetNames, resnet_variables
from pwl_jax.interop.safetensors_weights import InteropError
from pwl_jax.interop.source_tensors import CONFIG, SourceTensors, open_tensors
from pwl_jax.interop.vit_weights import ViTNames, vit_variables
from pwl_jax.models.grouping import even_groups, stage_groups
from pwl_jax.models.resnet import ResNetSpec
from pwl_jax.models.vit import EPSILON, ViTSpec

PREPROCESSOR = "preprocessor_config.json"
IMAGE_SIZE = (224, 224)
"""Of ResNets, whose checkpoints need not say it."""

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
"""A ViT's `hidden_act`, and our `activation`."""

BOTTLENECK = {"basic": 0, "bottleneck": 4}
"""A ResNet's `layer_type`, and our `bottleneck`."""


def read_huggingface(folder: Path, request: TeacherRequest) -> ImportedTeacher:
    """A `transformers` checkpoint as a block network that computes the same logits.

    `ResNetForImageClassification`, `ViTForImageClassification`, `DeiTForImageClassification` and
    `DeiTForImageClassificationWithTeacher` (whose two heads are averaged), and their base models
    where a new head is asked for; in the key names of transformers 4 and 5.

    Args:
      folder: with `config.json` and `model.safetensors` or its shards.
      request: how it is grouped and what is replaced.

    Raises:
      UserError: not such a checkpoint, damaged, or of a variant that is not supported; names it.
    """
    if not folder.is_dir():
        raise InteropError(
            f"{folder} is no folder; expected one with {CONFIG} and model.safetensors"
        )
    config = CheckpointConfig.read(folder / CONFIG)
    read = config.choice("model_type", {"resnet": _resnet, "vit": _vit, "deit": _vit}, None)
    return read(config, open_tensors(folder), _normalization(folder), request)


def _resnet(
    config: CheckpointConfig,
    tensors: SourceTensors,
    normalization: Normalization,
    request: TeacherRequest,
) -> ImportedTeacher:
    prefix = _prefix("resnet", tensors)
    config.choice("hidden_act", {"relu": True}, "relu")
    depths = config.sizes("depths")
    stage = re.escape(f"{prefix}encoder.stages.") + r"(\d+)\.layers\.(\d+)\."
    _check_layers(config, tensors, stage, "depths", sum(depths))
    height, width = request.image_size or normalization.image_size or IMAGE_SIZE
    blocks = request.blocks
    spec = ResNetSpec(
        input_shape=(height, width, config.size("num_channels", 3)),
        classes=number_of_classes(
            tensors, "classifier.1", _said_classes(config), config.where, request
        ),
        widths=config.sizes("hidden_sizes"),
        depths=depths,
        stem_width=config.size("embedding_size", 64),
        stem_kernel=7,
        stem_stride=2,
        stem_pool=True,
        downsample_first=config.choice("downsample_in_first_stage", _FLAGS, False),
        bottleneck=config.choice("layer_type", BOTTLENECK, "bottleneck"),
        stride_in_first=config.choice("downsample_in_bottleneck", _FLAGS, False),
        block_layers=stage_groups(depths, blocks) if isinstance(blocks, int) else blocks,
    )
    count = 3 if spec.bottleneck else 2
    names = ResNetNames(
        stem=_conv(f"{prefix}embedder.embedder"),
        layer=f"{prefix}encoder.stages.{{stage}}.layers.{{layer}}.",
        convolutions=tuple(_conv(f"layer.{i}") for i in range(count)),
        shortcut=_conv("shortcut"),
        head="classifier.1",
    )
    head = new_head(spec, (1, 1, spec.widths[-1]), request)
    variables = resnet_variables(spec, tensors, names, head)
    left = (r".*\.num_batches_tracked", *replaced(request, "classifier.1"))
    return ImportedTeacher(spec, variables, normalization, tensors.unused(*left))


def _vit(
    config: CheckpointConfig,
    tensors: SourceTensors,
    normalization: Normalization,
    request: TeacherRequest,
) -> ImportedTeacher:
    kind = config.get("model_type")
    prefix = _prefix(kind, tensors)
    names = _vit_names(kind, prefix, tensors)
    layers = config.size("num_hidden_layers")
    _check_layers(
        config,
        tensors,
        re.escape(names.layer).replace(r"\{\}", r"(\d+)"),
        "num_hidden_layers",
        layers,
    )
    trained_on = config.square("image_size")
    patch = config.square("patch_size")
    if patch[0] != patch[1]:
        raise InteropError(
            f"{config.where}: patch_size is {list(patch)}; supported: square patches"
        )
    heads = config.size("num_attention_heads")
    if request.heads not in (None, heads):
        raise InteropError(f"{config.where}: num_attention_heads is {heads}, not {request.heads}")
    blocks = request.blocks
    spec = ViTSpec(
        input_shape=(*(request.image_size or trained_on), config.size("num_channels", 3)),
        classes=number_of_classes(
            tensors, names.heads[0], _said_classes(config), config.where, request
        ),
        hidden=config.size("hidden_size"),
        heads=heads,
        mlp=config.size("intermediate_size"),
        layers=layers,
        layers_per_block=even_groups(layers, blocks) if isinstance(blocks, int) else blocks,
        patch=patch[0],
        epsilon=config.number("layer_norm_eps", EPSILON),
        activation=config.choice("hidden_act", ACTIVATIONS, "gelu"),
        qkv_bias=config.choice("qkv_bias", _FLAGS, True),
        tokens=len(names.tokens),
        head_tokens=len(names.heads),
    )
    grid = (trained_on[0] // spec.patch, trained_on[1] // spec.patch)
    head = new_head(spec, (spec.head_tokens * spec.hidden,), request)
    variables = vit_variables(spec, tensors, names, grid, antialias=False, head=head)
    pooler = re.escape(f"{prefix}pooler.") + ".*"
    left = (pooler, re.escape(f"{prefix}embeddings.mask_token"), *replaced(request, *names.heads))
    return ImportedTeacher(spec, variables, normalization, tensors.unused(*left))


_FLAGS = {True: True, False: False}


def _prefix(kind: str, tensors: SourceTensors) -> str:
    """What a network's names begin with, which is nothing where it was saved without a head."""
    prefix = f"{kind}."
    return prefix if any(name.startswith(prefix) for name in tensors.names()) else ""


def _conv(module: str) -> tuple[str, str]:
    return f"{module}.convolution", f"{module}.normalization"


def _vit_names(kind: str, prefix: str, tensors: SourceTensors) -> ViTNames:
    """The names of transformers 5 where its first layer is there, else those of transformers 4."""
    stem = f"{prefix}embeddings."
    two_heads = "cls_classifier.weight" in tensors
    distilled = [f"{stem}distillation_token"] if kind == "deit" else []
    newer = f"{prefix}layers.0.layernorm_before.weight" in tensors
    attention = "attention." if newer else "attention.attention."
    parts = ("q_proj", "k_proj", "v_proj") if newer else ("query", "key", "value")
    return ViTNames(
        tokens=(f"{stem}cls_token", *distilled),
        positions=f"{stem}position_embeddings",
        patch=f"{stem}patch_embeddings.projection",
        layer=f"{prefix}layers.{{}}." if newer else f"{prefix}encoder.layer.{{}}.",
        attention_norm="layernorm_before",
        qkv=tuple(attention + part for part in parts),
        output="attention.o_proj" if newer else "attention.output.dense",
        mlp_norm="layernorm_after",
        mlp_in="mlp.fc1" if newer else "intermediate.dense",
        mlp_out="mlp.fc2" if newer else "output.dense",
        norm=f"{prefix}layernorm",
        heads=("cls_classifier", "distillation_classifier") if two_heads else ("classifier",),
    )


def _check_layers(
    config: CheckpointConfig, tensors: SourceTensors, pattern: str, field: str, expected: int
) -> None:
    found = len(tensors.places(pattern))
    if found != expected:
        raise InteropError(
            f"{config.where} says {expected} layers ({field}); {tensors.where} holds {found}"
        )


def _said_classes(config: CheckpointConfig) -> int | None:
    """The number of classes that a config names, if it does."""
    return config.get("num_labels", len(config.section("id2label").names()) or None)


def _normalization(folder: Path) -> Normalization:
    if not (folder / PREPROCESSOR).is_file():
        return Normalization()
    config = CheckpointConfig.read(folder / PREPROCESSOR)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    for name, expected in (("do_normalize", "normalised"), ("do_rescale", "scaled to 0..1")):
        if not config.choice(name, _FLAGS, True):
            raise InteropError(f"{config.where}: {name} is false; expected images to be {expected}")
    if abs(config.number("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise InteropError(f"{config.where}: rescale_factor is not 1/255")
    if "image_mean" in config and "image_std" in config:
        mean, std = config.numbers("image_mean"), config.numbers("image_std")
    notes = []
    if "crop_pct" in config or config.get("do_center_crop"):
        notes.append(f"{config.where} crops images; here they are resized whole")
    if config.get("resample", 2) != 2:
        notes.append(f"{config.where} resizes images by another filter; here it is bilinear")
    return Normalization(mean, std, _preprocessed_size(config), tuple(notes))


def _preprocessed_size(config: CheckpointConfig) -> tuple[int, int] | None:
    """From `crop_size` or `size`: a number, or an object of height and width or shortest edge."""
    for name in ("crop_size", "size"):
        if not isinstance(config.get(name), dict):
            if name in config:
                return config.square(name)
            continue
        size = config.section(name)
        if "height" in size and "width" in size:
            return size.size("height"), size.size("width")
        if "shortest_edge" in size:
            return size.square("shortest_edge")
    return None
