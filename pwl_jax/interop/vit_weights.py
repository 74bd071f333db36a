"""A ViT's variables from the tensors of a PyTorch checkpoint, whatever it calls them."""

import dataclasses
from typing import Any

import numpy as np

from pwl_jax.interop import torch_layers
from pwl_jax.interop.position_embeddings import Grid, resized_positions
from pwl_jax.interop.source_tensors import SourceTensors
from pwl_jax.models.block_network import Variables
from pwl_jax.models.vit import ViTSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTNames:
    """What a checkpoint calls a ViT's tensors; modules without their `.weight` and `.bias`.

    Attributes:
      tokens: the class token and, if any, the distillation token.
      positions: position embeddings.
      patch: convolution over patches.
      layer: what a layer's modules begin with; `{}` stands for its number.
      attention_norm, output, mlp_norm, mlp_in, mlp_out: modules of a layer.
      qkv: the three modules of query, key and value, or one of all three.
      norm: the last LayerNorm.
      heads: linear heads whose logits are averaged.
    """

    tokens: tuple[str, ...]
    positions: str
    patch: str
    layer: str
    attention_norm: str
    qkv: tuple[str, ...]
    output: str
    mlp_norm: str
    mlp_in: str
    mlp_out: str
    norm: str
    heads: tuple[str, ...]


def vit_variables(
    spec: ViTSpec,
    tensors: SourceTensors,
    names: ViTNames,
    grid: Grid,
    antialias: bool,
    head: dict[str, Any] | None,
) -> Variables:
    """The variables of `spec`, float32.

    Args:
      spec: of the network that is wanted.
      tensors: the checkpoint's.
      names: what they are called there.
      grid: rows and columns of the patches that the checkpoint has position embeddings for.
      antialias: how these are resized where `spec` has other ones.
      head: parameters of a head of one's own; None takes the checkpoint's.

    Raises:
      InteropError: a tensor is missing, or not as `spec` has it.
    """
    hidden, tokens = spec.hidden, spec.tokens
    height, width, channels = spec.input_shape
    positions = tensors.take(names.positions, 1, tokens + grid[0] * grid[1], hidden)
    new_grid = (height // spec.patch, width // spec.patch)
    patch = tensors.take(f"{names.patch}.weight", hidden, channels, spec.patch, spec.patch)
    params: dict[str, Any] = {
        "embedder": {
            "patch": {
                "kernel": patch.transpose(2, 3, 1, 0).reshape(-1, hidden),
                "bias": tensors.take(f"{names.patch}.bias", hidden),
            },
            "class_token": np.concatenate(
                [tensors.take(name, 1, 1, hidden) for name in names.tokens], axis=1
            ),
            "positions": resized_positions(positions, tokens, grid, new_grid, antialias),
        }
    }
    number = 0
    for block, depth in enumerate(spec.block_layers):
        layers = {f"layer{j}": _layer(spec, tensors, names, number + j) for j in range(depth)}
        number += depth
        params[f"block{block}"] = layers
    params[f"block{len(spec.block_layers) - 1}"]["norm"] = torch_layers.layer_norm(
        tensors, names.norm, hidden
    )
    params["head"] = head or torch_layers.averaged_heads(tensors, names.heads, hidden, spec.classes)
    return {"params": params, "batch_stats": {}}


def _layer(spec: ViTSpec, tensors: SourceTensors, names: ViTNames, number: int) -> dict[str, Any]:
    hidden, stem = spec.hidden, names.layer.format(number)
    return {
        "attention_norm": torch_layers.layer_norm(tensors, stem + names.attention_norm, hidden),
        "attention": {
            **_query_key_value(spec, tensors, [stem + name for name in names.qkv]),
            "output": torch_layers.linear(tensors, stem + names.output, hidden, hidden),
        },
        "mlp_norm": torch_layers.layer_norm(tensors, stem + names.mlp_norm, hidden),
        "mlp_in": torch_layers.linear(tensors, stem + names.mlp_in, hidden, spec.mlp),
        "mlp_out": torch_layers.linear(tensors, stem + names.mlp_out, spec.mlp, hidden),
    }


def _query_key_value(spec: ViTSpec, tensors: SourceTensors, names: list[str]) -> dict[str, Any]:
    """The three layers; one layer of all three has them one after the other in its outputs."""
    width = spec.hidden * 3 // len(names)
    layers = [
        torch_layers.linear(tensors, name, spec.hidden, width, spec.qkv_bias) for name in names
    ]
    if len(layers) == 1:
        parts = {leaf: np.split(array, 3, axis=-1) for leaf, array in layers[0].items()}
        layers = [{leaf: arrays[i] for leaf, arrays in parts.items()} for i in range(3)]
    return dict(zip(("query", "key", "value"), layers, strict=True))
