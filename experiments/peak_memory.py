"""The most memory that this process has held."""

import resource
import sys
from pathlib import Path


def peak_bytes() -> int:
    """Largest resident size so far, as the operating system measured it.

    Linux hands `ru_maxrss` down from the process that started this one, so there its own high-water
    mark is read instead. On macOS `ru_maxrss` is in bytes, elsewhere in KiB.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) << 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
