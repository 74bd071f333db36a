"""The first answer of PyTorch without a library of models: folder, image, where to write logits.

The least that PyTorch needs: tensors from safetensors, and functions applied to them; no module is
built and none initialised. Names and layouts are those of the baseline's checkpoints.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

folder, image, output = sys.argv[1:]
CONFIG = json.loads((Path(folder) / "config.json").read_text())
FAMILY = CONFIG["model_type"].removeprefix("block_")
TENSORS = load_file(Path(folder) / "model.safetensors")


def held(name: str) -> bool:
    """Whether any tensor's name begins so."""
    return any(key.startswith(name) for key in TENSORS)


def counted(pattern: str) -> list[str]:
    """`pattern` with 0, 1, 2, ... in it, as long as there are tensors below."""
    names: list[str] = []
    while held(pattern.format(len(names)) + "."):
        names.append(pattern.format(len(names)))
    return names


def normalised(x: torch.Tensor, name: str) -> torch.Tensor:
    """BatchNorm by its running statistics."""
    scale, shift, mean, var = (
        TENSORS[f"{name}.{leaf}"] for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    return functional.batch_norm(x, mean, var, scale, shift)


def convolved(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
    """A convolution and its BatchNorm, as the baseline's ResNet names them."""
    kernel = TENSORS[f"{name}.convolution.weight"]
    y = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    return normalised(y, f"{name}.normalization")


def linear(x: torch.Tensor, name: str) -> torch.Tensor:
    """A dense layer."""
    return functional.linear(x, TENSORS[f"{name}.weight"], TENSORS[f"{name}.bias"])


def layer_norm(x: torch.Tensor, name: str) -> torch.Tensor:
    """LayerNorm over the last axis."""
    scale, shift = TENSORS[f"{name}.weight"], TENSORS[f"{name}.bias"]
    return functional.layer_norm(x, scale.shape, scale, shift, 1e-12)


def pooled(x: torch.Tensor) -> torch.Tensor:
    """The mean over all positions, classified."""
    (weight,) = (key for key in TENSORS if key.startswith("classifier.") and "weight" in key)
    return linear(x.mean((2, 3)), weight.removesuffix(".weight"))


def resnet(x: torch.Tensor) -> torch.Tensor:
    """Basic layers; the first of every block but the first halves the image."""
    x = functional.relu(convolved(x, "resnet.embedder.embedder"))
    for i, block in enumerate(counted("resnet.blocks.{}")):
        for j, layer in enumerate(counted(block + ".0.layers.{}")):
            stride = 2 if i and not j else 1
            y = functional.relu(convolved(x, f"{layer}.layer.0", stride))
            y = convolved(y, f"{layer}.layer.1")
            short = f"{layer}.shortcut"
            x = functional.relu(y + (convolved(x, short, stride) if held(short) else x))
    return pooled(x)


def vgg(x: torch.Tensor) -> torch.Tensor:
    """Convolutions of three, each with its BatchNorm; every block ends in a pooling."""
    for block in counted("vgg.blocks.{}"):
        place = 0
        while held(f"{block}.0.{place}."):
            kernel, bias = (TENSORS[f"{block}.0.{place}.{leaf}"] for leaf in ("weight", "bias"))
            x = functional.conv2d(x, kernel, bias, padding=1)
            x = functional.relu(normalised(x, f"{block}.0.{place + 1}"))
            place += 3
        x = functional.max_pool2d(x, 2)
    return pooled(x)


def vit(x: torch.Tensor) -> torch.Tensor:
    """Layers with LayerNorm before; the first token is classified."""
    stem = "vit.embedder.patch_embeddings.projection"
    kernel, heads = TENSORS[f"{stem}.weight"], CONFIG["num_attention_heads"]
    x = functional.conv2d(x, kernel, TENSORS[f"{stem}.bias"], stride=kernel.shape[-1])
    x = torch.cat([TENSORS["vit.embedder.cls_token"], x.flatten(2).transpose(1, 2)], 1)
    x = x + TENSORS["vit.embedder.position_embeddings"]
    for block in counted("vit.blocks.{}"):
        for layer in counted(block + ".{}"):
            name = f"{layer}.module"
            if not held(f"{name}.attention"):
                continue
            y = layer_norm(x, f"{name}.layernorm_before")
            parts = (linear(y, f"{name}.attention.{kind}_proj") for kind in "qkv")
            q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
            y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + linear(y, f"{name}.attention.o_proj")
            y = linear(layer_norm(x, f"{name}.layernorm_after"), f"{name}.mlp.fc1")
            x = x + linear(functional.gelu(y), f"{name}.mlp.fc2")
    return linear(x[:, 0], "classifier")


with torch.inference_mode():
    images = torch.from_numpy(np.load(image).transpose(0, 3, 1, 2).copy())
    logits = {"resnet": resnet, "vgg": vgg, "vit": vit}[FAMILY](images).numpy()
print(time.monotonic())
np.save(output, logits)
