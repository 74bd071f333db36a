"""Where numbers go while training: JSON lines, TensorBoard events, a progress bar."""

import json
import sys

import tensorboardX
from etils import epath
from tqdm import tqdm


class MetricsWriter:
    """Appends to `metrics.jsonl` and TensorBoard events below a workdir. A context manager.

    A run that resumes at a step drops what an interrupted run wrote beyond it, so that every step
    stands there once.
    """

    def __init__(self, workdir: epath.PathLike, step: int, *, enabled: bool = True) -> None:
        self._enabled = enabled
        if not enabled:
            return
        self._path = epath.Path(workdir) / "metrics.jsonl"
        kept = []
        if self._path.exists():
            lines = self._path.read_text().splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
        partial = self._path.with_name(f"{self._path.name}.partial")
        partial.write_text("".join(line + "\n" for line in kept))
        partial.replace(self._path)
        self._events = tensorboardX.SummaryWriter(str(workdir), purge_step=step + 1)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._enabled:
            self._events.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line: `{"step": .., name: value, ..}`; values also as TensorBoard scalars.

        The scalars are on disk after `flush`, which takes longer than writing them.
        """
        if not self._enabled:
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def flush(self) -> None:
        """Puts all that was written on disk."""
        if self._enabled:
            self._events.flush()


def _step_of(line: str) -> int:
    """The step of a JSON line; a torn line counts as beyond every step."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize


class Progress:
    """A progress bar in images, with images/s and time left. A context manager.

    Args:
      label: before the bar.
      steps: in all.
      done: of these.
      batch_size: images a step.
      bar: whether it is drawn.
      lines: whether `say` prints.
    """

    def __init__(
        self, label: str, steps: int, done: int, batch_size: int, *, bar: bool, lines: bool
    ) -> None:
        self._batch_size = batch_size
        self._lines = lines
        self._bar = tqdm(
            total=steps * batch_size,
            initial=done * batch_size,
            desc=label,
            unit=" images",
            unit_scale=True,
            disable=not bar,
            mininterval=0.5 if sys.stderr.isatty() else 15,
            file=sys.stderr,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def advance(self, loss: float, speed: dict[str, float]) -> None:
        """One step done, of this loss and at this speed (see `StepClock.lap`)."""
        waiting = 100 * speed["speed/wait_ms"] / speed["speed/step_ms"]
        shown = [f"loss {loss:.3f}", f"waiting {waiting:.0f} %"]
        if "speed/mfu" in speed:
            shown.append(f"MFU {100 * speed['speed/mfu']:.1f} %")
        self._bar.set_postfix_str(", ".join(shown), refresh=False)
        self._bar.update(self._batch_size)

    def restart(self) -> None:
        """Lets the clock of the bar begin now."""
        self._bar.unpause()

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._lines:
            self._bar.write(text, file=sys.stderr)
