"""Open Inference Protocol v2 over JSON and its binary tensor extension.

Source: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol, and
Triton's `extension_binary_data` for tensors behind the JSON.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from pwl_jax.runtime import LiveModel, Prediction
from pwl_jax.serving.request_codec import RequestError, numeric_array, parse_json

INPUT, OUTPUT = "images", "logits"
LENGTH_HEADER = "Inference-Header-Content-Length"
_DTYPES = {"FP32": "float32", "UINT8": "uint8"}


def server_metadata(version: str) -> dict[str, Any]:
    """The answer of GET /v2."""
    return {"name": "pwl_jax", "version": version, "extensions": ["binary_tensor_data"]}


def model_metadata(model: LiveModel, name: str) -> dict[str, Any]:
    """The answer of GET /v2/models/{name}."""
    classes = len(model.class_names) or -1
    return {
        "name": name,
        "versions": ["1"],
        "platform": f"pwl_jax_{model.executor.name}",
        "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, *model.input_shape]}],
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, classes]}],
    }


def decode_request(
    body: bytes, header_length: str | None
) -> tuple[np.ndarray, dict[str, Any], bool]:
    """Reads an inference request.

    Args:
      body: the JSON, and behind it the raw tensor if its parameters give a binary size.
      header_length: value of `Inference-Header-Content-Length`, the JSON's length, if sent.

    Returns:
      (input tensor, the JSON, whether the output is wanted in binary).

    Raises:
      RequestError: 400.
    """
    length = _json_length(body, header_length)
    document = parse_json(body[:length])
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise RequestError(400, "expected exactly one tensor in 'inputs'")
    tensor = inputs[0]
    if tensor.get("name") != INPUT:
        raise RequestError(400, f"unknown input '{tensor.get('name')}'; expected '{INPUT}'")
    dtype = _DTYPES.get(str(tensor.get("datatype")))
    if dtype is None:
        raise RequestError(
            400, f"datatype '{tensor.get('datatype')}' is not taken; expected FP32 or UINT8"
        )
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        raise RequestError(400, f"shape {shape} is no list of positive whole numbers")
    binary_size = _parameters(tensor).get("binary_data_size")
    if binary_size is None:
        array = numeric_array(tensor.get("data"), dtype).reshape(-1)
    else:
        array = _binary_array(body[length:], binary_size, dtype)
    if array.size != _count(shape):
        raise RequestError(400, f"shape {shape} takes {_count(shape)} values; got {array.size}")
    return array.reshape(shape), document, _binary_wanted(document)


def encode_response(
    prediction: Prediction, name: str, document: Mapping[str, Any], binary: bool
) -> tuple[bytes, dict[str, str]]:
    """The body and headers of an answer; rung and executor stand in its parameters."""
    logits = prediction.logits
    output: dict[str, Any] = {
        "name": OUTPUT,
        "datatype": "FP32",
        "shape": list(logits.shape),
    }
    tail = b""
    if binary:
        tail = np.ascontiguousarray(logits, "<f4").tobytes()
        output["parameters"] = {"binary_data_size": len(tail)}
    else:
        output["data"] = [float(value) for value in logits.reshape(-1)]
    answer: dict[str, Any] = {
        "model_name": name,
        "model_version": "1",
        "parameters": {"rung": prediction.rung, "executor": prediction.executor},
        "outputs": [output],
    }
    if isinstance(document.get("id"), str):
        answer["id"] = document["id"]
    head = json.dumps(answer).encode()
    if not binary:
        return head, {"Content-Type": "application/json"}
    return head + tail, {
        "Content-Type": "application/octet-stream",
        LENGTH_HEADER: str(len(head)),
    }


def _json_length(body: bytes, header_length: str | None) -> int:
    if header_length is None:
        return len(body)
    if not (header_length.isascii() and header_length.isdigit()) or int(header_length) > len(body):
        raise RequestError(
            400, f"{LENGTH_HEADER} '{header_length}' is no length within {len(body)} bytes"
        )
    return int(header_length)


def _parameters(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = holder.get("parameters", {})
    if not isinstance(parameters, dict):
        raise RequestError(400, "'parameters' must be a JSON object")
    return parameters


def _binary_array(data: bytes, size: Any, dtype: str) -> np.ndarray:
    item = np.dtype(dtype).newbyteorder("<")
    if size != len(data) or len(data) % item.itemsize:
        raise RequestError(
            400, f"binary_data_size {size} does not agree with the {len(data)} bytes sent"
        )
    array = np.frombuffer(data, item).astype(dtype)
    if not np.isfinite(array).all():
        raise RequestError(400, "the values are not finite")
    return array


def _binary_wanted(document: Mapping[str, Any]) -> bool:
    outputs = document.get("outputs")
    if outputs:
        if not isinstance(outputs, list) or not isinstance(outputs[0], dict):
            raise RequestError(400, "'outputs' must be a list of JSON objects")
        if len(outputs) != 1 or outputs[0].get("name") != OUTPUT:
            raise RequestError(400, f"unknown output; expected '{OUTPUT}'")
        if "binary_data" in _parameters(outputs[0]):
            return _parameters(outputs[0])["binary_data"] is True
    return _parameters(document).get("binary_data_output") is True


def _count(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
