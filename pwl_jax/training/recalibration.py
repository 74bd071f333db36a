"""BatchNorm measured anew for each composition by itself: a way to evaluate, not to serve.

The ladder keeps statistics per stream (`calibration`), which a bundle holds once for all
compositions. Statistics of a composition of its own are what an objective could reach if these were
for free: with them a table compares objectives and not their statistics. Their means by stream are
what suits every composition that enters it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from pwl_jax.data import pipeline, sources
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.hybrid.masks import entry_name
from pwl_jax.ladder import EXACT, Bits, Composition, Rung
from pwl_jax.models.block_network import Variables
from pwl_jax.training import workdir
from pwl_jax.training.evaluation import Accuracy, Evaluator, evaluate_compositions, fitting_batch
from pwl_jax.training.step import Batch, device_mesh, replicate, settled, shard_batch

Statistics = dict[str, Variables]
"""Statistics of each student block, `{part: tree}`, by the letters of the blocks up to it."""


def composition_statistics(
    evaluator: Evaluator,
    variables: Variables,
    compositions: Sequence[Composition],
    batches: Iterable[Batch],
    normalize: Callable[[Any], Any],
) -> Statistics:
    """The moments of every student block in every composition, averaged over batches.

    Every block is normalised by its batch's own moments, so that what lies behind it does not
    depend on statistics that are yet to be measured.

    Args:
      evaluator: of the pair.
      variables: the hybrid's tree.
      compositions: to measure.
      batches: full batches of training images, not augmented; every one counts the same.
      normalize: uint8 images to the network's input.
    """
    hybrid = evaluator.hybrid
    run = jax.jit(
        lambda index, block, x: hybrid.student.apply_block(index, block, x, train=True),
        static_argnums=0,
        # Moments are the whole batch's, on every device of every host.
        out_shardings=(None, NamedSharding(evaluator.mesh, PartitionSpec())),
    )
    teacher = jax.jit(hybrid.run, static_argnums=0)
    rungs = [Rung.uniform(composition, EXACT) for composition in compositions]
    total: Statistics = {}
    count = 0
    for batch in batches:
        moments: Statistics = {}

        def block(
            here: Composition, bits: Bits, x: jax.Array, found: Statistics = moments
        ) -> jax.Array:
            del bits
            x = evaluator.crossed(here, variables, x)
            unit = here.block(len(here) - 1)
            block_variables = hybrid.unit_variables(variables, unit)
            if unit.kind == "teacher":
                return teacher(unit, block_variables, x)
            # Collectives of two blocks must not overlap.
            y, found[str(here)] = settled(run(unit.index, block_variables, x), evaluator.mesh)
            return y

        images = {"image": normalize(batch["image"]), "label": batch["label"]}
        placed = shard_batch(images, evaluator.mesh, replicated_input=True)
        evaluator.descend(rungs, placed["image"], block)
        found = jax.device_get(moments)
        total = jax.tree.map(np.add, total, found) if total else found
        count += 1
    return jax.tree.map(lambda leaf: leaf / np.float32(count), total)


def stream_statistics(hybrid: HybridNetwork, found: Statistics) -> Variables:
    """Means by stream of what `composition_statistics` found: a student's `batch_stats`.

    Every composition of the blocks up to a student's block that enters its stream counts the same.
    """
    by_stream: dict[str, dict[str, list[Any]]] = {}
    for letters, parts in found.items():
        here = Composition.parse(letters)
        entry = here.entry(here.block(len(here) - 1)) if hybrid.per_stream else None
        stream = entry_name(entry)
        for part, tree in parts.items():
            by_stream.setdefault(stream, {}).setdefault(part, []).append(tree)
    return {
        stream: {
            part: jax.tree.map(lambda *leaves: sum(leaves) / np.float32(len(leaves)), *trees)
            for part, trees in parts.items()
        }
        for stream, parts in by_stream.items()
    }


def calibrated_over_all(
    evaluator: Evaluator,
    variables: Variables,
    batches: Iterable[Batch],
    normalize: Callable[[Any], Any],
) -> Variables:
    """The variables with each stream's statistics measured over all 2^N compositions.

    What `calibration.calibrated` does over the prefixes; arguments as of `composition_statistics`.
    """
    if not jax.tree.leaves(variables["student"]["batch_stats"]):
        return variables
    compositions = Composition.all(evaluator.hybrid.num_blocks)
    found = composition_statistics(evaluator, variables, compositions, batches, normalize)
    stats = stream_statistics(evaluator.hybrid, found)
    placed = jax.device_put(stats, NamedSharding(evaluator.mesh, PartitionSpec()))
    return {**variables, "student": {**variables["student"], "batch_stats": placed}}


def measure_recalibrated(
    model: workdir.TrainedModel,
    compositions: Sequence[Composition],
    source: sources.Source,
    training: sources.Source,
    examples: int = 10_000,
    batch_size: int = 256,
) -> dict[Composition, Accuracy]:
    """Accuracy of compositions, each with statistics measured for it alone.

    Args:
      model: the pair.
      compositions: to measure.
      source: images they are measured on.
      training: images that statistics are measured on.
      examples: how many of these.
      batch_size: images a step.
    """
    preprocessing = workdir.preprocessing_of(model.config)
    mesh = device_mesh()
    evaluator, variables = Evaluator(model.hybrid, mesh), replicate(model.variables, mesh)
    test, train = (pipeline.PreparedSource(s, preprocessing) for s in (source, training))
    normalize = preprocessing.normalize
    statistics = composition_statistics(
        evaluator,
        variables,
        compositions,
        pipeline.sampled_batches(train, examples, batch_size, model.config.seed, mesh.size),
        normalize,
    )
    return evaluate_compositions(
        evaluator,
        variables,
        compositions,
        pipeline.eval_batches(test, fitting_batch(batch_size, len(test), mesh)),
        normalize,
        statistics,
    )
