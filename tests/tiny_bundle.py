"""A hand-made bundle whose programs are a few lines of JAX, and the same network in NumPy.

Three blocks, teacher width 12, student width 8, images of 8x8x3, five classes. Every unit adds and
multiplies over channels only, so NumPy can be the independent reference. Student blocks normalise
by statistics that differ from stream to stream, so a wrong binding changes the logits.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from pwl_jax.bundle import BundleWriter, Preprocessing
from pwl_jax.interop.onnx_program import onnx_program
from pwl_jax.ladder import EXACT, Composition, Measurement, Rung, Unit
from pwl_jax.runtime import Step

# Widths of at least eight, below which kernels are not worth coding in a few bits.
BLOCKS, TEACHER_WIDTH, STUDENT_WIDTH, CLASSES = 3, 12, 8, 5
INPUT_SHAPE = (8, 8, 3)
CLASS_NAMES = ("ant", "bee", "cat", "dog", "elk")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
RUNGS = (
    "SSS@4",
    "TSS@4",
    "TTS@4",
    "TTT@4",
    "TTT@x-4-4",
    "TTT@x-x-4",
    "TTT@exact",
)


def all_units() -> list[Unit]:
    blocks = [Unit(kind, i) for kind in ("teacher", "student") for i in range(BLOCKS)]
    converters = [Unit(kind, k) for kind in ("encoder", "decoder") for k in range(BLOCKS - 1)]
    return blocks + converters


def width(kind: str) -> int:
    return TEACHER_WIDTH if kind == "teacher" else STUDENT_WIDTH


def streams(unit: Unit) -> list[str]:
    return ["own", *map(str, range(unit.index))] if unit.kind == "student" else ["own"]


def arguments(unit: Unit, stream: str = "own") -> list[str]:
    """Names of the tensors in the order the program takes them."""
    kind, index = unit
    if kind in ("encoder", "decoder"):
        return [f"{kind}s/params/boundary{index}/{leaf}" for leaf in ("kernel", "bias")]
    names = []
    if index == 0:
        names.append(f"{kind}/params/embedder/kernel")
    names += [f"{kind}/params/block{index}/{leaf}" for leaf in ("kernel", "bias")]
    if kind == "student":
        entry = stream if stream == "own" else f"entry{stream}"
        stem = f"student/batch_stats/{entry}/block{index}"
    else:
        stem = f"teacher/batch_stats/block{index}"
    names += [f"{stem}/mean", f"{stem}/var"]
    if index == BLOCKS - 1:
        names.append(f"{kind}/params/head/kernel")
    return names


def bindings(unit: Unit) -> dict[str, list[str]]:
    """The arguments by every stream the unit can stand in."""
    return {stream: arguments(unit, stream) for stream in streams(unit)}


def shape_of(name: str) -> tuple[int, ...]:
    source, leaf = name.split("/")[0], name.split("/")[-1]
    if source in ("encoders", "decoders"):
        into, out = (TEACHER_WIDTH, STUDENT_WIDTH)[:: 1 if source == "encoders" else -1]
        return (into, out) if leaf == "kernel" else (out,)
    here = width(source)
    if leaf != "kernel":
        return (here,)
    if "embedder" in name:
        return (INPUT_SHAPE[-1], here)
    return (here, CLASSES) if "head" in name else (here, here)


def all_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tensors = {}
    for unit in all_units():
        for name in (name for stream in streams(unit) for name in arguments(unit, stream)):
            values = rng.normal(size=shape_of(name))
            values = np.abs(values) + 0.5 if name.endswith("/var") else values
            tensors.setdefault(name, values.astype(np.float32))
    return tensors


def unit_tensors(unit: Unit, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [name for stream in streams(unit) for name in arguments(unit, stream)]
    return {name: tensors[name] for name in dict.fromkeys(names)}


def forward(numpy, unit: Unit, weights: list, x):
    """One unit in the array library given: NumPy or jax.numpy."""
    weights = list(weights)
    if unit.kind in ("encoder", "decoder"):
        kernel, bias = weights
        return numpy.matmul(x, kernel) + bias.reshape(1, 1, 1, -1)
    if unit.index == 0:
        x = numpy.matmul(x, weights.pop(0))
    kernel, bias, mean, var = (weights.pop(0) for _ in range(4))
    x = numpy.matmul(x, kernel) + bias.reshape(1, 1, 1, -1)
    x = (x - mean.reshape(1, 1, 1, -1)) / numpy.sqrt(var + 1e-5).reshape(1, 1, 1, -1)
    x = numpy.tanh(x)
    if weights:
        x = numpy.matmul(x.mean(axis=(1, 2)), weights.pop(0))
    return x


@functools.cache
def program(unit: Unit) -> bytes:
    """The unit's StableHLO program with a symbolic batch."""
    (batch,) = jax.export.symbolic_shape("b")
    function, specs, shape = described(unit)
    image = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    exporting = jax.export.export(jax.jit(function), platforms=["cpu", "cuda", "tpu"])
    return bytes(exporting(*specs, image).serialize())


@functools.cache
def onnx_model(unit: Unit) -> bytes:
    """The unit's ONNX program."""
    function, specs, shape = described(unit)
    return onnx_program(function, specs, shape, jnp.float32)


def described(unit: Unit):
    """A unit as a function of its tensors and x, their shapes, and the shape of one x."""
    channels = {
        "encoder": TEACHER_WIDTH,
        "decoder": STUDENT_WIDTH,
    }.get(unit.kind) or (INPUT_SHAPE[-1] if unit.index == 0 else width(unit.kind))
    specs = [jax.ShapeDtypeStruct(shape_of(name), jnp.float32) for name in arguments(unit)]
    return (
        lambda *inputs: forward(jnp, unit, inputs[:-1], inputs[-1]),
        specs,
        (*INPUT_SHAPE[:2], channels),
    )


PROGRAMS = {"stablehlo": program, "onnx": onnx_model}


def read(executor, unit: Unit, data: bytes | None = None, bound=None):
    """The unit's program as an executor has read it; its bytes or bindings may be replaced."""
    if data is None:
        data = PROGRAMS[executor.program_format](unit)
    return executor.read_program(unit, data, bound or bindings(unit))


def steps_of(executor, composition: str, tensors: dict[str, np.ndarray] | None = None):
    """What an executor runs for a composition, loaded from `tensors` or from `all_tensors()`."""
    tensors = all_tensors() if tensors is None else tensors
    parsed = Composition.parse(composition)
    return [
        Step(executor.load(read(executor, unit), unit_tensors(unit, tensors)), parsed.stream(unit))
        for unit in parsed.units()
    ]


def chain_of(executor, composition: str, tensors: dict[str, np.ndarray] | None = None):
    """The same, joined."""
    return executor.join(steps_of(executor, composition, tensors))


def write_bundle(path: Path, formats: Sequence[str] = tuple(PROGRAMS)) -> None:
    """Writes the bundle; accuracies are invented, everything else is real."""
    tensors = all_tensors()
    rungs = [Rung.parse(name) for name in RUNGS]
    with BundleWriter(path) as writer:
        for unit in all_units():
            exact_only = unit.kind in ("encoder", "decoder")
            stages = (EXACT,) if exact_only else (4, EXACT)
            writer.add_unit(unit, unit_tensors(unit, tensors), stages)
            programs = {format: PROGRAMS[format](unit) for format in formats}
            writer.add_programs(unit, programs, bindings(unit))
        writer.finish(
            pair={"name": "tiny"},
            preprocessing=Preprocessing(INPUT_SHAPE, MEAN, STD),
            classes=CLASS_NAMES,
            blocks=BLOCKS,
            ladder=rungs,
            measurements=[
                Measurement(rung, "validation", 0.5 + 0.05 * i, 1.0, 100)
                for i, rung in enumerate(rungs)
            ],
        )


def reference_logits(
    tensors: dict[str, np.ndarray], composition: str, images: np.ndarray
) -> np.ndarray:
    """Logits of a composition in NumPy float64, from the definition of its streams alone."""
    sources, x, stream = composition, images.astype(np.float64), "own"
    for index, source in enumerate(sources):
        kind = "teacher" if source == "T" else "student"
        unit = Unit(kind, index)
        names = arguments(unit, stream if kind == "student" else "own")
        x = forward(np, unit, [tensors[name].astype(np.float64) for name in names], x)
        following = sources[index + 1 : index + 2]
        if following and following != source:
            converter = Unit("encoder" if source == "T" else "decoder", index)
            weights = [tensors[name].astype(np.float64) for name in arguments(converter)]
            x = forward(np, converter, weights, x)
            if source == "T":
                stream = str(index)
    return x
