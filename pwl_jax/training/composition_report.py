"""What `evaluate` writes of all compositions: JSON, CSV and a chart."""

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from pwl_jax.hybrid import live_bytes
from pwl_jax.ladder import Composition
from pwl_jax.training.evaluation import Accuracy
from pwl_jax.training.workdir import TrainedModel


def composition_rows(
    model: TrainedModel, found: Mapping[Composition, Accuracy]
) -> list[dict[str, Any]]:
    """One row a composition: `composition`, `top1` in 0..1, `loss`, `examples`, `live_bytes`."""
    return [
        {
            "composition": str(composition),
            "top1": accuracy.top1,
            "loss": accuracy.loss,
            "examples": accuracy.examples,
            "live_bytes": live_bytes(
                model.variables, model.hybrid.mask_of(model.variables, composition)
            ),
        }
        for composition, accuracy in found.items()
    ]


def composition_table(rows: list[dict[str, Any]]) -> str:
    """The rows as aligned text."""
    lines = [f"{'composition':<12} {'top-1 %':>8} {'loss':>8} {'live KB':>9}"]
    lines += [
        f"{r['composition']:<12} {100 * r['top1']:8.2f} {r['loss']:8.4f} "
        f"{r['live_bytes'] / 1000:9.1f}"
        for r in rows
    ]
    return "\n".join(lines)


def write_report(workdir: epath.PathLike, rows: list[dict[str, Any]], title: str) -> None:
    """Writes `compositions.json`, `.csv` and `.png` into a workdir."""
    root = epath.Path(workdir)
    (root / "compositions.json").write_text(json.dumps(rows, indent=2) + "\n")
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    (root / "compositions.csv").write_text(table.getvalue())
    (root / "compositions.png").write_bytes(_chart(rows, title))


def _chart(rows: list[dict[str, Any]], title: str) -> bytes:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    prefixes = [r for r in rows if Composition.parse(r["composition"]).is_prefix]
    others = [r for r in rows if r not in prefixes]
    for label, group, style in (("prefixes", prefixes, "o-"), ("others", others, "x")):
        axes.plot(
            [r["live_bytes"] / 1000 for r in group],
            [100 * r["top1"] for r in group],
            style,
            label=label,
        )
    for row in prefixes:
        axes.annotate(
            row["composition"],
            (row["live_bytes"] / 1000, 100 * row["top1"]),
            textcoords="offset points",
            xytext=(4, -12),
            fontsize=8,
        )
    axes.set_xlabel("bytes of live weights / 1000")
    axes.set_ylabel("top-1 %")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    pyplot.close(figure)
    return image.getvalue()
