"""JAX primitives that move elements about, in ONNX."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pwl_jax.interop.onnx_graph import (
    Dim,
    Graph,
    OnnxError,
    Operand,
    Rule,
    Value,
    full_operands,
    is_one,
    stored_whole,
)


def _reshape(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    before, after = equation.invars[0].aval.shape, tuple(equation.outvars[0].aval.shape)
    return [_stored_as(graph, graph.full(operands[0], before), tuple(before), after)]


def _broadcast(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    value = graph.loose(operands[0])
    axes = equation.params["broadcast_dimensions"]
    stored = (1,) * (len(axes) - len(value.shape)) + value.shape
    after = [1] * len(equation.outvars[0].aval.shape)
    for axis, size in zip(axes, stored, strict=True):
        after[axis] = size
    return [_stored_as(graph, value.name, value.shape, tuple(after))]


def _stored_as(graph: Graph, name: str, before: tuple[Dim, ...], after: tuple[Dim, ...]) -> Value:
    """The value in the shape `after`; untouched where only ones are put in front."""
    if len(before) <= len(after) and _trimmed(before) == _trimmed(after):
        return Value(name, before)
    return Value(graph.reshaped(name, after), after)


def _trimmed(shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The shape without the ones in front."""
    ones = next((axis for axis, size in enumerate(shape) if not is_one(size)), len(shape))
    return shape[ones:]


def _transpose(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    name = graph.full(operands[0], equation.invars[0].aval.shape)
    return stored_whole(equation, graph.transposed(name, equation.params["permutation"]))


def _concatenate(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    names = full_operands(graph, equation, operands)
    return stored_whole(equation, graph.node("Concat", *names, axis=equation.params["dimension"]))


def _sliced(
    graph: Graph,
    name: str,
    shape: Sequence[Dim],
    starts: Sequence[Any],
    stops: Sequence[Any],
    strides: Sequence[int],
) -> str:
    """x[start:stop:stride] on every axis; those that are taken whole may be symbolic."""
    axes = [
        axis
        for axis, (size, *cut) in enumerate(zip(shape, starts, stops, strides, strict=True))
        if cut != [0, size, 1]
    ]
    if not axes:
        return name
    cuts = [[bounds[axis] for axis in axes] for bounds in (starts, stops)]
    if not all(isinstance(bound, int | np.integer) for bounds in cuts for bound in bounds):
        raise OnnxError("it takes a part of the batch, which must stay whole")
    steps = graph.integers([strides[axis] for axis in axes])
    inputs = [graph.integers(cuts[0]), graph.integers(cuts[1]), graph.integers(axes), steps]
    return graph.node("Slice", name, *inputs)


def _slice(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    shape, params = equation.invars[0].aval.shape, equation.params
    starts, stops = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * len(shape)
    name = graph.full(operands[0], shape)
    return stored_whole(equation, _sliced(graph, name, shape, starts, stops, strides))


def _split(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    shape, axis = equation.invars[0].aval.shape, equation.params["axis"]
    name, start, results = graph.full(operands[0], shape), 0, []
    for out, size in zip(equation.outvars, equation.params["sizes"], strict=True):
        starts, stops = [0] * len(shape), list(shape)
        starts[axis], stops[axis] = start, start + size
        part = _sliced(graph, name, shape, starts, stops, [1] * len(shape))
        results.append(Value(part, tuple(out.aval.shape)))
        start += size
    return list(results)


def _gather(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    """Indexing by known numbers, which is what `x[:, 0]` and `x[:, ::2]` are with a symbolic batch.

    One window is a slice; a grid of single elements is gathered by their coordinates.
    """
    x, indices = operands
    shape, numbers = equation.invars[0].aval.shape, equation.params["dimension_numbers"]
    sizes = equation.params["slice_sizes"]
    axes, dropped = list(numbers.start_index_map), list(numbers.collapsed_slice_dims)
    if not isinstance(indices, np.ndarray) or numbers.operand_batching_dims:
        raise OnnxError("it gathers by indices that are computed, for which there is no ONNX rule")
    if any(sizes[a] != size for a, size in enumerate(shape) if a not in axes):
        raise OnnxError("it gathers parts of an axis that it does not index")
    last = [shape[axis] - sizes[axis] for axis in axes]
    if not all(isinstance(place, int) for place in last):
        raise OnnxError("it takes a part of the batch, which must stay whole")
    if np.any(indices < 0) or np.any(indices > np.array(last)):
        raise OnnxError("it reads beyond the end of an array")
    name = graph.full(x, shape)
    if indices.ndim == 1:
        starts, stops = [0] * len(shape), list(shape)
        for axis, start in zip(axes, indices.tolist(), strict=True):
            starts[axis], stops[axis] = start, start + sizes[axis]
        name = _sliced(graph, name, shape, starts, stops, [1] * len(shape))
        if dropped:
            name = graph.node("Squeeze", name, graph.integers(dropped))
        return stored_whole(equation, name)
    if sorted(axes) != sorted(dropped) or any(sizes[axis] != 1 for axis in axes):
        raise OnnxError("it gathers windows at several places, for which there is no ONNX rule")
    rest = [axis for axis in range(len(shape)) if axis not in axes]
    gathered = graph.node(
        "GatherND", graph.transposed(name, axes + rest), graph.constant(indices.astype(np.int64))
    )
    grid = indices.ndim - 1
    kept, places = iter(range(grid, grid + len(rest))), iter(range(grid))
    rank = grid + len(rest)
    order = [next(kept if axis in numbers.offset_dims else places) for axis in range(rank)]
    return stored_whole(equation, graph.transposed(gathered, order))


def _pad(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    config = equation.params["padding_config"]
    if any(inner for _, _, inner in config):
        raise OnnxError("it pads between elements, which ONNX does not")
    name = graph.full(operands[0], equation.invars[0].aval.shape)
    widths = graph.integers([low for low, _, _ in config] + [high for _, high, _ in config])
    filler = graph.full(operands[1], ())
    return stored_whole(equation, graph.node("Pad", name, widths, filler))


SHAPES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "expand_dims": _reshape,
    "gather": _gather,
    "pad": _pad,
    "reshape": _reshape,
    "slice": _slice,
    "split": _split,
    "squeeze": _reshape,
    "transpose": _transpose,
}
