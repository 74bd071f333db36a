"""An ONNX graph in the making: nodes, constants, and values that are broadcast only where needed.

Equal calls give equal bytes: names count up, equal constants and equal nodes are one, nothing tells
of the machine or the time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pwl_jax.errors import UserError

OPSET, IR_VERSION = 18, 8
"""The oldest in which reductions take axes as an input; ONNX Runtime 1.14 and later run it."""

BATCH = "batch"
PRODUCER = "pwl_jax"

Dim = Any
"""An int, or an expression in the symbolic batch as `jax.export` makes it."""


class OnnxError(UserError):
    """What cannot be written as ONNX; the message says which part and why."""


class Value(NamedTuple):
    """A value of the graph.

    Attributes:
      name: of the ONNX value.
      shape: as it is stored, which broadcasts, as in NumPy, to the shape that it stands for.
    """

    name: str
    shape: tuple[Dim, ...]


Operand = Value | np.ndarray
"""A value, or a constant that is known while the graph is made."""

Rule = Callable[["Graph", Any, list[Operand]], list[Operand]]
"""How a primitive is said in ONNX: from the graph, the equation and its operands to its values."""


def onnx_dtype(dtype: Any) -> np.dtype:
    """The type a value has in ONNX: float32 for every narrower float, else its own.

    CPUs have few kernels for narrow floats, and widening is exact.
    """
    dtype = np.dtype(dtype)
    narrow = dtype.itemsize < 4 and not np.issubdtype(dtype, np.integer) and dtype != np.bool_
    return np.dtype(np.float32) if narrow else dtype


class Graph:
    """Collects nodes in the order of execution.

    Args:
      batch: the symbolic dimension, and
      batch_of: the graph's input that has it first.
    """

    def __init__(self, batch: Dim, batch_of: str) -> None:
        self._batch, self._batch_of = batch, batch_of
        self._nodes: list[onnx.NodeProto] = []
        self._known: dict[Any, str] = {}
        self._constants: dict[str, onnx.TensorProto] = {}

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node of one output, unless there is an equal one, and gives the output's name."""
        key = (op, inputs, tuple((name, _hashable(attributes[name])) for name in attributes))
        if key not in self._known:
            name = self._known[key] = f"v{len(self._nodes)}"
            self._nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return self._known[key]

    def constant(self, array: Any) -> str:
        """The name of a constant; floats are stored as `onnx_dtype` says."""
        array = np.asarray(array)
        array = np.ascontiguousarray(array.astype(onnx_dtype(array.dtype))).reshape(array.shape)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            name = self._known[key] = f"c{len(self._constants)}"
            self._constants[name] = numpy_helper.from_array(array, name)
        return self._known[key]

    def integers(self, numbers: Sequence[int]) -> str:
        """The name of a constant i64[len(numbers)]: axes, sizes, places."""
        return self.constant(np.array([int(number) for number in numbers], np.int64))

    def loose(self, operand: Operand) -> Value:
        """The operand as it is stored; its shape broadcasts to what it stands for."""
        if isinstance(operand, Value):
            return operand
        return Value(self.constant(operand), operand.shape)

    def full(self, operand: Operand, shape: Sequence[Dim]) -> str:
        """The name of the operand in all of `shape`, broadcast if it is stored smaller."""
        value = self.loose(operand)
        if value.shape == tuple(shape):
            return value.name
        offset = len(shape) - len(value.shape)
        wanted = [
            1 if axis >= offset and value.shape[axis - offset] == size else size
            for axis, size in enumerate(shape)
        ]
        return self.node("Expand", value.name, self._sizes(wanted))

    def reshaped(self, name: str, shape: Sequence[Dim]) -> str:
        """The value in another shape of as many elements."""
        symbolic = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
        if len(symbolic) > 1:
            return self.node("Reshape", name, self._sizes(shape))
        return self.node(
            "Reshape", name, self.integers([s if isinstance(s, int) else -1 for s in shape])
        )

    def transposed(self, name: str, permutation: Sequence[int]) -> str:
        """The value with its axes in another order; itself if they are in that order."""
        axes = [int(axis) for axis in permutation]
        if axes == sorted(axes):
            return name
        return self.node("Transpose", name, perm=axes)

    def model(
        self,
        inputs: Mapping[str, tuple[Sequence[Dim], Any]],
        output: tuple[str, Value, Sequence[Dim], Any],
        metadata: Mapping[str, str] | None = None,
        weights: Mapping[str, np.ndarray] | None = None,
    ) -> onnx.ModelProto:
        """The graph as a model.

        Args:
          inputs: shape and type of every input, by name, in order.
          output: its name, its value, shape and type.
          metadata: text by name.
          weights: those inputs that are stored in the model instead of being fed.
        """
        name, value, shape, dtype = output
        weights = weights or {}
        last = helper.make_node("Identity", [self.full(value, shape)], [name])
        nodes, used = _needed([*self._nodes, last], name)
        constants = [tensor for key, tensor in self._constants.items() if key in used]
        stored = [
            numpy_helper.from_array(np.asarray(array, onnx_dtype(array.dtype)), key)
            for key, array in weights.items()
            if key in used
        ]
        graph = helper.make_graph(
            nodes,
            PRODUCER,
            [_described(k, *described) for k, described in inputs.items() if k not in weights],
            [_described(name, shape, dtype)],
            [*stored, *constants],
        )
        model = helper.make_model(
            graph,
            producer_name=PRODUCER,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        helper.set_model_props(model, dict(metadata or {}))
        return model

    def _sizes(self, shape: Sequence[Dim]) -> str:
        """The name of a shape as i64[rank], computed where it depends on the batch."""
        if all(isinstance(size, int) for size in shape):
            return self.integers(shape)
        pieces = [
            self.integers([size]) if isinstance(size, int) else self._batch_size(size)
            for size in shape
        ]
        return self.node("Concat", *pieces, axis=0)

    def _batch_size(self, size: Dim) -> str:
        if size != self._batch:
            raise OnnxError(f"it makes an array of size {size}; expected the batch or a number")
        return self.node("Shape", self._batch_of, start=0, end=1)


def stored_whole(equation: Any, name: str) -> list[Operand]:
    """The one value of an equation, stored in its full shape."""
    return [Value(name, tuple(equation.outvars[0].aval.shape))]


def full_operands(graph: Graph, equation: Any, operands: Sequence[Operand]) -> list[str]:
    """The names of an equation's operands, each in its full shape."""
    return [
        graph.full(operand, atom.aval.shape)
        for operand, atom in zip(operands, equation.invars, strict=True)
    ]


def is_one(size: Dim) -> bool:
    """Whether a size is 1 for certain."""
    return isinstance(size, int) and size == 1


def _needed(nodes: Sequence[onnx.NodeProto], output: str) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that the output depends on, in order, and the names that they read."""
    used, kept = {output}, []
    for node in reversed(nodes):
        if node.output[0] in used:
            used.update(node.input)
            kept.append(node)
    return kept[::-1], used


def _described(name: str, shape: Sequence[Dim], dtype: Any) -> onnx.ValueInfoProto:
    sizes = [size if isinstance(size, int) else BATCH for size in shape]
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(onnx_dtype(dtype)), sizes
    )


def _hashable(attribute: Any) -> Any:
    return tuple(attribute) if isinstance(attribute, list) else attribute
