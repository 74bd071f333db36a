"""What P2U takes beside other ways of sending a model, measured and told."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import results_file
from experiments.benchmarks import precision_bases, precision_methods, precision_speed
from experiments.benchmarks.precision_cases import Case
from experiments.benchmarks.rivals import Rivals
from experiments.peak_memory import peak_bytes
from experiments.results_file import Row


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
      rows: all of it.
      sources: where the tensors of each case come from.
      rivals: versions of other compressors, and why others are missing.
    """

    rows: list[Row]
    sources: dict[str, str]
    rivals: dict[str, dict[str, str]]


def run(
    cases: Sequence[Case], others: Rivals | None, repeats: int, say: Callable[[str], None]
) -> Result:
    """Sizes, speeds, memory and other bases of all cases.

    Args:
      cases: the tensors.
      others: the interpreter with other compressors.
      repeats: timings of each job.
      say: where progress goes.
    """
    rows: list[Row] = []
    for case in cases:
        say(f"{case.name}: sizes")
        rows += precision_methods.rows(case, precision_methods.measure(case, others), others)
        rows += precision_bases.rows(case, others)
        say(f"{case.name}: speeds")
        rows += precision_speed.rows(case, repeats)
    known = {"versions": others.versions, "missing": others.missing} if others else {}
    return Result(rows, {case.name: case.source for case in cases}, known)


def report(result: Result, name: str, results: Path | None = None) -> Path:
    """Prints the tables and writes the JSON file; its path."""
    path = results_file.write_results(
        "precision", name, result.rows, results=results, more=_more(result)
    )
    print()
    print("\n".join(size_table(result.rows)))
    print()
    print("\n".join(results_file.table(result.rows)))
    print()
    for case, source in result.sources.items():
        print(f"{case}: {source}")
    for package, why in result.rivals.get("missing", {}).items():
        print(f"without {package}: {why}")
    missed = [row for row in result.rows if row.met is False]
    kept = [row for row in result.rows if row.met]
    print(f"{len(kept)} targets met, {len(missed)} missed; {path}")
    for row in missed:
        print(f"missed: {row.case}: {row.metric}: {row.median:.4g}, target {row.target}")
    return path


def size_table(rows: Sequence[Row]) -> list[str]:
    """Shares of the original in per cent, a method a line and a case a column."""
    shares = {
        (row.case, row.metric): row.median
        for row in rows
        if row.metric in precision_methods.METHODS
    }
    cases = list(dict.fromkeys(case for case, _ in shares))
    width = max(map(len, precision_methods.METHODS))
    lines = ["per cent of the original", *(f"  {i + 1}: {case}" for i, case in enumerate(cases))]
    lines.append(" " * width + "".join(f"{i + 1:>9}" for i in range(len(cases))))
    for method in precision_methods.METHODS:
        cells = [shares.get((case, method)) for case in cases]
        if any(cell is not None for cell in cells):
            texts = "".join(f"{'-' if c is None else f'{100 * c:.2f}':>9}" for c in cells)
            lines.append(f"{method:{width}}{texts}")
    return lines


def _more(result: Result) -> dict[str, Any]:
    return {
        "sources": result.sources,
        "compressors": result.rivals,
        "timing": "one process, one thread on one core, its processor time; all jobs run in every "
        "round, ratios are taken round by round",
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "peak_bytes": peak_bytes(),
        "sizes": "all tensors of a model, with the headers of our payloads as shards spell them",
    }
