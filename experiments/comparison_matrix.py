r"""Objectives compared at equal budget, or ours taken apart: real runs, as many as it takes.

  python -m experiments.comparison_matrix --families=resnet --data_dir=D --workdir=W
  python -m experiments.comparison_matrix --table=ablation --data_dir=D --workdir=W
  python -m experiments.comparison_matrix --families=resnet --workdir=W --report_only

Every unit, as resnet/ours/seed0, is a process of its own below W. The same command goes on where an
earlier one was stopped, in the middle of a training too; after every unit the table is written anew
into experiments/results/NAME, and says how many runs it still lacks. --minutes stops in time.
"""

import sys
from pathlib import Path

from absl import flags

from launch import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of all runs; may hold several tables.")
_TABLE = flags.DEFINE_enum(
    "table", "comparison", ["comparison", "ablation"], "Objectives beside each other, or ours."
)
_FAMILIES = flags.DEFINE_list("families", ["resnet"], "Some of lenet5, vgg, resnet, vit.")
_OBJECTIVES = flags.DEFINE_list("objectives", [], "Some of the table's; all where not given.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Of the distillations.")
_DATA = flags.DEFINE_enum("data", "cifar10", ["cifar10", "cifar100", "digits"], "Data set.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS prepared it.")
_EPOCHS = flags.DEFINE_integer("epochs", 0, "Of a distillation; 0: the config's.", lower_bound=0)
_TEACHER_EPOCHS = flags.DEFINE_integer(
    "teacher_epochs", 0, "Of a teacher; 0: the config's.", lower_bound=0
)
_SCALE = flags.DEFINE_enum(
    "scale", "small", ["small", "full"], "Small pairs for CPUs, or the baseline's for accelerators."
)
_STEPS = flags.DEFINE_integer(
    "steps_per_dispatch", 0, "On accelerators some tens; 0: the config's.", lower_bound=0
)
_MINUTES = flags.DEFINE_float("minutes", None, "Begin no further unit, and stop the one that runs.")
_REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Run nothing, write the table.")
_NAME = flags.DEFINE_string("name", None, "Folder of the table; from its other flags.")
_RESULTS = flags.DEFINE_string("results", None, "Where tables lie; experiments/results.")
_UNIT = flags.DEFINE_string("unit", None, "Run this one unit in this process.")
flags.mark_flags_as_required(["workdir"])
flags.register_validator(
    "seeds", lambda seeds: seeds and all(s.isdigit() for s in seeds), "expected numbers, as 0,1,2"
)


def main() -> None:
    """Runs the command from its flags."""
    from experiments.matrix import report, work
    from experiments.matrix.children import Children
    from experiments.matrix.units import Budget, Unit, planned

    root = Path(_WORKDIR.value or "")
    budget = Budget(
        _DATA.value or "",
        _EPOCHS.value,
        _TEACHER_EPOCHS.value,
        _SCALE.value or "",
        _STEPS.value,
    )
    if _UNIT.value is not None:
        work.run_unit(Unit.parse(_UNIT.value), budget, root, _DATA_DIR.value)
        return
    seeds = [int(seed) for seed in _SEEDS.value]
    units = planned(_FAMILIES.value, _OBJECTIVES.value, seeds, _TABLE.value or "")
    parts = [_TABLE.value or "", budget.data, budget.scale, *_FAMILIES.value]
    name = _NAME.value or "_".join(parts)
    folder = Path(_RESULTS.value) if _RESULTS.value else None

    def write() -> str:
        return report.write(units, work.read(units, budget, root), name, folder)

    if not _REPORT_ONLY.value:
        children = Children(
            None if _MINUTES.value is None else 60 * _MINUTES.value, root / "executables"
        )
        for unit in units:
            if work.done(unit, budget, root):
                continue
            if not children.run(_command(unit.name)):
                break
            if not work.done(unit, budget, root):
                break
            write()
    print(write())


def _command(unit: str) -> list[str]:
    given = {
        "workdir": _WORKDIR.value,
        "data": _DATA.value,
        "data_dir": _DATA_DIR.value,
        "epochs": _EPOCHS.value,
        "teacher_epochs": _TEACHER_EPOCHS.value,
        "scale": _SCALE.value,
        "steps_per_dispatch": _STEPS.value,
        "unit": unit,
    }
    passed = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return [sys.executable, "-m", "experiments.comparison_matrix", *passed]


if __name__ == "__main__":
    cli.run(main)
