"""Top-1 at 4 bits by how scales are chosen, with and without bias correction.

  python -m experiments.benchmarks.quantizer_rules --workdir=W/teacher [--data_dir=D]

One network, trained by itself, every tensor in 4 bits, the first --images of the test split. Prints
a table and writes experiments/results/quantizer_rules/<pair>_<data>.json.
"""

import dataclasses
import functools
from pathlib import Path

from absl import flags

from experiments.results_file import Row, table, write_results
from launch import cli
from pwl_jax.data import pipeline
from pwl_jax.export import measure
from pwl_jax.export.exporter import as_hybrid
from pwl_jax.ladder import EXACT, Bits, Rung
from pwl_jax.models.block_network import Variables
from pwl_jax.precision import Quantization
from pwl_jax.training import workdir
from pwl_jax.training.evaluation import Evaluator
from pwl_jax.training.step import device_mesh

_WORKDIR = flags.DEFINE_string("workdir", None, "Of a network trained by itself.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS prepared its data.")
_IMAGES = flags.DEFINE_integer("images", 4000, "Test images to look at.", lower_bound=1)

RULES = {
    "squares": Quantization(scale="mse", bias_correction=False),
    "squares, corrected": Quantization(scale="mse"),
    "extremes, corrected": Quantization(scale="minmax"),
    "fourth powers, corrected (default)": Quantization(),
    "fourth powers, corrected, groups of 64": Quantization(group_size=64),
    "fourth powers, corrected, affine": Quantization("affine"),
}


def main() -> None:
    """Runs the command from its flags."""
    model = workdir.load_network(Path(_WORKDIR.value))
    source = workdir.open_data(model.config, "test", data_dir=_DATA_DIR.value)
    source = dataclasses.replace(source, indices=source.indices[: _IMAGES.value])
    prepared = pipeline.PreparedSource(source, workdir.preprocessing_of(model.config))
    hybrid, variables = as_hybrid(model)
    evaluator = Evaluator(hybrid, device_mesh())

    def score(bits: Bits, rule: Quantization) -> float:
        @functools.cache
        def tree(at: Bits) -> Variables:
            return measure.expanded(variables, at, (4, EXACT), rule)

        rung = Rung.uniform(model.composition, bits)
        return 100 * measure.Measurer(evaluator, tree, prepared).measure([rung])[rung].score

    case = f"{model.config.pair.name}, {len(source)} test images of {source.name}"
    exact = score(EXACT, Quantization())
    rows = [Row(case, "original", "%", (exact,))]
    for name, rule in RULES.items():
        rows.append(Row(case, f"lost at 4 bits: {name}", "points", (exact - score(4, rule),)))
    print("\n".join(table(rows)))
    name = f"{model.config.pair.name}_{source.name}"
    print(f"results: {write_results('quantizer_rules', name, rows)}")


if __name__ == "__main__":
    cli.run(main)
