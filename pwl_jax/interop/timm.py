"""Checkpoints of `timm`: ResNet and ViT, read without it.

A folder as timm saves it for the hub (`config.json` and `model.safetensors`), or a bare
.safetensors file of a state dict; then names and shapes say what the network is, but for a ViT's
number of heads. torchvision's ResNets have the same names.
"""

import math
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
from pwl_jax.models.vit import ViTSpec

EPSILON = 1e-6
"""Of timm's LayerNorm."""

IMAGE_SIZE = (224, 224)
"""Of a ResNet whose file says none."""

_RESNET = re.compile(r"(tv_)?resnet\d+|wide_resnet\d+_2")
_VIT = re.compile(
    r"(vit|deit)_(tiny|small|base|large|huge)(_distilled)?_patch\d+_\d+(_in21k|_miil)?"
)
_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16}

_TOLD_BY_SHAPES = (
    "img_size", "patch_size", "embed_dim", "depth", "mlp_ratio", "num_classes", "in_chans",
    "qkv_bias", "num_heads", "layers", "channels", "base_width",
)  # fmt: skip
_HARMLESS = r".*_rate|weight_init|fix_init|zero_init_last|dynamic_img_(size|pad)|global_pool"
_AS_BUILT = {
    "class_token": True, "final_norm": True, "no_embed_class": False,
    "pos_embed": "learn", "pre_norm": False, "reg_tokens": 0, "output_stride": 32,
    "cardinality": 1,
}  # fmt: skip

_VARIANTS = {
    r"^norm_pre\.": "a norm before the first layer",
    r"^reg_token$": "register tokens",
    r"^fc_norm\.": "a norm behind the mean over patches",
    r"^attn_pool\.": "attention pooling",
    r"\.ls[12]\.gamma$": "layer scale",
    r"\.attn\.[qk]_norm\.": "normalised queries and keys",
    r"^conv1\.\d": "a stem of several convolutions",
    r"\.downsample\.2\.": "a shortcut with average pooling",
    r"\.se\.": "squeeze and excitation",
}


def read_timm(path: Path, request: TeacherRequest) -> ImportedTeacher:
    """A `timm` checkpoint as a block network that computes the same logits.

    ResNet with basic or bottleneck layers and the plain stem; ViT with class token, and DeiT with
    a distillation token, whose two heads are averaged.

    Args:
      path: of the folder or the file.
      request: how it is grouped and what is replaced.

    Raises:
      UserError: not such a checkpoint, damaged, or of a variant that is not supported; names it.
    """
    tensors = open_tensors(path)
    tensors.refuse(_VARIANTS)
    config = (
        CheckpointConfig.read(path / CONFIG) if path.is_dir() else CheckpointConfig({}, str(path))
    )
    if "pos_embed" in tensors:
        return _vit(config, tensors, request)
    if "layer1.0.conv1.weight" in tensors:
        return _resnet(config, tensors, request)
    raise InteropError(
        f"{tensors.where} holds neither a ViT ('pos_embed') nor a ResNet ('layer1.0.conv1.weight')"
    )


def _resnet(
    config: CheckpointConfig, tensors: SourceTensors, request: TeacherRequest
) -> ImportedTeacher:
    _check_variant(config, _RESNET, "avg")
    normalization = _normalization(config)
    stages = [stage for stage, _ in tensors.places(r"layer(\d+)\.(\d+)\.")]
    depths = tuple(stages.count(stage) for stage in sorted(set(stages)))
    deep = "layer1.0.conv3.weight" in tensors
    last = "conv3" if deep else "conv2"
    widths = tuple(
        tensors.shape(f"layer{i + 1}.0.{last}.weight", axes=4)[0] for i in range(len(depths))
    )
    inner = tensors.shape("layer1.0.conv1.weight", axes=4)[0]
    stem_width, channels, _, _ = tensors.shape("conv1.weight", axes=4)
    blocks = request.blocks
    height, width = request.image_size or normalization.image_size or IMAGE_SIZE
    spec = ResNetSpec(
        input_shape=(height, width, channels),
        classes=number_of_classes(tensors, "fc", config.get("num_classes"), config.where, request),
        widths=widths,
        depths=depths,
        stem_width=stem_width,
        stem_kernel=7,
        stem_stride=2,
        stem_pool=True,
        bottleneck=widths[0] // inner if deep else 0,
        block_layers=stage_groups(depths, blocks) if isinstance(blocks, int) else blocks,
    )
    convolutions = tuple((f"conv{i}", f"bn{i}") for i in range(1, 4 if deep else 3))
    names = ResNetNames(
        stem=("conv1", "bn1"),
        layer="layer{number}.{layer}.",
        convolutions=convolutions,
        shortcut=("downsample.0", "downsample.1"),
        head="fc",
    )
    head = new_head(spec, (1, 1, widths[-1]), request)
    variables = resnet_variables(spec, tensors, names, head)
    left = (r".*\.num_batches_tracked", *replaced(request, "fc"))
    return ImportedTeacher(spec, variables, normalization, tensors.unused(*left))


def _vit(
    config: CheckpointConfig, tensors: SourceTensors, request: TeacherRequest
) -> ImportedTeacher:
    _check_variant(config, _VIT, "token")
    normalization = _normalization(config)
    distilled = "dist_token" in tensors
    tokens = ("cls_token", "dist_token") if distilled else ("cls_token",)
    heads = ("head", "head_dist") if distilled else ("head",)
    hidden, channels, patch, _ = tensors.shape("patch_embed.proj.weight", axes=4)
    grid = _grid(config, tensors, len(tokens), patch)
    layers = len(tensors.places(r"blocks\.(\d+)\."))
    blocks = request.blocks
    spec = ViTSpec(
        input_shape=(*(request.image_size or (grid[0] * patch, grid[1] * patch)), channels),
        classes=number_of_classes(
            tensors, "head", config.get("num_classes"), config.where, request
        ),
        hidden=hidden,
        heads=_attention_heads(config, request),
        mlp=tensors.shape("blocks.0.mlp.fc1.weight", axes=2)[0],
        layers=layers,
        layers_per_block=even_groups(layers, blocks) if isinstance(blocks, int) else blocks,
        patch=patch,
        epsilon=EPSILON,
        qkv_bias=bool(tensors.places(r"blocks\.(\d+)\.attn\.qkv\.bias")),
        tokens=len(tokens),
        head_tokens=len(heads),
    )
    names = ViTNames(
        tokens=tokens,
        positions="pos_embed",
        patch="patch_embed.proj",
        layer="blocks.{}.",
        attention_norm="norm1",
        qkv=("attn.qkv",),
        output="attn.proj",
        mlp_norm="norm2",
        mlp_in="mlp.fc1",
        mlp_out="mlp.fc2",
        norm="norm",
        heads=heads,
    )
    head = new_head(spec, (len(heads) * hidden,), request)
    variables = vit_variables(spec, tensors, names, grid, antialias=True, head=head)
    return ImportedTeacher(
        spec, variables, normalization, tensors.unused(*replaced(request, *heads))
    )


def _check_variant(config: CheckpointConfig, architecture: re.Pattern[str], pool: str) -> None:
    """Raises InteropError where the config says something that names and shapes do not show."""
    if "architecture" in config and not architecture.fullmatch(str(config.get("architecture"))):
        raise InteropError(
            f"{config.where}: architecture is {config.get('architecture')!r}; supported: names "
            "like resnet18, resnet50, vit_base_patch16_224, deit_tiny_distilled_patch16_224"
        )
    arguments = config.section("model_args")
    for fields in (config, arguments):
        fields.choice("global_pool", {pool: True}, pool)
    for name in arguments.names():
        if name in _AS_BUILT:
            arguments.choice(name, {_AS_BUILT[name]: True}, None)
        elif name not in _TOLD_BY_SHAPES and not re.fullmatch(_HARMLESS, name):
            raise InteropError(f"{arguments.where} has {name}, which is not supported")


def _normalization(config: CheckpointConfig) -> Normalization:
    """From `pretrained_cfg`, or the config itself where it was written before that section was."""
    section = config.section("pretrained_cfg") if "pretrained_cfg" in config else config
    mean = section.numbers("mean") if "mean" in section else None
    std = section.numbers("std") if "std" in section else None
    size = section.sizes("input_size")[1:] if "input_size" in section else ()
    notes = []
    if section.number("crop_pct", 1.0) != 1.0:
        notes.append(f"{section.where} crops images; here they are resized whole")
    if section.get("interpolation", "bilinear") != "bilinear":
        notes.append(
            f"{section.where} resizes images by the {section.get('interpolation')} filter; here it "
            "is bilinear"
        )
    return Normalization(mean, std, (size[0], size[1]) if len(size) == 2 else None, tuple(notes))


def _grid(
    config: CheckpointConfig, tensors: SourceTensors, tokens: int, patch: int
) -> tuple[int, int]:
    """Rows and columns of the position embeddings: as the config says, else a square."""
    count = tensors.shape("pos_embed", axes=3)[1]
    arguments = config.section("model_args")
    size = arguments.square("img_size") if "img_size" in arguments else None
    size = size or _normalization(config).image_size
    if size is not None:
        grid = (size[0] // patch, size[1] // patch)
    else:
        # A square of patches, with the learned tokens or without.
        side = math.isqrt(count)
        grid = (side, side)
    if grid[0] * grid[1] == count:
        raise InteropError(
            f"{tensors.where}: 'pos_embed' has {count} positions, none for the class token "
            "(no_embed_class), which is not supported"
        )
    if grid[0] * grid[1] + tokens != count:
        raise InteropError(
            f"{tensors.where}: 'pos_embed' has {count} positions; expected {tokens} and those of "
            f"{grid[0]}x{grid[1]} patches"
        )
    return grid


def _attention_heads(config: CheckpointConfig, request: TeacherRequest) -> int:
    arguments = config.section("model_args")
    match = _VIT.fullmatch(str(config.get("architecture")))
    if "num_heads" in arguments:
        said = arguments.size("num_heads")
    elif match:
        said = _HEADS[match.group(2)]
    elif request.heads is None:
        raise InteropError(
            f"{config.where} does not say how many attention heads its network has; give --heads"
        )
    else:
        return request.heads
    if request.heads not in (None, said):
        raise InteropError(f"{config.where} is of {said} attention heads, not {request.heads}")
    return said
