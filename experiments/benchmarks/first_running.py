"""What it takes in a process that is up: a model switch, a swap of a block, a request.

  python -m experiments.benchmarks.first_running CASE BLOCKS ROUNDS REQUESTS

Started by first_inference. Prints one JSON object: the samples by quantity and column, seconds.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnxruntime
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

from pwl_jax.bundle import BundleReader
from pwl_jax.ladder import EXACT, Composition, Rung
from pwl_jax.models.spec import NetworkSpec
from pwl_jax.runtime import Executor, LiveModel, create_executor
from pwl_jax.runtime.block_source import BlockSource

Samples = dict[str, list[float]]

_SETTLING = 0.2


def main() -> None:
    """Measures one case."""
    case, blocks, rounds, requests = Path(sys.argv[1]), *map(int, sys.argv[2:])
    image = np.load(case / "image.npy")
    found = {
        "switch": switches(case, blocks, image, rounds),
        "swap": {name: swaps(case, blocks, name) for name in ("onnxruntime", "jax")},
        "request": latencies(case, blocks, image, rounds, requests),
    }
    print(json.dumps(found))


def switches(case: Path, blocks: int, image: np.ndarray, rounds: int) -> Samples:
    """From a model's files to its logits, student; libraries are imported, executables cached."""
    kept = {name: create_executor(name, ("onnx", "stablehlo")) for name in ("onnxruntime", "jax")}

    def live(executor: Executor) -> None:
        with opened(case, "S" * blocks, executor) as model:
            model.predict(image)

    columns: Mapping[str, Callable[[], object]] = {
        "ONNX Runtime": lambda: bare(case / "student.onnx")(image),
        "ours, onnxruntime": lambda: live(kept["onnxruntime"]),
        "ours, jax": lambda: live(kept["jax"]),
        "ours, jax, executables from disk": lambda: live(create_executor("jax", ("stablehlo",))),
    }
    return interleaved(columns, rounds, 1)


def swaps(case: Path, blocks: int, executor: str) -> list[float]:
    """Between one rung's answer and the next one's, while climbing block by block to the teacher.

    Twice: the first climb leaves all executables.
    """
    shared = create_executor(executor, ("onnx", "stablehlo"))
    for _ in range(2):
        with LiveModel.open(case / "exact", executor=shared) as model:
            model.wait()
            rungs = [event.seconds for event in model.events if event.kind == "rung"]
    return list(np.diff(rungs))


def latencies(case: Path, blocks: int, image: np.ndarray, rounds: int, requests: int) -> Samples:
    """Of one request of one image; a sample is the median of `requests` in a row."""
    with (
        opened(case, "S" * blocks, create_executor("onnxruntime", ("onnx",))) as onnx_student,
        opened(case, "T" * blocks, create_executor("onnxruntime", ("onnx",))) as onnx_teacher,
        opened(case, "S" * blocks, create_executor("jax", ("stablehlo",))) as jax_student,
        opened(case, "T" * blocks, create_executor("jax", ("stablehlo",))) as jax_teacher,
    ):
        alone = {
            network: bare(case / f"{network}.onnx", as_ours=True)
            for network in ("student", "teacher")
        }
        default = {network: bare(case / f"{network}.onnx") for network in alone}
        fused = {network: jitted(case, network) for network in alone}
        student = executor_alone(case, "S" * blocks, jax_student.executor)
        columns: Mapping[str, Callable[[], object]] = {
            "ours, onnxruntime, student": lambda: onnx_student.predict(image),
            "ONNX Runtime, student": lambda: alone["student"](image),
            "ONNX Runtime, student, default options": lambda: default["student"](image),
            "ours, jax, student": lambda: jax_student.predict(image),
            "the executor jax, student": lambda: student(image),
            "JAX jit, student": lambda: fused["student"](image),
            "ours, onnxruntime, teacher": lambda: onnx_teacher.predict(image),
            "ONNX Runtime, teacher": lambda: alone["teacher"](image),
            "ONNX Runtime, teacher, default options": lambda: default["teacher"](image),
            "ours, jax, teacher": lambda: jax_teacher.predict(image),
            "JAX jit, teacher": lambda: fused["teacher"](image),
        }
        return interleaved(columns, rounds, requests)


def interleaved(columns: Mapping[str, Callable[[], object]], rounds: int, requests: int) -> Samples:
    """Medians of `requests` calls in a row, by column, every other round backwards.

    Each is called twice before: it is compiled, and its pages are there. Where several calls are
    timed, they wait until threads of the column before spin no more, and one that is not timed
    comes first: it would pay for what is left in the caches.
    """
    seconds: Samples = {name: [] for name in columns}
    for call in columns.values():
        call()
        call()
    for turn in range(rounds):
        for name, call in list(columns.items())[:: -1 if turn % 2 else 1]:
            times = []
            if requests > 1:
                time.sleep(_SETTLING)
                call()
            for _ in range(requests):
                began = time.perf_counter()
                call()
                times.append(time.perf_counter() - began)
            seconds[name].append(float(np.median(times)))
    return seconds


def opened(case: Path, composition: str, executor: Executor) -> LiveModel:
    """One exact rung, that stays."""
    rung = f"{composition}@exact"
    return LiveModel.open(case / "exact", rung=rung, executor=executor, climb=False)


def executor_alone(
    case: Path, composition: str, executor: Executor
) -> Callable[[np.ndarray], np.ndarray]:
    """One exact rung in an executor, without a live model."""
    rung = Rung.uniform(Composition.parse(composition), EXACT)
    source = BlockSource(BundleReader.open(str(case / "exact")), executor)
    source.check(rung)
    chain = source.chain(rung, {key: source.load(*key) for key in source.keys(rung)})
    return lambda image: executor.run(chain, image)


def bare(file: Path, as_ours: bool = False) -> Callable[[np.ndarray], Any]:
    """ONNX Runtime by itself; with the options of our executor it is the same student alone."""
    options = onnxruntime.SessionOptions()
    if as_ours:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"images": image})[0]


def jitted(case: Path, network: str) -> Callable[[np.ndarray], np.ndarray]:
    """A whole network as one program, weights as arguments."""
    spec = json.loads((case / f"{network}.json").read_text())
    built = NetworkSpec.from_dict(spec).build()
    tensors = unflatten_dict(load_file(case / f"{network}.jax.safetensors"), sep="/")
    variables = jax.device_put({"params": {}, "batch_stats": {}} | tensors)
    function = jax.jit(lambda variables, images: built.apply(variables, images).logits)
    return lambda image: np.asarray(function(variables, image))


if __name__ == "__main__":
    main()
