r"""One command a table: runs what a table of experiments/results is made of, and writes it.

  python -m experiments.reproduce --table=resnet --data_dir=D --workdir=W
  python -m experiments.reproduce --table=resnet --data_dir=D --workdir=W --minutes=60

The same command goes on where an earlier one was stopped, and does nothing twice. Tables of one
family share its runs, as long as they share --workdir.
"""

import sys
from pathlib import Path

from absl import flags

from experiments.matrix.children import Children
from experiments.matrix.tables import TABLES, command_of
from launch import cli

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


if __name__ == "__main__":
    cli.run(main)
