"""A loaded bundle that answers requests while it climbs."""

import dataclasses
import os
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from pwl_jax.bundle import BundleReader, Manifest, Preprocessing
from pwl_jax.ladder import ClimbOrder, Ladder
from pwl_jax.runtime.answers import Event, Prediction, Progress
from pwl_jax.runtime.backoff import Backoff
from pwl_jax.runtime.batching import LARGEST_BATCH, padded_batches
from pwl_jax.runtime.block_source import BlockSource
from pwl_jax.runtime.climber import Climber
from pwl_jax.runtime.executor import Executor, create_executor, successor_of
from pwl_jax.runtime.plan import LiveModelError, planned_index, program_formats, rungs_to_climb
from pwl_jax.runtime.policy import InOrder, Limits, Policy

if TYPE_CHECKING:
    from pwl_jax.runtime.hand_over import Successor


class NotReadyError(LiveModelError):
    """No rung answers: the first one is still loading, or the model was closed."""


class LiveModel:
    """Answers from the first rung on, and from better ones as they arrive.

    Safe to use from many threads. Every request takes the current rung once and finishes on it,
    so an answer never mixes two rungs. Use it as a context manager, or call `close`.

        with LiveModel.open("https://host/bundle") as model:
            print(model.predict("cat.png").labels)
            model.wait()                      # until nothing is left to climb
            print(model.predict("cat.png").rung)
    """

    def __init__(
        self,
        reader: BundleReader,
        *,
        executor: str | Executor = "auto",
        rung: str | None = None,
        climb: bool = True,
        order: ClimbOrder = "exported",
        quality_floor: float | None = None,
        stop_at: str | None = None,
        memory_budget: int | None = None,
        byte_budget: int | None = None,
        deadline: float | None = None,
        policy: Policy | None = None,
        warm_batches: Sequence[int] = (1,),
        largest_batch: int = LARGEST_BATCH,
        exact_batches: bool = False,
        backoff: Backoff | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        """Starts climbing in the background; `predict` raises NotReadyError until a rung is up.

        Args:
          reader: an open bundle.
          executor: the name of an executor, or an executor of its own. "auto" begins with the one
            that answers first, ONNX Runtime where it can, and moves on to JAX in the background if
            that finds an accelerator, or once the climb rests if it is measured to be faster here.
          rung: the rung to begin with, such as "TTSS@4"; the ladder's first if None. Any
            composition whose shards the bundle holds may be named, on its ladder or not.
          climb: go on from there up the ladder; False stays on `rung`, or on the ladder's last
            rung if `rung` is None, and with "auto" in the executor that answers first.
          order: in which order to climb where no `rung` is named; see `ladder.climb_plan`.
          quality_floor: accuracy, 0..1, below which nothing is answered: rungs that were measured
            below it are left out.
          stop_at: name of a rung of the plan to stop at.
          memory_budget: bytes of weights that may be held; what does not fit is passed over.
            Codes of few bits are expanded on arrival, so a block counts as its floats, whatever the
            precision it came in. With a budget executors make no copies of weights that they can do
            without, which costs ONNX Runtime some speed.
          byte_budget: bytes that may be fetched in all.
          deadline: seconds from now after which nothing more is fetched, nor what would not be
            up by then at the speed measured so far; the first rung is.
          policy: chooses the next rung of the plan; the limits above make one if None.
          warm_batches: batch sizes to compile for before the first answer.
          largest_batch: larger requests are cut into pieces of this size.
          exact_batches: never pad; each batch size then compiles anew.
          backoff: seconds between attempts after a failure.
          on_event: called with each event, in the thread that caused it; must not block, and must
            not call `wait`, `demote` or `close`.

        Raises:
          LiveModelError: a rung that the bundle does not hold, or a wrong size.
        """
        if largest_batch < 1 or min(warm_batches, default=1) < 1:
            raise LiveModelError("batch sizes must be at least 1")
        limits = Limits(memory_budget, byte_budget, deadline)
        for name, limit in dataclasses.asdict(limits).items():
            if limit is not None and not limit > 0:
                raise LiveModelError(f"{name} must be a positive number, not {limit}")
        self._reader = reader
        self._class_names = tuple(reader.manifest.classes)
        self._preprocessing = Preprocessing.from_dict(reader.manifest.preprocessing)
        formats = program_formats(reader.manifest)
        first = create_executor(executor, formats) if isinstance(executor, str) else executor
        source = BlockSource(reader, first, lean=memory_budget is not None)
        rungs = rungs_to_climb(
            reader.manifest,
            source.files,
            rung=rung,
            climb=climb,
            order=order,
            quality_floor=quality_floor,
        )
        for planned in rungs:
            source.check(planned)
        if stop_at is not None:
            stop_at = rungs[planned_index(rungs, stop_at)].name
        later = successor_of(first.name, formats) if executor == "auto" and climb else None
        self._climber = Climber(
            source,
            rungs,
            policy or InOrder(stop_at, limits),
            backoff=backoff or Backoff(),
            limits=limits,
            warm_batches=warm_batches,
            on_event=on_event,
            successor=_successor(later, formats) if later else None,
        )
        self._largest_batch = largest_batch
        self._exact_batches = exact_batches
        self._climber.start()
        # Joins the thread when the interpreter ends, where a thread inside XLA would crash it.
        self._finalizer = weakref.finalize(self, Climber.close, self._climber)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        public_key: Any = None,
        against: Sequence[Any] = (),
        block: bool = True,
        attempts: int = 3,
        timeout: float | None = None,
        **options: Any,
    ) -> "LiveModel":
        """Opens a bundle and returns as soon as its first rung answers.

        Args:
          path: a folder, or the address of one behind any web server.
          cache_dir, public_key, against: where fetched files are kept, who must have signed the
            bundle, and what a delta is told against; see `BundleReader.open`.
          block: False returns at once; `predict` raises NotReadyError until a rung is up.
          attempts: how often to try the first rung before its error is raised.
          timeout: seconds to wait for the first rung; None for no limit.
          **options: as for `LiveModel`.

        Raises:
          UserError: the bundle or its first rung cannot be read, or nothing fits the budget.
          TimeoutError: `timeout` passed.
        """
        reader = BundleReader.open(
            os.fspath(path), cache_dir=cache_dir, public_key=public_key, against=against
        )
        model = cls(reader, **options)
        if block:
            try:
                model._wait_for_first(attempts, timeout)
            except BaseException:
                model.close()
                raise
        return model

    def predict(self, inputs: Any) -> Prediction:
        """Answers one request from the rung that is up now.

        Args:
          inputs: an image file's path, a PIL image, a uint8 array [H, W] or [H, W, C], or a list
            or batch of these: prepared as the manifest says. A float32 array [H, W, C] or
            [batch, H, W, C] is taken as already normalised.

        Raises:
          NotReadyError: no rung is up yet, or the model was closed.
          UserError: the inputs are not what the network takes; the message says what it takes.
        """
        images = self.prepare(inputs)
        snapshot = self._climber.snapshot
        if snapshot is None:
            raise NotReadyError(
                "the live model is closed" if self._climber.closed else "the first rung is loading"
            )
        logits = []
        for batch, count in padded_batches(images, self._largest_batch, exact=self._exact_batches):
            self._climber.note_batch(len(batch))
            logits.append(snapshot.logits(batch)[:count])
        return Prediction(
            logits[0] if len(logits) == 1 else np.concatenate(logits),
            snapshot.name,
            snapshot.executor.name,
            self._class_names,
        )

    def prepare(self, inputs: Any) -> np.ndarray:
        """The manifest's preprocessing: f32[batch, height, width, channels], at least one image."""
        images = self._preprocessing(inputs)
        if not len(images):
            raise LiveModelError("the batch is empty; expected at least one image")
        return images

    @property
    def rung(self) -> str | None:
        """Name of the rung that answers; None before the first."""
        snapshot = self._climber.snapshot
        return snapshot.rung.name if snapshot else None

    @property
    def rungs(self) -> tuple[str, ...]:
        """Names of the rungs of the plan, in the order of climbing."""
        return tuple(rung.name for rung in self._climber.rungs)

    @property
    def progress(self) -> Progress:
        """Where the climb stands."""
        return self._climber.progress()

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened so far, the last thousand events."""
        return tuple(self._climber.log.events)

    @property
    def live_bytes(self) -> int:
        """Bytes of weights held as floats, those pinned by unfinished requests included.

        Codes of few bits are expanded on arrival and not kept: a block takes as much memory in 4
        bits as it does exact, and a rung costs what its composition does.
        """
        return self._climber.source.live_bytes

    @property
    def executor(self) -> Executor:
        """What computes the answers now, or will compute the first."""
        return self._climber.source.executor

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self._reader.manifest

    @property
    def ladder(self) -> Ladder:
        """The bundle's ladder, with the bytes fetched and the accuracy measured at each rung."""
        return self._reader.ladder

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self._class_names

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        height, width, channels = self._preprocessing.input_shape
        return height, width, channels

    def wait(self, rung: str | None = None, timeout: float | None = None) -> str:
        """Blocks until `rung` or a higher one answers; with None, until the climb rests.

        Returns:
          The name of the rung that answers then.

        Raises:
          TimeoutError: `timeout` seconds passed.
          LiveModelError: the climb ended below `rung`; the message says why.
        """
        climber = self._climber
        index = None if rung is None else self._index(rung)

        def reached() -> bool:
            snapshot = climber.snapshot
            return index is not None and snapshot is not None and snapshot.index >= index

        if not climber.wait_until(lambda: reached() or climber.resting, timeout):
            raise TimeoutError(
                f"{rung or 'the top'} not reached in {timeout} s: {self._standing()}"
            )
        if self.rung is None or (index is not None and not reached()):
            raise LiveModelError(f"{rung or 'the first rung'} not reached: {self._standing()}")
        return self.rung or ""

    def pause(self) -> None:
        """Fetches nothing more, after the shard now on its way, until `resume`. Answers go on."""
        self._climber.pause()

    def resume(self) -> None:
        """Climbs on after `pause`."""
        self._climber.resume()

    def demote(self, rung: str, timeout: float | None = 60.0) -> None:
        """Goes down to `rung`, frees what it does not read, and stays until `promote`.

        Returns once `rung` answers. What it needs and was freed is read again from the cache.

        Raises:
          TimeoutError: the rung could not be loaded in `timeout` seconds; it is still tried.
          LiveModelError: `rung` is not of this plan, lies above the current one, or the model was
            closed.
        """
        index, climber = self._index(rung), self._climber
        snapshot = climber.snapshot
        if snapshot is None or index > snapshot.index:
            raise LiveModelError(f"cannot demote to {rung}: {self._standing()}")
        climber.demote(index)

        def reached() -> bool:
            return climber.closed or (
                climber.snapshot is not None and climber.snapshot.index == index
            )

        if not climber.wait_until(reached, timeout):
            raise TimeoutError(f"{rung} not reached in {timeout} s: {self._standing()}")
        if climber.closed:
            raise LiveModelError("the live model is closed")

    def promote(self) -> None:
        """Climbs again after `demote`."""
        self._climber.promote()

    def close(self) -> None:
        """Stops climbing and frees all weights. Requests under way finish; new ones are refused."""
        self._finalizer()

    def __enter__(self) -> "LiveModel":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _index(self, rung: str) -> int:
        return planned_index(self._climber.rungs, rung)

    def _standing(self) -> str:
        progress = self.progress
        reason = f" ({progress.reason})" if progress.reason else ""
        return f"{progress.state} at {progress.rung or 'no rung'}{reason}"

    def _wait_for_first(self, attempts: int, timeout: float | None) -> None:
        climber = self._climber

        def settled() -> bool:
            failed = climber.failures_in_row >= attempts
            return climber.snapshot is not None or climber.resting or failed

        if not climber.wait_until(settled, timeout):
            raise TimeoutError(f"no rung answers after {timeout} s: {self._standing()}")
        if climber.snapshot is None:
            error = climber.last_error
            if error is not None and not climber.resting:
                raise error
            raise LiveModelError(f"no rung answers: {self._standing()}")


def _successor(name: str, formats: Sequence[str]) -> "Successor":
    # Not for a first answer.
    from pwl_jax.runtime.hand_over import Successor

    return Successor(name, lambda: create_executor(name, formats))
