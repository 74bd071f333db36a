"""What 4 and 8 bits cost in top-1 on the test split, without retraining."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

from experiments.results_file import Row
from pwl_jax.data import pipeline
from pwl_jax.export import DEFAULT_BUDGET, measure
from pwl_jax.export.exporter import as_hybrid
from pwl_jax.export.sensitivity import planned_widths
from pwl_jax.ladder import EXACT, Bits, Composition, Rung
from pwl_jax.precision import Quantization
from pwl_jax.training import workdir
from pwl_jax.training.evaluation import Accuracy, Evaluator
from pwl_jax.training.step import device_mesh

STAGES: tuple[Bits, ...] = (4, 8, EXACT)
MOST_POINTS = {4: 1.0, 8: 0.1}
"""Points of top-1 that a precision may cost; at 8 bits an image where that is more."""


def teacher_rows(
    path: Path, data_dir: str | None = None, images: int | None = None
) -> Iterator[Row]:
    """The teacher of a workdir at each precision, on the first test images, or all.

    Raises:
      UserError: no teacher, or its data are not at hand.
    """
    if workdir.read_config(path).task == "distill":
        network = workdir.teacher_of(workdir.load_model(path))
    else:
        network = workdir.load_network(path)
    yield from _rows(network, [network.composition], "teacher", data_dir, images)


def pair_rows(path: Path, data_dir: str | None = None, images: int | None = None) -> Iterator[Row]:
    """Every prefix of a distilled pair at each precision: student blocks, teacher blocks, mixed.

    Raises:
      UserError: no distilled pair, or its data are not at hand.
    """
    model = workdir.load_model(path)
    yield from _rows(model, Composition.prefixes(model.hybrid.num_blocks), "pair", data_dir, images)


def _rows(
    model: workdir.TrainedModel | workdir.TrainedNetwork,
    compositions: list[Composition],
    kind: str,
    data_dir: str | None,
    images: int | None,
) -> Iterator[Row]:
    hybrid, variables = as_hybrid(model)
    evaluator = Evaluator(hybrid, device_mesh())
    validation, test = (
        pipeline.PreparedSource(
            workdir.open_data(model.config, split, data_dir=data_dir),
            workdir.preprocessing_of(model.config),
        )
        for split in ("validation", "test")
    )
    first = dataclasses.replace(test.source, indices=test.source.indices[:images])
    test = pipeline.PreparedSource(first, test.preprocessing)
    rule = Quantization()
    widths = planned_widths(evaluator, variables, STAGES, DEFAULT_BUDGET, validation, rule)
    rungs = {(c, bits): Rung.uniform(c, bits) for c in compositions for bits in STAGES}
    found: dict[str, dict[Rung, Accuracy]] = {}
    for way, planned in (("", None), (", planned as exported", widths)):
        trees = functools.lru_cache(
            lambda bits, planned=planned: measure.expanded(variables, bits, STAGES, rule, planned)
        )
        found[way] = measure.Measurer(evaluator, trees, test).measure(list(rungs.values()))
    case = f"accuracy of {kind} {model.config.pair.name}, {test.source.name} test"
    for composition in compositions:
        name = f"{composition}: " if kind == "pair" else ""
        exact = found[""][rungs[composition, EXACT]]
        yield Row(case, f"{name}{exact.metric}, original", "%", (100 * exact.score,))
        for bits in (4, 8):
            most = MOST_POINTS[bits]
            if bits == 8:
                most = max(most, 100 / exact.examples)
            for way, measured in found.items():
                lost = 100 * (exact.score - measured[rungs[composition, bits]].score)
                # Counts of images as shares: the last digits are those of the division.
                yield Row(
                    case,
                    f"{name}lost at {bits} bits{way}",
                    "points",
                    (round(lost, 9),),
                    f"<= {round(most, 9)}",
                    f"of {exact.examples} images",
                )
