"""ONNX programs of single blocks: weights are inputs, as in the StableHLO programs beside them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import onnx

from pwl_jax.interop.onnx_graph import OnnxError
from pwl_jax.interop.onnx_lowering import lowered


def onnx_program(
    function: Callable[..., jax.Array], tensors: Sequence[Any], shape: Sequence[int], dtype: Any
) -> bytes:
    """The ONNX model of `function(*tensors, x) -> y`, for any batch; equal input gives equal bytes.

    Inputs are called w0, w1, ..., x in the order of the arguments, the output y, so that blocks
    that compute the same are the same file. Floats narrower than float32 are float32 in it.

    Args:
      function: pure.
      tensors: what has the shape and dtype of each tensor argument.
      shape, dtype: of one example of x.

    Raises:
      OnnxError: the function computes something that no rule is known for.
    """
    named = {f"w{place}": tensor for place, tensor in enumerate(tensors)}
    model = lowered(function, named, ("x", shape, dtype), "y")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise OnnxError(f"ONNX has no such operation: {str(error).splitlines()[0]}") from error
    return model.SerializeToString(deterministic=True)
