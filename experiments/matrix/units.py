"""What a comparison consists of: units of work, each one objective, family and seed."""

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from experiments import objectives
from experiments.configs import recipes
from pwl_jax.errors import UserError
from pwl_jax.training.config import RunConfig, run_config

FULL = tuple(objectives.COMPARED)
FEW = ("kd", "all", "ours")
FAMILIES = {"resnet": FULL, "vit": FULL, "vgg": FEW, "lenet5": FEW}
"""Which objectives are compared on which family."""

ABLATION = ("all", "ours", "any_order", *objectives.ABLATIONS)
TEACHER_SEED = 0
"""One teacher a family: what differs between seeds is the distillation."""


class MatrixError(UserError):
    """A comparison that is impossible, or another one than its folder holds."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every unit of a comparison has in common.

    Attributes:
      data: `cifar10`, `cifar100`, or `digits` for tests.
      epochs, teacher_epochs: of a distillation, and of a teacher; 0 for the config's.
      scale: `small`, or `full` for the baseline's pairs and recipe, on an accelerator.
      steps_per_dispatch: 0 for the config's; on accelerators some tens.
    """

    data: str
    epochs: int = 0
    teacher_epochs: int = 0
    scale: str = "small"
    steps_per_dispatch: int = 0


@dataclasses.dataclass(frozen=True, order=True)
class Unit:
    """One run: a pair of a family distilled by an objective from a seed."""

    seed: int
    family: str
    objective: str

    @property
    def name(self) -> str:
        """As `resnet/ours/seed0`: its folder below the comparison's."""
        return f"{self.family}/{self.objective}/seed{self.seed}"

    @classmethod
    def parse(cls, text: str) -> "Unit":
        """Reads a name; raises MatrixError on anything else."""
        match text.split("/"):
            case [family, objective, seed] if (
                family in FAMILIES
                and objective in objectives.OBJECTIVES
                and seed.removeprefix("seed").isdigit()
            ):
                return cls(int(seed.removeprefix("seed")), family, objective)
        raise MatrixError(f"'{text}' is no unit; expected one such as resnet/ours/seed0")

    @property
    def trained(self) -> "Unit":
        """The unit whose training this one takes: itself, unless it only fits converters."""
        objective = objectives.FITTED.get(self.objective, self.objective)
        return dataclasses.replace(self, objective=objective)


def planned(
    families: Sequence[str], chosen: Sequence[str], seeds: Sequence[int], table: str
) -> list[Unit]:
    """The units of a table, seed by seed, so that a part of them is a table already.

    Args:
      families: of `FAMILIES`.
      chosen: objectives; empty for the table's own.
      seeds: of the distillations.
      table: `comparison` or `ablation`.

    Raises:
      MatrixError: an unknown family or objective.
    """
    for name, given, known in (
        ("families", families, FAMILIES),
        ("objectives", chosen, objectives.OBJECTIVES),
    ):
        unknown = [entry for entry in given if entry not in known]
        if unknown:
            raise MatrixError(f"{name} has '{unknown[0]}'; expected some of {', '.join(known)}")
    own = {family: FAMILIES[family] if table == "comparison" else ABLATION for family in families}
    return [
        Unit(seed, family, objective)
        for seed in seeds
        for family in families
        for objective in chosen or own[family]
    ]


def distill_config(unit: Unit, budget: Budget, data_dir: str | None) -> RunConfig:
    """The run of a unit; of a stitched one that of its student."""
    config = _config(unit.family, unit.trained.objective, budget, data_dir)
    config.seed = unit.seed
    _spend(config.distill, budget.epochs, budget)
    return run_config(config, "distill")


def teacher_config(family: str, budget: Budget, data_dir: str | None) -> RunConfig:
    """The run of a family's one teacher."""
    config = _config(family, "ours", budget, data_dir)
    config.seed = TEACHER_SEED
    _spend(config.teacher, budget.teacher_epochs, budget)
    return run_config(config, "teacher")


def _config(family: str, objective: str, budget: Budget, data_dir: str | None) -> ConfigDict:
    if budget.data == "digits":
        return recipes.with_objective(recipes.small(family, "digits", "runlocal"), objective)
    if budget.scale == "small":
        config = recipes.small(family, budget.data, objective)
    else:
        config = recipes.with_objective(recipes.baseline(family, budget.data, ""), objective)
    config.data.data_dir = data_dir
    return config


def _spend(section: ConfigDict, epochs: int, budget: Budget) -> None:
    """Sets what the budget says of a run; where it says nothing, the config's values stay."""
    section.epochs = epochs or section.epochs
    section.steps_per_dispatch = budget.steps_per_dispatch or section.steps_per_dispatch
