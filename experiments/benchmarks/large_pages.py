r"""The all-prefix step on CPU with the C library's memory in large pages, beside without.

  python -m experiments.benchmarks.large_pages [--pairs=resnet_small,vgg_small,vit_small] \
      [--batch=128] [--steps=5] [--rounds=3]

XLA takes all memory of a step in one piece, tens to hundreds of megabytes, which Linux maps in
pages of 4 KiB unless `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` asks for larger ones (glibc 2.35 and
later; kernels whose transparent_hugepage is `madvise`), and gives back after it, unless further
tunables let the process keep it. The variable counts at a process's start, so every round times
processes of each kind in turn. Prints a table and writes it to
experiments/results/large_pages/<name>.json.
"""

import os
from pathlib import Path

from absl import flags

from experiments.benchmarks.json_worker import json_answer
from experiments.matrix.children import KEPT_PAGES, LARGE_PAGES
from experiments.results_file import Row, table, write_results
from launch import cli

_PAIRS = flags.DEFINE_list("pairs", ["resnet_small", "vgg_small", "vit_small"], "Of the registry.")
_BATCH = flags.DEFINE_integer("batch", 128, "Examples a step.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 5, "Timed in a process.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Processes of each kind.", lower_bound=1)
_NAME = flags.DEFINE_string("name", "large_pages", "Name of the JSON file.")
_RESULTS = flags.DEFINE_string("results", None, "Where results lie; experiments/results.")

_KINDS = {"small pages": "", "large pages": LARGE_PAGES, "large pages, kept": KEPT_PAGES}
_WORKER = """
import json, sys
from experiments.benchmarks import step_cases
from pwl_jax.models.registry import pair
from pwl_jax.training.step import device_mesh
name, batch, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
step = step_cases.timed_step(pair(name), step_cases.all_prefix_loss, batch, device_mesh())
step.seconds(2)
print(json.dumps(step.seconds(steps)))
"""


def main() -> None:
    """Times every pair each way."""
    rows = []
    for name in _PAIRS.value:
        found: dict[str, list[float]] = {kind: [] for kind in _KINDS}
        for _ in range(_ROUNDS.value):
            for kind, tunables in _KINDS.items():
                found[kind].append(_step_seconds(name, tunables))
        case = f"{name}, batch {_BATCH.value}"
        rows += [Row(case, kind, "s a step", tuple(values)) for kind, values in found.items()]
        for kind in list(_KINDS)[1:]:
            ratios = zip(found[kind], found["small pages"], strict=True)
            rows.append(Row(case, f"{kind}, over small", "ratio", tuple(a / b for a, b in ratios)))
    print("\n".join(table(rows)))
    results = Path(_RESULTS.value) if _RESULTS.value else None
    print(f"\nwritten to {write_results('large_pages', _NAME.value, rows, results=results)}")


def _step_seconds(name: str, tunables: str) -> float:
    """Of one step in a process of its own."""
    arguments = [name, str(_BATCH.value), str(_STEPS.value)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": tunables}
    return float(json_answer(f"the process of pair '{name}'", _WORKER, arguments, environment))


if __name__ == "__main__":
    cli.run(main)
