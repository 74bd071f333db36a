"""Measurements as a JSON file under experiments/results/ and as a table: what, on what, how."""

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_ABSOLUTE = re.compile(r"(^|(?<==))/(?:[^/]+/)*([^/]+)/?$")
_PACKAGES = ("numpy", "zstandard", "jax", "jaxlib", "flax", "ml_dtypes")


@dataclasses.dataclass(frozen=True)
class Row:
    """One quantity of one case.

    Attributes:
      case: what it was measured on.
      metric: what was measured.
      unit: of the samples.
      samples: every value that was measured, at least one.
      target: a bound on the median, as `<= 1.02`, `< 1`, `>= 5`, `> 0`, `== 1`; None: no bound.
      note: what a reader must know of this row.
    """

    case: str
    metric: str
    unit: str
    samples: tuple[float, ...]
    target: str | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """Of the samples."""
        return statistics.median(self.samples)

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the target; None where there is none."""
        if self.target is None:
            return None
        relation, bound = self.target.split()
        # Samples may be NumPy's, whose comparisons JSON does not know.
        value, limit = float(self.median), float(bound)
        return {
            "<=": value <= limit,
            "<": value < limit,
            ">=": value >= limit,
            ">": value > limit,
        }.get(relation, value == limit)

    def to_dict(self) -> dict[str, Any]:
        """As the file holds it; of the samples, six significant digits."""
        row = {
            "case": self.case,
            "metric": self.metric,
            "unit": self.unit,
            "samples": [_rounded(value) for value in self.samples],
            "median": _rounded(self.median),
            "target": self.target,
            "met": self.met,
        }
        return {**row, "note": self.note} if self.note else row


def write_results(
    folder: str,
    name: str,
    rows: Sequence[Row],
    *,
    results: Path | None = None,
    more: Mapping[str, Any] | None = None,
    command: str | None = None,
) -> Path:
    """Writes `<results>/<folder>/<name>.json`: {command, versions, device, date, rows} and `more`.

    Args:
      folder: which measurement.
      name: which run of it.
      rows: what was measured.
      results: where all measurements lie; `RESULTS` if not given.
      more: further fields of the file.
      command: that measures it anew; this process's own if not given.

    Raises:
      OSError: the file cannot be written.
    """
    path = (RESULTS if results is None else results) / folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "command": command or own_command(),
        "versions": versions(),
        "device": device(),
        "date": datetime.date.today().isoformat(),
        **(more or {}),
        "rows": [row.to_dict() for row in rows],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def own_command() -> str:
    """How this program was started; of absolute paths only the last part, which says what it is."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = f"python -m {spec.name}" if spec is not None else Path(sys.argv[0]).name
    return " ".join([program, *(_ABSOLUTE.sub(r"\2", argument) for argument in sys.argv[1:])])


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device() -> dict[str, Any]:
    """The processor's model and how many cores this process may use."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    usable = getattr(os, "sched_getaffinity", None)
    return {"cpu": model, "cores": len(usable(0)) if usable else os.cpu_count()}


def table(rows: Sequence[Row]) -> list[str]:
    """Rows as lines for people, by case; the spread is that from least to greatest sample."""
    lines = []
    width = max((len(row.metric) for row in rows), default=0)
    for case in dict.fromkeys(row.case for row in rows):
        lines += ["", case]
        for row in (row for row in rows if row.case == case):
            spread = ""
            if len(row.samples) > 1:
                spread = f"({_short(min(row.samples))} to {_short(max(row.samples))})"
            verdict = ""
            if row.target is not None:
                verdict = f"target {row.target}: {'met' if row.met else 'MISSED'}"
            cells = f"  {row.metric:{width}}  {_short(row.median):>10} {row.unit:<14} "
            note = f"[{row.note}]" if row.note else ""
            lines.append(
                " ".join((cells + f"{spread:<20} {verdict:<24} {note}").rstrip(" ").split("\n"))
            )
    return lines[1:]


def _rounded(value: float) -> float:
    if isinstance(value, int):
        return value
    whole = not math.isfinite(value) or float(value).is_integer()
    return float(value) if whole else float(f"{value:.6g}")


def _short(value: float) -> str:
    if float(value).is_integer() and abs(value) >= 100:
        return f"{int(value):,}"
    return f"{value:.4g}"
