"""A limit on a process's memory by Linux's control groups, where this user may set one."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_LIMITS = {1: "memory.limit_in_bytes", 2: "memory.max"}


@contextlib.contextmanager
def memory_group(name: str, limit: int) -> Iterator[tuple[str | None, str]]:
    """A group below this process's own, for processes to `join`; removed at the end.

    What a process held before it joined is not counted by version 1.

    Args:
      name: of the group.
      limit: bytes, page cache included, which goes first.

    Yields:
      The group's folder, None where there can be none; and, in words, what it is or why not.
    """
    folder, said = _made(name, limit)
    try:
        yield folder, said
    finally:
        if folder is not None:
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def join(groups: Sequence[str]) -> None:
    """Moves this process into groups, by their folders."""
    for group in groups:
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))


def _made(name: str, limit: int) -> tuple[str | None, str]:
    parent, version = _own_group()
    if parent is None:
        return None, "no control group for memory is mounted"
    folder = parent / name
    try:
        folder.mkdir()
    except OSError as error:
        return None, f"control group of version {version}: {error.strerror}"
    try:
        (folder / _LIMITS[version]).write_text(str(limit))
    except OSError as error:
        folder.rmdir()
        return None, f"control group of version {version} takes no limit: {error.strerror}"
    return str(folder), f"control group of version {version}"


def _own_group() -> tuple[Path | None, int]:
    """Folder of the group that limits this process's memory, and the version of the interface."""
    listed = Path("/proc/self/cgroup")
    lines = listed.read_text().splitlines() if listed.exists() else []
    groups = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    if "memory" in groups and (_ROOT / "memory").is_dir():
        return _ROOT / "memory" / groups["memory"].lstrip("/"), 1
    if "" in groups and (_ROOT / "cgroup.controllers").exists():
        return _ROOT / groups[""].lstrip("/"), 2
    return None, 0
