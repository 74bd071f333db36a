"""How far our numbers are from PyTorch's, on the same weights and inputs.

  [PWL_BASELINE_DIR=B] python -m experiments.benchmarks.parity_report [--data_dir=D]

Needs PyTorch (the extra `parity`). The references are the modules of tests/parity and, where B is a
clone of the PyTorch baseline, the baseline itself. Small pairs of all families in float32 on CPU;
comparisons and bounds are those of tests/parity. Prints a table and writes
experiments/results/parity/<reference>.json, which also has each composition's difference of logits.
Takes some minutes on two CPU cores.
"""

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments.results_file import Row, table, write_results
from launch import cli
from pwl_jax.data.sources import load
from pwl_jax.errors import UserError

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS prepared cifar10, to use its images.")


def main() -> None:
    """Runs the command from its flags."""
    if importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is not installed; pip install '.[parity]' has it")
    import torch

    from tests.parity import references

    torch.set_num_threads(1)
    for name in ["written_here", *(["baseline"] if references.BASELINE_DIR else [])]:
        reference = references.reference(name)
        compositions: dict[str, Any] = {}
        rows = [
            *logits_rows(reference, compositions),
            *loss_rows(reference),
            *training_rows(reference),
            *image_rows(reference),
        ]
        print("\n".join([f"PyTorch: {name}", *table(rows)]))
        more = {"torch": torch.__version__, "logits": compositions}
        print(f"results: {write_results('parity', name, rows, more=more)}\n")


def logits_rows(reference: Any, compositions: dict[str, Any]) -> Iterator[Row]:
    """Largest over the compositions, each of which is added to `compositions`."""
    from tests.parity import ours, theirs
    from tests.parity.pairs import DEEPEST, WIDTHS
    from tests.parity.settings import BATCH, setting

    for family in DEEPEST:
        for widths in WIDTHS:
            given = setting(family, widths)
            found, equal = {}, []
            our_logits = ours.logits(given, BATCH)
            for composition, expected in theirs.logits(reference, given, BATCH).items():
                got = our_logits[composition]
                difference = float(np.abs(got - expected).max())
                found[str(composition)] = (difference, difference / float(np.abs(expected).max()))
                equal.append((got.argmax(-1) == expected.argmax(-1)).mean())
            compositions[given.pair.name] = {"absolute and relative difference": found}
            largest = np.max(list(found.values()), axis=0)
            case = f"{given.pair.name}, logits of {len(found)} compositions"
            yield Row(case, "largest difference", "", (largest[0],), "<= 2e-5")
            yield Row(case, "of the largest logit", "", (largest[1],), "<= 1e-4")
            yield Row(case, "equal top-1", "share", (float(np.mean(equal)),), "== 1")


def loss_rows(reference: Any) -> Iterator[Row]:
    """Terms and gradients of the objective on one batch."""
    from tests.parity import ours, theirs
    from tests.parity.pairs import FAMILIES
    from tests.parity.results import relative_difference
    from tests.parity.settings import CROSS_MODES, setting

    for family in FAMILIES:
        for cross in CROSS_MODES:
            given = setting(family)
            expected, got = theirs.loss(reference, given, cross), ours.loss(given, cross)
            case = f"{given.pair.name}, cross '{cross}', one batch"
            for name, value in expected.terms.items():
                # Within 1e-5 of the value or 1e-6, whichever is more.
                difference = abs(got.terms[name] - value) / max(abs(value), 0.1)
                yield Row(case, f"term {name}", "of the value", (difference,), "<= 1e-5")
            difference = relative_difference(expected.gradients, got.gradients)
            yield Row(case, "gradients", "of their norm", (difference,), "<= 1e-4")


def training_rows(reference: Any) -> Iterator[Row]:
    """Parameters and running statistics after twenty steps."""
    from tests.parity import ours, theirs
    from tests.parity.pairs import FAMILIES
    from tests.parity.results import (
        largest_difference,
        relative_difference,
        trained_parameters,
    )
    from tests.parity.settings import CROSS_MODES, STEPS, setting

    for family in FAMILIES:
        for cross in CROSS_MODES:
            given = setting(family)
            expected, got = theirs.trained(reference, given, cross), ours.trained(given, cross)
            before, after, found = map(trained_parameters, (given.variables, expected, got))
            case = f"{given.pair.name}, cross '{cross}', {STEPS} steps of SGD"
            moved = relative_difference(before, after)
            yield Row(case, "parameters moved by", "of their norm", (moved,))
            difference = relative_difference(after, found)
            yield Row(case, "parameters", "of their norm", (difference,), "<= 1e-4")
            statistics = [tree["student"]["batch_stats"] for tree in (expected, got)]
            if statistics[0]["own"]:
                largest = largest_difference(*statistics)
                yield Row(case, "running statistics", "", (largest,), "<= 1e-5")


def image_rows(reference: Any) -> Iterator[Row]:
    """Pixels and top-1 of PNG files."""
    from tests.parity.image_files import COUNT, SIZES, agreement, png_files

    sources = [load("digits", "test")]
    if _DATA_DIR.value:
        sources.append(load("cifar10", "test", _DATA_DIR.value))
    for source in sources:
        with tempfile.TemporaryDirectory() as folder:
            paths = png_files(source, Path(folder))
            for family, size in SIZES:
                found = agreement(reference, paths, family, size)
                case = f"{family}, {COUNT} PNG files of {source.name} at {size}x{size}"
                levels = 255 * found.pixels
                yield Row(case, "pixels", "of 255 levels", (levels,), "<= 2")
                for composition, share in found.same.items():
                    yield Row(case, f"equal top-1, {composition}", "share", (share,), "== 1")


if __name__ == "__main__":
    cli.run(main)
