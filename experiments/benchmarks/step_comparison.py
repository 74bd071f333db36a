"""Our step and PyTorch's on one pair and batch: checked against each other, timed, judged."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

from experiments.benchmarks import step_cases
from experiments.benchmarks.compared_steps import (
    LEARNING_RATE,
    ResidentSteps,
    Work,
    step_only,
)
from experiments.benchmarks.torch_side import COLUMNS, TorchSide
from experiments.results_file import Row
from pwl_jax.errors import UserError

OURS, ALIGNED = "ours", "ours, aligned"
STEP, WHOLE = "step", "end to end"

CHECKED_STEPS = 3

LOSS_TOLERANCE = {"float32": (1e-5, 1e-3), "tf32": (5e-3, 2e-2), "bfloat16": (2e-2, 5e-2)}
"""Relative, of the first step and of later ones: sums are in other orders and products rounded,
and training carries that on."""

CPU_TARGETS = {"vit": ">= 1", "vgg": ">= 0.9", "resnet": ">= 0.75"}
"""Ours over the baseline's modules, float32, by family."""

GPU_TARGETS = {
    "vit": {"baseline": ">= 1.3", "best": ">= 1"},
    "vgg": {"baseline": ">= 3", "best": ">= 1.1", "bfloat16": ">= 1.3"},
    "resnet": {"baseline": ">= 3", "best": ">= 1.1", "bfloat16": ">= 1.3"},
}
"""Ours over either column at equal precision, and our bfloat16 over our float32."""


class Timed(NamedTuple):
    """What a timing is of.

    Attributes:
      kind: the step alone, or end to end.
      column: ours, or one of PyTorch's.
      dtype: of the computation.
    """

    kind: str
    column: str
    dtype: str


Seconds = Mapping[Timed, list[float]]
"""Of a step; each round's value stands at the same place in every list."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All columns of one pair and batch, compiled and at their first step.

    Attributes:
      case: pair and batch, for people.
      family: of the networks.
      batch: examples a step.
      ready: our steps alone, by column and type.
      timers: steps to seconds of one, of every column.
      notes: what to know of a column, by it and its type.
      torch: PyTorch's side, if it is compared.
    """

    case: str
    family: str
    batch: int
    ready: Mapping[tuple[str, str], step_cases.TimedStep]
    timers: Mapping[Timed, Callable[[int], float]]
    notes: Mapping[tuple[str, str], str]
    torch: TorchSide | None

    def check(self, tf32: bool) -> list[str]:
        """Holds all columns to equal losses on equal weights; call it before anything is timed.

        The aligned column is held to the others by its first step, without the term `align`.

        Args:
          tf32: whether float32 products are rounded to TF32.

        Returns:
          A line on the losses of each type.

        Raises:
          UserError: the columns do not compute the same.
        """
        lines = []
        for dtype in dict.fromkeys(dtype for _, dtype in self.ready):
            case = f"{self.case}, {dtype}"
            tolerances = LOSS_TOLERANCE["tf32" if tf32 and dtype == "float32" else dtype]
            ours = [self.ready[OURS, dtype].metrics()["loss"] for _ in range(CHECKED_STEPS)]
            losses = {OURS: ours}
            if self.torch is not None:
                for column in COLUMNS:
                    losses[column] = self.torch.losses(column, dtype, CHECKED_STEPS)
            check_losses(case, losses, tolerances)
            terms = self.ready[ALIGNED, dtype].metrics()
            aligned = [terms["loss"] - terms["align"]]
            check_losses(case, {OURS: ours[:1], ALIGNED: aligned}, tolerances)
            shown = ", ".join(
                f"{column} {found[0]:.7g} {found[-1]:.7g}" for column, found in losses.items()
            )
            lines.append(f"{case}: losses of steps 0 and {CHECKED_STEPS - 1}: {shown}")
        return lines

    def seconds(self, rounds: int, steps: int) -> Seconds:
        """Of a step, so many timings of each column, interleaved, after one that does not count."""
        found: dict[Timed, list[float]] = {timed: [] for timed in self.timers}
        for timer in self.timers.values():
            timer(1)
        for turn in range(rounds):
            # Every other round backwards, so that no column always follows the same one.
            for timed in list(self.timers)[:: -1 if turn % 2 else 1]:
                found[timed].append(self.timers[timed](steps))
        return found


def comparison(
    case: str,
    works: Mapping[str, Work],
    torch: TorchSide | None,
    *,
    end_to_end: bool,
    steps_per_dispatch: int,
) -> Comparison:
    """Compiles every column.

    Args:
      case: what to call it.
      works: by type; they differ in that alone.
      torch: PyTorch's side, None for our own columns alone.
      end_to_end: whether feeding and augmentation are timed as well.
      steps_per_dispatch: of ours, end to end.
    """
    kinds = (STEP, WHOLE) if end_to_end else (STEP,)
    timers: dict[Timed, Callable[[int], float]] = {}
    notes, ready = {}, {}
    for dtype, work in works.items():
        for column, align in ((OURS, False), (ALIGNED, True)):
            step = ready[column, dtype] = step_only(work, align=align)
            timers[Timed(STEP, column, dtype)] = step.seconds
            notes[column, dtype] = f"compiled in {step.lower_seconds + step.compile_seconds:.0f} s"
        if end_to_end:
            resident = ResidentSteps(work, steps_per_dispatch)
            timers[Timed(WHOLE, OURS, dtype)] = resident.seconds
    work = next(iter(works.values()))
    if torch is not None:
        opened = torch.open(
            work.pair,
            work.variables,
            {"images": work.images, "labels": work.labels},
            batch=work.batch,
            dtypes=list(works),
            learning_rate=LEARNING_RATE,
        )
        for dtype in works:
            for column in COLUMNS:
                notes[column, dtype] = opened[f"{column} {dtype}"]
                for kind in kinds:
                    timers[Timed(kind, column, dtype)] = functools.partial(
                        torch.seconds, column, dtype, end_to_end=kind == WHOLE
                    )
    family = work.pair.teacher.family
    return Comparison(case, family, work.batch, ready, timers, notes, torch)


def check_losses(
    case: str, losses: Mapping[str, list[float]], tolerances: tuple[float, float]
) -> None:
    """Holds every column's losses to the first one's.

    Args:
      case: what they are of.
      losses: of the first steps, by column.
      tolerances: relative, of the first step and of later ones.

    Raises:
      UserError: a loss that differs, or is not finite; names column and step.
    """
    first, *_ = losses
    for column, found in losses.items():
        for step, (loss, expected) in enumerate(zip(found, losses[first], strict=True)):
            tolerance = tolerances[min(step, 1)]
            if not abs(loss - expected) <= tolerance * abs(expected):
                raise UserError(
                    f"{case}: the loss of step {step} is {loss:.7g} in the column '{column}' and "
                    f"{expected:.7g} in '{first}', further apart than {tolerance:g} of it: they "
                    "do not compute the same, so nothing was timed"
                )


def rows_of(
    case: str,
    family: str,
    batch: int,
    backend: str,
    seconds: Seconds,
    notes: Mapping[tuple[str, str], str],
) -> list[Row]:
    """Images a second of every column, and ours over the others'.

    Args:
      case, family, batch, notes: see `Comparison`.
      backend: what JAX computed on; targets go by it.
      seconds: what was measured.
    """
    rows = [
        Row(
            f"{case}, {timed.dtype}",
            f"{timed.kind}, {timed.column}",
            "images/s",
            tuple(batch / s for s in found),
            note=notes.get((timed.column, timed.dtype), "") if timed.kind == STEP else "",
        )
        for timed, found in seconds.items()
    ]
    for timed, found in seconds.items():
        kind, column, dtype = timed
        over, metric, ours = column, f"{kind}, ours over {column}", Timed(kind, OURS, dtype)
        if column == OURS:
            if kind == WHOLE or dtype != "bfloat16" or Timed(kind, OURS, "float32") not in seconds:
                continue
            over, metric = "bfloat16", "step, ours over our float32"
            found = seconds[Timed(kind, OURS, "float32")]
        target = target_of(family, over, dtype, backend) if kind == STEP else None
        rows.append(step_cases.ratio(f"{case}, {dtype}", metric, found, seconds[ours], target))
    return rows


def target_of(family: str, over: str, dtype: str, backend: str) -> str | None:
    """Of the speed of our step over a column's, or over our float32 where `over` is bfloat16."""
    if backend == "cpu":
        return CPU_TARGETS.get(family) if (over, dtype) == ("baseline", "float32") else None
    return GPU_TARGETS.get(family, {}).get(over)
