"""What a climb costs the requests that it happens beside, and whether every answer is right.

  python -m experiments.benchmarks.climb_latency [--pair=resnet] [--requests=100000]

Latency: requests of one image arrive as a Poisson process at half the rate that the teacher can
answer, whether or not the ones before are answered; latency counts from the arrival. A run of
climbs (down to the student, and up again from the local bundle, several times over) and as long a
run in which the teacher answers and nothing is loaded take turns. Executables are in the cache by
then; the first climb, which compiles, stands apart.

Soak: callers ask without a pause while the model is driven up and down. Each answer is compared,
bit for bit, with the logits of the rung and the executor it names, each loaded alone; `auto` moves
from one executor to the other meanwhile.

Weights are drawn. Prints a table and writes experiments/results/climb_latency/<name>.json.
"""

import os
import tempfile
from pathlib import Path

from absl import flags

from experiments import results_file
from experiments.benchmarks.climb_rows import latency_rows, soak_rows
from experiments.benchmarks.drawn_bundle import write_drawn_bundle
from experiments.results_file import Row, table, write_results
from launch import cli
from pwl_jax.ladder import EXACT
from pwl_jax.models import registry
from pwl_jax.runtime import executor_names

_PAIR = flags.DEFINE_string("pair", "resnet", "Pair of the registry whose latency is measured.")
_SMALL = flags.DEFINE_string("soak_pair", "lenet5_digits", "Pair that is soaked.")
_EXECUTORS = flags.DEFINE_list("executors", list(executor_names()), "What computes.")
_PAIRS = flags.DEFINE_integer("rounds", 10, "Pairs of climb and idle.", lower_bound=1)
_CLIMBS = flags.DEFINE_integer("climbs", 3, "Climbs in each of them.", lower_bound=1)
_REQUESTS = flags.DEFINE_integer("requests", 100_000, "To soak each executor; 0: none.", 0)
_NAME = flags.DEFINE_string("name", "climb_latency", "Name of the JSON file.")
_RESULTS = flags.DEFINE_string("results_dir", str(results_file.RESULTS), "Where results lie.")


def main() -> None:
    """Runs the command from its flags."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="pwl-climbs-") as folder:
        # Set before JAX is first used, so that the first climb compiles and later ones do not.
        os.environ["PWL_EXECUTABLE_CACHE"] = str(Path(folder) / "executables")
        bundle = Path(folder) / "bundle"
        write_drawn_bundle(bundle, registry.pair(_PAIR.value), (4, EXACT))
        for executor in _EXECUTORS.value:
            rows += latency_rows(bundle, _PAIR.value, executor, _PAIRS.value, _CLIMBS.value)
            print("\n".join(table(rows[-6:])), flush=True)
        if _REQUESTS.value:
            small = Path(folder) / "small"
            write_drawn_bundle(small, registry.pair(_SMALL.value), (4, EXACT))
            for executor in (*_EXECUTORS.value, "auto"):
                rows += soak_rows(small, _SMALL.value, executor, _REQUESTS.value)
                print("\n".join(table(rows[-4:])), flush=True)
    path = write_results("climb_latency", _NAME.value, rows, results=Path(_RESULTS.value))
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    cli.run(main)
