"""Block programs with weights as inputs: StableHLO for CPU, GPU and TPU, and ONNX."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from pwl_jax.hybrid import HybridNetwork
from pwl_jax.hybrid.masks import entry_name, leaf_name
from pwl_jax.interop.onnx_graph import OnnxError
from pwl_jax.interop.onnx_program import onnx_program
from pwl_jax.ladder import Unit, stream_name
from pwl_jax.models.block_network import BlockNetwork, Variables

PLATFORMS = ("cpu", "cuda", "tpu")
STABLEHLO = "stablehlo"


def units_of(hybrid: HybridNetwork) -> list[Unit]:
    """All units that hold tensors: blocks, and converters that are no identity."""
    blocks = range(hybrid.num_blocks)
    units = [Unit(kind, i) for kind in ("student", "teacher") for i in blocks]  # type: ignore[arg-type]
    for k, (encoder, decoder) in enumerate(zip(hybrid.encoders, hybrid.decoders, strict=True)):
        units += [Unit("encoder", k)] if not encoder.identity else []
        units += [Unit("decoder", k)] if not decoder.identity else []
    return units


def tensor_names(hybrid: HybridNetwork, variables: Variables, unit: Unit) -> dict[str, list[str]]:
    """Names of a unit's tensors in the order of its program's arguments, by entry stream.

    A student block has the stream `own` and one for each boundary before it whose statistics the
    tree holds; everything else has `own` alone.
    """
    names = jax.tree_util.tree_map_with_path(lambda path, _: leaf_name(path), variables)
    entries: list[int | None] = [None]
    if unit.kind == "student":
        streams = names["student"]["batch_stats"]
        entries += [
            boundary
            for boundary in range(unit.index)
            if entry_name(boundary if hybrid.per_stream else None) in streams
        ]
    return {
        stream_name(entry): jax.tree.leaves(hybrid.unit_variables(names, unit, entry))
        for entry in entries
    }


def export_program(
    hybrid: HybridNetwork, variables: Variables, unit: Unit, format: str = STABLEHLO
) -> bytes:
    """The unit's program in a format of `FORMATS`: f(*tensors, x) -> y for any batch.

    `tensor_names` are those of its arguments in every format.

    Args:
      hybrid: the network.
      variables: its tree, or its shapes.
      unit: a block or a converter that is no identity.
      format: `stablehlo`, a serialised `jax.export.Exported` lowered for every platform, or `onnx`.

    Raises:
      OnnxError: the unit computes something that cannot be said in ONNX.
    """
    leaves, structure = jax.tree.flatten(hybrid.unit_variables(variables, unit))

    def program(*arguments: jax.Array) -> jax.Array:
        *tensors, x = arguments
        return hybrid.run(unit, jax.tree.unflatten(structure, tensors), x)

    shape, dtype = input_of(hybrid, unit)
    try:
        return FORMATS[format](program, leaves, shape, dtype)
    except OnnxError as error:
        raise OnnxError(
            f"no ONNX program can be made of {unit}: {error} (--programs=stablehlo does without)"
        ) from error


def _stablehlo_program(
    function: Callable[..., jax.Array], tensors: Sequence[Any], shape: Sequence[int], dtype: Any
) -> bytes:
    (batch,) = jax.export.symbolic_shape("b")
    specs = [jax.ShapeDtypeStruct(tensor.shape, tensor.dtype) for tensor in tensors]
    specs.append(jax.ShapeDtypeStruct((batch, *shape), dtype))
    with _no_source_lines():
        exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*specs)
    return bytes(exported.serialize())


FORMATS = {STABLEHLO: _stablehlo_program, "onnx": onnx_program}


@contextlib.contextmanager
def _no_source_lines() -> Iterator[None]:
    """Keeps paths and lines of the exporting machine out of programs.

    Otherwise equal programs differ from machine to machine and from caller to caller.
    """
    option = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, option)
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, before)


def input_of(hybrid: HybridNetwork, unit: Unit) -> tuple[tuple[int, ...], jnp.dtype]:
    """Shape of one example and type of what the unit takes."""
    network = hybrid.teacher if unit.kind in ("teacher", "encoder") else hybrid.student
    boundary = unit.index if unit.kind in ("encoder", "decoder") else unit.index - 1
    if boundary < 0:
        return network.input_shape, jnp.dtype(jnp.float32)
    # A block's input has been through a converter's or its own network's computation type.
    dtype = (hybrid.decoders if network is hybrid.teacher else hybrid.encoders)[boundary].dtype
    return _boundary_shapes(network)[boundary], dtype


@functools.cache
def _boundary_shapes(network: BlockNetwork) -> tuple[tuple[int, ...], ...]:
    """As the network gives them, traced once for all of its units."""
    return network.boundary_shapes()
