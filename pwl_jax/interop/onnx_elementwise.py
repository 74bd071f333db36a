"""Elementwise JAX primitives in ONNX, which broadcasts as NumPy does: operands stay as stored."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper

from pwl_jax.interop.onnx_graph import (
    Dim,
    Graph,
    OnnxError,
    Operand,
    Rule,
    Value,
    is_one,
    onnx_dtype,
)

_UNARY = {
    "abs": "Abs",
    "ceil": "Ceil",
    "cos": "Cos",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "log": "Log",
    "logistic": "Sigmoid",
    "neg": "Neg",
    "not": "Not",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}
_BINARY = {
    "add": "Add",
    "add_any": "Add",
    "and": "And",
    "div": "Div",
    "eq": "Equal",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "or": "Or",
    "pow": "Pow",
    "sub": "Sub",
}


def elementwise(graph: Graph, operands: Sequence[Operand], op: str) -> list[Operand]:
    """The one value of an ONNX operation that broadcasts its operands."""
    values = [graph.loose(operand) for operand in operands]
    return [Value(graph.node(op, *(v.name for v in values)), _joined([v.shape for v in values]))]


def _joined(shapes: Sequence[tuple[Dim, ...]]) -> tuple[Dim, ...]:
    """The shape to which all of these broadcast."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(
        next((size for size in sizes if not is_one(size)), 1) for sizes in zip(*padded, strict=True)
    )


def number(value: float, atom: Any) -> np.ndarray:
    """A constant of the type that `atom`, an input or output of an equation, has in ONNX."""
    return np.asarray(value, onnx_dtype(atom.aval.dtype))


def _identity(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    del graph, equation
    return operands


def _square(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    del equation
    return elementwise(graph, operands * 2, "Mul")


def _rsqrt(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    del equation
    return elementwise(graph, elementwise(graph, operands, "Sqrt"), "Reciprocal")


def _erfc(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    one = number(1, equation.invars[0])
    return elementwise(graph, [one, *elementwise(graph, operands, "Erf")], "Sub")


def _log1p(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    one = number(1, equation.invars[0])
    return elementwise(graph, elementwise(graph, [one, *operands], "Add"), "Log")


def _expm1(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    one = number(1, equation.invars[0])
    return elementwise(graph, [*elementwise(graph, operands, "Exp"), one], "Sub")


def _integer_pow(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    if equation.params["y"] == 2:
        return _square(graph, equation, operands)
    power = number(equation.params["y"], equation.invars[0])
    return elementwise(graph, [*operands, power], "Pow")


def _not_equal(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    del equation
    return elementwise(graph, elementwise(graph, operands, "Equal"), "Not")


def _clamp(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    del equation
    least, x, most = operands
    return elementwise(graph, [*elementwise(graph, [x, most], "Min"), least], "Max")


def _select(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    which, *cases = operands
    if len(cases) != 2 or equation.invars[0].aval.dtype != np.bool_:
        raise OnnxError(
            f"it selects among {len(cases)} cases by an index; ONNX selects by a boolean"
        )
    return elementwise(graph, [which, cases[1], cases[0]], "Where")


def _convert(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    ours = onnx_dtype(equation.invars[0].aval.dtype)
    wanted = onnx_dtype(equation.outvars[0].aval.dtype)
    if ours == wanted:
        return operands
    value = graph.loose(operands[0])
    to = helper.np_dtype_to_tensor_dtype(wanted)
    return [Value(graph.node("Cast", value.name, to=to), value.shape)]


def _plain(op: str) -> Rule:
    return lambda graph, equation, operands: elementwise(graph, operands, op)


ELEMENTWISE: dict[str, Rule] = {
    **{name: _plain(op) for name, op in (_UNARY | _BINARY).items()},
    "clamp": _clamp,
    "convert_element_type": _convert,
    "copy": _identity,
    "copy_p": _identity,
    "erfc": _erfc,
    "expm1": _expm1,
    "integer_pow": _integer_pow,
    "log1p": _log1p,
    "ne": _not_equal,
    "optimization_barrier": _identity,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "square": _square,
    "stop_gradient": _identity,
}
