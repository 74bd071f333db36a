"""A trace of some steps, as TensorBoard and Perfetto open it."""

import dataclasses
import types

import jax
from etils import epath

from pwl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ProfileSpan:
    """Which steps to trace: `count` of them from step `start` on, counted from 1.

    Dispatches are traced whole. A step before the one that a run resumes at is not done again:
    then the trace begins where the run does.
    """

    start: int
    count: int

    def __post_init__(self) -> None:
        if self.start < 1 or self.count < 1:
            raise UserError(f"profile is {self.start},{self.count}; expected numbers from 1 on")

    @staticmethod
    def parse(text: str) -> "ProfileSpan":
        """From `START,COUNT`; raises UserError."""
        try:
            start, count = map(int, text.split(","))
        except ValueError:
            raise UserError(
                f"profile is '{text}'; expected START,COUNT, as 10,5 for five steps from step 10 on"
            ) from None
        return ProfileSpan(start, count)


class Profiler:
    """Traces a span of steps into `profile/` below a workdir. A context manager.

    TensorBoard with its profile plugin opens the workdir; Perfetto opens the `trace.json.gz`.

    Args:
      workdir: of the run.
      span: None for no trace.
    """

    def __init__(self, workdir: epath.PathLike, span: ProfileSpan | None) -> None:
        self.folder = epath.Path(workdir) / "profile"
        self._span = span
        self._until: int | None = None

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._stop()

    def before(self, first: int, steps: int, results: object) -> None:
        """Begins or ends the trace where it is time.

        Args:
          first: step of the dispatch that comes.
          steps: of that dispatch.
          results: of the dispatch before, which either end waits for.
        """
        if self._until is not None and first >= self._until:
            jax.block_until_ready(results)
            self._stop()
        if self._span is not None and first + steps > self._span.start:
            jax.block_until_ready(results)
            jax.profiler.start_trace(str(self.folder))
            self._until, self._span = max(first, self._span.start) + self._span.count, None

    def _stop(self) -> None:
        if self._until is not None:
            self._until = None
            jax.profiler.stop_trace()
