"""What 4 and 8 bits cost in top-1 on the test split, without retraining."""

from collections.abc import Iterator
from pathlib import Path

import jax

from experiments.results_file import Row
from pwl_jax.data import pipeline
from pwl_jax.export import measure
from pwl_jax.ladder import EXACT, Bits, Composition, Rung
from pwl_jax.models.block_network import Variables
from pwl_jax.training import workdir
from pwl_jax.training.evaluation import Accuracy, Evaluator, accuracy, fitting_batch
from pwl_jax.training.step import device_mesh, replicate

STAGES: tuple[Bits, ...] = (4, 8, EXACT)
MOST_POINTS = {4: 1.0, 8: 0.1}
"""Points of top-1 that a precision may cost; at 8 bits an image where that is more."""


def teacher_rows(path: Path, data_dir: str | None = None) -> Iterator[Row]:
    """The teacher of a workdir at each precision.

    Raises:
      UserError: no teacher, or its data are not at hand.
    """
    config = workdir.read_config(path)
    network = config.pair.teacher.build()
    exact = {"teacher": workdir.load_teacher(path, config)}
    source = workdir.open_data(config, "test", data_dir=data_dir)
    preprocessing = workdir.preprocessing_of(config)
    prepared = pipeline.PreparedSource(source, preprocessing)
    mesh = device_mesh()
    trees = {
        str(bits): replicate(measure.expanded(exact, bits, STAGES)["teacher"], mesh)
        for bits in STAGES
    }
    run = jax.jit(lambda variables, images: network.apply(variables, images).logits)
    size = fitting_batch(measure.EVALUATION_BATCH, len(prepared), mesh)
    found = accuracy(
        lambda images: {bits: run(tree, images) for bits, tree in trees.items()},
        pipeline.eval_batches(prepared, size),
        preprocessing.normalize,
        mesh,
    )
    case = f"accuracy of teacher {config.pair.name}, {source.name} test"
    yield from _rows(case, {bits: found[str(bits)] for bits in STAGES}, "")


def pair_rows(path: Path, data_dir: str | None = None) -> Iterator[Row]:
    """Every prefix of a distilled pair at each precision: student blocks, teacher blocks, mixed.

    Raises:
      UserError: no distilled pair, or its data are not at hand.
    """
    model = workdir.load_model(path)
    source = workdir.open_data(model.config, "test", data_dir=data_dir)
    prepared = pipeline.PreparedSource(source, workdir.preprocessing_of(model.config))
    mesh = device_mesh()
    exact = replicate(model.variables, mesh)
    trees: dict[Bits, Variables] = {
        bits: replicate(measure.expanded(model.variables, bits, STAGES), mesh)
        for bits in STAGES
        if bits != EXACT
    }
    trees[EXACT] = exact
    measurer = measure.Measurer(Evaluator(model.hybrid, mesh), trees.__getitem__, prepared)
    prefixes = Composition.prefixes(model.hybrid.num_blocks)
    rungs = {(c, bits): Rung.uniform(c, bits) for c in prefixes for bits in STAGES}
    found = measurer.measure(list(rungs.values()))
    case = f"accuracy of pair {model.config.pair.name}, {source.name} test"
    for composition in prefixes:
        here = {bits: found[rungs[composition, bits]] for bits in STAGES}
        yield from _rows(case, here, f"{composition}: ")


def _rows(case: str, found: dict[Bits, Accuracy], what: str) -> Iterator[Row]:
    exact = found[EXACT]
    yield Row(case, f"{what}top-1, original", "%", (100 * exact.score,))
    for bits in (4, 8):
        lost = 100 * (exact.score - found[bits].score)
        most = MOST_POINTS[bits]
        if bits == 8:
            most = max(most, 100 / exact.examples)
        # Counts of images as shares: the last digits are those of the division.
        yield Row(
            case,
            f"{what}lost at {bits} bits",
            "points",
            (round(lost, 9),),
            f"<= {round(most, 9)}",
            f"of {exact.examples} images",
        )
