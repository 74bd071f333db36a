"""JAX primitives that sum or choose over many elements, in ONNX: products, windows, reductions."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pwl_jax.interop.onnx_elementwise import elementwise, number
from pwl_jax.interop.onnx_graph import (
    Graph,
    OnnxError,
    Operand,
    Rule,
    full_operands,
    stored_whole,
)

_REDUCTIONS = {
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
    "reduce_sum": "ReduceSum",
}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _reduction(op: str) -> Rule:
    def rule(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
        name = graph.full(operands[0], equation.invars[0].aval.shape)
        axes = graph.integers(equation.params["axes"])
        return stored_whole(equation, graph.node(op, name, axes, keepdims=0))

    return rule


def _dot_general(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    (left_in, right_in), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = full_operands(graph, equation, operands)
    ranks = [len(atom.aval.shape) for atom in equation.invars]
    shared = list(range(len(left_batch)))
    canonical = (
        list(left_batch) == list(right_batch) == shared
        and list(left_in) == [ranks[0] - 1]
        and list(right_in) == [len(shared)]
        and ranks[1] == len(shared) + 2
        and (not shared or ranks[0] == ranks[1])
    )
    if canonical:
        return stored_whole(equation, graph.node("MatMul", left, right))
    letters = iter(_LETTERS)
    spelled = [next(letters) for _ in range(ranks[0])]
    other = [""] * ranks[1]
    for ours, theirs in zip([*left_batch, *left_in], [*right_batch, *right_in], strict=True):
        other[theirs] = spelled[ours]
    free = [letter or next(letters) for letter in other]
    outer = [spelled[a] for a in range(ranks[0]) if a not in (*left_batch, *left_in)]
    new = [free[a] for a in range(ranks[1]) if not other[a]]
    result = [spelled[axis] for axis in left_batch] + outer + new
    terms = f"{''.join(spelled)},{''.join(free)}->{''.join(result)}"
    return stored_whole(equation, graph.node("Einsum", left, right, equation=terms))


def _convolution(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    params, numbers = equation.params, equation.params["dimension_numbers"]
    if params["batch_group_count"] != 1 or any(step != 1 for step in params["lhs_dilation"]):
        raise OnnxError("it computes a transposed convolution, for which there is no ONNX rule")
    x, kernel = full_operands(graph, equation, operands)
    result = graph.node(
        "Conv",
        graph.transposed(x, numbers.lhs_spec),
        graph.transposed(kernel, numbers.rhs_spec),
        strides=list(map(int, params["window_strides"])),
        dilations=list(map(int, params["rhs_dilation"])),
        pads=_ends(params["padding"]),
        group=int(params["feature_group_count"]),
    )
    return stored_whole(equation, graph.transposed(result, np.argsort(numbers.out_spec).tolist()))


def _ends(padding: Sequence[tuple[int, int]]) -> list[int]:
    """Padding as ONNX lists it: all beginnings, then all ends."""
    return [int(low) for low, _ in padding] + [int(high) for _, high in padding]


def _pooled(graph: Graph, equation: Any, operands: list[Operand], op: str, **more: Any) -> str:
    params, shape = equation.params, equation.invars[0].aval.shape
    window, strides = params["window_dimensions"], params["window_strides"]
    padding, dilation = params["padding"], params["window_dilation"]
    outer = [
        axis
        for axis, size in enumerate(window)
        if (size, strides[axis], *padding[axis]) == (1, 1, 0, 0)
    ][:2]
    inner = [axis for axis in range(len(shape)) if axis not in outer]
    if len(outer) < 2 or not inner or any(step != 1 for step in params["base_dilation"]):
        raise OnnxError("it pools over all axes or between elements, which ONNX does not")
    if op == "MaxPool":
        more["dilations"] = [int(dilation[axis]) for axis in inner]
    elif any(step != 1 for step in dilation):
        raise OnnxError("it sums over dilated windows, for which there is no ONNX rule")
    pooled = graph.node(
        op,
        graph.transposed(graph.full(operands[0], shape), outer + inner),
        kernel_shape=[int(window[axis]) for axis in inner],
        strides=[int(strides[axis]) for axis in inner],
        pads=_ends([padding[axis] for axis in inner]),
        **more,
    )
    return graph.transposed(pooled, np.argsort(outer + inner).tolist())


def _window_max(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    return stored_whole(equation, _pooled(graph, equation, operands, "MaxPool"))


def _window_sum(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    mean = _pooled(graph, equation, operands, "AveragePool", count_include_pad=1)
    count = number(math.prod(equation.params["window_dimensions"]), equation.outvars[0])
    return elementwise(graph, [*stored_whole(equation, mean), count], "Mul")


LINEAR: dict[str, Rule] = {
    **{name: _reduction(op) for name, op in _REDUCTIONS.items()},
    "conv_general_dilated": _convolution,
    "dot_general": _dot_general,
    "reduce_window_max": _window_max,
    "reduce_window_sum": _window_sum,
}
