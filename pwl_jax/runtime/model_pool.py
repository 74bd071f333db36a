"""Several live models that share one budget of weights: those in demand climb, others wait low."""

import dataclasses
import logging
import math
import os
import threading
import time
from types import TracebackType
from typing import Any

from pwl_jax.errors import UserError
from pwl_jax.runtime.answers import Prediction
from pwl_jax.runtime.live_model import LiveModel, LiveModelError
from pwl_jax.runtime.policy import ClimbState, Decision, block_keys

DEVIATIONS = 2.0
"""By how many standard deviations of a count one demand must be above another before a model loses
its share to another: less is chance, and models in about equal demand would take turns."""

LEAST_HALF_LIFE = 4
"""Below it no demand ever grows high enough to be told from chance."""

_SECONDS_BETWEEN = 0.02
_RELEASE_SECONDS = 0.002
_DEMOTION_SECONDS = 60.0
_OF_THE_POOL = ("policy", "memory_budget", "stop_at", "byte_budget", "deadline", "climb", "block")


class PoolError(UserError):
    """A pool cannot do what was asked; the message says why."""


class Share:
    """The policy of one live model in a pool: climbs as high as its share of the budget allows.

    A rung fits if it and the one before it, and it and the first one, fit side by side: the way
    back down must be open too, or memory could not be had back when it is short. A rung on the way
    is taken only if the highest one that fits can still be reached from it.

    Attributes:
      bytes: the share; 0 until the pool has given one.
      needed: bytes of each rung and the first one together.
      known: set when the model has asked for the first time, which tells what its rungs need.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.needed: tuple[int, ...] = ()
        self.known = threading.Event()
        self._state: ClimbState | None = None

    def next_rung(self, state: ClimbState) -> Decision:
        """The next rung within the share; the model rests where there is none."""
        rungs = range(len(state.rungs))
        self._state = state
        if not self.needed:
            self.needed = tuple(_held(state, 0, rung) for rung in rungs)
            self.known.set()
        current = max(state.current, 0)
        fitting = [
            rung
            for rung in rungs[state.current + 1 :]
            if self.needed[rung] <= self.bytes and _held(state, current, rung) <= self.bytes
        ]
        if not fitting:
            top = state.current == rungs[-1]
            return Decision(
                None, "top of the ladder" if top else f"its share is {self.bytes} bytes"
            )
        if state.current < 0:
            return Decision(0)
        highest = fitting[-1]
        return Decision(next(r for r in fitting if _held(state, r, highest) <= self.bytes))

    @property
    def first(self) -> int:
        """Bytes of the first rung."""
        return self.needed[0]

    @property
    def full(self) -> int:
        """Bytes of the share that reaches the top."""
        return self.needed[-1]

    def within(self, limit: int) -> int:
        """The least share that reaches as high as `limit` bytes do; at least the first rung's."""
        return next((needed for needed in reversed(self.needed) if needed <= limit), self.first)

    def leads_up(self, share: int) -> bool:
        """Whether the rung that `share` bytes are for can be reached from the one that answers."""
        state = self._state
        if state is None or state.current <= 0:
            return True
        highest = max(rung for rung, needed in enumerate(self.needed) if needed <= share)
        return highest <= state.current or _held(state, state.current, highest) <= share


def _held(state: ClimbState, one: int, other: int) -> int:
    """Bytes of two rungs side by side."""
    keys = block_keys(state.rungs[one]) | block_keys(state.rungs[other])
    return sum(state.block_bytes[key] for key in keys)


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

    def __init__(self, budget: int, *, half_life: float = 64.0, **options: Any) -> None:
        """An empty pool.

        Args:
          budget: bytes of weights that all models may hold together, what is being loaded
            included; only what requests under way still read of a rung that was left in the middle
            of a climb may come on top of it.
          half_life: requests to the pool after which one counts half; from `LEAST_HALF_LIFE` on.
          **options: for every `LiveModel.open`, such as `executor`; an executor that was made
            before is shared by all.

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
        attempts: int = 3,
        timeout: float | None = None,
        **options: Any,
    ) -> LiveModel:
        """Adds a model and returns it as soon as its first rung answers.

        What others hold beyond their first rungs is given up where the new one needs the room.

        Args:
          name: to ask it by.
          path: a folder, or the address of one behind any web server.
          attempts: how often to try the first rung.
          timeout: seconds to wait for it; None for no limit.
          **options: as for `LiveModel.open`, for this model alone.

        Raises:
          PoolError: the name is taken, the pool is closed, an option is the pool's, or the first
            rungs of all models do not fit the budget together.
          UserError: the bundle or its first rung cannot be read.
          TimeoutError: `timeout` passed.
        """
        chosen = {**self._options, **_checked(options)}
        self._check_new(name)
        share = Share()
        model = LiveModel.open(path, block=False, policy=share, memory_budget=self.budget, **chosen)
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
                del self._members[name]
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
        return self.budget - sum(member.share.bytes for member in self._members.values())

    def _take_back(self, member: Member) -> None:
        """Sends a model to its first rung, and waits until the requests above it are answered."""
        model, first = member.model, member.share.first
        model.demote(model.rungs[0], timeout=_DEMOTION_SECONDS)
        until = time.monotonic() + _DEMOTION_SECONDS
        while model.live_bytes > first and not self._closed.is_set():
            if time.monotonic() > until:
                raise TimeoutError(f"{model.live_bytes} bytes are still read by requests")
            time.sleep(_RELEASE_SECONDS)
        member.share.bytes = first
        member.satisfied = False

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
            raise PoolError(f"'{name}' is not for a model of a pool, which moves it by its budget")
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
