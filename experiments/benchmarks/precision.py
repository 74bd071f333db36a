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

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from experiments.benchmarks import precision_accuracy, precision_cases
from experiments.benchmarks.precision_cases import Case, Teacher
from experiments.benchmarks.precision_report import report, run
from experiments.benchmarks.rivals import rivals
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


def _say(line: str) -> None:
    print(f"{time.process_time():6.0f} s  {line}", flush=True)


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
                result = run(cases, others, _REPEATS.value, _say)
        else:
            result = run(cases, None, _REPEATS.value, _say)
        if _ACCURACY.value:
            result.rows.extend(_accuracy([resnet, vit]))
    report(result, _NAME.value)


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
