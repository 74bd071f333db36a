"""The thread that climbs: loads the next rung beside the one that answers, then swaps."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pwl_jax.errors import UserError
from pwl_jax.ladder import Rung
from pwl_jax.runtime.answers import Event, EventKind, Progress, State
from pwl_jax.runtime.background import return_freed_memory
from pwl_jax.runtime.backoff import Backoff
from pwl_jax.runtime.block_source import BlockSource
from pwl_jax.runtime.event_log import EventLog
from pwl_jax.runtime.policy import ClimbState, Limits, Policy
from pwl_jax.runtime.rung_loader import RungLoader
from pwl_jax.runtime.snapshot import Snapshot

if TYPE_CHECKING:
    import logging

    from pwl_jax.runtime.hand_over import Successor

# Powers of two never come near it; it bounds what callers who forbid padding can make us compile.
_BATCHES_KEPT = 16


def _log() -> "logging.Logger":
    """Imported by those who have something to say."""
    import logging

    return logging.getLogger(__name__)


class _Abandoned(Exception):
    """The rung being loaded is no longer wanted."""


class Climber:
    """State of one climb. `snapshot` is swapped as a whole; all else is guarded by one lock.

    A rung becomes the snapshot only after every shard of it was verified, decoded, placed and
    run once for each batch size seen so far. Whatever fails before leaves the snapshot alone.
    Another executor takes over between two rungs if it is an accelerator's, else once it rests.
    """

    def __init__(
        self,
        source: BlockSource,
        rungs: Sequence[Rung],
        policy: Policy,
        *,
        backoff: Backoff,
        limits: Limits,
        warm_batches: Sequence[int],
        on_event: Callable[[Event], None] | None,
        successor: "Successor | None" = None,
    ) -> None:
        self.snapshot: Snapshot | None = None
        self.log = EventLog(on_event)
        self.last_error: Exception | None = None
        self.rungs = tuple(rungs)
        self._loader = RungLoader(source)
        self._policy = policy
        self._backoff = backoff
        self._limits = limits
        self._successor = successor
        self._batches = dict.fromkeys(warm_batches)
        self._changed = threading.Condition()
        self._commands = 0
        self._paused = False
        self._ceiling: int | None = None
        self._demote_to: int | None = None
        self._loading: int | None = None
        self._state: State = "opening"
        self._reason = ""
        self._failures = 0
        self._failures_in_row = 0
        self._bytes_total = source.bytes_in_all(rungs)
        self._thread = threading.Thread(target=self._run, name="pwl-climber", daemon=True)

    def start(self) -> None:
        """Starts the loader thread."""
        self._emit("opened", None, f"{len(self.rungs)} rungs to climb")
        self._thread.start()

    def note_batch(self, size: int) -> None:
        """Remembers a batch size, so that later rungs are warm for it before they answer."""
        if size not in self._batches and len(self._batches) < _BATCHES_KEPT:
            with self._changed:
                self._batches[size] = None

    def wait_until(self, reached: Callable[[], bool], timeout: float | None) -> bool:
        """Blocks until `reached()`; it is asked again after every change. False on timeout."""
        with self._changed:
            return self._changed.wait_for(reached, timeout)

    @property
    def source(self) -> BlockSource:
        """Where the next rung's blocks come from: that of the executor that answers."""
        return self._loader.source

    @property
    def resting(self) -> bool:
        """Whether nothing is left to climb, or the climb is closed."""
        return self._state in ("resting", "closed")

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._state == "closed"

    @property
    def failures_in_row(self) -> int:
        """Failed attempts since the last rung that loaded."""
        return self._failures_in_row

    def progress(self) -> Progress:
        """Where the climb stands now."""
        with self._changed:
            snapshot, loading = self.snapshot, self._loading
            return Progress(
                state=self._state,
                rung=snapshot.rung.name if snapshot else None,
                rung_index=snapshot.index if snapshot else -1,
                next_rung=self.rungs[loading].name if loading is not None else None,
                rungs=tuple(rung.name for rung in self.rungs),
                executor=snapshot.executor.name if snapshot else None,
                bytes_fetched=self.source.bytes_fetched,
                bytes_total=self._bytes_total,
                live_bytes=self.source.live_bytes,
                reason=self._reason,
                failures=self._failures,
                seconds=self.log.seconds,
            )

    def pause(self) -> None:
        """Fetches nothing more after the shard being fetched, until `resume`."""
        with self._changed:
            self._paused = True
            self._command("paused")
        self._emit("paused", None, "nothing more is fetched until resumed")

    def resume(self) -> None:
        """Ends a pause."""
        with self._changed:
            self._paused = False
            self._command("climbing")
        self._emit("resumed", None, "climbing again")

    def demote(self, index: int) -> None:
        """Asks for rung `index` and makes it the ceiling of the climb until `promote`."""
        with self._changed:
            self._ceiling = self._demote_to = index
            self._command("climbing")
        self._emit("demoting", self.rungs[index].name, "going back down")

    def promote(self) -> None:
        """Lifts the ceiling that `demote` set."""
        with self._changed:
            self._ceiling = self._demote_to = None
            self._command("climbing")
        self._emit("promoted", None, "climbing again")

    def close(self, timeout: float = 10.0) -> None:
        """Ends the threads and drops all weights; a second call does nothing."""
        with self._changed:
            if self._state == "closed":
                return
            self._command("closed")
            self.snapshot, successor = None, self._successor
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout)
        if successor is not None:
            successor.close()
        self._loader.keep(())
        self._emit("closed", None, "no more answers")

    def _command(self, state: State) -> None:
        if self._state != "closed":
            self._state = state
        self._commands += 1
        self._changed.notify_all()

    def _emit(self, kind: EventKind, rung: str | None, message: str) -> None:
        here = self.snapshot
        self.log.add(kind, rung, here.executor.name if here else None, message, self.source)

    def _run(self) -> None:
        while True:
            if self._successor is not None and self.snapshot is not None:
                self._successor.start(self._wake)
            with self._changed:
                target, reason = self._target()
                rests = target is None and not self._paused and reason != self._reason
                self._set_state(target, reason)
                commands = self._commands
                if target is None and self._ceiling is not None and self.snapshot is not None:
                    # Demoted on the way up: what was loaded for the rung above is not wanted.
                    self._release(self.snapshot.index)
            if rests:
                self._emit("resting", None, reason)
            with self._changed:
                while not (
                    target is not None
                    or self.closed
                    or self._commands != commands
                    or self._succession_due(target)
                ):
                    self._changed.wait()
                if self.closed:
                    self._loader.keep(())
                    return
                due = self._commands == commands and self._succession_due(target)
            if due:
                self._attempt_succession(commands)
            elif target is not None:
                self._attempt(target, commands)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _set_state(self, target: int | None, reason: str) -> None:
        if self._state == "closed":
            return
        if target is None:
            self._state, self._reason = ("paused" if self._paused else "resting"), reason
        elif not self._failures_in_row:
            self._state = "opening" if self.snapshot is None else "climbing"
            self._reason = ""
        self._loading = target
        self._changed.notify_all()

    def _target(self) -> tuple[int | None, str]:
        current = self.snapshot.index if self.snapshot else -1
        if self._demote_to is not None and self._demote_to != current:
            return self._demote_to, ""
        self._demote_to = None
        if self._paused:
            return None, "paused"
        try:
            decision = self._policy.next_rung(self._state_of_climb(current))
        except Exception as error:
            self.last_error = error
            return None, f"the policy failed: {error!r}"
        ceiling = self._ceiling
        if decision.rung is not None and ceiling is not None and decision.rung > ceiling:
            return None, f"demoted to {self.rungs[ceiling].name}"
        return decision.rung, decision.reason

    def _state_of_climb(self, current: int) -> ClimbState:
        source = self.source
        return ClimbState(
            self.rungs,
            current,
            source.block_bytes,
            [source.missing_bytes(rung) for rung in self.rungs],
            source.bytes_fetched,
            self.log.seconds,
            self._loader.bytes_per_second,
        )

    def _attempt(self, target: int, commands: int) -> None:
        try:
            self._load(target, commands)
        except _Abandoned:
            return
        except Exception as error:
            # Whatever it is, the last good rung answers on.
            name = self.rungs[target].name
            if not isinstance(error, UserError):
                _log().warning("cannot load %s", name, exc_info=error)
            with self._changed:
                self.last_error = error
                self._failures += 1
                self._failures_in_row += 1
                delay = self._backoff.delay(self._failures_in_row)
                self._reason = f"{name}: {error or type(error).__name__}"
                if self._state not in ("closed", "paused"):
                    self._state = "opening" if self.snapshot is None else "retrying"
            self._emit("failed", name, f"{error!s} (next attempt in {delay:.1f} s)")
            with self._changed:
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._commands != commands, delay)

    def _load(self, target: int, commands: int) -> None:
        rung, loader = self.rungs[target], self._loader
        began = time.monotonic()
        self._release(target)
        if self._demote_to is None:
            self._wait_for_memory(loader.missing_bytes(rung), commands)
        aside = self.snapshot is not None and self._demote_to is None
        snapshot = loader.ready(target, rung, lambda: self._abandon_if(commands), aside=aside)
        self._publish(snapshot, loader, commands)
        self._emit("rung", rung.name, f"answers after {time.monotonic() - began:.3f} s of loading")

    def _publish(self, snapshot: Snapshot, loader: RungLoader, commands: int) -> None:
        """Lets a snapshot answer once it is warm for every batch size seen, the last ones too."""
        warmed: set[int] = set()
        while True:
            for size in set(self._batches) - warmed:
                self._abandon_if(commands)
                snapshot.warm(np.zeros((size, *self.source.input_shape), np.float32))
                warmed.add(size)
            with self._changed:
                if set(self._batches) - warmed:
                    continue
                if self._commands != commands:
                    raise _Abandoned
                self.snapshot, self._loader = snapshot, loader
                self._failures_in_row, self._reason, self.last_error = 0, "", None
                self._release(snapshot.index)
                self._changed.notify_all()
                return

    def _succession_due(self, target: int | None) -> bool:
        """Whether another executor's turn is now; one on the same processor waits for a rest."""
        successor = self._successor
        waits = self._paused or self._demote_to is not None or self.snapshot is None
        if successor is None or not successor.settled or waits:
            return False
        return target is None or successor.executor is None or successor.executor.accelerated

    def _attempt_succession(self, commands: int) -> None:
        """Has the successor take over the rung that answers, or gives it up."""
        successor, here = self._successor, self.snapshot
        assert successor is not None and here is not None
        try:
            reason = self._succeed(successor, here, commands)
        except _Abandoned:
            return
        except Exception as error:
            # Whatever it is, the executor that answers is a good one.
            if not isinstance(error, UserError):
                _log().info("%s is not used", successor.name, exc_info=error)
            reason = str(error) or type(error).__name__
        self._successor = None
        if reason:
            self._bytes_total = self.source.bytes_in_all(self.rungs[here.index :])
            message = f"{here.executor.name} answers on; {successor.name}: {reason}"
            self._emit("executor", here.rung.name, message)

    def _succeed(self, successor: "Successor", here: Snapshot, commands: int) -> str:
        """Why the executor stays; empty once the other one answers."""
        from pwl_jax.runtime.hand_over import judged, probes

        if successor.executor is None:
            return f"cannot start: {successor.error!s}"
        loader, rung = self._loader.beside(successor.executor), here.rung
        for planned in self.rungs:
            loader.source.check(planned)
        needed = loader.missing_bytes(rung)
        problem = self._limits.problem(
            self._state_of_climb(here.index),
            self._loader.held_bytes + needed,
            loader.source.missing_bytes(rung),
        )
        if problem:
            return problem
        self._wait_for_memory(needed, commands)
        there = loader.ready(here.index, rung, lambda: self._abandon_if(commands), aside=True)
        batches = probes(tuple(self._batches) or (1,), self.source.input_shape)
        for batch in batches:
            self._abandon_if(commands)
            there.warm(batch)
        verdict = judged(here, there, batches)
        if not verdict.takes_over:
            return verdict.reason
        self._publish(there, loader, commands)
        self._bytes_total = loader.source.bytes_in_all(self.rungs[here.index :])
        self._emit("executor", rung.name, f"{successor.name} takes over: {verdict.reason}")
        return ""

    def _abandon_if(self, commands: int) -> None:
        if self._commands != commands:
            raise _Abandoned

    def _release(self, target: int) -> None:
        """Drops blocks that neither this rung, the rung that answers nor a later one reads."""
        kept = [self.rungs[target]]
        if self.snapshot is not None:
            kept.append(self.snapshot.rung)
        if self._limits.memory_budget is None:
            above = len(self.rungs) if self._ceiling is None else self._ceiling + 1
            kept += self.rungs[target + 1 : above]
        self._loader.keep(kept)
        if self._limits.memory_budget is not None:
            return_freed_memory()

    def _wait_for_memory(self, needed: int, commands: int) -> None:
        """With a budget, lets requests that pinned an older rung finish before more is loaded."""
        budget = self._limits.memory_budget
        while budget is not None and self.source.live_bytes + needed > budget:
            self._abandon_if(commands)
            # Weights go when the last request drops its snapshot, which notifies nobody.
            time.sleep(0.002)
