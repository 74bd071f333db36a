"""Several live models that share one budget of weights: those in demand climb, others wait low."""

import dataclasses
import logging
import math
import os
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from pwl_jax.bundle import BundleReader
from pwl_jax.errors import UserError
from pwl_jax.runtime.answers import Prediction
from pwl_jax.runtime.executor import Executor, create_executor
from pwl_jax.runtime.live_model import LiveModel
from pwl_jax.runtime.plan import LiveModelError, program_formats
from pwl_jax.runtime.share import Share

DEVIATIONS = 2.0
"""By how many standard deviations of a count one demand must be above another before a model loses
its share to another: less is chance, and models in about equal demand would take turns."""

LEAST_HALF_LIFE = 4
"""Below it no demand ever grows high enough to be told from chance."""

_SECONDS_BETWEEN = 0.02
_RELEASE_SECONDS = 0.002
_DEMOTION_SECONDS = 60.0
_OF_THE_POOL = (
    "executor",
    "policy",
    "memory_budget",
    "stop_at",
    "byte_budget",
    "deadline",
    "climb",
)


class PoolError(UserError):
    """A pool cannot do what was asked; the message says why."""


@dataclasses.dataclass(eq=False)
class Member:
    """A model of the pool, and how much it is asked for.

    Attributes:
      model: the live model.
      share: its policy.
      demand: requests so far, each worth half as much after every half-life, as of request `asked`.
      asked: number of the request that was its last.
      satisfied: whether it holds as much as it can make use of.
    """

    model: LiveModel
    share: Share
    demand: float = 0.0
    asked: int = 0
    satisfied: bool = False


class ModelPool:
    """Live models under one budget. Every one of them answers at any time, from its first rung on.

    Models that are asked for climb in the background, the most wanted first, each as high as the
    budget then allows. Where that is short, models that have climbed and are clearly less wanted go
    back down to their first rungs, the least wanted first; none is ever unloaded. Demand is the
    number of requests, each of which counts half after another `half_life` requests to the pool.

        with ModelPool(budget=64 << 20) as pool:
            for name in ("cats", "dogs", "birds"):
                pool.open(name, f"https://host/{name}")
            pool.predict("cats", "cat.png")

    Safe to use from many threads. Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        budget: int,
        *,
        executor: str | Executor = "auto",
        half_life: float = 64.0,
        **options: Any,
    ) -> None:
        """An empty pool.

        Args:
          budget: bytes of weights that all models may hold together, what is being loaded
            included; only what requests under way still read of a rung that was left in the middle
            of a climb may come on top of it.
          executor: "auto", the name of an executor, or an executor of its own. All models share it,
            and none changes to another on its way: that takes their weights twice.
          half_life: requests to the pool after which one counts half; from `LEAST_HALF_LIFE` on.
          **options: for every `LiveModel`, such as `on_event`.

        Raises:
          PoolError: a budget that is not positive, too short a half-life, or an option that is the
            pool's.
        """
        if not budget > 0:
            raise PoolError(f"budget must be a positive number of bytes, not {budget}")
        if not half_life >= LEAST_HALF_LIFE:
            raise PoolError(f"half_life must be at least {LEAST_HALF_LIFE}, not {half_life}")
        self.budget = budget
        self._options = _checked(options)
        self._executor_name = executor if isinstance(executor, str) else executor.name
        self._executors: list[Executor] = [] if isinstance(executor, str) else [executor]
        self._decay = 0.5 ** (1.0 / half_life)
        self._members: dict[str, Member] = {}
        self._requests = 0
        self._lock = threading.Lock()
        self._dealing = threading.Lock()
        self._wanted = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pwl-pool", daemon=True)
        self._thread.start()

    def open(
        self,
        name: str,
        path: str | os.PathLike[str],
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        public_key: Any = None,
        against: Sequence[Any] = (),
        attempts: int = 3,
        timeout: float | None = None,
        **options: Any,
    ) -> LiveModel:
        """Adds a model and returns it as soon as its first rung answers.

        What others hold beyond their first rungs is given up where the new one needs the room.

        Args:
          name: to ask it by.
          path: a folder, or the address of one behind any web server.
          cache_dir, public_key, against: see `BundleReader.open`.
          attempts: how often to try the first rung.
          timeout: seconds to wait for it; None for no limit.
          **options: as for `LiveModel`, for this model alone.

        Raises:
          PoolError: the name is taken, the pool is closed, an option is the pool's, or the first
            rungs of all models do not fit the budget together.
          UserError: the bundle or its first rung cannot be read.
          TimeoutError: `timeout` passed.
        """
        chosen = {**self._options, **_checked(options)}
        self._check_new(name)
        reader = BundleReader.open(
            os.fspath(path), cache_dir=cache_dir, public_key=public_key, against=against
        )
        share = Share()
        model = LiveModel(
            reader,
            executor=self._executor_for(reader),
            policy=share,
            memory_budget=self.budget,
            **chosen,
        )
        try:
            share.known.wait()
            with self._dealing:
                self._make_room(name, share.first)
                with self._lock:
                    self._check_new(name)
                    share.bytes = share.first
                    self._members[name] = Member(model, share)
        except BaseException:
            model.close()
            raise
        model.promote()
        try:
            _wait_for_first(model, attempts, timeout)
        except BaseException:
            with self._lock:
                self._members.pop(name, None)
            model.close()
            raise
        return model

    def predict(self, name: str, inputs: Any) -> Prediction:
        """Answers one request from the rung that the model holds now; see `LiveModel.predict`.

        Raises:
          PoolError: no such model.
          NotReadyError: it is still being opened, or the pool was closed.
        """
        member = self._member(name)
        with self._lock:
            self._requests += 1
            member.demand = self._demand(member) + 1.0
            member.asked = self._requests
        if not member.satisfied:
            self._wanted.set()
        return member.model.predict(inputs)

    def model(self, name: str) -> LiveModel:
        """A model of the pool, to look at; it is the pool that moves it up and down.

        Raises:
          PoolError: no such model.
        """
        return self._member(name).model

    @property
    def names(self) -> tuple[str, ...]:
        """Of the models, in the order in which they were opened."""
        with self._lock:
            return tuple(self._members)

    @property
    def live_bytes(self) -> int:
        """Bytes of weights that all models hold now."""
        with self._lock:
            models = [member.model for member in self._members.values()]
        return sum(model.live_bytes for model in models)

    def close(self) -> None:
        """Closes all models; a second call does nothing."""
        self._closed.set()
        self._wanted.set()
        with self._lock:
            members = list(self._members.values())
        # First the models: the thread may be waiting for one of them.
        for member in members:
            member.model.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> "ModelPool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _executor_for(self, reader: BundleReader) -> Executor:
        """One that there is already, if it runs this bundle's programs."""
        formats = program_formats(reader.manifest)
        with self._lock:
            for executor in self._executors:
                if executor.program_format in formats:
                    return executor
            self._executors.append(create_executor(self._executor_name, formats))
            return self._executors[-1]

    def _check_new(self, name: str) -> None:
        if self._closed.is_set():
            raise PoolError("the pool is closed")
        if name in self._members:
            raise PoolError(f"the pool holds a model '{name}' already")

    def _member(self, name: str) -> Member:
        with self._lock:
            if name not in self._members:
                known = ", ".join(self._members) or "none"
                raise PoolError(f"the pool holds no model '{name}'; it holds {known}")
            return self._members[name]

    def _demand(self, member: Member) -> float:
        return float(member.demand * self._decay ** (self._requests - member.asked))

    def _run(self) -> None:
        while self._wanted.wait() and not self._closed.is_set():
            self._wanted.clear()
            try:
                with self._dealing:
                    self._deal()
            except (UserError, TimeoutError) as error:
                # Nobody got what was not free; the next request has it tried again.
                if not self._closed.is_set():
                    logging.getLogger(__name__).warning("the pool could not free memory: %s", error)
            self._closed.wait(_SECONDS_BETWEEN)

    def _deal(self) -> None:
        """Gives the most wanted what they can use: what is free, or held by the far less wanted."""
        with self._lock:
            demands = {member: self._demand(member) for member in self._members.values()}
        wanted = sorted(demands, key=demands.__getitem__, reverse=True)
        for member in wanted:
            if not demands[member] or member.satisfied:
                continue
            share = member.share
            losers = [
                other
                for other in wanted
                if other.share.bytes > other.share.first
                and _surpasses(demands[member], demands[other])
            ]
            within_reach = sum(other.share.bytes - other.share.first for other in losers)
            target = share.within(share.bytes + self._free() + within_reach)
            if target <= share.bytes:
                continue
            while share.within(share.bytes + self._free()) < target:
                self._take_back(losers.pop())
            if not share.leads_up(target):
                self._take_back(member)
            share.bytes = target
            member.satisfied = target == share.full
            member.model.promote()

    def _free(self) -> int:
        with self._lock:
            return self.budget - sum(member.share.bytes for member in self._members.values())

    def _take_back(self, member: Member) -> None:
        """Sends a model to its first rung, and waits until the requests above it are answered."""
        model, first = member.model, member.share.first
        # Whatever comes of it, the model may climb again.
        member.satisfied = False
        model.demote(model.rungs[0], timeout=_DEMOTION_SECONDS)
        until = time.monotonic() + _DEMOTION_SECONDS
        while model.live_bytes > first and not self._closed.is_set():
            if time.monotonic() > until:
                raise TimeoutError(f"{model.live_bytes} bytes are still read by requests")
            time.sleep(_RELEASE_SECONDS)
        member.share.bytes = first

    def _make_room(self, name: str, needed: int) -> None:
        members = sorted(self._members.values(), key=self._demand)
        least = sum(member.share.first for member in members) + needed
        if least > self.budget:
            raise PoolError(
                f"no room for '{name}': the first rungs of {len(members) + 1} models need {least} "
                f"bytes; the budget is {self.budget}"
            )
        for member in members:
            if sum(other.share.bytes for other in members) + needed <= self.budget:
                return
            if member.share.bytes > member.share.first:
                self._take_back(member)


def _surpasses(demand: float, other: float) -> bool:
    """Whether two counts of rare events differ by more than chance makes them."""
    return demand > other + DEVIATIONS * math.sqrt(demand + other)


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    for name in options:
        if name in _OF_THE_POOL:
            raise PoolError(f"'{name}' is not for a model of a pool, whose budget decides")
    return options


def _wait_for_first(model: LiveModel, attempts: int, timeout: float | None) -> None:
    """Returns when the first rung answers; raises what keeps it from that after some attempts."""
    began = time.monotonic()
    while True:
        try:
            model.wait(model.rungs[0], timeout=0.05)
            return
        except TimeoutError:
            progress = model.progress
            if progress.failures >= attempts:
                raise LiveModelError(f"no rung answers: {progress.reason}") from None
            if timeout is not None and time.monotonic() - began > timeout:
                raise
