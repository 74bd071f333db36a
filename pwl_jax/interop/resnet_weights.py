"""A ResNet's variables from the tensors of a PyTorch checkpoint, whatever it calls them."""

import dataclasses
from typing import Any

from pwl_jax.interop import torch_layers
from pwl_jax.interop.source_tensors import SourceTensors
from pwl_jax.models.block_network import Variables
from pwl_jax.models.resnet import CONVOLUTIONS, SHORTCUT, ResNetSpec, layer_kernels

ConvolutionAndNorm = tuple[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetNames:
    """What a checkpoint calls a ResNet's modules; a convolution stands with its BatchNorm.

    Attributes:
      stem: of the stem.
      layer: what a layer's modules begin with; it holds `{stage}`, from 0, or `{number}`, from 1,
        and `{layer}`.
      convolutions: of a layer, in the order of execution.
      shortcut: of a layer whose shortcut is no identity.
      head: the linear head.
    """

    stem: ConvolutionAndNorm
    layer: str
    convolutions: tuple[ConvolutionAndNorm, ...]
    shortcut: ConvolutionAndNorm
    head: str


def resnet_variables(
    spec: ResNetSpec, tensors: SourceTensors, names: ResNetNames, head: dict[str, Any] | None
) -> Variables:
    """The variables of `spec`, float32.

    Args:
      spec: of the network that is wanted.
      tensors: the checkpoint's.
      names: what they are called there.
      head: parameters of a head of one's own; None takes the checkpoint's.

    Raises:
      InteropError: a tensor is missing, or not as `spec` has it.
    """
    width = spec.stem_width
    conv, norm = names.stem
    scale, moments = torch_layers.batch_norm(tensors, norm, width)
    kernel = torch_layers.convolution(tensors, conv, spec.input_shape[-1], width, spec.stem_kernel)
    params: dict[str, Any] = {"embedder": {"conv": kernel, "norm": scale}}
    stats: dict[str, Any] = {"embedder": {"norm": moments}}
    places = (
        names.layer.format(stage=stage, number=stage + 1, layer=layer)
        for stage, depth in enumerate(spec.depths)
        for layer in range(depth)
    )
    for block, layers in enumerate(spec.blocks()):
        part = f"block{block}"
        params[part], stats[part] = {}, {}
        for i, (layer_width, stride) in enumerate(layers):
            found = _layer(spec, tensors, names, next(places), width, layer_width, stride)
            params[part][f"layer{i}"], stats[part][f"layer{i}"] = found
            width = layer_width
    params["head"] = head or torch_layers.averaged_heads(
        tensors, (names.head,), width, spec.classes
    )
    return {"params": params, "batch_stats": stats}


def _layer(
    spec: ResNetSpec,
    tensors: SourceTensors,
    names: ResNetNames,
    stem: str,
    width_in: int,
    width_out: int,
    stride: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    kernels = layer_kernels(width_out, stride, spec.bottleneck, spec.stride_in_first)
    sizes = [(width, size) for width, size, _ in kernels]
    inputs = [width_in, *(width for width, _ in sizes[:-1])]
    modules = list(zip(CONVOLUTIONS[: len(sizes)], names.convolutions, inputs, sizes, strict=True))
    if width_in != width_out or stride != 1:
        modules.append((SHORTCUT, names.shortcut, width_in, (width_out, 1)))
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    for ours, (conv, norm), into, (width, size) in modules:
        params[f"{ours}_conv"] = torch_layers.convolution(tensors, stem + conv, into, width, size)
        scale, moments = torch_layers.batch_norm(tensors, stem + norm, width)
        params[f"{ours}_norm"], stats[f"{ours}_norm"] = scale, moments
    return params, stats
