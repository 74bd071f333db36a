"""What the block-network protocol asks of a network, checked: a test for families of one's own."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from pwl_jax.models.block_network import MOMENTS, BlockNetwork, Variables
from pwl_jax.models.initialisation import initial_variables
from pwl_jax.models.spec import NetworkSpec, SpecError

TOLERANCE = 1e-5
"""Of the largest |logit|: what the compiler may change by fusing operations in other ways."""

_AXIS = "devices"
_HINTS = {
    "ModifyScopeVariableError": "parts hold no state; pwl_jax.models.BatchNorm reports moments",
    "InvalidRngError": "parts take no random numbers, in training neither",
}


class NetworkError(SpecError):
    """A network that breaks the block-network protocol; each line names a broken promise."""


def check_network(spec: NetworkSpec) -> None:
    """Raises NetworkError unless the network of a spec keeps what the protocol promises.

    - The spec survives being written to `config.json`.
    - Every part is called as `module(x, train)`, takes any number of examples, keeps no variables
      but `params` and `batch_stats`, writes none, and computes the same each time.
    - Initial values are float32 and depend on the key alone.
    - In evaluation an example's logits do not depend on the rest of its batch, and the blocks one
      after the other, each with its own variables, are the network.
    - In training, moments are structured as `batch_stats`, and devices agree on them.
    - Logits are f32[batch, classes], whatever the type of the computation.

    It compiles the network, so give it a small spec of the family.
    """
    broken = list(_broken_spec(spec))
    network = spec.build()
    parts = list(_broken_parts(network))
    broken += parts
    if not parts:  # Else all that follows would fail as well.
        broken += _broken_types(spec)
        broken += _broken_values(network)
        broken += _broken_moments(spec)
    if broken:
        raise NetworkError("\n".join(broken))


def _broken_spec(spec: NetworkSpec) -> Iterator[str]:
    try:
        read = NetworkSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    except (TypeError, ValueError, SpecError) as error:
        yield f"the spec cannot be written as JSON and read again: {_problem(error)}"
        return
    for field in dataclasses.fields(spec):
        ours, theirs = getattr(spec, field.name), getattr(read, field.name)
        if ours != theirs:
            yield (
                f"{field.name} is {ours!r} and comes back from JSON as {theirs!r}; expected a "
                "number, a text or a flat tuple of such"
            )


def _broken_parts(network: BlockNetwork) -> Iterator[str]:
    """By shapes alone: each part initialised and called, up to the first that cannot be."""
    (batch,) = jax.export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((1, *network.input_shape), jnp.float32)
    for index in range(network.num_blocks):
        for name, module in network.parts_of(index).items():
            promise = "called as module(x, train)"
            try:
                made = jax.eval_shape(functools.partial(_init, module), x)
                for collection in sorted(set(made) - {"params", "batch_stats", MOMENTS}):
                    yield f"{name} keeps '{collection}'; expected params and batch_stats alone"
                part = {c: made[c] for c in ("params", "batch_stats") if c in made}
                _, moments = jax.eval_shape(functools.partial(_apply, module, True), part, x)
                promise = "called with any number of examples"
                many = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
                y, _ = jax.eval_shape(functools.partial(_apply, module, False), part, many)
            except Exception as error:  # The module is the user's: it may raise anything.
                yield f"{name} cannot be {promise}: {_problem(error)}"
                return
            if not isinstance(y, jax.ShapeDtypeStruct) or y.shape[:1] != (batch,):
                yield f"{name} returns {y} for {many}; expected one array with the same examples"
                return
            if _shapes(moments) != _shapes(part.get("batch_stats", {})):
                yield (
                    f"{name} reports moments {_shapes(moments)}; expected those of its "
                    f"batch_stats, {_shapes(part.get('batch_stats', {}))}"
                )
            x = jax.ShapeDtypeStruct((1, *y.shape[1:]), y.dtype)


def _broken_types(spec: NetworkSpec) -> Iterator[str]:
    for dtype in ("float32", "bfloat16"):
        network = dataclasses.replace(spec, dtype=dtype).build()
        variables = jax.eval_shape(network.init, jax.random.key(0))
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
            if leaf.dtype != jnp.float32:
                where = jax.tree_util.keystr(path, simple=True, separator="/")
                yield f"{where} is {leaf.dtype} with dtype {dtype}; expected float32"
        logits = jax.eval_shape(network.apply, variables, _images(network)).logits
        expected = ((len(_images(network)), spec.classes), jnp.float32)
        if (logits.shape, logits.dtype) != expected:
            yield (
                f"logits are {logits.dtype}{list(logits.shape)} with dtype {dtype}; expected "
                f"float32{list(expected[0])}"
            )


def _broken_values(network: BlockNetwork) -> Iterator[str]:
    if _trace(network.init, jax.random.key(0)) != _trace(network.init, jax.random.key(0)):
        yield "initial values differ each time; expected them to depend on the key alone"
    variables = initial_variables(network.init, jax.random.key(0))
    images = _images(network)
    if _trace(network.apply, variables, images) != _trace(network.apply, variables, images):
        yield "the network computes something else each time; expected no state outside variables"
        return
    apply = jax.jit(network.apply)
    logits = np.asarray(apply(variables, images).logits)
    if not _close(apply(variables, images[:1]).logits, logits[:1]):
        yield "an image's logits depend on the other images of its batch in evaluation"
    x: Any = images
    for index in range(network.num_blocks):
        own = {
            collection: {part: tree for part, tree in trees.items() if part in parts}
            for parts in [network.parts_of(index)]
            for collection, trees in variables.items()
        }
        x, _ = jax.jit(functools.partial(network.apply_block, index))(own, x)
    if not _close(x, logits):
        yield "the blocks one after the other give other logits than the whole network"


def _broken_moments(spec: NetworkSpec) -> Iterator[str]:
    """Two devices with two images each, as one mapped axis."""
    network = spec.build(_AXIS)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), variables)
    images = _images(network).reshape(2, -1, *network.input_shape)

    @functools.partial(jax.vmap, axis_name=_AXIS)
    def moments(x: jax.Array) -> Any:
        return network.apply(variables, x, train=True).moments

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(moments)(images)):
        if not np.array_equal(leaf[0], leaf[1], equal_nan=True):
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            yield f"devices disagree on the moments {where}; expected build's axis_name to be used"
            return


def _init(module: nn.Module, x: jax.Array) -> Any:
    return module.init(jax.random.key(0), x, False)


def _apply(module: nn.Module, train: bool, variables: Variables, x: jax.Array) -> Any:
    y, mutated = module.apply(variables, x, train, mutable=[MOMENTS])
    return y, mutated.get(MOMENTS, {})


def _images(network: BlockNetwork) -> np.ndarray:
    shape = (4, *network.input_shape)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _close(ours: Any, theirs: np.ndarray) -> bool:
    return bool(np.allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max()))


def _trace(function: Callable[..., Any], *arguments: Any) -> tuple[str, list[bytes]]:
    """The operations and constants of a function, which are the same each time if it is pure."""
    traced = jax.make_jaxpr(lambda *args: function(*args))(*arguments)
    # Functions inside are printed with their address in memory.
    return re.sub(r"0x[0-9a-f]+", "", str(traced)), [np.asarray(c).tobytes() for c in traced.consts]


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _problem(error: BaseException) -> str:
    kind = type(error).__name__
    line = (str(error).strip().splitlines() or [""])[0]
    hint = f" ({_HINTS[kind]})" if kind in _HINTS else ""
    return f"{kind}: {line}{hint}"
