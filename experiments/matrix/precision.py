"""A distilled pair in few bits: accuracy of every prefix, and over the bytes of three ladders."""

import dataclasses
import datetime
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.matrix.page import grid, png
from experiments.results_file import Row, device, own_command, versions, write_results
from pwl_jax.bundle import BundleReader
from pwl_jax.bundle.whole_file import written_whole
from pwl_jax.data import pipeline
from pwl_jax.export import DEFAULT_BUDGET, BundleOptions, export_bundle, measure
from pwl_jax.export.sensitivity import planned_widths
from pwl_jax.hybrid.masks import live_bytes
from pwl_jax.ladder import EXACT, Bits, Composition, Rung
from pwl_jax.precision import Quantization
from pwl_jax.training import workdir
from pwl_jax.training.evaluation import Accuracy, Evaluator
from pwl_jax.training.step import device_mesh

BITS: tuple[Bits, ...] = (2, 3, 4, 6, 8)
WAYS = ("same bits", "planned bits")
"""All tensors alike, or by how much each matters, as bundles are exported."""

MOST_POINTS = 1.0
"""Points below the exact composition that 4 bits may cost."""

LADDERS: Mapping[str, tuple[Bits, ...]] = {
    "PWL": (EXACT,),
    "P2U": (4, 8, EXACT),
    "both": (4, EXACT),
}
"""Of what a client fetches block by block (PWL), the teacher in precision alone (P2U), or both:
the precisions that its blocks come in."""

Found = Mapping[tuple[str, Bits, Composition], Accuracy]
Climb = Sequence[tuple[str, int, float]]
"""Rungs of a bundle: name, bytes fetched so far, top-1 on the test split in 0..1."""


def keep(
    path: Path, model: workdir.TrainedModel, found: Found, climbs: Mapping[str, Climb]
) -> None:
    """Writes down what was measured of a pair, for `held`."""
    content = {
        "weights": _weights_digest(model),
        "found": [
            [way, bits, str(c), dataclasses.asdict(accuracy)]
            for (way, bits, c), accuracy in found.items()
        ],
        "climbs": climbs,
    }
    with written_whole(path) as file:
        file.write((json.dumps(content) + "\n").encode())


def held(path: Path, model: workdir.TrainedModel) -> tuple[Found, dict[str, Climb]] | None:
    """What `keep` wrote; None where there is nothing, or where it is of other weights."""
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    if content["weights"] != _weights_digest(model):
        return None
    found: Found = {
        (way, bits, Composition.parse(name)): Accuracy(**accuracy)
        for way, bits, name, accuracy in content["found"]
    }
    climbs: dict[str, Climb] = {
        name: [(rung, size, top1) for rung, size, top1 in climb]
        for name, climb in content["climbs"].items()
    }
    return found, climbs


def _weights_digest(model: workdir.TrainedModel) -> str:
    """SHA-256 of all leaves."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(model.variables):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def prefix_accuracies(model: workdir.TrainedModel, data_dir: str | None) -> Found:
    """Test accuracy of every prefix by way and bits, `exact` among them.

    Args:
      model: the pair.
      data_dir: where the data lie; None for the config's.
    """
    preprocessing = workdir.preprocessing_of(model.config)
    validation, test = (
        pipeline.PreparedSource(
            workdir.open_data(model.config, split, data_dir=data_dir), preprocessing
        )
        for split in ("validation", "test")
    )
    evaluator = Evaluator(model.hybrid, device_mesh())
    prefixes = Composition.prefixes(model.hybrid.num_blocks)
    rule = Quantization()
    found: dict[tuple[str, Bits, Composition], Accuracy] = {}
    for way in WAYS:

        @functools.lru_cache
        def tree(bits: Bits, planned: bool = way == WAYS[1]) -> Any:
            stages = (bits, EXACT) if bits != EXACT else (EXACT,)
            widths = None
            if planned and bits != EXACT:
                widths = planned_widths(
                    evaluator, model.variables, stages, DEFAULT_BUDGET, validation, rule
                )
            return measure.expanded(model.variables, bits, stages, rule, widths)

        rungs = {(c, bits): Rung.uniform(c, bits) for c in prefixes for bits in (*BITS, EXACT)}
        measured = measure.Measurer(evaluator, tree, test).measure(list(rungs.values()))
        found |= {(way, bits, c): measured[rung] for (c, bits), rung in rungs.items()}
    return found


def ladders(model: workdir.TrainedModel, folder: Path, data_dir: str | None) -> dict[str, Climb]:
    """Exports the bundles of `LADDERS` below a folder and reads what climbing each would take.

    Bytes count all that is fetched, manifest and ONNX programs included.
    """
    validation, test = (
        workdir.open_data(model.config, split, data_dir=data_dir)
        for split in ("validation", "test")
    )
    climbs: dict[str, Climb] = {}
    for name, bits in LADDERS.items():
        given = workdir.teacher_of(model) if name == "P2U" else model
        budget = None if bits[0] == EXACT else DEFAULT_BUDGET
        options = BundleOptions(base_budget=budget, programs=("onnx",))
        export_bundle(given, folder / name, bits, validation, test, options=options)
        climbs[name] = [
            (str(rung.rung), rung.cumulative_bytes, rung.score_test or 0.0)
            for rung in BundleReader.open(folder / name).ladder.rungs
        ]
    return climbs


def write(
    model: workdir.TrainedModel,
    found: Found,
    climbs: Mapping[str, Climb],
    name: str,
    results: Path | None = None,
) -> str:
    """Writes JSON, chart and README.md of what was measured; returns the README's text.

    Args:
      model: the pair.
      found: of `prefix_accuracies`.
      climbs: of `ladders`.
      name: of the results' folder.
      results: where results lie; `RESULTS` if not given.
    """
    prefixes = Composition.prefixes(model.hybrid.num_blocks)
    config, examples = model.config, next(iter(found.values())).examples
    title = (
        f"{config.pair.name} on {config.data.name}, {config.epochs} "
        f"epoch{'s' * (config.epochs != 1)}, seed {config.seed}, "
        f"step {model.step}, {examples:,} test images, {jax.devices()[0].device_kind}"
    )
    teacher, student = (
        live_bytes(model.variables, model.hybrid.mask_of(model.variables, prefixes[i]))
        for i in (-1, 0)
    )
    path = write_results(
        name,
        name,
        _rows(found, climbs, prefixes),
        results=results,
        more={"title": title, "bytes": {"teacher": teacher, "student": student}},
    )
    (path.parent / "accuracy_over_bytes.png").write_bytes(_chart(climbs, title))
    tables = []
    for way in WAYS:
        rows = [["rung", *(f"{bits} bits" for bits in BITS), EXACT]]
        for c in prefixes:
            scores = [found[way, bits, c].score for bits in (*BITS, EXACT)]
            rows.append([str(c), *(f"{100 * score:.2f}" for score in scores)])
        tables += [f"## Top-1 % of every prefix, {way}", grid(rows)]
    for ladder, climb in climbs.items():
        rows = [["rung", "KB fetched", "top-1 %"]]
        rows += [[rung, f"{size / 1000:.1f}", f"{100 * top1:.2f}"] for rung, size, top1 in climb]
        tables += [f"## {ladder}: what is fetched, and what it is worth", grid(rows)]
    machine = device()
    software = ", ".join(f"{package} {version}" for package, version in versions().items())
    text = "\n\n".join(
        [
            f"# {title}",
            f"Command: `{own_command()}`, {datetime.date.today().isoformat()} on {machine['cpu']}, "
            f"{machine['cores']} cores; {software}. Weights: teacher {teacher:,} bytes, student "
            f"{student:,}. Planned bits spend {DEFAULT_BUDGET:g} times the bytes of the same bits "
            "everywhere, where they matter most on the validation split.",
            *tables,
            "![accuracy over bytes](accuracy_over_bytes.png)",
        ]
    )
    (path.parent / "README.md").write_text(text + "\n")
    return text


def _rows(found: Found, climbs: Mapping[str, Climb], prefixes: Sequence[Composition]) -> list[Row]:
    rows = []
    for way in WAYS:
        for c in prefixes:
            exact = found[way, EXACT, c]
            for bits in BITS:
                lost = round(100 * (exact.score - found[way, bits, c].score), 9)
                target = f"<= {MOST_POINTS}" if bits == 4 and way == WAYS[1] else None
                rows.append(Row(f"{c}, {way}", f"lost at {bits} bits", "points", (lost,), target))
            rows.append(Row(f"{c}, {way}", exact.metric, "%", (100 * exact.score,)))
    for ladder, climb in climbs.items():
        for rung, size, top1 in climb:
            rows.append(Row(f"ladder {ladder}", f"{rung}: fetched", "bytes", (size,)))
            rows.append(Row(f"ladder {ladder}", f"{rung}: top1", "%", (100 * top1,)))
    return rows


def _chart(climbs: Mapping[str, Climb], title: str) -> bytes:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for name, climb in climbs.items():
        sizes = [size / 1000 for _, size, _ in climb]
        scores = [100 * top1 for _, _, top1 in climb]
        axes.step(sizes, scores, "o-", where="post", label=name)
    axes.set_xlabel("KB fetched")
    axes.set_ylabel("top-1 %")
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend()
    return png(figure)
