"""BatchNorm folded into the linear layer before it, where the network proves that it may be.

With scale s, shift b, mean m, variance v and epsilon e of a BatchNorm behind a convolution of
kernel K (and bias c), f = s / sqrt(v + e): the kernel becomes K f, each output channel by its own
factor, the bias (c - m) f + b, and the norm is gone. Computed in float64, rounded once.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from pwl_jax.errors import UserError
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.interop.composition_path import PathUnit
from pwl_jax.ladder import Unit
from pwl_jax.models.convolution import Convolution
from pwl_jax.models.normalization import BatchNorm

_LINEAR = (Convolution, nn.Conv, nn.Dense)
"""Their kernels have output channels last, and their biases are called so."""

Place = tuple[str, ...]
"""Names of the modules that lead to one."""


class FoldingError(UserError):
    """A BatchNorm that cannot be folded; the message names it."""


class Fold(NamedTuple):
    """A BatchNorm and the linear layer whose output nothing but it reads."""

    linear: Place
    norm: Place
    epsilon: float


def folded_path(hybrid: HybridNetwork, path: list[PathUnit]) -> list[PathUnit]:
    """The units of a composition with every BatchNorm folded; run them by `run_folded`.

    Folded tensors keep the names of their layers: `.../kernel` and, new where there was none,
    `.../bias`.

    Raises:
      FoldingError: a BatchNorm that does not directly follow a linear layer, one whose layer is
        read elsewhere too, or no BatchNorm at all.
    """
    folded = [step if _is_converter(step.unit) else _folded(hybrid, step) for step in path]
    if not any(jax.tree.leaves(step.variables.get("batch_stats", {})) for step in path):
        raise FoldingError("this composition has no BatchNorm that could be folded")
    return folded


def run_folded(hybrid: HybridNetwork, unit: Unit, variables: Any, x: jax.Array) -> jax.Array:
    """As `HybridNetwork.run`, on variables that `folded_path` gave."""
    with nn.intercept_methods(_run_without_norm):
        return hybrid.run(unit, variables, x)


def _run_without_norm(
    run: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
) -> Any:
    module: Any = context.module
    if context.method_name != "__call__":
        return run(*args, **kwargs)
    if isinstance(module, BatchNorm):
        return _input(args, kwargs).astype(module.dtype)
    y = run(*args, **kwargs)
    if _is_linear(module) and not module.use_bias and module.has_variable("params", "bias"):
        bias = module.get_variable("params", "bias").astype(y.dtype)
        y = y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
    return y


def _is_linear(module: Any) -> bool:
    return isinstance(module, _LINEAR)


def _input(args: Any, kwargs: Mapping[str, Any]) -> Any:
    return [*args, *kwargs.values()][0]


def _exact(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64)


def _is_converter(unit: Unit) -> bool:
    return unit.kind in ("encoder", "decoder")


def _folded(hybrid: HybridNetwork, step: PathUnit) -> PathUnit:
    """A block with all its BatchNorms folded."""
    tree = {
        collection: flatten_dict(jax.device_get(parts))
        for collection, parts in step.variables.items()
    }
    params, statistics = tree["params"], tree["batch_stats"]
    for part, folds in _folds_of(hybrid, step):
        for fold in folds:
            linear, norm = (part, *fold.linear), (part, *fold.norm)
            mean, variance = (_exact(statistics.pop((*norm, k))) for k in ("mean", "var"))
            scale, shift = (_exact(params.pop((*norm, k))) for k in ("scale", "bias"))
            factor = scale / np.sqrt(variance + fold.epsilon)
            bias = _exact(params.get((*linear, "bias"), 0.0))
            kernel = params[(*linear, "kernel")]
            params[(*linear, "kernel")] = (kernel * factor).astype(kernel.dtype)
            params[(*linear, "bias")] = ((bias - mean) * factor + shift).astype(kernel.dtype)
    for place in statistics:
        name = "/".join(place)
        raise FoldingError(f"{step.unit}: '{name}' is of no BatchNorm that the block runs")
    named = {place: "/".join((step.unit.kind, "params", *place)) for place in params}
    return PathUnit(
        step.unit,
        {"params": unflatten_dict(params), "batch_stats": {}},
        {"params": unflatten_dict(named), "batch_stats": {}},
    )


def _folds_of(hybrid: HybridNetwork, step: PathUnit) -> Iterator[tuple[str, list[Fold]]]:
    """What can be folded in each part of a block, by what the part does with its values."""
    network = hybrid.teacher if step.unit.kind == "teacher" else hybrid.student
    index = step.unit.index
    shape = network.boundary_shapes()[index - 1] if index else network.input_shape
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    for part, module in network.parts_of(index).items():
        variables = {
            collection: parts[part] for collection, parts in step.variables.items() if part in parts
        }
        finder = _Finder(f"{step.unit}: {part}")
        with nn.intercept_methods(finder):
            y = jax.eval_shape(functools.partial(module.apply, train=False), variables, x)
        _check_read_once(finder, module, variables, x)
        yield part, finder.folds
        x = y


class _Finder:
    """Interceptor that notes which BatchNorm takes exactly what which linear layer gave."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.folds: list[Fold] = []
        self.shapes: dict[Place, jax.ShapeDtypeStruct] = {}
        self._given: list[tuple[Any, Place]] = []

    def __call__(
        self, run: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module: Any = context.module
        y = run(*args, **kwargs)
        if context.method_name != "__call__":
            return y
        if _is_linear(module):
            self._given.append((y, module.path))
        elif isinstance(module, BatchNorm):
            x = _input(args, kwargs)
            linear = next((place for given, place in self._given if given is x), None)
            if linear is None:
                raise FoldingError(
                    f"{self.where}/{'/'.join(module.path)} does not directly follow a convolution "
                    "or dense layer, so it cannot be folded"
                )
            self.folds.append(Fold(linear, module.path, module.epsilon))
            self.shapes[linear] = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return y


def _check_read_once(finder: _Finder, module: nn.Module, variables: Any, x: Any) -> None:
    """Raises FoldingError where a folded layer's output is read by more than its BatchNorm.

    The outputs become arguments of the function and the norms constants; then no equation may
    read such an argument.
    """
    calls = [fold.linear for fold in finder.folds] + [fold.norm for fold in finder.folds]
    for place in calls:
        if calls.count(place) > 1:
            raise FoldingError(f"{finder.where}/{'/'.join(place)} is run more than once")

    names = sorted(finder.shapes)

    def without_linear(arrays: list[jax.Array], x: jax.Array) -> Any:
        outputs = dict(zip(names, arrays, strict=True))
        norms = {fold.norm: outputs[fold.linear] for fold in finder.folds}

        def replaced(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
            place = context.module.path
            if context.method_name == "__call__" and place in outputs:
                return outputs[place]
            if context.method_name == "__call__" and place in norms:
                return jnp.zeros(norms[place].shape, context.module.dtype)
            return run(*args, **kwargs)

        with nn.intercept_methods(replaced):
            return module.apply(variables, x, False)

    jaxpr = jax.make_jaxpr(without_linear)([finder.shapes[name] for name in names], x).jaxpr
    read = {id(atom) for equation in jaxpr.eqns for atom in equation.invars}
    read |= {id(atom) for atom in jaxpr.outvars}
    for name, variable in zip(names, jaxpr.invars, strict=False):
        if id(variable) in read:
            raise FoldingError(
                f"{finder.where}/{'/'.join(name)} is read by more than its BatchNorm, so that "
                "cannot be folded"
            )
