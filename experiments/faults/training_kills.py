"""Kills a distillation again and again; it must end with the bits of one that nothing stopped.

  python -m experiments.faults.training_kills --kills=20
  python -m experiments.faults.training_kills --kills=20 --feeding=device

A LeNet-5 pair is distilled on scikit-learn's digits by launch.distill, once in peace and once with
kills: the process is started, frozen by SIGSTOP at a moment drawn from the seed, looked at, and hit
by SIGKILL or SIGTERM; then the same command is started again. Because it stands still, its files
say truly whether it was inside a save. A tenth of the kills come before the first checkpoint, half
inside saves, the rest anywhere from the imports on. At last it runs to its end. Then every leaf of
the result and of the state to resume from, and every line of metrics, must equal those of the run
in peace. Twenty kills took 18 minutes on two busy cores (experiments/results/training_kills).
"""

import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.faults.differing_runs import differing_leaves, differing_lines
from experiments.faults.killed_runs import Command, Kill, moments
from experiments.results_file import Row, table, write_results
from launch import cli
from pwl_jax.errors import UserError

_KILLS = flags.DEFINE_integer("kills", 20, "How often it is killed.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments and signals.")
_FEEDING = flags.DEFINE_enum(
    "feeding", "grain", ["grain", "device"], "How examples reach the step."
)
_RESULTS = flags.DEFINE_string("results", None, "Folder of results, if not experiments/results.")

_STEPS_PER_EPOCH = 17
_SAVE_EVERY = 4


def main() -> None:
    """Runs the command from its flags."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="training-kills-") as folder:
        peace, hit, kills = _runs(Path(folder), _KILLS.value, _SEED.value, _FEEDING.value)
        rows = _rows(kills, differing_leaves(hit, peace), differing_lines(hit, peace))
    rows.append(Row("all", "time", "s", (time.perf_counter() - begin,)))
    print("\n".join(table(rows)))
    path = write_results(
        "training_kills",
        f"{_FEEDING.value}_kills{_KILLS.value}_seed{_SEED.value}",
        rows,
        results=None if _RESULTS.value is None else Path(_RESULTS.value),
        more={"kills": [kill.to_dict() for kill in kills]},
    )
    print(f"written to {path}")
    missed = [f"{row.case}: {row.metric} {row.median:g}" for row in rows if row.met is False]
    if missed:
        raise UserError(f"not as promised: {'; '.join(missed)}")


def _runs(folder: Path, kills: int, seed: int, feeding: str) -> tuple[Path, Path, list[Kill]]:
    """The workdirs of the run in peace and of the other, and what hit that."""
    teacher, peace, hit = (folder / name for name in ("teacher", "peace", "hit"))
    config = "--config=experiments/configs/lenet5_digits.py:runlocal"
    _command(folder, teacher, ["launch.train_teacher", config]).finish()
    distil = [
        "launch.distill",
        config,
        f"--teacher={teacher}",
        # Every attempt may get ahead by an epoch, and one is left for the last.
        f"--config.distill.epochs={kills + 1}",
        "--config.distill.eval_every_epochs=2",
        "--config.distill.calibration_examples=256",
        f"--config.distill.checkpoint_every_steps={_SAVE_EVERY}",
        f"--config.distill.feeding={feeding}",
        f"--config.distill.steps_per_dispatch={3 if feeding == 'device' else 1}",
    ]
    _command(folder, peace, distil).finish()
    print("the run in peace is over", flush=True)
    draw, command = random.Random(seed), _command(folder, hit, distil)
    done: list[Kill] = []
    for moment, number in moments(kills, draw):
        done.append(command.killed(moment, number, draw))
        print(f"{len(done):>3} {done[-1].signal} {done[-1].sight.doing}", flush=True)
    command.finish()
    return peace, hit, done


def _command(folder: Path, workdir: Path, arguments: Sequence[str]) -> Command:
    environment = {
        **os.environ,
        # Compiled once: what is tested is what comes after.
        "JAX_COMPILATION_CACHE_DIR": str(folder / "executables"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    line = [sys.executable, "-m", *arguments, f"--workdir={workdir}"]
    ahead = _STEPS_PER_EPOCH // _SAVE_EVERY
    return Command(line, environment, workdir, _SAVE_EVERY, ahead)


def _rows(kills: Sequence[Kill], leaves: int, lines: int) -> list[Row]:
    """What the kills hit, and what came of them."""
    saves = sum(bool(kill.sight.saving) for kill in kills)
    early = sum(kill.sight.saved is None for kill in kills)
    rows = [
        Row("kills", name, "count", (sum(kill.signal == name for kill in kills),))
        for name in ("SIGKILL", "SIGTERM")
    ]
    return [
        *rows,
        Row("kills", "inside a save", "count", (saves,), f">= {max(len(kills) // 4, 1)}"),
        Row(
            "kills",
            "before the first checkpoint",
            "count",
            (early,),
            f">= {max(len(kills) // 10, 1)}",
        ),
        Row("result", "leaves that differ", "count", (leaves,), "== 0"),
        Row("result", "lines of metrics that differ", "count", (lines,), "== 0"),
    ]


if __name__ == "__main__":
    cli.run(main)
