"""One composition as a self-contained ONNX model: weights inside, any batch."""

import os
from typing import Any

import jax
import numpy as np

from pwl_jax.bundle.whole_file import written_whole
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.interop.composed_weights import ComposedWeights, composed_path, metadata_of
from pwl_jax.interop.folding import run_folded
from pwl_jax.interop.onnx_graph import OnnxError
from pwl_jax.interop.onnx_lowering import lowered

FORMAT = "pwl-onnx"
LARGEST_MODEL = (1 << 31) - (1 << 20)
"""Bytes of weights: a protobuf message ends at 2 GiB, and the graph needs a little of that."""


def write_onnx(
    path: str | os.PathLike[str], weights: ComposedWeights, fold_batch_norm: bool = False
) -> int:
    """Writes a model `images` f32[batch, height, width, channels] -> `logits` f32[batch, classes].

    Weights are initializers under their names in the checkpoint. Floats narrower than float32 are
    float32 in it, and so are computations. Equal weights give equal bytes.

    Returns:
      Bytes of the weights.

    Raises:
      OnnxError: too many weights for one file, or something that cannot be said in ONNX.
      FoldingError: a BatchNorm that cannot be folded.
      UserError: the path cannot be written; nothing is left there then.
    """
    hybrid, units, tensors = composed_path(weights, fold_batch_norm)
    run = run_folded if fold_batch_norm else HybridNetwork.run
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > LARGEST_MODEL:
        raise OnnxError(
            f"{size:,} bytes of weights; one ONNX file holds at most {LARGEST_MODEL:,}: write "
            "safetensors, or a bundle, whose ONNX programs take weights as inputs"
        )

    def logits(*arguments: jax.Array) -> jax.Array:
        *given, x = arguments
        named: dict[str, Any] = dict(zip(tensors, given, strict=True))
        for step in units:
            x = run(hybrid, step.unit, jax.tree.map(named.__getitem__, step.names), x)
        return x

    images = ("images", hybrid.teacher.input_shape, np.float32)
    metadata = metadata_of(weights, FORMAT, fold_batch_norm)
    model = lowered(logits, tensors, images, "logits", metadata, tensors)
    with written_whole(path) as file:
        file.write(model.SerializeToString(deterministic=True))
    return size
