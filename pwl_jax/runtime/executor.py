"""What runs a rung: one small interface over the libraries that can compute block programs."""

import contextlib
import dataclasses
import gc
import hashlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pwl_jax.errors import UserError
from pwl_jax.ladder import OWN_STREAM, Unit

# In the order in which they answer after the start of a process.
_EXECUTORS = {
    "onnxruntime": ("pwl_jax.runtime.onnx_executor", "OnnxExecutor"),
    "jax": ("pwl_jax.runtime.jax_executor", "JaxExecutor"),
}


class ExecutorError(UserError):
    """A program or block that an executor cannot take; the message names the unit."""


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """The function of one unit, `f(*tensors, x) -> y`, as an executor has read it.

    Attributes:
      unit: the unit it computes.
      digest: of the serialised program; equal programs share their executables.
      bindings: names of the tensor arguments in order, one list for each entry stream a student
        block can stand in ("own", "0", "1", ...); other units only have "own".
      function: the executor's own form of it.
    """

    unit: Unit
    digest: str
    bindings: Mapping[str, tuple[str, ...]]
    function: Any

    @classmethod
    def of(
        cls, unit: Unit, data: bytes, bindings: Mapping[str, Sequence[str]], function: Any
    ) -> "Program":
        """What an executor has read from a program's serialised bytes."""
        bound = {stream: tuple(names) for stream, names in bindings.items()}
        return cls(unit, hashlib.sha256(data).hexdigest(), bound, function)

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the tensors that any stream binds, each once."""
        return tuple(dict.fromkeys(name for names in self.bindings.values() for name in names))

    def arguments(self, stream: str) -> tuple[str, ...]:
        """Names of the tensors that `stream` binds; shared statistics only have "own"."""
        bound = self.bindings.get(stream, self.bindings.get(OWN_STREAM))
        if bound is None:
            raise ExecutorError(
                f"program of {self.unit} binds no stream '{stream}'; "
                f"it has {', '.join(self.bindings)}"
            )
        return bound


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """The weights of one unit at one precision, where the executor computes.

    `tensors` maps a tensor's name to an executor's own array; `nbytes` is the size of the weights.
    """

    program: Program
    tensors: Mapping[str, Any]
    nbytes: int


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One block in a composition, with the stream whose statistics it reads."""

    block: Block
    stream: str


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """The steps of a composition, joined into what an executor runs.

    It holds the weights it reads, and all that the executor made of them is freed with it: an
    executor keeps nothing of a chain that nobody refers to any more.

    Attributes:
      steps: in the order of execution.
      function: the executor's own form of them.
    """

    steps: tuple[Step, ...]
    function: Any


class Executor(Protocol):
    """Loads blocks, joins them, warms them before they answer, runs a composition.

    One executor may serve many live models, and all methods may be called from many threads.
    """

    name: str
    program_format: str

    @property
    def accelerated(self) -> bool:
        """Whether it computes elsewhere than on the CPU."""
        ...

    @property
    def compiles(self) -> int:
        """How many executables were built so far."""
        ...

    def read_program(
        self, unit: Unit, data: bytes, bindings: Mapping[str, Sequence[str]]
    ) -> Program:
        """A unit's program from its verified bytes."""
        ...

    def load(self, program: Program, tensors: Mapping[str, np.ndarray]) -> Block:
        """Moves a unit's tensors to where they are computed with."""
        ...

    def join(self, steps: Sequence[Step], *, lean: bool = False, aside: bool = False) -> Chain:
        """What runs loaded blocks one after the other, at least one.

        With `lean` it holds no copies of their weights, as far as it can do without. With `aside`
        requests are being answered meanwhile, and go first.
        """
        ...

    def warm(self, chain: Chain, batch: np.ndarray) -> None:
        """Runs `batch` once, so that `run` on the same shape compiles nothing."""
        ...

    def run(self, chain: Chain, batch: np.ndarray) -> np.ndarray:
        """Logits f32[batch, classes] of images f32[batch, height, width, channels]."""
        ...


def executor_names() -> tuple[str, ...]:
    """The names `create_executor` takes, besides "auto"."""
    return tuple(_EXECUTORS)


def successor_of(name: str, formats: Sequence[str]) -> str | None:
    """The executor that starts later than executor `name` and may compute better; None without.

    Its library is looked for and not imported, and it must be able to run a bundle with programs in
    these formats.
    """
    # Not for a first answer.
    import importlib.util

    names = executor_names()
    for later in names[names.index(name) + 1 :] if name in names else ():
        # Executors are called after their libraries.
        if _executor_class(later).program_format in formats and importlib.util.find_spec(later):
            return later
    return None


def create_executor(name: str = "auto", formats: Sequence[str] = ("stablehlo",)) -> Executor:
    """The executor called `name`, or with "auto" the one that can run a bundle soonest.

    Args:
      name: "auto" or one of `executor_names()`.
      formats: program formats the bundle offers.

    Raises:
      ExecutorError: the name is unknown, its library is not installed, or the bundle holds no
        program in its format.
    """
    if name != "auto" and name not in _EXECUTORS:
        known = ", ".join(("auto", *_EXECUTORS))
        raise ExecutorError(f"unknown executor '{name}'; expected one of {known}")
    problems = []
    for candidate in _EXECUTORS if name == "auto" else (name,):
        executor = _executor_class(candidate)
        if executor.program_format not in formats:
            problems.append(
                f"executor '{candidate}' needs {executor.program_format} programs; this bundle "
                f"holds {', '.join(formats) or 'none'}"
            )
            continue
        try:
            with _without_collection():
                return executor()
        except ImportError as error:
            problems.append(f"executor '{candidate}' cannot start: {error}")
    raise ExecutorError("; ".join(problems))


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """No garbage is looked for here: what an import makes stays, and is not to be looked through
    again and again while it grows.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _executor_class(name: str) -> type[Executor]:
    module, attribute = _EXECUTORS[name]
    found: type[Executor] = getattr(importlib.import_module(module), attribute)
    return found
