r"""Every rung of a distilled pair in few bits, and accuracy over bytes of PWL, P2U and both.

  python -m experiments.rung_precision --workdir=W/resnet/ours/seed0 --data_dir=D

Writes experiments/results/NAME: every prefix at 2, 3, 4, 6 and 8 bits on the test split, and three
bundles as ladders. The bundles are kept in the folder --bundles, or nowhere.
"""

import tempfile
from pathlib import Path
from typing import Any

from absl import flags

from launch import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of a distillation.", required=True)
_CHECKPOINT = flags.DEFINE_enum("checkpoint", "last", ["best", "last"], "Which result.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS prepared its data set.")
_BUNDLES = flags.DEFINE_string("bundles", None, "Folder to keep the bundles in.")
_NAME = flags.DEFINE_string("name", None, "Folder of the results; from the pair's name.")
_RESULTS = flags.DEFINE_string("results", None, "Where results lie; experiments/results.")


def main() -> None:
    """Runs the command from its flags."""
    from experiments.matrix import precision
    from pwl_jax.training import workdir

    which: Any = _CHECKPOINT.value
    model = workdir.load_model(_WORKDIR.value or "", which)
    found = precision.prefix_accuracies(model, _DATA_DIR.value)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(_BUNDLES.value or scratch)
        climbs = precision.ladders(model, folder, _DATA_DIR.value)
    name = _NAME.value or f"rung_precision_{model.config.pair.name}_{model.config.data.name}"
    results = Path(_RESULTS.value) if _RESULTS.value else None
    print(precision.write(model, found, climbs, name, results))


if __name__ == "__main__":
    cli.run(main)
