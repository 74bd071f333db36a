"""Tiny checkpoints with the names and shapes that transformers and timm write, made by NumPy.

Values follow from names alone. `test_pretrained_parity` loads them into the libraries themselves.
"""

import json
import zlib

import numpy as np

from pwl_jax.bundle.safetensors_file import write_safetensors
from pwl_jax.interop.imported_teacher import TeacherRequest

CLASSES = 3


def value(name, shape):
    """Deterministic noise of the scale that a tensor of this name and shape has in practice."""
    if name.endswith("num_batches_tracked"):
        return np.array(7, np.int64)
    wave = np.sin(1.7 * np.arange(1, np.prod(shape, dtype=int) + 1) + zlib.crc32(name.encode()))
    if len(shape) > 1:
        wave = wave * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith(("running_var", "weight")):
        wave = 1 + wave / 2
    else:
        wave = wave / 3
    return wave.reshape(shape).astype(np.float32)


def linear(name, width_in, width_out, bias=True):
    return {f"{name}.weight": (width_out, width_in)} | (
        {f"{name}.bias": (width_out,)} if bias else {}
    )


def norm(name, width, batch=False):
    shapes = {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    if batch:
        shapes |= {f"{name}.running_mean": (width,), f"{name}.running_var": (width,)}
        shapes[f"{name}.num_batches_tracked"] = ()
    return shapes


def hf_vit(kind="vit", newer=False, heads=("classifier",)):
    """Hidden 6, two heads, MLP 10, five layers, 8x8 images in patches of 4."""
    stem = f"{kind}.embeddings."
    tokens = ["cls_token", "distillation_token"][: 1 + (kind == "deit")]
    shapes = {stem + token: (1, 1, 6) for token in tokens}
    shapes[f"{stem}position_embeddings"] = (1, 4 + len(tokens), 6)
    shapes[f"{stem}patch_embeddings.projection.weight"] = (6, 3, 4, 4)
    shapes[f"{stem}patch_embeddings.projection.bias"] = (6,)
    for i in range(5):
        layer = f"{kind}.layers.{i}." if newer else f"{kind}.encoder.layer.{i}."
        parts = (
            ["attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"]
            if newer
            else [f"attention.attention.{part}" for part in ("query", "key", "value")]
            + ["attention.output.dense"]
        )
        for part in parts:
            shapes |= linear(layer + part, 6, 6)
        shapes |= linear(layer + ("mlp.fc1" if newer else "intermediate.dense"), 6, 10)
        shapes |= linear(layer + ("mlp.fc2" if newer else "output.dense"), 10, 6)
        shapes |= norm(f"{layer}layernorm_before", 6) | norm(f"{layer}layernorm_after", 6)
    shapes |= norm(f"{kind}.layernorm", 6)
    for head in heads:
        shapes |= linear(head, 6, CLASSES)
    config = {
        "model_type": kind,
        "hidden_size": 6,
        "num_attention_heads": 2,
        "intermediate_size": 10,
        "num_hidden_layers": 5,
        "image_size": 8,
        "patch_size": 4,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "id2label": {str(i): f"class {i}" for i in range(CLASSES)},
    }
    return config, shapes


def hf_resnet(layer_type):
    """A stem of 4 channels, stages of 8 and 16 channels, one and two layers."""
    shapes = {"resnet.embedder.embedder.convolution.weight": (4, 3, 7, 7)}
    shapes |= norm("resnet.embedder.embedder.normalization", 4, batch=True)
    width_in = 4
    for stage, (width, depth) in enumerate(((8, 1), (16, 2))):
        for i in range(depth):
            layer = f"resnet.encoder.stages.{stage}.layers.{i}."
            kernels = {
                "basic": [(width_in, width, 3), (width, width, 3)],
                "bottleneck": [
                    (width_in, width // 4, 1),
                    (width // 4, width // 4, 3),
                    (width // 4, width, 1),
                ],
            }[layer_type]
            for j, (into, out, size) in enumerate(kernels):
                shapes[f"{layer}layer.{j}.convolution.weight"] = (out, into, size, size)
                shapes |= norm(f"{layer}layer.{j}.normalization", out, batch=True)
            if i == 0:
                shapes[f"{layer}shortcut.convolution.weight"] = (width, width_in, 1, 1)
                shapes |= norm(f"{layer}shortcut.normalization", width, batch=True)
            width_in = width
    config = {
        "model_type": "resnet",
        "embedding_size": 4,
        "hidden_sizes": [8, 16],
        "depths": [1, 2],
        "layer_type": layer_type,
        "hidden_act": "relu",
        "num_labels": CLASSES,
    }
    return config, shapes | linear("classifier.1", 16, CLASSES)


def timm_vit(distilled=False):
    """The ViT of `hf_vit` as timm has it, its MLP 12 wide."""
    tokens = ["cls_token", "dist_token"][: 1 + distilled]
    shapes = dict.fromkeys(tokens, (1, 1, 6))
    shapes["pos_embed"] = (1, 4 + len(tokens), 6)
    shapes |= {"patch_embed.proj.weight": (6, 3, 4, 4), "patch_embed.proj.bias": (6,)}
    for i in range(5):
        layer = f"blocks.{i}."
        shapes |= norm(f"{layer}norm1", 6) | norm(f"{layer}norm2", 6)
        shapes |= linear(f"{layer}attn.qkv", 6, 18) | linear(f"{layer}attn.proj", 6, 6)
        shapes |= linear(f"{layer}mlp.fc1", 6, 12) | linear(f"{layer}mlp.fc2", 12, 6)
    shapes |= norm("norm", 6)
    for head in ("head", "head_dist")[: 1 + distilled]:
        shapes |= linear(head, 6, CLASSES)
    arguments = {"img_size": 8, "patch_size": 4, "embed_dim": 6, "depth": 5, "num_heads": 2}
    config = {
        "architecture": "deit_tiny_distilled_patch16_224" if distilled else "vit_tiny_patch16_224",
        "num_classes": CLASSES,
        "global_pool": "token",
        "model_args": {**arguments, "mlp_ratio": 2, "num_classes": CLASSES},
        "pretrained_cfg": {
            "input_size": [3, 8, 8],
            "mean": [0.5, 0.4, 0.3],
            "std": [0.5, 0.25, 0.2],
            "crop_pct": 0.9,
            "interpolation": "bicubic",
        },
    }
    return config, shapes


def timm_resnet(deep=False):
    """Four stages of one layer, of 4, 8, 8 and 12 channels (inside, where they are bottlenecks)."""
    shapes = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64, batch=True)}
    width_in = 64
    for stage, width in enumerate((4, 8, 8, 12), 1):
        layer, out = f"layer{stage}.0.", width * (4 if deep else 1)
        kernels = [(width_in, width, 1), (width, width, 3), (width, out, 1)]
        kernels = kernels if deep else [(width_in, width, 3), (width, width, 3)]
        for j, (into, to, size) in enumerate(kernels, 1):
            shapes[f"{layer}conv{j}.weight"] = (to, into, size, size)
            shapes |= norm(f"{layer}bn{j}", to, batch=True)
        shapes[f"{layer}downsample.0.weight"] = (out, width_in, 1, 1)
        shapes |= norm(f"{layer}downsample.1", out, batch=True)
        width_in = out
    arguments = {"layers": [1, 1, 1, 1], "channels": [4, 8, 8, 12], "num_classes": CLASSES}
    config = {
        "architecture": "resnet50" if deep else "resnet18",
        "num_classes": CLASSES,
        "global_pool": "avg",
        "model_args": arguments,
        "pretrained_cfg": {"input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.2] * 3},
    }
    return config, shapes | linear("fc", width_in, CLASSES)


TWO_HEADS = ("cls_classifier", "distillation_classifier")
CHECKPOINTS = {
    "hf:vit": hf_vit(),
    "hf:vit newer": hf_vit(newer=True),
    "hf:deit": hf_vit("deit"),
    "hf:deit two heads": hf_vit("deit", heads=TWO_HEADS),
    "hf:resnet basic": hf_resnet("basic"),
    "hf:resnet bottleneck": hf_resnet("bottleneck"),
    "timm:vit": timm_vit(),
    "timm:deit": timm_vit(distilled=True),
    "timm:resnet basic": timm_resnet(),
    "timm:resnet bottleneck": timm_resnet(deep=True),
}


def tensors_of(case):
    """A checkpoint's tensors by name."""
    return {name: value(name, shape) for name, shape in CHECKPOINTS[case][1].items()}


def write(folder, case, tensors=None, config=None):
    """Writes a checkpoint, its config changed by `config`; returns it as a source."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {**CHECKPOINTS[case][0], **(config or {})}
    (folder / "config.json").write_text(json.dumps(fields))
    content = tensors_of(case) if tensors is None else tensors
    (folder / "model.safetensors").write_bytes(write_safetensors(content))
    return f"{case.partition(':')[0]}:{folder}"


def request(case, blocks=2, **fields):
    """ResNets are read for small images, to be computed quickly."""
    size = (16, 16) if "resnet" in case else None
    return TeacherRequest(blocks=blocks, **{"image_size": size, **fields})


def images(size, count=2):
    """Normalised images, f32[count, size, size, 3]."""
    wave = np.sin(0.37 * np.arange(count * size * size * 3) ** 1.1)
    return wave.reshape(count, size, size, 3).astype(np.float32)
