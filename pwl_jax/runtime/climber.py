"""The thread that climbs: loads the next rung beside the one that answers, then swaps."""

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from pwl_jax.errors import UserError
from pwl_jax.ladder import Rung
from pwl_jax.runtime.answers import Event, EventKind, Progress, State
from pwl_jax.runtime.block_source import BlockSource
from pwl_jax.runtime.executor import Block, Step
from pwl_jax.runtime.policy import BlockKey, ClimbState, Policy, block_keys

_EVENTS_KEPT = 1000
# Powers of two never come near it; it bounds what callers who forbid padding can make us compile.
_BATCHES_KEPT = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
    """A rung that is ready to answer. Immutable; a request keeps the one it began with."""

    index: int
    rung: Rung
    steps: tuple[Step, ...]


@dataclasses.dataclass(frozen=True)
class Backoff:
    """Seconds to wait before attempt 2, 3, ...: `first`, doubled each time, `largest` at most."""

    first: float = 0.2
    largest: float = 30.0

    def delay(self, failures: int) -> float:
        """Seconds after the `failures`-th failure in a row."""
        return float(min(self.first * 2.0 ** min(failures - 1, 60), self.largest))


class _Abandoned(Exception):
    """The rung being loaded is no longer wanted."""


class Climber:
    """State of one climb. `snapshot` is swapped as a whole; all else is guarded by one lock.

    A rung becomes the snapshot only after every shard of it was verified, decoded, placed and
    run once for each batch size seen so far. Whatever fails before leaves the snapshot alone.
    """

    def __init__(
        self,
        source: BlockSource,
        rungs: Sequence[Rung],
        policy: Policy,
        *,
        backoff: Backoff,
        memory_budget: int | None,
        warm_batches: Sequence[int],
        on_event: Callable[[Event], None] | None,
    ) -> None:
        self.snapshot: Snapshot | None = None
        self.events: deque[Event] = deque(maxlen=_EVENTS_KEPT)
        self.last_error: Exception | None = None
        self.rungs = tuple(rungs)
        self._source = source
        self._policy = policy
        self._backoff = backoff
        self._memory_budget = memory_budget
        self._batches = dict.fromkeys(warm_batches)
        self._on_event = on_event
        self._held: dict[BlockKey, Block] = {}
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
        self._loaded_bytes = 0
        self._loading_seconds = 0.0
        self._bytes_total = source.bytes_in_all(rungs)
        self._began = time.monotonic()
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
                bytes_fetched=self._source.bytes_fetched,
                bytes_total=self._bytes_total,
                live_bytes=self._source.live_bytes,
                reason=self._reason,
                failures=self._failures,
                seconds=time.monotonic() - self._began,
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
        """Ends the thread and drops all weights; a second call does nothing."""
        with self._changed:
            if self._state == "closed":
                return
            self._command("closed")
            self.snapshot = None
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout)
        self._held = {}
        self._emit("closed", None, "no more answers")

    def _command(self, state: State) -> None:
        if self._state != "closed":
            self._state = state
        self._commands += 1
        self._changed.notify_all()

    def _emit(self, kind: EventKind, rung: str | None, message: str) -> None:
        event = Event(
            kind,
            rung,
            message,
            time.monotonic() - self._began,
            self._source.bytes_fetched,
            self._source.live_bytes,
        )
        self.events.append(event)
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                # A listener must not stop the climb.
                logging.getLogger(__name__).exception("on_event failed on %s", event)

    def _run(self) -> None:
        while True:
            with self._changed:
                target, reason = self._target()
                rests = target is None and not self._paused and reason != self._reason
                self._set_state(target, reason)
                commands = self._commands
            if rests:
                self._emit("resting", None, reason)
            with self._changed:
                while target is None and not self.closed and self._commands == commands:
                    self._changed.wait()
                if self.closed:
                    self._held = {}
                    return
            if target is not None:
                self._attempt(target, commands)

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
        source = self._source
        seconds = time.monotonic() - self._began
        rate = self._loaded_bytes / self._loading_seconds if self._loaded_bytes else None
        missing = [source.missing_bytes(rung) for rung in self.rungs]
        return ClimbState(
            self.rungs, current, source.block_bytes, missing, source.bytes_fetched, seconds, rate
        )

    def _attempt(self, target: int, commands: int) -> None:
        try:
            self._load(target, commands)
        except _Abandoned:
            if self._ceiling is not None and self.snapshot is not None:
                # Demoted on the way up: what was loaded for the rung above is not wanted either.
                self._release(self.snapshot.rung, self.snapshot.index)
            return
        except Exception as error:
            # Whatever it is, the last good rung answers on.
            name = self.rungs[target].name
            if not isinstance(error, UserError):
                logging.getLogger(__name__).warning("cannot load %s", name, exc_info=error)
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
        rung = self.rungs[target]
        began = time.monotonic()
        self._release(rung, target)
        self._wait_for_memory(rung, commands)
        for key in self._source.keys(rung):
            if key not in self._held:
                self._abandon_if(commands)
                self._held[key] = self._timed_load(key)
        steps = self._source.steps(rung, self._held)
        warmed: set[int] = set()
        while True:
            for size in set(self._batches) - warmed:
                self._abandon_if(commands)
                images = np.zeros((size, *self._source.input_shape), np.float32)
                self._source.executor.warm(steps, images)
                warmed.add(size)
            with self._changed:
                if set(self._batches) - warmed:
                    continue
                if self._commands != commands:
                    raise _Abandoned
                self.snapshot = Snapshot(target, rung, steps)
                self._failures_in_row, self._reason, self.last_error = 0, "", None
                self._release(rung, target)
                self._changed.notify_all()
            break
        self._emit("rung", rung.name, f"answers after {time.monotonic() - began:.3f} s of loading")

    def _timed_load(self, key: BlockKey) -> Block:
        began, before = time.monotonic(), self._source.bytes_fetched
        block = self._source.load(*key)
        self._loading_seconds += time.monotonic() - began
        self._loaded_bytes += self._source.bytes_fetched - before
        return block

    def _abandon_if(self, commands: int) -> None:
        if self._commands != commands:
            raise _Abandoned

    def _release(self, rung: Rung, target: int) -> None:
        """Drops blocks that neither `rung`, the rung that answers nor a later one reads."""
        keep = set(block_keys(rung))
        if self.snapshot is not None:
            keep |= block_keys(self.snapshot.rung)
        if self._memory_budget is None:
            above = len(self.rungs) if self._ceiling is None else self._ceiling + 1
            for later in self.rungs[target + 1 : above]:
                keep |= block_keys(later)
        self._held = {key: block for key, block in self._held.items() if key in keep}

    def _wait_for_memory(self, rung: Rung, commands: int) -> None:
        """With a budget, lets requests that pinned an older rung finish before more is loaded."""
        if self._memory_budget is None or self._demote_to is not None:
            return
        missing = block_keys(rung) - set(self._held)
        needed = sum(self._source.block_bytes[key] for key in missing)
        while self._source.live_bytes + needed > self._memory_budget:
            self._abandon_if(commands)
            # Weights go when the last request drops its snapshot, which notifies nobody.
            time.sleep(0.002)
