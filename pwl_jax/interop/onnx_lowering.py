"""From what JAX traced to an ONNX graph: walks a jaxpr, folds what is known, applies the rules."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import numpy as np
import onnx
from jax.extend import core

from pwl_jax.interop.onnx_elementwise import ELEMENTWISE
from pwl_jax.interop.onnx_graph import Graph, OnnxError, Operand, Value
from pwl_jax.interop.onnx_linear import LINEAR
from pwl_jax.interop.onnx_shapes import SHAPES

RULES = {**ELEMENTWISE, **LINEAR, **SHAPES}

_INLINED = {
    "checkpoint",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "jit",
    "pjit",
    "remat",
    "remat2",
}


def lowered(
    function: Callable[..., jax.Array],
    tensors: Mapping[str, Any],
    features: tuple[str, Sequence[int], Any],
    output: str,
    metadata: Mapping[str, str] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """The ONNX model of `function(*tensors, x) -> y`, for any batch.

    Args:
      function: pure, traced with a symbolic batch.
      tensors: what has shape and dtype, by the name of the input, in the order of the arguments.
      features: name, shape of one example and dtype of x.
      output: name of y.
      metadata: text that the model carries.
      weights: values of those tensors that the model is to hold; the others are its inputs.

    Raises:
      OnnxError: the function computes something that no rule is known for.
    """
    name, shape, dtype = features
    (batch,) = jax.export.symbolic_shape("b")
    specs = [jax.ShapeDtypeStruct(tensor.shape, tensor.dtype) for tensor in tensors.values()]
    specs.append(jax.ShapeDtypeStruct((batch, *shape), dtype))
    traced = jax.make_jaxpr(function)(*specs)
    names = [*tensors, name]
    graph = Graph(batch, name)
    values = [Value(n, tuple(spec.shape)) for n, spec in zip(names, specs, strict=True)]
    (result,) = _walked(graph, traced.jaxpr, traced.consts, values)
    aval: Any = traced.out_avals[0]
    inputs = {n: (spec.shape, spec.dtype) for n, spec in zip(names, specs, strict=True)}
    return graph.model(
        inputs, (output, graph.loose(result), aval.shape, aval.dtype), metadata, weights
    )


def _walked(
    graph: Graph, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Operand]
) -> list[Operand]:
    """What a jaxpr's outputs are, once its equations stand in the graph."""
    held: dict[Any, Operand] = dict(zip(jaxpr.constvars, map(np.asarray, constants), strict=True))
    held.update(zip(jaxpr.invars, arguments, strict=True))

    def operand(atom: Any) -> Operand:
        if isinstance(atom, core.Literal):
            value: Any = atom
            return np.asarray(value.val, value.aval.dtype)
        return held[atom]

    for equation in jaxpr.eqns:
        results = _applied(graph, equation, [operand(atom) for atom in equation.invars])
        held.update(zip(equation.outvars, results, strict=True))
    return [operand(atom) for atom in jaxpr.outvars]


def _applied(graph: Graph, equation: Any, operands: list[Operand]) -> Sequence[Operand]:
    name = equation.primitive.name
    if name in _INLINED:
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if isinstance(inner, core.ClosedJaxpr):
            return _walked(graph, inner.jaxpr, inner.consts, operands)
        return _walked(graph, inner, (), operands)
    if name == "dim_as_value":
        raise OnnxError("it computes with the size of the batch, for which there is no ONNX rule")
    if all(isinstance(operand, np.ndarray) for operand in operands) and _is_static(equation):
        found = equation.primitive.bind(*operands, **equation.params)
        return [np.asarray(array) for array in (found if isinstance(found, list) else [found])]
    if name not in RULES:
        raise OnnxError(f"it computes '{name}', for which there is no ONNX rule")
    return RULES[name](graph, equation, operands)


def _is_static(equation: Any) -> bool:
    return all(isinstance(size, int) for out in equation.outvars for size in out.aval.shape)
