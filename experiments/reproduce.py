r"""One command a table: runs what a table of experiments/results is made of, and writes it.

  python -m experiments.reproduce --table=resnet --data_dir=D --workdir=W
  python -m experiments.reproduce --table=resnet --data_dir=D --workdir=W --minutes=60

The same command goes on where an earlier one was stopped, and does nothing twice. Tables of one
family share its runs, as long as they share --workdir.
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags

from experiments.matrix.children import Children
from launch import cli

MATRIX, PRECISION = "experiments.comparison_matrix", "experiments.rung_precision"
TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        family: (MATRIX, {"families": family, "name": f"{family}_small_cifar10"})
        for family in ("resnet", "vit", "vgg", "lenet5")
    },
    **{
        f"{family}_ablation": (
            MATRIX,
            {"families": family, "table": "ablation", "name": f"{family}_small_cifar10_ablation"},
        )
        for family in ("resnet", "vit")
    },
    **{
        f"{family}_precision": (
            PRECISION,
            {"workdir": f"{family}/ours/seed0", "name": f"{family}_small_cifar10_precision"},
        )
        for family in ("resnet", "vit")
    },
}
"""The module that makes a table, and its flags; a precision table needs the runs of its family."""

_TABLE = flags.DEFINE_enum("table", None, [*TABLES, "all"], "Which one.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of all runs.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS prepared cifar10.")
_MINUTES = flags.DEFINE_float("minutes", None, "Stop after so long; the same command goes on.")


def main() -> None:
    """Runs the command from its flags."""
    seconds = None if _MINUTES.value is None else 60 * _MINUTES.value
    children = Children(seconds, Path(_WORKDIR.value or "") / "executables")
    for name in TABLES if _TABLE.value == "all" else [_TABLE.value or ""]:
        command = command_of(name, _WORKDIR.value or "", _DATA_DIR.value)
        if not children.run([sys.executable, "-m", *command]):
            print("stopped; the same command goes on from here")
            break


def command_of(name: str, workdir: str, data_dir: str | None) -> list[str]:
    """The module and flags that make a table."""
    module, given = TABLES[name]
    below = given.get("workdir")
    given = {**given, "workdir": f"{workdir}/{below}" if below else workdir}
    if data_dir is not None:
        given["data_dir"] = data_dir
    return [module, *(f"--{flag}={value}" for flag, value in given.items())]


if __name__ == "__main__":
    cli.run(main)
