r"""The training step beside PyTorch's, on the same weights, images, batch and precision.

  python -m experiments.benchmarks.training_step --baseline_dir=CLONE \
      [--pairs=resnet,vgg] [--batch=128,512] [--dtype=float32,bfloat16] [--rounds=5] [--steps=50]

Columns, all of which train every prefix's logits: `ours`; `ours, aligned`, which also aligns every
stream's features; `baseline`, the modules and the distiller of a clone of the PWL baseline
(cross_mode=all) in a bare loop; `best`, the same loss in PyTorch with torch.compile, channels last,
fused SGD, CUDA graphs where they work. bfloat16 is autocast there. Two kinds of timing: the step
alone, on a batch that lies on the device, and end to end, with feeding and augmentation (ours and
best: set and augmentation on the device; baseline: Pillow in the processes of its loader). PyTorch
runs in a process of its own, `--torch_python` names another interpreter for it; it needs torch and
transformers. Timings are interleaved. First every side's losses of three steps are compared; where
they differ nothing is timed. Without --baseline_dir only our own columns are measured.

What all prefixes cost over plain distillation is measured by experiments.benchmarks.prefix_walk.
Prints a table and writes experiments/results/training_step/<name>.json.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
from absl import flags

from experiments.benchmarks import step_cases
from experiments.benchmarks.compared_steps import (
    LEARNING_RATE,
    LOSS_TOLERANCE,
    ResidentSteps,
    Work,
    check_losses,
    drawn_work,
    step_only,
)
from experiments.benchmarks.torch_side import COLUMNS, PASSIVE, TorchSide, torch_side
from experiments.results_file import Row, table, write_results
from launch import cli
from pwl_jax.errors import UserError

_BASELINE = flags.DEFINE_string("baseline_dir", None, "A clone of the PWL baseline.")
_PYTHON = flags.DEFINE_string("torch_python", sys.executable, "Interpreter with PyTorch.")
_PAIRS = flags.DEFINE_list(
    "pairs", [], "Pairs: resnet_small, vgg_small, vit_small (default on CPU) or of the registry."
)
_BATCH = flags.DEFINE_list("batch", [], "Examples a step, one or more; 32 on CPU, else 128.")
_DTYPE = flags.DEFINE_list("dtype", ["float32"], "float32, bfloat16 or both.")
_EXAMPLES = flags.DEFINE_integer("examples", 2048, "Images of the set.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timings of each column.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 0, "Steps in a timing; 3 on CPU, else 50.", lower_bound=0)
_DISPATCH = flags.DEFINE_integer("steps_per_dispatch", 10, "Ours, end to end.", lower_bound=1)
_TF32 = flags.DEFINE_bool("tf32", True, "Whether a GPU may round float32 products to TF32.")
_END_TO_END = flags.DEFINE_bool("end_to_end", True, "Whether to time feeding and augmentation too.")
_NAME = flags.DEFINE_string("name", "training_step", "Name of the JSON file.")

CHECKED_STEPS = 3

CPU_TARGETS = {"vit": ">= 1", "vgg": ">= 0.9", "resnet": ">= 0.75"}
"""Ours over the baseline's modules, float32, by family."""

GPU_TARGETS = {
    "vit": {"baseline": ">= 1.3", "best": ">= 1"},
    "vgg": {"baseline": ">= 3", "best": ">= 1.1", "bfloat16": ">= 1.3"},
    "resnet": {"baseline": ">= 3", "best": ">= 1.1", "bfloat16": ">= 1.3"},
}
"""Ours over either column at equal precision, and our bfloat16 over our float32."""

OURS, ALIGNED = "ours", "ours, aligned"
STEP, WHOLE = "step", "end to end"

Timer = tuple[str, str, str]
"""Kind, column and type of what is timed."""


def main() -> None:
    """Measures every pair and batch."""
    # PyTorch's process shares the device's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    for dtype in _DTYPE.value:
        if dtype not in ("float32", "bfloat16"):
            raise UserError(f"--dtype has '{dtype}'; expected float32 or bfloat16")
    cpu = jax.default_backend() == "cpu"
    if not cpu and not _TF32.value:
        jax.config.update("jax_default_matmul_precision", "highest")
    names = _PAIRS.value or (
        ["resnet_small", "vgg_small", "vit_small"] if cpu else ["resnet", "vgg", "vit"]
    )
    batches = _BATCH.value or ["32" if cpu else "128"]
    for text in batches:
        if not text.isdigit() or not int(text):
            raise UserError(f"--batch has '{text}'; expected whole numbers, at least 1")
    rows: list[Row] = []
    with _torch() as torch:
        more = {
            **step_cases.machine(),
            "tf32": "does not apply" if cpu else "on" if _TF32.value else "off",
            "pytorch": {**torch.machine, "environment": PASSIVE} if torch else None,
        }
        for name in names:
            for batch in map(int, batches):
                found = measured(name, batch, torch)
                print("\n".join(table(found)), flush=True)
                rows += found
    path = write_results("training_step", _NAME.value, rows, more=more)
    print(f"\nwritten to {path}")


@contextlib.contextmanager
def _torch() -> Iterator[TorchSide | None]:
    if _BASELINE.value is None:
        print("no --baseline_dir: only our own columns are measured\n")
        yield None
        return
    with torch_side(_PYTHON.value, Path(_BASELINE.value), _TF32.value) as side:
        yield side


def measured(name: str, batch: int, torch: TorchSide | None) -> list[Row]:
    """All columns of one pair and batch, checked and then timed."""
    works = {d: drawn_work(name, d, batch, _EXAMPLES.value) for d in _DTYPE.value}
    case = f"{name}, batch {batch}"
    timers, notes, ready = {}, {}, {}
    for dtype, work in works.items():
        for column, align in ((OURS, False), (ALIGNED, True)):
            step = ready[column, dtype] = step_only(work, align=align)
            timers[STEP, column, dtype] = step.seconds
            notes[column, dtype] = f"compiled in {step.lower_seconds + step.compile_seconds:.0f} s"
        if _END_TO_END.value:
            timers[WHOLE, OURS, dtype] = ResidentSteps(work, _DISPATCH.value).seconds
    if torch is not None:
        opened = open_torch(torch, works)
        for dtype in works:
            for column in COLUMNS:
                notes[column, dtype] = opened[f"{column} {dtype}"]
                for kind in (STEP, WHOLE) if _END_TO_END.value else (STEP,):
                    timers[kind, column, dtype] = functools.partial(
                        torch.seconds, column, dtype, end_to_end=kind == WHOLE
                    )
    check(case, ready, torch)
    return rows_of(case, batch, family_of(works), interleaved(timers), notes)


def open_torch(torch: TorchSide, works: Mapping[str, Work]) -> dict[str, str]:
    """PyTorch's columns of every type, on our weights and images."""
    work = next(iter(works.values()))
    return torch.open(
        work.pair,
        work.variables,
        {"images": work.images, "labels": work.labels},
        batch=work.batch,
        dtypes=list(works),
        learning_rate=LEARNING_RATE,
    )


def check(
    case: str,
    ready: Mapping[tuple[str, str], step_cases.TimedStep],
    torch: TorchSide | None,
) -> None:
    """Compares losses of the first steps, and of the aligned column the first without `align`.

    Raises:
      UserError: the sides do not compute the same.
    """
    tf32 = _TF32.value and jax.default_backend() != "cpu"
    for dtype in dict.fromkeys(dtype for _, dtype in ready):
        tolerance = LOSS_TOLERANCE["tf32" if tf32 and dtype == "float32" else dtype]
        steps = [ready[OURS, dtype].metrics()["loss"] for _ in range(CHECKED_STEPS)]
        losses = {OURS: steps}
        if torch is not None:
            losses |= {column: torch.losses(column, dtype, CHECKED_STEPS) for column in COLUMNS}
        check_losses(f"{case}, {dtype}", losses, tolerance)
        terms = ready[ALIGNED, dtype].metrics()
        same = {OURS: steps[:1], ALIGNED: [terms["loss"] - terms["align"]]}
        check_losses(f"{case}, {dtype}", same, tolerance)
        shown = ", ".join(f"{side} {found[-1]:.6g}" for side, found in losses.items())
        print(f"{case}, {dtype}: losses of step {CHECKED_STEPS}: {shown}", flush=True)


def family_of(works: Mapping[str, Work]) -> str:
    """Of the teacher."""
    return next(iter(works.values())).pair.teacher.family


def interleaved(timers: Mapping[Timer, Callable[[int], float]]) -> dict[Timer, list[float]]:
    """Seconds of a step, `--rounds` of each, after a first timing that does not count."""
    steps = _STEPS.value or (3 if jax.default_backend() == "cpu" else 50)
    found: dict[Timer, list[float]] = {name: [] for name in timers}
    for seconds in timers.values():
        seconds(1)
    for turn in range(_ROUNDS.value):
        # Every other round backwards, so that no column always follows the same one.
        for name in list(timers)[:: -1 if turn % 2 else 1]:
            found[name].append(timers[name](steps))
    return found


def rows_of(
    case: str,
    batch: int,
    family: str,
    found: Mapping[Timer, list[float]],
    notes: Mapping[tuple[str, str], str],
    backend: str | None = None,
) -> list[Row]:
    """Images a second of every column, and ours over the others'.

    Args:
      case, batch, family: of the pair.
      found: seconds of a step by what was timed, each round's beside the others'.
      notes: of a column and type.
      backend: what JAX computed on, for the targets; the default one if not given.
    """
    backend = backend or jax.default_backend()
    rows = []
    for (kind, column, dtype), seconds in found.items():
        rows.append(
            Row(
                f"{case}, {dtype}",
                f"{kind}, {column}",
                "images/s",
                tuple(batch / s for s in seconds),
                note=notes[column, dtype] if kind == STEP else "",
            )
        )
    for kind, column, dtype in found:
        of = f"{case}, {dtype}"
        if column != OURS:
            target = target_of(family, column, dtype, backend) if kind == STEP else None
            ours = found[kind, OURS, dtype]
            rows.append(
                _speed_ratio(
                    of, f"{kind}, ours over {column}", ours, found[kind, column, dtype], target
                )
            )
        elif kind == STEP and dtype == "bfloat16" and (kind, OURS, "float32") in found:
            rows.append(
                _speed_ratio(
                    of,
                    "step, ours over our float32",
                    found[kind, OURS, dtype],
                    found[kind, OURS, "float32"],
                    target_of(family, "bfloat16", dtype, backend),
                )
            )
    return rows


def target_of(family: str, over: str, dtype: str, backend: str) -> str | None:
    """Of ours over a column, or over our float32 where `over` is bfloat16."""
    if backend == "cpu":
        return CPU_TARGETS.get(family) if (over, dtype) == ("baseline", "float32") else None
    return GPU_TARGETS.get(family, {}).get(over)


def _speed_ratio(
    case: str, metric: str, ours: list[float], theirs: list[float], target: str | None
) -> Row:
    return step_cases.ratio(case, metric, theirs, ours, target)


if __name__ == "__main__":
    cli.run(main)
