"""What `evaluate` writes of all compositions: JSON, CSV and a chart."""

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from pwl_jax.bundle.whole_file import written_whole
from pwl_jax.ladder import Composition
from pwl_jax.training.checkpoints import Which
from pwl_jax.training.evaluation import Accuracy
from pwl_jax.training.workdir import TrainedModel, TrainedNetwork

_METRICS = {"top1": "top-1 %", "mean_average_precision": "mAP %"}


def composition_rows(
    model: TrainedModel | TrainedNetwork,
    found: Mapping[Composition, Accuracy],
    *,
    checkpoint: Which,
    data: str,
    split: str,
) -> list[dict[str, Any]]:
    """One row a composition: `composition`, `top1` in 0..1, `loss`, `examples`, `live_bytes`.

    On a multi-label set `top1` is None, and `mean_average_precision` in 0..1 follows it. What was
    measured on what ends each row: `checkpoint` and its `step`, `data`, `split`, `device`.
    """
    measured = {
        "checkpoint": checkpoint,
        "step": model.step,
        "data": data,
        "split": split,
        "device": jax.devices()[0].device_kind,
    }
    return [
        {
            "composition": str(composition),
            "top1": accuracy.top1,
            **({} if accuracy.metric == "top1" else {accuracy.metric: accuracy.score}),
            "loss": accuracy.loss,
            "examples": accuracy.examples,
            "live_bytes": model.live_bytes(composition),
            **measured,
        }
        for composition, accuracy in found.items()
    ]


def _metric(rows: list[dict[str, Any]]) -> str:
    """The column that the rows are judged by."""
    return next(name for name in reversed(_METRICS) if name in rows[0])


def composition_table(rows: list[dict[str, Any]]) -> str:
    """The rows as aligned text."""
    metric = _metric(rows)
    lines = [f"{'composition':<12} {_METRICS[metric]:>8} {'loss':>8} {'live KB':>9}"]
    lines += [
        f"{r['composition']:<12} {100 * r[metric]:8.2f} {r['loss']:8.4f} "
        f"{r['live_bytes'] / 1000:9.1f}"
        for r in rows
    ]
    return "\n".join(lines)


def write_report(
    workdir: epath.PathLike, rows: list[dict[str, Any]], title: str, name: str = "compositions"
) -> None:
    """Writes `<name>.json`, `.csv` and `.png` into a workdir; rows as `composition_rows`."""
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    for ending, content in (
        ("json", (json.dumps(rows, indent=2) + "\n").encode()),
        ("csv", table.getvalue().encode()),
        ("png", _chart(rows, title)),
    ):
        with written_whole(epath.Path(workdir) / f"{name}.{ending}") as file:
            file.write(content)


def _chart(rows: list[dict[str, Any]], title: str) -> bytes:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    metric = _metric(rows)
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    prefixes = [r for r in rows if Composition.parse(r["composition"]).is_prefix]
    others = [r for r in rows if r not in prefixes]
    for checkpoint in dict.fromkeys(r["checkpoint"] for r in rows):
        for label, group, style in (("prefixes", prefixes, "o-"), ("others", others, "x")):
            chosen = [r for r in group if r["checkpoint"] == checkpoint]
            axes.plot(
                [r["live_bytes"] / 1000 for r in chosen],
                [100 * r[metric] for r in chosen],
                style,
                label=f"{label}, {checkpoint} checkpoint",
            )
    for row in prefixes:
        axes.annotate(
            row["composition"],
            (row["live_bytes"] / 1000, 100 * row[metric]),
            textcoords="offset points",
            xytext=(4, -12),
            fontsize=8,
        )
    axes.set_xlabel("bytes of live weights / 1000")
    axes.set_ylabel(_METRICS[metric])
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    pyplot.close(figure)
    return image.getvalue()
