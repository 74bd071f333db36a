"""A comparison for people: Markdown, CSV and a chart; and its rows for the results file."""

import csv
import dataclasses
import io
import textwrap
from pathlib import Path
from typing import Any

from experiments.comparison.comparison import ORDERS, Comparison, Line, Spread
from experiments.comparison.published import parameter_count
from experiments.results_file import Row

GAP = "-"
HEADINGS = {
    "prefix": "Prefixes",
    "suffix": "Suffixes",
    "contiguous": "Contiguous runs of teacher blocks",
    "other": "Other compositions (none are published)",
}


def title(comparison: Comparison) -> str:
    """What ours is: pair and its sizes, data and the share trained on, epochs, batch, seeds."""
    run, config = comparison.runs[0], comparison.runs[0].config
    sizes = " and ".join(
        f"{parameter_count(spec):,}" for spec in (config.pair.teacher, config.pair.student)
    )
    share = 100 * (1 - config.data.validation_fraction)
    seeds = ", ".join(str(run.config.seed) for run in comparison.runs)
    devices = ", ".join(dict.fromkeys(run.device for run in comparison.runs))
    return (
        f"{config.pair.name} ({sizes} parameters) on {share:g} % of {config.data.name}'s training "
        f"images, {config.epochs} epochs of batches of {config.batch_size}, "
        f"{run.examples:,} test images, seed{'s' * (len(comparison.runs) > 1)} {seeds}; "
        f"device of the evaluation: {devices}"
    )


def markdown(comparison: Comparison) -> str:
    """The whole report, but for the chart's bytes."""
    column = comparison.column
    parts = [
        f"# {title(comparison)}",
        f"Beside: the PWL baseline's published '{column.pair}' on '{column.data}' "
        f"({column.source['repository']}; {column.source['tables']}).",
        f"**Ours: {comparison.note}**" + (" (theirs in brackets)." if comparison.work else "."),
        _runs_table(comparison),
        _caveats(comparison),
        "Top-1 in percent: mean ± standard deviation over seeds (least to greatest). `vs student` "
        f"are points above the student of the same run. `{GAP}`: not measured, or not published.",
    ]
    for order in (*ORDERS, "other"):
        lines = [line for line in comparison.lines if line.order == order]
        if lines:
            parts += [f"## {HEADINGS[order]}", _table(comparison, lines)]
    rising = [f"- {whose}: {answer}" for whose, answer in comparison.rising().items()]
    parts += ["## Does each swap of a prefix keep or raise accuracy?", "\n".join(rising)]
    parts += ["![accuracy by composition](comparison.png)"]
    return "\n\n".join(parts) + "\n"


def write_csv(comparison: Comparison, path: Path) -> None:
    """One row a composition and checkpoint; what is not known is empty."""
    rows = []
    for line in comparison.lines:
        for checkpoint in comparison.checkpoints if line.composition else [""]:
            row = {
                "order": line.order,
                "composition": line.composition,
                "published_composition": line.counterpart,
                "published_top1": line.published,
                "published_vs_student": comparison.published_above_student(line),
                "checkpoint": checkpoint,
            }
            if line.ours.get(checkpoint):
                spread = Spread.of(list(line.ours[checkpoint].values()))
                gain = comparison.above_student(line, checkpoint)
                row |= dataclasses.asdict(spread)
                row |= {"vs_student": gain.mean if gain else None, "note": comparison.note}
            rows.append({name: _rounded(value) for name, value in row.items()})
    table = io.StringIO()
    writer = csv.DictWriter(table, max(rows, key=len))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(table.getvalue())


def result_rows(comparison: Comparison) -> list[Row]:
    """Samples by composition and checkpoint, and the published figures, for a results file."""
    rows = []
    for line in comparison.lines:
        if line.published is not None:
            rows.append(Row(line.label, "published top-1", "%", (line.published,)))
        for checkpoint, values in line.ours.items():
            metric = f"top-1, {checkpoint} checkpoint"
            rows.append(Row(line.label, metric, "%", tuple(values.values()), note=comparison.note))
    return rows


def facts(comparison: Comparison) -> dict[str, Any]:
    """What the results file says besides its rows."""
    return {
        "title": title(comparison),
        "note": comparison.note,
        "method": comparison.method,
        "rising": comparison.rising(),
        "published": {
            "pair": comparison.column.pair,
            "data": comparison.column.data,
            "source": dict(comparison.column.source),
            "caveats": list(comparison.column.caveats),
        },
        "runs": [
            {"seed": run.config.seed, "steps": dict(run.steps), "device": run.device}
            for run in comparison.runs
        ],
    }


def chart(comparison: Comparison) -> bytes:
    """PNG: a panel for each order, ours with bars from the least seed to the greatest."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = [o for o in ORDERS if any(line.order == o for line in comparison.lines)]
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(5 * len(panels), 5), sharey=True, layout="constrained"
    )
    for ax, order in zip([axes] if len(panels) == 1 else axes, panels, strict=True):
        lines = [line for line in comparison.lines if line.order == order]
        shown = [(i, line.published) for i, line in enumerate(lines) if line.published is not None]
        ax.plot([i for i, _ in shown], [y for _, y in shown], "s--", color="0.5", label="published")
        for checkpoint in comparison.checkpoints:
            points = [
                (i, Spread.of(list(line.ours[checkpoint].values())))
                for i, line in enumerate(lines)
                if line.ours.get(checkpoint)
            ]
            below = [spread.mean - spread.least for _, spread in points]
            above = [spread.greatest - spread.mean for _, spread in points]
            ax.errorbar(
                [i for i, _ in points],
                [spread.mean for _, spread in points],
                [below, above],
                fmt="o-",
                capsize=3,
                label=f"ours, {checkpoint}",
            )
        ax.set_xticks(range(len(lines)), [line.label for line in lines], rotation=60)
        ax.set_title(HEADINGS[order], fontsize=10)
        ax.grid(alpha=0.3)
    figure.axes[0].set_ylabel("top-1 %")
    figure.axes[0].legend()
    figure.suptitle(_wrapped(f"{title(comparison)}\nOurs: {comparison.note}"), fontsize=8)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    pyplot.close(figure)
    return image.getvalue()


def _runs_table(comparison: Comparison) -> str:
    lines = [["seed", "workdir", *(f"step of {c}" for c in comparison.checkpoints), "measured"]]
    for run in comparison.runs:
        steps = [
            str(run.steps.get(c, "not recorded")) if c in run.top1 else "not measured"
            for c in comparison.checkpoints
        ]
        where = "/".join(Path(run.path).parts[-2:])
        count = len({c for found in run.top1.values() for c in found})
        lines.append([str(run.config.seed), where, *steps, f"{count} compositions"])
    return _grid(lines)


def _caveats(comparison: Comparison) -> str:
    lines = [f"- {text}" for text in comparison.column.caveats]
    lines.append("- How our teachers were trained is not in a distillation's config.")
    if len(comparison.runs) == 1:
        lines.append("- One seed: there is no spread.")
    if comparison.method:
        lines.append(f"- Our method differs: {', '.join(comparison.method)} (theirs in brackets).")
    return "\n".join(lines)


def _table(comparison: Comparison, lines: list[Line]) -> str:
    mark = " (not the same work)" if comparison.work else ""
    head = ["composition", "published", "vs student"]
    for checkpoint in comparison.checkpoints:
        head += [f"ours, {checkpoint}{mark}", "vs student"]
    rows = [head]
    for line in lines:
        gain = comparison.published_above_student(line)
        row = [
            line.label,
            GAP if line.published is None else f"{line.published:.1f}",
            _signed(gain),
        ]
        for checkpoint in comparison.checkpoints:
            values = list(line.ours.get(checkpoint, {}).values())
            ours = comparison.above_student(line, checkpoint)
            row += [_cell(values, len(comparison.runs)), _signed(ours.mean if ours else None)]
        rows.append(row)
    return _grid(rows)


def _cell(values: list[float], runs: int) -> str:
    if not values:
        return GAP
    spread = Spread.of(values)
    text = f"{spread.mean:.2f}"
    if spread.deviation is not None:
        text += f" ± {spread.deviation:.2f} ({spread.least:.2f} to {spread.greatest:.2f})"
    return text if spread.seeds == runs else f"{text}, {spread.seeds} of {runs} seeds"


def _signed(value: float | None) -> str:
    return GAP if value is None else f"{value:+.1f}"


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def _grid(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.fill(line, 150) for line in text.split("\n"))
