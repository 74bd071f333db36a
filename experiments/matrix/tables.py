"""The tables of experiments/results, and the commands that make them."""

from typing import Any

MATRIX, PRECISION = "experiments.comparison_matrix", "experiments.rung_precision"
TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        family: (MATRIX, {"families": family, "name": f"{family}_small_cifar10"})
        for family in ("resnet", "vit", "vgg", "lenet5")
    },
    **{
        f"{family}_ablation": (
            MATRIX,
            {
                "families": family,
                "table": "ablation",
                "seeds": "0",
                "name": f"{family}_small_cifar10_ablation",
            },
        )
        for family in ("resnet", "vit")
    },
    "resnet_seeds": (
        MATRIX,
        {
            "families": "resnet",
            "table": "ablation",
            "objectives": "ours,decoupled,any_order,switch_mixed",
            "name": "resnet_small_cifar10_seeds",
        },
    ),
    **{
        f"{family}_precision": (
            PRECISION,
            {"workdir": f"{family}/ours/seed0", "name": f"{family}_small_cifar10_precision"},
        )
        for family in ("resnet", "vit")
    },
}
"""The module that makes a table, and its flags; a precision table needs the runs of its family."""


def command_of(name: str, workdir: str, data_dir: str | None) -> list[str]:
    """The module and flags that make a table."""
    module, given = TABLES[name]
    below = given.get("workdir")
    given = {**given, "workdir": f"{workdir}/{below}" if below else workdir}
    if data_dir is not None:
        given["data_dir"] = data_dir
    return [module, *(f"--{flag}={value}" for flag, value in given.items())]
