"""A training process that is frozen, looked at, killed and started again."""

import contextlib
import dataclasses
import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pwl_jax.errors import UserError

Moment = Literal["before the first checkpoint", "inside a save", "any"]

_LONGEST = 600.0
"""Seconds that a process may take to reach a moment, or to end after SIGTERM."""


@dataclasses.dataclass(frozen=True)
class Sight:
    """What a frozen process was doing, as its files say.

    Attributes:
      step: the last one whose metrics are written, 0 for none.
      saved: the step of its last whole checkpoint, None for none.
      saving: folders that are being written, as `resume/12`; a save that is done has renamed it.
      started: whether it has written metrics since then.
    """

    step: int
    saved: int | None
    saving: tuple[str, ...]
    started: bool

    @property
    def doing(self) -> str:
        """In words, for the log."""
        if self.saving:
            return f"saving {', '.join(self.saving)}"
        return f"training behind step {self.step}" if self.started else "starting"


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill: its signal, what it hit, and how the process ended."""

    signal: str
    moment: Moment
    sight: Sight
    status: int

    def to_dict(self) -> dict[str, object]:
        """As the results hold it."""
        sight = dataclasses.asdict(self.sight) | {"doing": self.sight.doing}
        return {"signal": self.signal, "moment": self.moment, **sight, "status": self.status}


def moments(kills: int, draw: random.Random) -> list[tuple[Moment, signal.Signals]]:
    """When each kill is to fall, and by what: a tenth early, half inside saves, the rest anywhere.

    Two of three are SIGKILL.
    """
    early, saves = max(kills // 10, 1), max(kills // 2, 1)
    late: list[Moment] = ["inside a save" if i < saves else "any" for i in range(kills - early)]
    draw.shuffle(late)
    first: list[Moment] = ["before the first checkpoint" for _ in range(early)]
    signals = [signal.SIGTERM if i % 3 == 2 else signal.SIGKILL for i in range(kills)]
    draw.shuffle(signals)
    return list(zip([*first, *late], signals, strict=True))


@dataclasses.dataclass(frozen=True)
class Command:
    """A training command that is run, killed and run again.

    Attributes:
      line, environment: of the process.
      workdir: of the run.
      stride: steps between two saves.
      ahead: an attempt is killed before it has completed so many saves.
    """

    line: Sequence[str]
    environment: dict[str, str]
    workdir: Path
    stride: int
    ahead: int

    def start(self) -> subprocess.Popen[str]:
        """The running process."""
        return subprocess.Popen(
            self.line,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> None:
        """Runs it to its end.

        Raises:
          UserError: it failed.
        """
        process = self.start()
        _, errors = process.communicate()
        if process.returncode:
            raise UserError(f"the run ended with {process.returncode}: {_last_line(errors)}")

    def killed(self, moment: Moment, number: signal.Signals, draw: random.Random) -> Kill:
        """Starts it, freezes it at a moment, looks what it is doing, and lets the signal act.

        Raises:
          UserError: it ended before, or not as a signal ends it.
        """
        before = Before(len(metric_lines(self.workdir)), frozenset(_partial(self.workdir)))
        process = self.start()
        try:
            sight = self._frozen(process, moment, draw, before)
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            _, errors = process.communicate(timeout=_LONGEST)
        finally:
            process.kill()
        # Before its handler stands, SIGTERM ends a process that has nothing to save.
        killed = number == signal.SIGKILL or not sight.started
        if process.returncode not in {
            -number if killed else 0,
            0 if number == signal.SIGTERM else -number,
        }:
            raise UserError(
                f"after {number.name} while {sight.doing} the run ended with "
                f"{process.returncode}: {_last_line(errors)}"
            )
        return Kill(number.name, moment, sight, process.returncode)

    def _frozen(
        self, process: subprocess.Popen[str], moment: Moment, draw: random.Random, before: "Before"
    ) -> Sight:
        """Stops the process at a moment; what is seen then stays so until it goes on."""
        reached = self._trigger(moment, draw, before)
        deadline = time.monotonic() + _LONGEST
        while time.monotonic() < deadline:
            if reached():
                if moment != "inside a save":
                    time.sleep(draw.uniform(0, 0.2))
                process.send_signal(signal.SIGSTOP)
                sight = look(self.workdir, before)
                if sight.saving or moment != "inside a save":
                    return sight
                process.send_signal(signal.SIGCONT)
            if process.poll() is not None:
                _, errors = process.communicate()
                raise UserError(
                    f"the run ended with {process.returncode} before it was to be killed: "
                    f"{_last_line(errors)}"
                )
            time.sleep(0.001)
        raise UserError(f"'{moment}' was not seen for {_LONGEST:.0f} s")

    def _trigger(self, moment: Moment, draw: random.Random, before: "Before") -> Callable[[], bool]:
        """Whether a moment has come; which one of its kind is drawn."""
        if moment == "before the first checkpoint":
            # The last things a run makes before its first step.
            sign = self.workdir / draw.choice(["config.json", "metrics.jsonl"])
            return sign.exists
        if moment == "any" and draw.random() < 1 / 3:
            until = time.monotonic() + draw.uniform(0.2, 4)
            return lambda: time.monotonic() >= until
        least = 1 if moment == "any" else 0
        saves = draw.randrange(least, self.ahead + least)
        target = (saved_step(self.workdir) or 0) + saves * self.stride

        def saved() -> bool:
            return (saved_step(self.workdir) or 0) >= target

        if moment == "any":
            return saved
        return lambda: saved() and bool(_partial(self.workdir).keys() - before.partial)


@dataclasses.dataclass(frozen=True)
class Before:
    """What lay in a workdir when a process was started: lines of metrics, and unfinished saves."""

    lines: int
    partial: frozenset[int]


def look(workdir: Path, before: Before) -> Sight:
    """What the frozen process of a workdir is doing."""
    found = metric_lines(workdir)
    saving = [name for inode, name in _partial(workdir).items() if inode not in before.partial]
    return Sight(
        step=max((line["step"] for line in found), default=0),
        saved=saved_step(workdir),
        saving=tuple(sorted(saving)),
        started=len(found) != before.lines,
    )


def _partial(workdir: Path) -> dict[int, str]:
    """Checkpoint folders without their last name: Orbax is writing them, or was when it died.

    By inode, which tells those of an earlier process apart; as `resume/12`.
    """
    found = {}
    for path in (workdir / "checkpoints").glob("*/*.orbax-checkpoint-tmp*"):
        with contextlib.suppress(FileNotFoundError):
            found[path.stat().st_ino] = f"{path.parent.name}/{path.name.partition('.')[0]}"
    return found


def saved_step(workdir: Path) -> int | None:
    """Step of the last whole checkpoint to resume from."""
    names = (path.name for path in (workdir / "checkpoints" / "resume").glob("[0-9]*"))
    return max((int(name) for name in names if name.isdigit()), default=None)


def metric_lines(workdir: Path) -> list[dict[str, Any]]:
    """The parsed lines of `metrics.jsonl`, without speeds; a torn last one is left out."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    *lines, _ = path.read_text().split("\n")
    parsed = [json.loads(line) for line in lines]
    return [
        {name: value for name, value in line.items() if not name.startswith("speed/")}
        for line in parsed
    ]


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
