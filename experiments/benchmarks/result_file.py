"""Figures with what they were measured on, as a JSON file and as a table."""

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
_PACKAGES = ("jax", "flax", "numpy", "zstandard", "cryptography")


def result_row(
    case: str,
    metric: str,
    unit: str,
    samples: Sequence[float],
    target: float | None = None,
    met: bool | None = None,
) -> dict[str, Any]:
    """One figure: all samples and their median, the target if there is one, and whether it is met.

    Raises:
      ValueError: no samples.
    """
    ordered = sorted(samples)
    if not ordered:
        raise ValueError(f"{case}, {metric}: no samples")
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return {
        "case": case,
        "metric": metric,
        "unit": unit,
        "samples": list(samples),
        "median": median,
        "target": target,
        "met": met,
    }


def write_results(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    folder: str | os.PathLike[str] = RESULTS,
    device: str | None = None,
    command: str | None = None,
) -> Path:
    """Writes `<folder>/<name>/<UTC time>.json` and returns its path.

    Args:
      name: of the benchmark.
      rows: as `result_row` makes them.
      folder: of all results.
      device: what it ran on; the processor if None.
      command: how to run it again; this process's own if None.
    """
    now = datetime.datetime.now(datetime.UTC)
    document = {
        "command": command or _command(),
        "versions": {"python": platform.python_version(), **_versions()},
        "device": device or f"{os.cpu_count()} x {_processor()}",
        "date": now.isoformat(timespec="seconds"),
        "rows": list(rows),
    }
    path = Path(folder) / name / f"{now:%Y%m%dT%H%M%SZ}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    return path


def _command() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = f"python -m {spec.name}" if spec is not None else Path(sys.argv[0]).name
    return " ".join([program, *sys.argv[1:]])


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
