r"""From the start of a process to its first logits, and what that is made of.

  python -m experiments.benchmarks.first_inference [--baseline_dir=CLONE] \
      [--pairs=resnet,vgg,vit,vit_b16,vit_l16_narrow] [--rounds=7] [--name=cpu_2cores]

Every column is a process of its own that reads files and answers one image: ours by both executors
(student, student in 4 bits, teacher), ONNX Runtime by itself (as it is, optimized beforehand,
int8), JAX with jit, PyTorch with safetensors, the PWL baseline's from_pretrained, and MobileNetV2
in ONNX Runtime at the same input. Weights are drawn; exact columns of one network must agree.
Rounds are interleaved; one that is not timed comes before. An attribution takes the first answer
apart. Then, in one process that is up: a model switch, climbing block by block, requests of one
image.

--torch_python names another interpreter with torch and safetensors (and, for the baseline,
transformers); without one, and without --baseline_dir, those columns are left out. Pairs of more
than 100 million weights come in full only, in fewer rounds. Prints tables and writes
experiments/results/first_inference/<name>.json and a chart a pair beside it.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from experiments import results_file
from experiments.benchmarks import first_columns, first_rows
from experiments.benchmarks.first_case import write_alone, write_case
from experiments.examples.mobilenet_v2 import MobileNetV2Spec
from experiments.results_file import Row, table, write_results
from launch import cli
from pwl_jax.models import registry
from pwl_jax.models.registry import PairSpec
from pwl_jax.models.vit import ViTSpec

_PAIRS = flags.DEFINE_list(
    "pairs",
    ["resnet", "vgg", "vit", "vit_b16", "vit_l16_narrow"],
    "Pairs of the registry, or resnet_small, vgg_small, vit_small for a try.",
)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timings of each column.", lower_bound=1)
_LARGE_ROUNDS = flags.DEFINE_integer(
    "large_rounds", 3, "The same of pairs of more than 100 million weights.", lower_bound=1
)
_REQUESTS = flags.DEFINE_integer("requests", 20, "Requests in a sample.", lower_bound=1)
_BASELINE = flags.DEFINE_string("baseline_dir", None, "A clone of the PWL baseline.")
_PYTHON = flags.DEFINE_string("torch_python", sys.executable, "Interpreter with PyTorch.")
_NAME = flags.DEFINE_string("name", "first_inference", "Name of the JSON file and the charts.")
_RESULTS = flags.DEFINE_string("results_dir", str(results_file.RESULTS), "Where results lie.")


def main() -> None:
    """Measures every pair."""
    torch_python, clone = _with_torch()
    rows: list[Row] = []
    charts: dict[str, dict[str, list[float]]] = {}
    for name in _PAIRS.value:
        measured, seconds = measured_pair(name, torch_python, clone)
        print("\n".join(table(measured)), "\n", flush=True)
        rows += measured
        charts[name] = seconds
    results = Path(_RESULTS.value)
    path = write_results("first_inference", _NAME.value, rows, results=results)
    for name, seconds in charts.items():
        chart = path.with_name(f"{_NAME.value}_{name}.png")
        first_rows.write_chart(chart, name, seconds)
    print(f"written to {path}")


def measured_pair(
    name: str, torch_python: str | None, clone: Path | None
) -> tuple[list[Row], dict[str, list[float]]]:
    """The rows of a pair, and the seconds of its columns."""
    pair = pair_called(name)
    blocks = pair.num_blocks
    with tempfile.TemporaryDirectory(prefix="first_inference") as folder:
        case = Path(folder)
        began = time.monotonic()
        coded = write_case(case, pair)
        if coded:
            write_alone(case / "mobilenet_v2.onnx", mobilenet(pair).build())
        print(f"{name}: written in {time.monotonic() - began:.0f} s", flush=True)
        columns = first_columns.columns_of(case, blocks, coded, torch_python, clone)
        environment = first_columns.environment(case / "executables")
        rounds = _ROUNDS.value if coded else _LARGE_ROUNDS.value
        seconds = first_columns.timed(columns, case, rounds, environment)
        rows = first_rows.start_rows(name, seconds) + first_rows.attribution_rows(name, seconds)
        if coded:
            arguments = [str(case), str(blocks), str(rounds), str(_REQUESTS.value)]
            module = "experiments.benchmarks.first_running"
            done = subprocess.run(
                [sys.executable, "-m", module, *arguments],
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
                check=True,
            )
            rows += first_rows.running_rows(name, json.loads(done.stdout))
    return rows, seconds


def pair_called(name: str) -> PairSpec:
    """A pair of the registry, or a small one; ViTs without a final norm, as the baseline's are."""
    base, _, small = name.partition("_small")
    known = registry.PAIRS.get(name, registry.PAIRS.get(f"{base}_digits", (None,)))
    changes = {"final_norm": False} if isinstance(known[0], ViTSpec) else {}
    if name.endswith("_small") and not small and f"{base}_digits" in registry.PAIRS:
        # Three channels and 32 x 32, as ONNX Runtime's tools and the baseline's classes expect.
        return registry.pair(f"{base}_digits", input_shape=(32, 32, 3), **changes)
    return registry.pair(name, **changes)


def mobilenet(pair: PairSpec) -> MobileNetV2Spec:
    """MobileNetV2 at the pair's input: the paper's strides from 64 x 64 on."""
    shape, classes = pair.teacher.input_shape, pair.teacher.classes
    if shape[0] < 64:
        return MobileNetV2Spec(input_shape=shape, classes=classes)
    return MobileNetV2Spec(
        input_shape=shape, classes=classes, stem_stride=2, strides=(1, 2, 2, 2, 1, 2, 1)
    )


def _with_torch() -> tuple[str | None, Path | None]:
    """The interpreter and the clone to measure with; says what is left out."""
    if not first_columns.can_import(_PYTHON.value, ("torch", "safetensors")):
        print(f"no torch and safetensors in {_PYTHON.value}: PyTorch's columns are left out")
        return None, None
    if _BASELINE.value is None:
        print("no --baseline_dir: the baseline's column is left out")
        return _PYTHON.value, None
    clone = Path(_BASELINE.value)
    if not (clone / "pwl_model").is_dir():
        cli.fail(f"{clone} holds no pwl_model; expected a clone of the PWL baseline")
    if not first_columns.can_import(_PYTHON.value, ("transformers",)):
        print(f"no transformers in {_PYTHON.value}: the baseline's column is left out")
        return _PYTHON.value, None
    return _PYTHON.value, clone


if __name__ == "__main__":
    cli.run(main)
