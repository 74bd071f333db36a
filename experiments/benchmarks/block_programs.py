"""Bytes of block programs, and CPU time to make them, by format.

  python -m experiments.benchmarks.block_programs [--pairs=vit_digits,resnet_half]

Programs hold no weights, so none are needed: pairs are taken from the registry. Prints a table and
writes experiments/results/block_programs/<pair>.json.
"""

import time

import jax
from absl import flags

from experiments.results_file import Row, table, write_results
from launch import cli
from pwl_jax.export.programs import FORMATS, export_program, units_of
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.models import registry

_PAIRS = flags.DEFINE_list(
    "pairs", ["lenet5_digits", "vgg_digits", "resnet_digits", "vit_digits"], "Names of pairs."
)


def main() -> None:
    """Runs the command from its flags."""
    for name in _PAIRS.value:
        rows = pair_rows(name)
        print("\n".join(table(rows)))
        print(f"results: {write_results('block_programs', name, rows)}\n")


def pair_rows(name: str) -> list[Row]:
    """What the programs of a pair take in every format; the first one warms JAX up."""
    hybrid = HybridNetwork.from_pair(registry.pair(name))
    shapes = jax.eval_shape(hybrid.init, jax.random.key(0))
    units = units_of(hybrid)
    rows = []
    for format in FORMATS:
        export_program(hybrid, shapes, units[0], format)
        start = time.process_time()
        files = [export_program(hybrid, shapes, unit, format) for unit in units]
        seconds = time.process_time() - start
        case = f"{name}, {format}"
        rows += [
            Row(case, f"programs of {len(units)} units", "files", (len(set(files)),)),
            Row(case, "a program", "bytes", tuple(sorted(map(len, files)))),
            Row(case, "all programs", "bytes", (sum(map(len, set(files))),)),
            Row(case, "CPU time to make them", "s", (seconds,)),
        ]
    return rows


if __name__ == "__main__":
    cli.run(main)
