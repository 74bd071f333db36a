"""From a checkpoint to a bundle: measure, order, encode, write programs."""

import functools
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import numpy as np

import pwl_jax
from pwl_jax import precision
from pwl_jax.bundle import BundleWriter, Manifest
from pwl_jax.data import pipeline, sources
from pwl_jax.errors import UserError
from pwl_jax.export.measure import CODED, Measurer, arriving_bytes, chosen_order, expanded
from pwl_jax.export.programs import export_program, units_of
from pwl_jax.hybrid.masks import leaf_names, unit_of
from pwl_jax.ladder import EXACT, Bits, Composition, Unit, candidate_rungs, paying_rungs
from pwl_jax.training import workdir
from pwl_jax.training.evaluation import Evaluator
from pwl_jax.training.step import device_mesh

PACKAGES = ("jax", "flax", "numpy", "zstandard")


def export_bundle(
    model: workdir.TrainedModel,
    path: str | os.PathLike[str],
    bits: Sequence[Bits],
    validation: sources.Source | None,
    test: sources.Source | None,
    order: Literal["measured", "prefix"] = "measured",
) -> Manifest:
    """Writes the bundle of a distilled pair.

    Every choice (order of swaps, rungs that are kept) is made on the validation split; the test
    split is measured and reported, never looked at for a choice. Without data the ladder keeps
    prefix order, every rung, and no accuracies.

    Args:
      model: the pair.
      path: folder of the bundle; an existing bundle is replaced.
      bits: precisions every block comes in, ascending, the last one `exact`.
      validation, test: splits to measure on.
      order: `prefix`, or whatever is measurably best.

    Raises:
      UserError: precisions that make no ladder, or a path that cannot be written.
    """
    try:
        stages = precision.check_stages(bits)
        candidate_rungs(Composition.prefixes(model.hybrid.num_blocks), stages)
    except ValueError as error:
        raise UserError(str(error)) from None
    # First of all, so that a path that cannot be written is said before anything is measured.
    with BundleWriter(path) as writer:
        tensors = unit_tensors(model)
        for unit, arrays in tensors.items():
            coded = unit.kind in CODED
            writer.add_unit(unit, arrays, stages if coded else stages[-1:])
            program = export_program(model.hybrid, model.variables, unit)
            writer.add_program(unit, "stablehlo", program.data, program.bindings)
        choosing, reporting = _measurers(model, stages, validation, test)

        def unit_bytes(unit: Unit) -> float:
            bits = stages[0] if unit.kind in CODED else EXACT
            return arriving_bytes(tensors.get(unit, {}).values(), bits)

        swaps = chosen_order(
            model.hybrid.num_blocks,
            stages[0],
            choosing if order == "measured" else None,
            unit_bytes,
        )
        rungs = candidate_rungs(swaps, stages)
        if choosing is not None:
            found = choosing.measure(rungs)
            rungs = paying_rungs(rungs, {rung: found[rung].score for rung in rungs})
        if reporting is not None:
            reporting.measure(rungs)
        return writer.finish(
            pair=model.config.pair.to_dict(),
            preprocessing=workdir.preprocessing_of(model.config),
            classes=_classes(model, validation if validation is not None else test),
            blocks=model.hybrid.num_blocks,
            ladder=rungs,
            measurements=[
                entry
                for measured in (choosing, reporting)
                if measured is not None
                for entry in measured.measurements()
            ],
            measured_on=_measured_on(choosing, reporting, order),
            created_with=_versions(),
        )


def unit_tensors(model: workdir.TrainedModel) -> dict[Unit, dict[str, np.ndarray]]:
    """All tensors of the tree by the unit that they belong to."""
    units: dict[Unit, dict[str, np.ndarray]] = {u: {} for u in units_of(model.hybrid)}
    host = jax.device_get(model.variables)
    for name, leaf in zip(leaf_names(host), jax.tree.leaves(host), strict=True):
        units[unit_of(name, model.hybrid.num_blocks)][name] = np.asarray(leaf)
    return units


def _measurers(
    model: workdir.TrainedModel, stages: Sequence[Bits], *splits: sources.Source | None
) -> list[Measurer | None]:
    """One for each split that holds images; they share compiled blocks and expanded weights."""
    evaluator = Evaluator(model.hybrid, device_mesh())
    trees = functools.lru_cache(lambda bits: expanded(model.variables, bits, stages))
    preprocessing = workdir.preprocessing_of(model.config)
    return [
        Measurer(evaluator, trees, pipeline.PreparedSource(source, preprocessing))
        if source is not None and len(source)
        else None
        for source in splits
    ]


def _classes(model: workdir.TrainedModel, source: sources.Source | None) -> tuple[str, ...]:
    if source is not None:
        return source.classes
    return tuple(str(label) for label in range(model.config.pair.teacher.classes))


def _measured_on(
    choosing: Measurer | None, reporting: Measurer | None, order: str
) -> Mapping[str, object]:
    """What the figures in a manifest stand on."""
    used = choosing or reporting
    if choosing is None:
        selection = "no validation split: prefix order, every rung"
    elif order == "measured":
        selection = "order and rungs were chosen on the validation split"
    else:
        selection = "prefix order; rungs were chosen on the validation split"
    return {
        "dataset": used.dataset if used else None,
        "split": choosing.split if choosing else None,
        "examples": choosing.examples if choosing else 0,
        "test_examples": reporting.examples if reporting else 0,
        "selection": f"{selection}; test is only reported" if reporting else selection,
    }


def _versions() -> dict[str, str]:
    # Run from a checkout, the package is not installed and has no metadata.
    found = {"pwl_jax": pwl_jax.__version__}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}
