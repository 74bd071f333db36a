"""Peak memory of processes that climb under a budget, beside what they may take."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks.drawn_bundle import DrawnBundle
from experiments.results_file import Row
from pwl_jax.errors import UserError

SLACK = 64 << 20
"""Bytes that a climb may take beside its budget, to decode and to move blocks."""

_WORKER = "experiments.benchmarks.runtime_memory_worker"
_ROOT = Path(__file__).parents[2]


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
