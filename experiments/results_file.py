"""Measured results as JSON beside their table: `experiments/results/<name>.json`."""

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "zstandard")


@dataclasses.dataclass(frozen=True)
class Row:
    """One metric of one case.

    Attributes:
      case: what was measured.
      metric: of what kind.
      unit: of the samples.
      samples: every value that was measured.
      target: what the median must reach, as text such as `<= 0.5`; None for none.
      met: whether it did; None without a target.
    """

    case: str
    metric: str
    unit: str
    samples: Sequence[float]
    target: str | None = None
    met: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data; numbers that are not finite become null."""
        samples = [value if math.isfinite(value) else None for value in self.samples]
        finite = [value for value in samples if value is not None]
        median = statistics.median(finite) if finite else None
        return {**dataclasses.asdict(self), "samples": samples, "median": median}


def write_results(
    name: str,
    command: str,
    rows: Sequence[Row],
    *,
    device: str | None = None,
    others: Mapping[str, str] | None = None,
) -> Path:
    """Writes `{command, versions, device, date, rows}` and returns the file.

    Args:
      name: below `experiments/results`, without suffix, such as `federated_round/default`.
      command: that measures it anew.
      rows: what was measured.
      device: where; None for this machine's CPU.
      others: versions of what ran in other interpreters.
    """
    document = {
        "command": command,
        "versions": versions() | dict(others or {}),
        "device": cpu_name() if device is None else device,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rows": [row.to_dict() for row in rows],
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    return path


def versions() -> dict[str, str]:
    """Python's version, and those of the installed packages that results may depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """The CPU's model and how many cores this process may use."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores"
