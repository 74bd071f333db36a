"""Peak memory of climbing under a budget, as the operating system measures it.

  python -m experiments.benchmarks.runtime_memory [--pair=vit_b16_narrow] [--budgets=40,70,100]

For each executor and budget (percent of the teacher's bytes) a process of its own opens a bundle
with drawn weights, climbs as far as the budget lets it while it answers, goes down to the student,
and climbs again. Its peak resident size must stay below the budget, plus the peak of the same
process serving the student alone less the student's own bytes, plus 64 MiB. JAX's executables are
compiled once beforehand, by a run that is not measured.

Prints a table and writes experiments/results/runtime_memory/<name>.json.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import results_file
from experiments.benchmarks.drawn_bundle import DrawnBundle, write_drawn_bundle
from experiments.results_file import Row, table, write_results
from launch import cli
from pwl_jax.errors import UserError
from pwl_jax.ladder import EXACT, Bits
from pwl_jax.models import registry
from pwl_jax.runtime import executor_names

_PAIR = flags.DEFINE_string("pair", "vit_b16_narrow", "Pair of the registry.")
_BUDGETS = flags.DEFINE_list("budgets", ["40", "70", "100"], "Percent of the teacher's bytes.")
_EXECUTORS = flags.DEFINE_list("executors", list(executor_names()), "What computes.")
_BITS = flags.DEFINE_list("bits", ["4", EXACT], "Precisions the blocks come in.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Processes for each case.", lower_bound=1)
_NAME = flags.DEFINE_string("name", "runtime_memory", "Name of the JSON file.")
_RESULTS = flags.DEFINE_string("results_dir", str(results_file.RESULTS), "Where results lie.")

SLACK = 64 << 20
"""Bytes that a climb may take beside its budget, to decode and to move blocks."""

_WORKER = "experiments.benchmarks.runtime_memory_worker"
_ROOT = Path(__file__).parents[2]


def main() -> None:
    """Runs the command from its flags."""
    bits: list[Bits] = [EXACT if text == EXACT else int(text) for text in _BITS.value]
    with tempfile.TemporaryDirectory(prefix="pwl-memory-") as folder:
        bundle = write_drawn_bundle(Path(folder) / "bundle", registry.pair(_PAIR.value), bits)
        rows = [
            row
            for executor in _EXECUTORS.value
            for row in executor_rows(
                bundle, executor, list(map(int, _BUDGETS.value)), _ROUNDS.value
            )
        ]
    print("\n".join(table(rows)))
    path = write_results("runtime_memory", _NAME.value, rows, results=Path(_RESULTS.value))
    print(f"\nwritten to {path}")


def executor_rows(
    bundle: DrawnBundle, executor: str, percents: Sequence[int], rounds: int, slack: int = SLACK
) -> list[Row]:
    """What one executor takes, alone with the student and under each budget.

    Args:
      bundle: to climb.
      executor: name of the executor.
      percents: budgets, in percent of the teacher's bytes.
      rounds: processes for each case.
      slack: bytes that a climb may take beside its budget.
    """
    budgets = {percent: bundle.teacher_bytes * percent // 100 for percent in percents}
    with tempfile.TemporaryDirectory(prefix="pwl-executables-") as cache:
        measured(bundle, executor, 2 * bundle.teacher_bytes, cache)
        alone = [measured(bundle, executor, 0, cache) for _ in range(rounds)]
        climbs = {
            percent: [measured(bundle, executor, budget, cache) for _ in range(rounds)]
            for percent, budget in budgets.items()
        }
    case = f"{executor}, teacher of {bundle.teacher_bytes / 1e6:.0f} MB"
    rows = [Row(case, "student alone, peak", "MB", tuple(run["peak"] / 1e6 for run in alone))]
    floor = min(run["peak"] for run in alone) - bundle.student_bytes
    for percent, runs in climbs.items():
        bound = budgets[percent] + floor + slack
        reached = " and ".join(sorted({str(run["rung"]) for run in runs}))
        case = f"{executor}, budget of {percent} % ({budgets[percent] / 1e6:.0f} MB)"
        rows += [
            Row(
                case,
                "peak",
                "MB",
                tuple(run["peak"] / 1e6 for run in runs),
                f"<= {bound / 1e6:.1f}",
                f"climbs to {reached}",
            ),
            Row(
                case,
                "weights held at most",
                "MB",
                tuple(run["live"] / 1e6 for run in runs),
                f"<= {budgets[percent] / 1e6:.1f}",
            ),
        ]
    return rows


def measured(bundle: DrawnBundle, executor: str, budget: int, cache: str) -> Mapping[str, Any]:
    """What a process says of itself: `peak` and `live` bytes, and the `rung` it climbed to.

    Args:
      bundle: to serve.
      executor: name of the executor.
      budget: bytes; 0 for the first rung alone.
      cache: folder of JAX's executables.
    """
    done = subprocess.run(
        [sys.executable, "-m", _WORKER, str(bundle.folder), executor, str(budget)],
        capture_output=True,
        text=True,
        cwd=_ROOT,
        env={**os.environ, "PWL_EXECUTABLE_CACHE": cache},
    )
    if done.returncode:
        raise UserError(f"{executor} with {budget} bytes failed: {done.stderr.strip()[-500:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    cli.run(main)
