r"""Compile time of the training step by the number of devices.

  python -m experiments.benchmarks.step_compile [--family=resnet] [--blocks=4] \
      [--devices=1,8] [--batch=64] [--repeats=3]

Lowers and compiles the all-prefix step of a small pair (experiments/benchmarks/step_cases.py) over
so many fake CPU devices, each time in a fresh process without a cache, interleaved. The batch is
that of all devices together. Prints a table and writes it to
experiments/results/step_compile/<name>.json.
"""

import os

from absl import flags

from experiments.benchmarks.json_worker import json_answer
from experiments.results_file import Row, table, write_results
from launch import cli
from pwl_jax.errors import UserError

_FAMILY = flags.DEFINE_enum("family", "resnet", ["resnet", "vgg", "vit"], "Family of networks.")
_BLOCKS = flags.DEFINE_integer("blocks", 4, "Number of blocks.", lower_bound=2)
_DEVICES = flags.DEFINE_list("devices", ["1", "8"], "Numbers of fake devices.")
_BATCH = flags.DEFINE_integer("batch", 64, "Examples a step.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Processes of each number.", lower_bound=1)
_NAME = flags.DEFINE_string("name", "step_compile", "Name of the JSON file.")

GROWTH_TARGET = "< 1.3"
"""Of lowering and compiling together, from the first number of devices to the last."""

_WORKER = """
import json, sys
from experiments.benchmarks import step_cases
from pwl_jax.training.step import device_mesh
family, blocks, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
pair = step_cases.small_pair(family, blocks)
step = step_cases.timed_step(pair, step_cases.all_prefix_loss, batch, device_mesh())
print(json.dumps([step.lower_seconds, step.compile_seconds]))
"""


def main() -> None:
    """Measures every number of devices."""
    for text in _DEVICES.value:
        if not text.isdigit() or not int(text):
            raise UserError(f"--devices has '{text}'; expected whole numbers, at least 1")
        if _BATCH.value % int(text):
            raise UserError(f"--batch={_BATCH.value} does not divide among {text} devices")
    numbers = [int(number) for number in _DEVICES.value]
    found: dict[int, list[tuple[float, float]]] = {number: [] for number in numbers}
    for _ in range(_REPEATS.value):
        for number in numbers:
            found[number].append(compiled_on(number))
    case = f"{_FAMILY.value}, {_BLOCKS.value} blocks, batch {_BATCH.value}"
    rows = []
    for number, pairs in found.items():
        lowered, compiled = zip(*pairs, strict=True)
        rows.append(Row(case, f"lower, {number} devices", "s", lowered))
        rows.append(Row(case, f"compile, {number} devices", "s", compiled))
    first, last = ([sum(pair) for pair in found[number]] for number in (numbers[0], numbers[-1]))
    growth = tuple(b / a for a, b in zip(first, last, strict=True))
    metric = f"growth from {numbers[0]} to {numbers[-1]} devices"
    rows.append(Row(case, metric, "ratio", growth, GROWTH_TARGET))
    print("\n".join(table(rows)))
    print(f"\nwritten to {write_results('step_compile', _NAME.value, rows)}")


def compiled_on(devices: int) -> tuple[float, float]:
    """Seconds of lowering and of compiling in a process with so many fake devices."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    arguments = [_FAMILY.value, str(_BLOCKS.value), str(_BATCH.value)]
    lowered, compiled = json_answer(
        f"the process with {devices} devices", _WORKER, arguments, environment
    )
    return lowered, compiled


if __name__ == "__main__":
    cli.run(main)
