r"""Bytes, speed, memory and accuracy of P2U beside other ways of sending a model.

  python -m experiments.benchmarks.precision [--resnet=W/resnet] [--vit=W/vit] [--pwl=W/pwl] \
      [--checkpoint=FILE.safetensors] [--zipnn_python=PYTHON] [--quick] [--nolarge]

Tensors: a trained ResNet and a trained ViT teacher (where none is given, the demonstration's are
trained on digits first, which takes two minutes), and a model of the size of ViT-L/16: of a
checkpoint where one is given, else drawn from distributions fitted to the ViT teacher
(experiments/benchmarks/precision_cases.py says how). All in float32 and in bfloat16, rounded to
nearest even. ZipNN, constriction and torchao are used from the interpreter `--zipnn_python`, which
needs nothing of this repository, qwix from this one. Prints tables and writes
experiments/results/precision/<name>.json.
"""

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import results_file
from experiments.benchmarks import (
    precision_accuracy,
    precision_bases,
    precision_cases,
    precision_methods,
    precision_speed,
)
from experiments.benchmarks.precision_cases import Case, Teacher
from experiments.benchmarks.rivals import Rivals, rivals
from experiments.peak_memory import peak_bytes
from experiments.results_file import Row
from launch import cli

_RESNET = flags.DEFINE_string("resnet", None, "Workdir of a ResNet teacher.")
_VIT = flags.DEFINE_string("vit", None, "Workdir of a ViT teacher.")
_PWL = flags.DEFINE_multi_string("pwl", [], "Workdir of a distillation; several are possible.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Safetensors file of the large model.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS prepared the workdirs' data.")
_ZIPNN = flags.DEFINE_string(
    "zipnn_python", None, "Interpreter with zipnn, and constriction and torchao where it has them."
)
_IMAGES = flags.DEFINE_integer("images", None, "Test images for accuracy; all if not given.")
_LARGE = flags.DEFINE_bool("large", True, "Measure the large model too.")
_QUICK = flags.DEFINE_bool("quick", False, "A layer's tensors of the large model only.")
_ACCURACY = flags.DEFINE_bool("accuracy", True, "Measure accuracy too.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timings of each job.", lower_bound=1)
_NAME = flags.DEFINE_string("name", "precision", "Name of the JSON file.")


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
      rows: all of it.
      sources: where the tensors of each case come from.
      rivals: versions of other compressors, and why others are missing.
    """

    rows: list[Row]
    sources: dict[str, str]
    rivals: dict[str, dict[str, str]]


def _say(line: str) -> None:
    print(f"{time.process_time():6.0f} s  {line}", flush=True)


def run(
    cases: Sequence[Case], others: Rivals | None, repeats: int, say: Callable[[str], None] = _say
) -> Result:
    """Sizes, speeds, memory and other bases of all cases.

    Args:
      cases: the tensors.
      others: the interpreter with other compressors.
      repeats: timings of each job.
      say: where progress goes.
    """
    rows: list[Row] = []
    for case in cases:
        say(f"{case.name}: sizes")
        rows += precision_methods.rows(case, precision_methods.measure(case, others), others)
        rows += precision_bases.rows(case, others)
        say(f"{case.name}: speeds")
        rows += precision_speed.rows(case, repeats)
    known = {"versions": others.versions, "missing": others.missing} if others else {}
    return Result(rows, {case.name: case.source for case in cases}, known)


def main() -> None:
    """Runs the command from its flags."""
    with tempfile.TemporaryDirectory(prefix="precision") as folder:
        resnet = _teacher("resnet", _RESNET.value, Path(folder))
        vit = _teacher("vit", _VIT.value, Path(folder))
        cases = [resnet.case(), vit.case()]
        if _LARGE.value:
            cases.append(_large(vit))
        if _ZIPNN.value:
            with rivals(_ZIPNN.value) as others:
                result = run(cases, others, _REPEATS.value)
        else:
            result = run(cases, None, _REPEATS.value)
        if _ACCURACY.value:
            result.rows.extend(_accuracy([resnet, vit]))
    report(result, _NAME.value)


def report(result: Result, name: str, results: Path | None = None) -> Path:
    """Prints the tables and writes the JSON file; its path."""
    path = results_file.write_results(
        "precision", name, result.rows, results=results, more=_more(result)
    )
    print()
    print("\n".join(size_table(result.rows)))
    print()
    print("\n".join(results_file.table(result.rows)))
    print()
    for case, source in result.sources.items():
        print(f"{case}: {source}")
    for package, why in result.rivals.get("missing", {}).items():
        print(f"without {package}: {why}")
    missed = [row for row in result.rows if row.met is False]
    kept = [row for row in result.rows if row.met]
    print(f"{len(kept)} targets met, {len(missed)} missed; {path}")
    for row in missed:
        print(f"missed: {row.case}: {row.metric}: {row.median:.4g}, target {row.target}")
    return path


def size_table(rows: Sequence[Row]) -> list[str]:
    """Shares of the original in per cent, a method a line and a case a column."""
    shares = {
        (row.case, row.metric): row.median
        for row in rows
        if row.metric in precision_methods.METHODS
    }
    cases = list(dict.fromkeys(case for case, _ in shares))
    width = max(map(len, precision_methods.METHODS))
    lines = ["per cent of the original", *(f"  {i + 1}: {case}" for i, case in enumerate(cases))]
    lines.append(" " * width + "".join(f"{i + 1:>9}" for i in range(len(cases))))
    for method in precision_methods.METHODS:
        cells = [shares.get((case, method)) for case in cases]
        if any(cell is not None for cell in cells):
            texts = "".join(f"{'-' if c is None else f'{100 * c:.2f}':>9}" for c in cells)
            lines.append(f"{method:{width}}{texts}")
    return lines


def _more(result: Result) -> dict[str, Any]:
    return {
        "sources": result.sources,
        "compressors": result.rivals,
        "timing": "one process, one thread on one core, its processor time; all jobs run in every "
        "round, ratios are taken round by round",
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "peak_bytes": peak_bytes(),
        "sizes": "all tensors of a model, with the headers of our payloads as shards spell them",
    }


def _teacher(family: str, given: str | None, folder: Path) -> Teacher:
    if given:
        return precision_cases.given_teacher(family, given)
    _say(f"training the {family} teacher of the demonstration")
    return precision_cases.trained_teacher(family, folder)


def _accuracy(teachers: Sequence[Teacher]) -> Iterator[Row]:
    for teacher in teachers:
        _say(f"accuracy of {teacher.source}")
        yield from precision_accuracy.teacher_rows(teacher.workdir, _DATA_DIR.value, _IMAGES.value)
    for pair in _PWL.value:
        _say(f"accuracy of the pair in {Path(pair).name}")
        yield from precision_accuracy.pair_rows(Path(pair), _DATA_DIR.value, _IMAGES.value)


def _large(vit: Teacher) -> Case:
    if _CHECKPOINT.value:
        return precision_cases.checkpoint(Path(_CHECKPOINT.value))
    return precision_cases.large(vit.tensors(), vit.source, _QUICK.value)


if __name__ == "__main__":
    cli.run(main)
