"""From a checkpoint to a bundle: measure, order, encode, write programs."""

import dataclasses
import functools
import importlib.metadata
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

import pwl_jax
from pwl_jax import precision
from pwl_jax.bundle import BundleReader, BundleWriter, Manifest
from pwl_jax.data import pipeline, sources
from pwl_jax.errors import UserError
from pwl_jax.export.measure import CODED, Measurer, arriving_bytes, chosen_order, expanded
from pwl_jax.export.programs import FORMATS, export_program, tensor_names, units_of
from pwl_jax.export.sensitivity import planned_widths
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.hybrid.masks import entry_name, leaf_names, unit_of
from pwl_jax.ladder import EXACT, Bits, Composition, Rung, Unit, candidate_rungs, paying_rungs
from pwl_jax.models.block_network import Variables
from pwl_jax.training import workdir
from pwl_jax.training.evaluation import Evaluator
from pwl_jax.training.step import device_mesh

PACKAGES = ("jax", "flax", "numpy", "zstandard")
DEFAULT_BUDGET = 1.1
"""A tenth more bytes of codes than with the same bits everywhere, spent where it matters: what it
takes for networks of few thousand weights to keep their accuracy (BUILD_NOTES)."""

MOST_PLANNED = 50_000_000
"""Weights up to which bits are planned unless asked for: a plan takes a forward pass a tensor, and
codes every tensor in each width."""

Model = workdir.TrainedModel | workdir.TrainedNetwork


@dataclasses.dataclass(frozen=True)
class BundleOptions:
    """How tensors are coded, and for whom.

    Attributes:
      quantization: how codes are chosen.
      base_budget: bytes of the first stage's codes, as a share of what they take with the stage's
        bits everywhere: each tensor gets the bits that its measured sensitivity asks for. None
        gives all of them the stage's bits.
      sign_key: Ed25519 private key, as PEM file or key, that signs the manifest.
      against: a bundle that the client has; only what changed since is written.
      programs: formats of the block programs, of `FORMATS`; sizes in the ladder count the first.
    """

    quantization: precision.Quantization = precision.Quantization()
    base_budget: float | None = None
    sign_key: Any = None
    against: BundleReader | None = None
    programs: tuple[str, ...] = tuple(FORMATS)


def export_bundle(
    model: Model,
    path: str | os.PathLike[str],
    bits: Sequence[Bits],
    validation: sources.Source | None,
    test: sources.Source | None,
    order: Literal["measured", "prefix"] | Sequence[Composition] = "measured",
    options: BundleOptions = BundleOptions(),
) -> Manifest:
    """Writes the bundle of a distilled pair, or of one network trained by itself.

    Every choice (bits of tensors, order of swaps, rungs that are kept) is made on the validation
    split; the test split is measured and reported, never looked at for a choice. Without data the
    ladder keeps prefix order, every rung, and no accuracies. A network by itself climbs in
    precision alone, and all its rungs are kept.

    Args:
      model: the pair or the network.
      path: folder of the bundle; an existing bundle is replaced.
      bits: precisions every block comes in, ascending, the last one `exact`.
      validation, test: splits to measure on.
      order: `prefix`, or whatever is measurably best; or the compositions to climb through.
      options: how tensors are coded.

    Raises:
      UserError: precisions that make no ladder, a budget that cannot be kept or has no data to be
        spent by, a path that cannot be written, or a unit without program in one of the formats.
    """
    stages = _checked(bits, options)
    hybrid, variables = as_hybrid(model)
    # Path and programs first, so that what fails there is said before anything is measured.
    with BundleWriter(path, sign_key=options.sign_key, against=options.against) as writer:
        tensors = unit_tensors(hybrid, variables)
        for unit in tensors:
            programs = {
                format: export_program(hybrid, variables, unit, format)
                for format in options.programs
            }
            writer.add_programs(unit, programs, tensor_names(hybrid, variables, unit))
        evaluator = Evaluator(hybrid, device_mesh())
        prepared = [_prepared(model, source) for source in (validation, test)]
        widths: dict[str, tuple[Bits, ...]] = {}
        if options.base_budget is not None:
            if prepared[0] is None:
                raise UserError(
                    "a budget is spent by measured sensitivity; expected validation data"
                )
            widths = planned_widths(
                evaluator, variables, stages, options.base_budget, prepared[0], options.quantization
            )
        for unit, arrays in tensors.items():
            coded = unit.kind in CODED
            writer.add_unit(
                unit,
                arrays,
                stages if coded else stages[-1:],
                widths=widths,
                quantization=options.quantization,
            )
        trees = functools.lru_cache(
            lambda at: expanded(variables, at, stages, options.quantization, widths)
        )
        choosing, reporting = (
            None if source is None else Measurer(evaluator, trees, source) for source in prepared
        )

        def unit_bytes(unit: Unit) -> float:
            bits = stages[0] if unit.kind in CODED else EXACT
            return sum(
                arriving_bytes([array], widths[name][0] if name in widths else bits)
                for name, array in tensors.get(unit, {}).items()
            )

        if isinstance(model, workdir.TrainedNetwork):
            rungs = [Rung.uniform(model.composition, stage) for stage in stages]
        else:
            if isinstance(order, str):
                measurer = choosing if order == "measured" else None
                climbed = chosen_order(hybrid.num_blocks, stages[0], measurer, unit_bytes)
            else:
                climbed = list(order)
            rungs = candidate_rungs(climbed, stages)
        if choosing is not None:
            found = choosing.measure(rungs)
            if isinstance(model, workdir.TrainedModel):
                rungs = paying_rungs(rungs, {rung: found[rung].score for rung in rungs})
        if reporting is not None:
            reporting.measure(rungs)
        return writer.finish(
            pair=model.config.pair.to_dict(),
            preprocessing=workdir.preprocessing_of(model.config),
            classes=_classes(model, validation if validation is not None else test),
            blocks=hybrid.num_blocks,
            ladder=rungs,
            measurements=[
                entry
                for measured in (choosing, reporting)
                if measured is not None
                for entry in measured.measurements()
            ],
            measured_on=_measured_on(model, choosing, reporting, order, options, stages[0]),
            created_with=versions(),
        )


def unit_tensors(hybrid: HybridNetwork, variables: Variables) -> dict[Unit, dict[str, np.ndarray]]:
    """The tensors of a tree by the unit that they belong to."""
    units: dict[Unit, dict[str, np.ndarray]] = {u: {} for u in units_of(hybrid)}
    host = jax.device_get(variables)
    for name, leaf in zip(leaf_names(host), jax.tree.leaves(host), strict=True):
        units[unit_of(name, hybrid.num_blocks)][name] = np.asarray(leaf)
    return {unit: arrays for unit, arrays in units.items() if arrays}


def _checked(bits: Sequence[Bits], options: BundleOptions) -> tuple[Bits, ...]:
    """The stages; of a delta only `exact`, whatever is given."""
    formats = options.programs
    if not formats or set(formats) - set(FORMATS) or len(set(formats)) < len(formats):
        raise UserError(f"programs is '{','.join(formats)}'; expected some of {','.join(FORMATS)}")
    if options.against is not None:
        if options.base_budget is not None:
            raise UserError("base_budget is for codes, and a delta has none; leave one of them out")
        return (EXACT,)
    try:
        stages = precision.check_stages(bits)
        candidate_rungs(Composition.prefixes(1), stages)
    except ValueError as error:
        raise UserError(str(error)) from None
    if options.base_budget is not None:
        if not 0 < options.base_budget < math.inf:
            raise UserError(f"base_budget is {options.base_budget}; expected a share such as 1.0")
        if stages[0] == EXACT:
            raise UserError("base_budget is for the first stage's codes; stages begin with exact")
    return stages


def as_hybrid(model: Model) -> tuple[HybridNetwork, Variables]:
    """The network that holds the model, and as much of its tree as the model fills."""
    if isinstance(model, workdir.TrainedModel):
        return model.hybrid, model.variables
    tree, network = model.variables, str(model.config.task)
    if network == "student":
        tree = {**tree, "batch_stats": {entry_name(None): tree["batch_stats"]}}
    return HybridNetwork.from_pair(model.config.pair), {network: tree}


def _prepared(model: Model, source: sources.Source | None) -> pipeline.PreparedSource | None:
    """A split that holds images, as the network takes them."""
    if source is None or not len(source):
        return None
    return pipeline.PreparedSource(source, workdir.preprocessing_of(model.config))


def _classes(model: Model, source: sources.Source | None) -> tuple[str, ...]:
    if source is not None:
        return source.classes
    return tuple(str(label) for label in range(model.config.pair.teacher.classes))


def _measured_on(
    model: Model,
    choosing: Measurer | None,
    reporting: Measurer | None,
    order: str | Sequence[Composition],
    options: BundleOptions,
    first: Bits,
) -> Mapping[str, object]:
    """What the figures in a manifest stand on."""
    used = choosing or reporting
    if isinstance(model, workdir.TrainedNetwork):
        selection = "one network: every precision is a rung"
    elif not isinstance(order, str):
        rungs = "every rung" if choosing is None else "rungs were chosen on the validation split"
        selection = f"order given; {rungs}"
    elif choosing is None:
        selection = "no validation split: prefix order, every rung"
    elif order == "measured":
        selection = "order and rungs were chosen on the validation split"
    else:
        selection = "prefix order; rungs were chosen on the validation split"
    if options.base_budget is not None:
        budget = f"{options.base_budget:.0%} of the bytes of {first} bits"
        selection += f"; each tensor's bits were chosen on the validation split within {budget}"
    return {
        "dataset": used.dataset if used else None,
        "split": choosing.split if choosing else None,
        "examples": choosing.examples if choosing else 0,
        "test_examples": reporting.examples if reporting else 0,
        "selection": f"{selection}; test is only reported" if reporting else selection,
    }


def versions() -> dict[str, str]:
    """Of this package and of those that a bundle's bytes depend on."""
    # Run from a checkout, the package is not installed and has no metadata.
    found = {"pwl_jax": pwl_jax.__version__}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}
