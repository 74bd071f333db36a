"""Peak memory of climbing under a budget, as the operating system measures it.

  python -m experiments.benchmarks.runtime_memory [--pair=vit_b16_narrow] [--budgets=40,70,100]

For each executor and budget (percent of the teacher's bytes) a process of its own opens a bundle
with drawn weights, climbs as far as the budget lets it while it answers, goes down to the student,
and climbs again. Its peak resident size must stay below the budget, plus the peak of the same
process serving the student alone less the student's own bytes, plus 64 MiB. JAX's executables are
compiled once beforehand, by a run that is not measured.

Prints a table and writes experiments/results/runtime_memory/<name>.json.
"""

import tempfile
from pathlib import Path

from absl import flags

from experiments import results_file
from experiments.benchmarks.drawn_bundle import write_drawn_bundle
from experiments.benchmarks.memory_rows import executor_rows
from experiments.results_file import table, write_results
from launch import cli
from pwl_jax.ladder import EXACT, Bits
from pwl_jax.models import registry
from pwl_jax.runtime import executor_names

_PAIR = flags.DEFINE_string("pair", "vit_b16_narrow", "Pair of the registry.")
_BUDGETS = flags.DEFINE_list("budgets", ["40", "70", "100"], "Percent of the teacher's bytes.")
_EXECUTORS = flags.DEFINE_list("executors", list(executor_names()), "What computes.")
_BITS = flags.DEFINE_list("bits", ["4", EXACT], "Precisions the blocks come in.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Processes for each case.", lower_bound=1)
_NAME = flags.DEFINE_string("name", "runtime_memory", "Name of the JSON file.")
_RESULTS = flags.DEFINE_string("results_dir", str(results_file.RESULTS), "Where results lie.")


def main() -> None:
    """Runs the command from its flags."""
    bits: list[Bits] = [EXACT if text == EXACT else int(text) for text in _BITS.value]
    with tempfile.TemporaryDirectory(prefix="pwl-memory-") as folder:
        bundle = write_drawn_bundle(Path(folder) / "bundle", registry.pair(_PAIR.value), bits)
        rows = [
            row
            for executor in _EXECUTORS.value
            for row in executor_rows(
                bundle, executor, list(map(int, _BUDGETS.value)), _ROUNDS.value
            )
        ]
    print("\n".join(table(rows)))
    path = write_results("runtime_memory", _NAME.value, rows, results=Path(_RESULTS.value))
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    cli.run(main)
