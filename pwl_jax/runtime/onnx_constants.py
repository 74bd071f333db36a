"""Inputs of a serialised ONNX model become constants, without a library that knows ONNX.

A protocol buffer that is appended to another is merged with it, field by field (the encoding page
of its documentation): lists grow, single values are replaced. So a model followed by one that holds
nothing but initializers is the model with these initializers. In models of IR version 3 an
initializer is a constant even if it is listed among the inputs; in later ones it would be a default
that any caller may override, and nothing could be computed from it beforehand.

Fields are numbered as in onnx.proto of ONNX 1.18.
"""

from collections.abc import Mapping

import numpy as np

_VARINT, _BYTES = 0, 2
_MODEL_IR_VERSION, _MODEL_GRAPH = 1, 7
_GRAPH_INITIALIZER = 5
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 2, 8, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_EXTERNAL = 1
_CONSTANT_INITIALIZERS = 3
_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float64": 11}


def with_constants(model: bytes, arrays: Mapping[str, np.ndarray]) -> bytes:
    """The model with some of its inputs declared as constants whose values lie elsewhere.

    Args:
      model: a serialised ModelProto.
      arrays: what to declare, by the inputs' names. Only shapes and types are written: the values
        are to be given to the session (`SessionOptions.add_external_initializers`).

    Raises:
      KeyError: a type that ONNX Runtime is not fed with here.
    """
    if not arrays:
        return model
    initializers = b"".join(
        _field(_GRAPH_INITIALIZER, _declared(name, array)) for name, array in arrays.items()
    )
    version = _number(_MODEL_IR_VERSION, _CONSTANT_INITIALIZERS)
    return model + _field(_MODEL_GRAPH, initializers) + version


def _declared(name: str, array: np.ndarray) -> bytes:
    location = _field(_ENTRY_KEY, b"location") + _field(_ENTRY_VALUE, b"memory")
    return b"".join(
        (
            *(_number(_TENSOR_DIMS, size) for size in array.shape),
            _number(_TENSOR_TYPE, _TYPES[array.dtype.name]),
            _field(_TENSOR_NAME, name.encode()),
            _field(_TENSOR_EXTERNAL, location),
            _number(_TENSOR_LOCATION, _EXTERNAL),
        )
    )


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _field(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
