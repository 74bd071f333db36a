"""What several runs of one distillation measured: read, checked, and the same but for the seed."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pwl_jax.errors import UserError
from pwl_jax.ladder import Composition, CompositionError
from pwl_jax.training import workdir
from pwl_jax.training.checkpoints import read_json
from pwl_jax.training.config import RunConfig, differences

CHECKPOINTS = ("last", "best", "not recorded")
"""In the order of the report. Files of before `checkpoint` was written do not record it."""


class RunsError(UserError):
    """Runs that cannot be read, or are not the same work with several seeds."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One distillation and what `launch.evaluate` measured of it on the test set.

    Attributes:
      path: of its workdir, as it was given.
      config: of the run.
      top1: percent by checkpoint and composition.
      steps: by checkpoint, where recorded.
      examples: test images.
      device: on which it was measured, or "not recorded".
    """

    path: str
    config: RunConfig
    top1: Mapping[str, Mapping[Composition, float]]
    steps: Mapping[str, int]
    examples: int
    device: str


def workdirs_below(folder: str) -> list[str]:
    """Every folder below one that holds a compositions.json; raises RunsError where none does."""
    root = Path(folder)
    if not root.is_dir():
        raise RunsError(f"no folder '{folder}'")
    found = sorted(str(path.parent) for path in root.rglob("compositions.json"))
    if not found:
        raise RunsError(f"no compositions.json below '{folder}'; launch.evaluate writes them")
    return found


def read_runs(paths: Sequence[str], pair: str, data: str) -> list[Run]:
    """The runs in some workdirs, in the order of their seeds.

    Args:
      paths: of the workdirs.
      pair: family that all of them must be of.
      data: set that all of them must be trained and measured on.

    Raises:
      RunsError: a workdir without config or measurements, measurements that are broken, or not of
        the test set, or runs that differ in more than the seed.
    """
    if not paths:
        raise RunsError("no workdirs; expected at least one")
    runs = sorted((read_run(path) for path in paths), key=lambda run: run.config.seed)
    for run in runs:
        family = {run.config.pair.teacher.family, run.config.pair.student.family}
        if family != {pair}:
            raise RunsError(
                f"'{run.path}' holds pair '{run.config.pair.name}' ({', '.join(sorted(family))}), "
                f"not of family '{pair}'"
            )
        if run.config.data.name != data:
            raise RunsError(f"'{run.path}' was trained on '{run.config.data.name}', not '{data}'")
    first = runs[0]
    for before, run in itertools.pairwise(runs):
        if run.config.seed == before.config.seed:
            raise RunsError(
                f"'{before.path}' and '{run.path}' both have seed {run.config.seed}; a spread "
                "needs different seeds"
            )
        found = differences(_but_seed(run.config), _but_seed(first.config))
        if found:
            raise RunsError(
                f"'{run.path}' and '{first.path}' differ in more than the seed: {found[0]}"
            )
        if run.examples != first.examples:
            raise RunsError(
                f"'{run.path}' was measured on {run.examples} images and '{first.path}' on "
                f"{first.examples}"
            )
    return runs


def read_run(path: str) -> Run:
    """The run in one workdir; raises RunsError as `read_runs` does."""
    config = workdir.read_config(path)
    if config.task != "distill":
        raise RunsError(f"'{path}' holds a {config.task} alone; expected a distillation")
    where = f"'{Path(path) / 'compositions.json'}'"
    rows = read_json(workdir.epath.Path(path) / "compositions.json", "list of compositions")
    if not isinstance(rows, list) or not rows:
        raise RunsError(f"{where} holds no list of compositions")
    top1: dict[str, dict[Composition, float]] = {}
    steps: dict[str, int] = {}
    examples, devices = set(), set()
    for row in rows:
        checkpoint, composition, value = _checked(row, config, where)
        if composition in top1.setdefault(checkpoint, {}):
            raise RunsError(f"{where} has {composition} twice for checkpoint {checkpoint}")
        top1[checkpoint][composition] = 100 * value
        examples.add(row["examples"])
        devices.add(str(row.get("device", "not recorded")))
        if "step" in row:
            steps[checkpoint] = row["step"]
    if len(examples) > 1:
        raise RunsError(f"{where} was measured on {sorted(examples)} images; expected one number")
    return Run(path, config, top1, steps, examples.pop(), ", ".join(sorted(devices)))


def samples(runs: Iterable[Run], checkpoint: str, composition: Composition) -> dict[int, float]:
    """Top-1 % by seed, of the runs that measured it."""
    return {
        run.config.seed: run.top1[checkpoint][composition]
        for run in runs
        if composition in run.top1.get(checkpoint, {})
    }


def _checked(row: Any, config: RunConfig, where: str) -> tuple[str, Composition, float]:
    if not isinstance(row, dict) or not {"composition", "top1", "examples"} <= set(row):
        raise RunsError(f"{where}: {row!r} is no row; expected composition, top1 and examples")
    name, value, examples = row["composition"], row["top1"], row["examples"]
    if not isinstance(name, str):
        raise RunsError(f"{where}: {name!r} is no composition")
    try:
        composition = Composition.parse(name, config.pair.num_blocks)
    except CompositionError as error:
        raise RunsError(f"{where}: {error}") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise RunsError(f"{where}: top1 of {name} is {value!r}; expected 0 to 1")
    if isinstance(examples, bool) or not isinstance(examples, int) or examples < 1:
        raise RunsError(f"{where}: examples of {name} is {examples!r}; expected at least 1")
    for field, expected in (("split", "test"), ("data", config.data.name)):
        if row.get(field, expected) != expected:
            raise RunsError(f"{where}: {name} was measured on {field} {row[field]}, not {expected}")
    checkpoint = row.get("checkpoint", CHECKPOINTS[-1])
    if checkpoint not in CHECKPOINTS:
        raise RunsError(f"{where}: checkpoint {checkpoint!r} is unknown; expected last or best")
    return checkpoint, composition, value


def _but_seed(config: RunConfig) -> RunConfig:
    data = dataclasses.replace(config.data, data_dir=None)
    return dataclasses.replace(config, seed=0, data=data)
