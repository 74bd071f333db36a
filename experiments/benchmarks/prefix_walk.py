r"""What training all prefixes costs: one batched walk, streams one after the other, plain KD.

  python -m experiments.benchmarks.prefix_walk [--families=resnet,vgg,vit] [--blocks=2,3,4] \
      [--batch=64] [--repeats=5]

Whole training steps of small pairs (experiments/benchmarks/step_cases.py) on one device: the walk
with its streams batched, the same loss with streams one after the other, and a plain distillation
step of the student alone. First checks that both walks have the same loss. Timings are interleaved.
Prints a table and writes experiments/results/prefix_walk/<name>.json.
"""

import functools
from collections.abc import Callable

import jax
from absl import flags

from experiments.benchmarks import step_cases
from experiments.results_file import Row, table, write_results
from launch import cli
from pwl_jax.errors import UserError
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.training.step import Loss, device_mesh

_FAMILIES = flags.DEFINE_list("families", list(step_cases.FAMILIES), "Families of networks.")
_BLOCKS = flags.DEFINE_list("blocks", ["2", "3", "4"], "Numbers of blocks.")
_BATCH = flags.DEFINE_integer("batch", 64, "Examples a step.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timings of each step.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 2, "Steps in a timing.", lower_bound=1)
_NAME = flags.DEFINE_string("name", "prefix_walk", "Name of the JSON file.")

ALL_PREFIX_TARGET = {"cpu": "<= 3", "gpu": "<= 2.5"}
"""Of the step of a ResNet of four blocks, over its plain KD step."""

LOSS_TOLERANCE = 1e-4
"""Relative: batched and separate calls sum in other orders."""


def main() -> None:
    """Measures every family and number of blocks."""
    rows: list[Row] = []
    for family in _FAMILIES.value:
        for blocks in _BLOCKS.value:
            if not blocks.isdigit():
                raise UserError(f"--blocks has '{blocks}'; expected whole numbers")
            rows += measured(family, int(blocks))
            print("\n".join(table(rows[-6:])), flush=True)
    path = write_results("prefix_walk", _NAME.value, rows, more=step_cases.machine())
    print(f"\nwritten to {path}")


def measured(family: str, blocks: int) -> list[Row]:
    """Step and compile times of one pair, and their ratios."""
    pair, mesh = step_cases.small_pair(family, blocks), device_mesh(jax.devices()[:1])
    losses: dict[str, Callable[[HybridNetwork], Loss]] = {
        "batched": functools.partial(step_cases.all_prefix_loss, batch_streams=True),
        "separate": functools.partial(step_cases.all_prefix_loss, batch_streams=False),
        "plain KD": step_cases.plain_kd_loss,
    }
    steps = {
        name: step_cases.timed_step(pair, loss, _BATCH.value, mesh) for name, loss in losses.items()
    }
    first = {name: step.first_loss() for name, step in steps.items()}
    if abs(first["batched"] - first["separate"]) > LOSS_TOLERANCE * abs(first["separate"]):
        raise AssertionError(f"losses differ on {pair.name}: {first}")
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(_REPEATS.value):
        for name, step in steps.items():
            times[name].append(step.seconds(_STEPS.value))
    case = f"{family}, {blocks} blocks, batch {_BATCH.value}"
    target = ALL_PREFIX_TARGET.get(jax.default_backend()) if family == "resnet" else None
    return [
        *(
            Row(case, f"step, {name}", "s", tuple(found), note=compiled_in(steps[name]))
            for name, found in times.items()
        ),
        step_cases.ratio(case, "batched over separate", times["batched"], times["separate"]),
        step_cases.ratio(
            case,
            "all prefixes over plain KD",
            times["batched"],
            times["plain KD"],
            target if blocks == 4 else None,
        ),
        Row(
            case,
            "compile, batched over separate",
            "ratio",
            (steps["batched"].compile_seconds / steps["separate"].compile_seconds,),
        ),
    ]


def compiled_in(step: step_cases.TimedStep) -> str:
    """How long lowering and compiling took."""
    return f"lowered in {step.lower_seconds:.1f} s, compiled in {step.compile_seconds:.1f} s"


if __name__ == "__main__":
    cli.run(main)
