"""Layers as PyTorch stores them, as the variables of our modules."""

from typing import Any

import numpy as np

from pwl_jax.interop.safetensors_weights import InteropError
from pwl_jax.interop.source_tensors import SourceTensors

Layer = dict[str, np.ndarray]


def linear(
    tensors: SourceTensors, name: str, width_in: int, width_out: int, bias: bool = True
) -> Layer:
    """`nn.Linear`: the weight is stored [out, in]; ours is [in, out]."""
    layer = {"kernel": tensors.take(f"{name}.weight", width_out, width_in).T}
    return layer | ({"bias": tensors.take(f"{name}.bias", width_out)} if bias else {})


def convolution(
    tensors: SourceTensors, name: str, width_in: int, width_out: int, size: int
) -> Layer:
    """`nn.Conv2d` without a bias: [out, in, rows, columns]; ours [rows, columns, in, out]."""
    kernel = tensors.take(f"{name}.weight", width_out, width_in, size, size)
    return {"kernel": kernel.transpose(2, 3, 1, 0)}


def layer_norm(tensors: SourceTensors, name: str, width: int) -> Layer:
    """`nn.LayerNorm`."""
    return {
        "scale": tensors.take(f"{name}.weight", width),
        "bias": tensors.take(f"{name}.bias", width),
    }


def batch_norm(tensors: SourceTensors, name: str, width: int) -> tuple[Layer, Layer]:
    """`nn.BatchNorm2d`: its parameters and its running statistics.

    Raises:
      InteropError: a variance below zero, or as `SourceTensors.take`.
    """
    statistics = {
        "mean": tensors.take(f"{name}.running_mean", width),
        "var": tensors.take(f"{name}.running_var", width),
    }
    if (statistics["var"] < 0).any():
        raise InteropError(
            f"{tensors.where}: tensor '{name}.running_var' holds a variance below zero"
        )
    return layer_norm(tensors, name, width), statistics


def averaged_heads(
    tensors: SourceTensors, names: tuple[str, ...], width: int, classes: int
) -> dict[str, Any]:
    """The head that gives the mean of several heads' logits, of their inputs side by side."""
    heads = [linear(tensors, name, width, classes) for name in names]
    kernel = np.concatenate([head["kernel"] for head in heads]) / np.float32(len(heads))
    bias = np.sum([head["bias"] for head in heads], axis=0) / np.float32(len(heads))
    return {"dense": {"kernel": kernel, "bias": bias.astype(np.float32)}}
