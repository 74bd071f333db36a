"""A comparison for people: README.md, CSV and a chart; and its rows for the results file."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.comparison.comparison import Spread
from experiments.matrix.page import grid, png
from experiments.matrix.summary import (
    COLUMNS,
    RECALIBRATED,
    Case,
    Target,
    cases,
    falls,
    spread,
    targets,
)
from experiments.matrix.units import Unit
from experiments.results_file import RESULTS, Row, own_command, write_results

Measured = Mapping[Unit, Mapping[str, Any]]

EXPLAINED = """Top-1 in percent on the test split: mean ± standard deviation over seeds.
`student`: all blocks the student's; `prefixes`, `suffixes`: means of those with blocks of both
networks; `contiguous`: mean of runs of teacher blocks that touch neither end; `mixed`: mean of
all compositions of both networks, `worst mixed` the least of them. `recalibrated`: each
composition with BatchNorm statistics measured for it alone, which no bundle can hold; all else
has statistics calibrated per stream, `random` and `all` their running averages. The ladder is
`monotone` if no prefix is below the one before it by more than the standard error of the test
set. GFLOP and seconds are of training: operations a step as XLA counts them, and the time of all
steps without compiling, evaluating and saving. The recipe, the teacher's too, is in
`experiments/configs`. One teacher a family (seed 0) serves all; seeds
are of the distillation. `alone` is the student by labels only, `kd` and `dkd` plain and decoupled
distillation, `random` and `all` the PyTorch baseline's two modes, `stitched` the student of
`alone` with converters by least squares."""


def write(planned: Sequence[Unit], found: Measured, name: str, results: Path | None = None) -> str:
    """Writes table, chart and figures of what was measured so far; returns the README's text.

    Args:
      planned: all units of the comparison.
      found: what was measured, by unit.
      name: of the folder.
      results: where results lie; `RESULTS` if not given.
    """
    folder = (results or RESULTS) / name
    if not found:
        return f"nothing was measured yet: 0 of {len(planned)} runs"
    all_cases = cases(found)
    families = list(dict.fromkeys(unit.family for unit in found))
    state = f"partial: {len(found)} of {len(planned)} runs"
    head = "all runs" if len(found) == len(planned) else state
    titles = {family: title(family, found) for family in families}
    facts: dict[str, Any] = {
        "state": head,
        "titles": titles,
        "targets": {
            family: [vars(t) | {"met": t.met} for t in targets(family, all_cases)]
            for family in families
        },
        "seeds": sorted({unit.seed for unit in found}),
        "runs": [
            {
                "unit": unit.name,
                "date": m["date"],
                "device": m["device"],
                "platform": m["platform"],
                **m["budget"],
                **{f"{result['checkpoint']}_step": result["step"] for result in m["results"]},
            }
            for unit, m in found.items()
        ],
    }
    path = write_results(name, name, _rows(all_cases, found), results=results, more=facts)
    _write_csv(all_cases, path.with_suffix(".csv"))
    for family in families:
        image = _chart(family, all_cases, found, f"{titles[family]}; {head}")
        (folder / f"{family}.png").write_bytes(image)
    sections = [_section(family, all_cases, found, titles[family], head) for family in families]
    first = next(iter(found.values()))
    versions = ", ".join(f"{k} {v}" for k, v in first["versions"].items())
    dates = sorted({m["date"] for m in found.values()})
    text = "\n\n".join(
        [
            f"# {name}: {head}",
            f"Command: `{own_command()}`. Runs of {dates[0]} to {dates[-1]} on "
            f"{first['device']['cpu']}, {first['device']['cores']} cores; {versions}.",
            EXPLAINED,
            *sections,
        ]
    )
    (folder / "README.md").write_text(text + "\n")
    return text


def title(family: str, found: Measured) -> str:
    """The scale of a family's runs: pair and sizes, data, epochs, batch, seeds, device."""
    units = [unit for unit in found if unit.family == family]
    measured = found[units[0]]
    config, sizes = measured["config"], measured["parameters"]
    seeds = ", ".join(str(seed) for seed in sorted({unit.seed for unit in units}))
    share = 100 * (1 - config["data"]["validation_fraction"])
    return (
        f"{config['pair']['name']} ({sizes['teacher']:,} and {sizes['student']:,} parameters) on "
        f"{share:g} % of {config['data']['name']}, {_count(config['epochs'], 'epoch')} of batches "
        f"of {config['batch_size']}, {measured['test_examples']:,} test images, "
        f"seed{'s' * (',' in seeds)} {seeds}, {measured['platform']}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _section(
    family: str, all_cases: Sequence[Case], found: Measured, heading: str, state: str
) -> str:
    mine = [case for case in all_cases if case.family == family]
    by_unit = {unit: m for unit, m in found.items() if unit.family == family}
    first = next(iter(by_unit.values()))
    teacher, examples = first["teacher"], first["test_examples"]
    equal = all(
        m["teacher"]["same_bits"] and m["teacher"]["equal_logits"] == m["test_examples"]
        for m in by_unit.values()
    )
    parts = [
        f"## {heading}",
        f"{state}. Teacher {100 * teacher['top1']:.2f} %. Last rung equal to the teacher, every "
        f"tensor and every logit of all {examples:,} test images, in all {len(by_unit)} runs: "
        f"{'yes' if equal else 'NO'}.",
    ]
    for checkpoint in ("last", "best"):
        shown = [case for case in mine if case.checkpoint == checkpoint]
        if shown:
            parts += [f"### {checkpoint} checkpoint", _table(shown, by_unit)]
    rows = [_target_row(target) for target in targets(family, all_cases)]
    if rows:
        heads = ["target (last checkpoint)", "found", "bound", "met"]
        parts += ["### Targets", grid([heads, *rows])]
    parts.append(f"![prefixes of {family}]({family}.png)")
    return "\n\n".join(parts)


def _table(shown: Sequence[Case], by_unit: Measured) -> str:
    rows = [["objective", *COLUMNS, "monotone", "GFLOP a step", "train s", "seeds"]]
    for case in shown:
        runs = [m for unit, m in by_unit.items() if unit.objective == case.objective]
        prefixes = case.prefixes(100 * runs[0]["teacher"]["top1"])
        fallen = falls(prefixes, runs[0]["test_examples"])
        monotone = "-" if not prefixes else f"falls at {', '.join(fallen)}" if fallen else "yes"
        rows.append(
            [
                case.label,
                *(spread(case.values(column)) for column in COLUMNS),
                monotone,
                f"{runs[0]['budget']['gflop_a_step']:.2f}",
                spread([m["budget"]["train_seconds"] for m in runs]),
                str(len(case.top1)),
            ]
        )
    return grid(rows)


def _target_row(target: Target) -> list[str]:
    bound = f"{target.relation} {target.bound:.2f}"
    return [target.name, f"{target.value:.2f}", bound, "yes" if target.met else "NO"]


def _rows(all_cases: Sequence[Case], found: Measured) -> list[Row]:
    rows = []
    for case in all_cases:
        where = f"{case.family}, {case.objective}, {case.checkpoint}, {case.statistics}"
        for column in COLUMNS:
            values = case.values(column)
            if values:
                rows.append(Row(where, column, "% top-1", tuple(values)))
    for family, objective in dict.fromkeys((unit.family, unit.objective) for unit in found):
        runs = [m for u, m in found.items() if (u.family, u.objective) == (family, objective)]
        for metric, unit in (("gflop_a_step", "GFLOP"), ("train_seconds", "s"), ("steps", "")):
            samples = tuple(m["budget"][metric] for m in runs)
            rows.append(Row(f"{family}, {objective}", metric, unit, samples))
    return rows


def _write_csv(all_cases: Sequence[Case], path: Path) -> None:
    """One row a run, way of evaluation and composition."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(
        ["family", "objective", "seed", "checkpoint", "statistics", "composition", "top1"]
    )
    for case in all_cases:
        for seed, top1 in case.top1.items():
            for name, value in top1.items():
                key = [case.family, case.objective, seed, case.checkpoint, case.statistics]
                writer.writerow([*key, name, f"{value:.2f}"])
    path.write_text(table.getvalue())


def _chart(family: str, all_cases: Sequence[Case], found: Measured, heading: str) -> bytes:
    """PNG: prefixes of the last checkpoints over the number of teacher blocks, and all mixed."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 5), layout="constrained")
    last = [c for c in all_cases if c.family == family and c.checkpoint == "last"]
    teacher = 100 * next(m for u, m in found.items() if u.family == family)["teacher"]["top1"]
    objectives = list(dict.fromkeys(case.objective for case in last))
    bars = []
    for case in last:
        style = {
            "color": f"C{objectives.index(case.objective)}",
            "linestyle": "--" if case.statistics == RECALIBRATED else "-",
            "label": case.label,
        }
        prefixes = case.prefixes(teacher)
        if prefixes:
            left.plot(*zip(*prefixes, strict=True), "o", **style)
            bars.append((case, style))
        else:
            left.axhline(case.mean("student"), **style | {"linestyle": ":"})
    for place, (case, style) in enumerate(bars):
        mixed = Spread.of(case.values("mixed"))
        hatch = "//" if case.statistics == RECALIBRATED else None
        right.barh(
            place, mixed.mean, xerr=mixed.deviation, color=style["color"], alpha=0.7, hatch=hatch
        )
        right.plot(case.mean("worst mixed"), place, "kD")
    right.set_yticks(range(len(bars)), [case.label for case, _ in bars])
    right.invert_yaxis()
    right.set_xlabel("top-1 %")
    right.set_title("all mixed compositions: mean (bar) and worst (diamond)", fontsize=10)
    left.set_title("prefixes, and students of objectives without any (dotted)", fontsize=10)
    left.set_ylabel("top-1 %")
    left.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle(heading, fontsize=8)
    return png(figure)
