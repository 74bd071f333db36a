"""Serialised ONNX programs become one model, without a library that knows ONNX.

The graph of each program gets names of its own by a prefix; graphs of different prefixes are then
one graph when their bytes are put one after the other, and what leaves the one enters the next by a
node `Identity`, which ONNX Runtime removes. Weights are no inputs of the chain, but constants whose
values lie elsewhere.

Fields are numbered as in onnx.proto of ONNX 1.18.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pwl_jax.runtime.protobuf import Field, bytes_field, fields, number_field

INPUT, OUTPUT = "x", "y"
"""What every program calls its input beside the weights w0, w1, ..., and its output."""

LOCATION = "null"
"""The file that constants are said to lie in. It is never read, but may have to exist."""

_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSETS = 1, 7, 8
_MODEL_SAID = {2, 3, 4, 5, 6, 14}
_IR_VERSION = 8
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 2, 5, 11, 12
_GRAPH_SAID = {2, 10, 13, 16}
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATION, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_NODE_NAMES = {_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME}
_ATTRIBUTE_GRAPHS, _ATTRIBUTE_TENSORS = {6, 11}, {5, 10}
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_OF, _TENSOR_SHAPE = 1, 2, 1, 1, 2
_SHAPE_DIMENSION, _DIMENSION_SIZE = 1, 1
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 2, 8, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_EXTERNAL = 1
_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float64": 11}


class Declared(NamedTuple):
    """How a program declares one of its tensors; a size that it leaves open is None."""

    dtype: str
    shape: tuple[int | None, ...]


class Link(NamedTuple):
    """A program whose names begin with a prefix, so that it can stand in a chain.

    Attributes:
      prefix: of all names.
      opsets: the versions of the operators it is written in.
      body: its nodes and constants, as fields of a graph.
      takes: how its inputs are declared, by their names in the program.
      input: the declaration of x, and
      output: that of y, as they stand in a graph.
    """

    prefix: str
    opsets: frozenset[bytes]
    body: bytes
    takes: Mapping[str, Declared]
    input: bytes
    output: bytes


def link(model: bytes, prefix: str) -> Link:
    """A serialised program of inputs w0, w1, ..., x and output y, with a prefix to its names.

    Raises:
      ValueError: it is no such program, or has graphs in its nodes or functions of its own.
    """
    opsets, graph = set(), []
    for field in fields(model):
        if field.number == _MODEL_GRAPH:
            graph.append(field.data)
        elif field.number == _MODEL_OPSETS:
            opsets.add(field.data)
        elif field.number not in _MODEL_SAID | {_MODEL_IR_VERSION}:
            raise ValueError(f"field {field.number} of an ONNX model is not known here")
    head = prefix.encode()
    body: list[bytes] = []
    inputs: dict[str, bytes] = {}
    outputs: dict[str, bytes] = {}
    for field in fields(b"".join(graph)):
        if field.number == _GRAPH_NODE:
            renamed = b"".join(_node_fields(field.data, head))
        elif field.number == _GRAPH_INITIALIZER:
            _check_inside(field.data)
            renamed = b"".join(_renamed(field.data, {_TENSOR_NAME}, head))
        elif field.number in (_GRAPH_INPUT, _GRAPH_OUTPUT):
            values = inputs if field.number == _GRAPH_INPUT else outputs
            values[_name(field.data)] = field.data
            continue
        elif field.number in _GRAPH_SAID:
            continue
        else:
            raise ValueError(f"field {field.number} of an ONNX graph is not known here")
        body.append(bytes_field(field.number, renamed))
    if INPUT not in inputs or list(outputs) != [OUTPUT]:
        raise ValueError(
            f"it takes {', '.join(inputs) or 'nothing'} and gives {', '.join(outputs) or 'nothing'}"
            f"; expected the input {INPUT} and the output {OUTPUT}"
        )
    return Link(
        prefix,
        frozenset(opsets),
        b"".join(body),
        {name: _declared(value) for name, value in inputs.items()},
        b"".join(_renamed(inputs[INPUT], {_VALUE_NAME}, head)),
        b"".join(_renamed(outputs[OUTPUT], {_VALUE_NAME}, head)),
    )


def chain(links: Sequence[Link], constants: Mapping[str, np.ndarray]) -> bytes:
    """One model: the first link's input in, the last one's output out.

    Args:
      links: at least one, of different prefixes, all of the same operators' versions.
      constants: inputs that are constants, by name with the prefix. Only shapes and types are
        written: the values are to be given to the session
        (`SessionOptions.add_external_initializers`).

    Raises:
      KeyError: a constant's type is one that ONNX Runtime is not fed with here.
    """
    parts = [bytes_field(_GRAPH_NAME, b"chain"), bytes_field(_GRAPH_INPUT, links[0].input)]
    for before, each in zip([None, *links], links, strict=False):
        if before is not None:
            parts.append(_identity(before.prefix + OUTPUT, each.prefix + INPUT))
        parts.append(each.body)
    parts += [
        bytes_field(_GRAPH_INITIALIZER, _elsewhere(name, array))
        for name, array in constants.items()
    ]
    parts.append(bytes_field(_GRAPH_OUTPUT, links[-1].output))
    return b"".join(
        (
            number_field(_MODEL_IR_VERSION, _IR_VERSION),
            *(bytes_field(_MODEL_OPSETS, opset) for opset in sorted(links[0].opsets)),
            bytes_field(_MODEL_GRAPH, b"".join(parts)),
        )
    )


def _renamed(message: bytes, numbers: set[int], head: bytes) -> Iterator[bytes]:
    """The fields of a message, `head` before those of certain numbers; empty names stay empty."""
    for field in fields(message):
        rename = field.number in numbers and field.data
        yield bytes_field(field.number, head + field.data) if rename else field.raw


def _node_fields(node: bytes, head: bytes) -> Iterator[bytes]:
    for field in fields(node):
        if field.number in _NODE_NAMES and field.data:
            yield bytes_field(field.number, head + field.data)
            continue
        if field.number == _NODE_ATTRIBUTE:
            _check_attribute(field)
        yield field.raw


def _check_attribute(attribute: Field) -> None:
    for field in fields(attribute.data):
        if field.number in _ATTRIBUTE_GRAPHS:
            raise ValueError("one of its nodes holds a graph, which no program may")
        if field.number in _ATTRIBUTE_TENSORS:
            _check_inside(field.data)


def _check_inside(tensor: bytes) -> None:
    """A constant's values stand in the program: no other file was verified."""
    if any(field.number in (_TENSOR_EXTERNAL, _TENSOR_LOCATION) for field in fields(tensor)):
        raise ValueError("one of its constants lies in another file, which no program may")


def _name(value: bytes) -> str:
    return _within(value, _VALUE_NAME).decode()


def _declared(value: bytes) -> Declared:
    """What is said of a value; raises ValueError where it is no tensor of a known type."""
    tensor = _within(_within(value, _VALUE_TYPE), _TYPE_TENSOR)
    code = next((field.value for field in fields(tensor) if field.number == _TENSOR_OF), None)
    dtype = next((name for name, known in _TYPES.items() if known == code), None)
    if dtype is None:
        raise ValueError(f"its input {_name(value)} is of type {code!r}, which no shard holds")
    dimensions = fields(_within(tensor, _TENSOR_SHAPE))
    return Declared(dtype, tuple(_size(d.data) for d in dimensions if d.number == _SHAPE_DIMENSION))


def _size(dimension: bytes) -> int | None:
    sizes = [field.value for field in fields(dimension) if field.number == _DIMENSION_SIZE]
    return sizes[-1] if sizes and isinstance(sizes[-1], int) else None


def _within(message: bytes, number: int) -> bytes:
    """The bytes of a field that is no list, merged of all that bear its number."""
    return b"".join(field.data for field in fields(message) if field.number == number)


def _identity(source: str, target: str) -> bytes:
    return bytes_field(
        _GRAPH_NODE,
        bytes_field(_NODE_INPUT, source.encode())
        + bytes_field(_NODE_OUTPUT, target.encode())
        + bytes_field(_NODE_OPERATION, b"Identity"),
    )


def _elsewhere(name: str, array: np.ndarray) -> bytes:
    location = bytes_field(_ENTRY_KEY, b"location") + bytes_field(_ENTRY_VALUE, LOCATION.encode())
    return b"".join(
        (
            *(number_field(_TENSOR_DIMS, size) for size in array.shape),
            number_field(_TENSOR_TYPE, _TYPES[array.dtype.name]),
            bytes_field(_TENSOR_NAME, name.encode()),
            bytes_field(_TENSOR_EXTERNAL, location),
            number_field(_TENSOR_LOCATION, _EXTERNAL),
        )
    )
