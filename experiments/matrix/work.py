"""One unit of a comparison, from its teacher to its measurements; resumed where it was stopped."""

import contextlib
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.matrix.units import (
    Budget,
    MatrixError,
    Unit,
    distill_config,
    teacher_config,
)
from experiments.objectives import FITTED
from experiments.results_file import device, versions
from pwl_jax.bundle.whole_file import written_whole
from pwl_jax.data import pipeline, sources
from pwl_jax.ladder import EXACT, Composition, Rung
from pwl_jax.models.block_network import Variables
from pwl_jax.training import loop, preparation, workdir
from pwl_jax.training.checkpoints import CheckpointError, Which, held_result
from pwl_jax.training.config import RunConfig, differences
from pwl_jax.training.evaluation import Evaluator
from pwl_jax.training.imported import write_result
from pwl_jax.training.recalibration import measure_recalibrated
from pwl_jax.training.step import device_mesh
from pwl_jax.training.stitching import stitched

MEASURED = "measured.json"
RECALIBRATION_IMAGES = 10_000
"""Training images by which statistics of a composition of its own are measured."""


def done(unit: Unit, budget: Budget, root: Path) -> bool:
    """Whether a unit was measured.

    Raises:
      MatrixError: it was, with another config than this budget gives it.
    """
    path = root / unit.name / MEASURED
    if not path.exists():
        return False
    held = json.loads(path.read_text())["config"]
    _check_same(path.parent, distill_config(unit, budget, None), RunConfig.from_dict(held))
    return True


def run_unit(unit: Unit, budget: Budget, root: Path, data_dir: str | None) -> bool:
    """Trains and measures a unit; False where a signal stopped it, and it can go on later.

    Args:
      unit: which.
      budget: of the comparison.
      root: the comparison's folder.
      data_dir: where TFDS prepared the data.

    Raises:
      MatrixError: the folder holds the unit, or a run it needs, with another config.
    """
    if done(unit, budget, root):
        return True
    teacher = root / unit.family / "teacher"
    config = distill_config(unit, budget, data_dir)
    where, trained_in = root / unit.name, root / unit.trained.name
    if not _trained(teacher_config(unit.family, budget, data_dir), teacher, None):
        return False
    if not _trained(config, trained_in, teacher):
        return False
    training = workdir.open_data(config, "train")
    if unit.objective in FITTED and not (where / "config.json").exists():
        write_result(where, config, stitched(workdir.load_model(trained_in, "last"), training))
    test = workdir.open_data(config, "test")
    found = {
        "unit": unit.name,
        "budget": {
            "epochs": config.epochs,
            "batch_size": config.batch_size,
            "steps": _steps(trained_in),
            "gflop_a_step": preparation.dry_run(config, compiled=False)["flops"] / 1e9,
            "train_seconds": train_seconds(trained_in),
        },
        "config": config.to_dict(),
        **_measured(unit, where, teacher, training, test),
        "versions": versions(),
        "device": device(),
        "platform": jax.devices()[0].device_kind,
        "date": datetime.date.today().isoformat(),
    }
    with written_whole(where / MEASURED) as file:
        file.write((json.dumps(found, indent=1) + "\n").encode())
    return True


def _trained(config: RunConfig, where: Path, teacher: Path | None) -> bool:
    if (where / "checkpoints").exists():
        _check_same(where, config, workdir.read_config(where))
        with contextlib.suppress(CheckpointError):
            # Only a run that came to its end has a last result.
            held_result(where, "last")
            return True
    return loop.train(config, where, teacher, progress=False).finished


def _check_same(where: Path, config: RunConfig, held: RunConfig) -> None:
    """Raises MatrixError where configs differ in more than where their data lie."""
    found = [line for line in differences(config, held) if not line.startswith("data.data_dir:")]
    if found:
        raise MatrixError(
            f"'{where}' holds a run with another config ({'; '.join(found[:3])}); choose another "
            "workdir, or remove that folder"
        )


def _steps(where: Path) -> int:
    return max(entry["step"] for entry in _metrics(where))


def train_seconds(where: Path) -> float:
    """What the steps of a run took, as its metrics say: without compiling, evaluating, saving."""
    total, before = 0.0, 0
    for entry in _metrics(where):
        if "speed/step_ms" in entry:
            # The speed of a dispatch stands with its last step.
            total += entry["speed/step_ms"] / 1e3 * max(entry["step"] - before, 0)
            before = entry["step"]
    return total


def _metrics(where: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (where / "metrics.jsonl").read_text().splitlines()]


def _measured(
    unit: Unit, where: Path, teacher: Path, training: sources.Source, test: sources.Source
) -> dict[str, Any]:
    """Accuracies on the test split: of each checkpoint, and recalibrated of the last one."""
    model = workdir.load_model(where, "last")
    blocks = model.hybrid.num_blocks
    hybrids = unit.objective in FITTED or model.config.objective.trains_hybrids
    compositions = Composition.all(blocks) if hybrids else Composition.prefixes(blocks)[:1]
    results = []
    checkpoints: tuple[Which, ...] = ("last", "best")
    for which in checkpoints:
        if held_result(where, which) != which:
            continue
        held = workdir.load_model(where, which)
        found = workdir.measure(held, compositions, test)
        statistics = model.config.pair.statistics
        results.append(_result(which, held.step, statistics, found))
    if hybrids and jax.tree.leaves(model.variables["student"]["batch_stats"]):
        recalibrated = measure_recalibrated(
            model, compositions, test, training, RECALIBRATION_IMAGES
        )
        results.append(_result("last", model.step, "per_composition", recalibrated))
    return {
        "parameters": {
            name: sum(leaf.size for leaf in jax.tree.leaves(model.variables[name]["params"]))
            for name in ("teacher", "student")
        },
        "test_examples": len(test),
        "results": results,
        **_beside_teacher(model, workdir.load_network(teacher), test),
    }


def _result(which: str, step: int, statistics: str, found: Any) -> dict[str, Any]:
    return {
        "checkpoint": which,
        "step": step,
        "statistics": statistics,
        "top1": {str(composition): accuracy.top1 for composition, accuracy in found.items()},
    }


def _beside_teacher(
    model: workdir.TrainedModel, teacher: workdir.TrainedNetwork, test: sources.Source
) -> dict[str, Any]:
    """Whether the last composition is the teacher: its tensors, and its logits of every image."""
    theirs = {**model.variables, "teacher": teacher.variables}
    pairs = zip(jax.tree.leaves(model.variables), jax.tree.leaves(theirs), strict=True)
    bits = all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)
    source = pipeline.PreparedSource(test, workdir.preprocessing_of(model.config))
    evaluator = Evaluator(model.hybrid, device_mesh())
    last = Rung.uniform(Composition.prefixes(model.hybrid.num_blocks)[-1], EXACT)
    right = equal = 0

    def logits_of(variables: Variables, images: jax.Array) -> np.ndarray:
        return np.asarray(evaluator.logits([last], lambda _: variables, images)[last])

    for batch in pipeline.eval_batches(source, 250):
        images = jnp.asarray(source.preprocessing.normalize(batch["image"]))
        ours, expected = logits_of(model.variables, images), logits_of(theirs, images)
        real = batch["weight"] > 0
        equal += int((ours == expected).all(-1)[real].sum())
        right += int((expected.argmax(-1) == batch["label"])[real].sum())
    return {"teacher": {"top1": right / len(source), "same_bits": bits, "equal_logits": equal}}


def read(units: Sequence[Unit], budget: Budget, root: Path) -> dict[Unit, dict[str, Any]]:
    """What was measured so far; raises MatrixError where it was with another config."""
    return {
        unit: json.loads((root / unit.name / MEASURED).read_text())
        for unit in units
        if done(unit, budget, root)
    }
