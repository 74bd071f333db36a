r"""Every rung of a distilled pair in few bits, and accuracy over bytes of PWL, P2U and both.

  python -m experiments.rung_precision --workdir=W/resnet/ours/seed0 --data_dir=D

Writes experiments/results/NAME: every prefix at 2, 3, 4, 6 and 8 bits on the test split, and three
bundles as ladders. The bundles are kept in the folder --bundles, or nowhere. What was measured
stays in the workdir: a second run writes it again, unless weights changed or --bundles is given.
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
    kept = Path(_WORKDIR.value or "") / f"rung_precision_{which}.json"
    measured = None if _BUNDLES.value else precision.held(kept, model)
    if measured is None:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(_BUNDLES.value or scratch)
            measured = (
                precision.prefix_accuracies(model, _DATA_DIR.value),
                precision.ladders(model, folder, _DATA_DIR.value),
            )
        precision.keep(kept, model, *measured)
    name = _NAME.value or f"rung_precision_{model.config.pair.name}_{model.config.data.name}"
    results = Path(_RESULTS.value) if _RESULTS.value else None
    print(precision.write(model, *measured, name, results))


if __name__ == "__main__":
    cli.run(main)
