"""Runs ONNX block programs by ONNX Runtime on a CPU, where there may be no JAX.

ONNX Runtime is imported when the first executor is made, never with this module.
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pwl_jax.ladder import Unit
from pwl_jax.runtime.background import apart, stand_back
from pwl_jax.runtime.executor import Block, Chain, ExecutorError, Program, Step
from pwl_jax.runtime.onnx_chain import INPUT, OUTPUT, chain, link

_LARGE = 1 << 18
"""Bytes from which weights are not copied where memory is short."""


class _Joined(NamedTuple):
    """A session, and what a chain's input and its one output are called there."""

    session: Any
    input: str
    outputs: tuple[str]


class OnnxExecutor:
    """One session for a whole chain, whose weights are constants of it; it takes any batch.

    Given as inputs, weights would be laid out anew for every request: convolutions then take
    several times as long. One session a block would start slower than one for all, and could not
    compute across blocks.
    """

    name = "onnxruntime"
    program_format = "onnx"
    accelerated = False

    def __init__(self, threads: int | None = None) -> None:
        """Imports ONNX Runtime, and reads nothing yet.

        Args:
          threads: that compute one request; as many as there are cores if None.
        """
        import onnxruntime

        self._runtime = onnxruntime
        self._threads = threads
        self._compiles = 0

    @property
    def compiles(self) -> int:
        """How many sessions were made so far."""
        return self._compiles

    def read_program(
        self, unit: Unit, data: bytes, bindings: Mapping[str, Sequence[str]]
    ) -> Program:
        """A program whose names are the unit's own, so that it can stand in a chain.

        Raises:
          ExecutorError: the bytes are no program, or it takes other than its bindings name.
        """
        try:
            part = link(data, f"{unit}/")
        except ValueError as error:
            raise ExecutorError(f"program of {unit} cannot be run: {error}") from error
        for stream, names in bindings.items():
            expected = {INPUT, *(f"w{place}" for place in range(len(names)))}
            if set(part.takes) != expected:
                raise ExecutorError(
                    f"program of {unit} takes {', '.join(part.takes)}; its binding '{stream}' "
                    f"names {len(names)} tensors and the input {INPUT} makes one more"
                )
        return Program.of(unit, data, bindings, part)

    def load(self, program: Program, tensors: Mapping[str, np.ndarray]) -> Block:
        """Takes a unit's tensors, which must not change from then on, without a copy.

        Floats narrower than float32 are widened, which is exact.

        Raises:
          ExecutorError: a tensor the program reads is missing or has another shape or type.
        """
        unit, arrays = program.unit, {}
        for names in program.bindings.values():
            for place, name in enumerate(names):
                if name not in tensors:
                    raise ExecutorError(f"program of {unit} reads '{name}', which no shard holds")
                array = arrays[name] = _widened(tensors[name])
                expected = program.function.takes[f"w{place}"]
                if (array.dtype.name, array.shape) != expected:
                    raise ExecutorError(
                        f"program of {unit} takes '{name}' as {expected.dtype}{expected.shape}; "
                        f"the shards hold {array.dtype}{array.shape}"
                    )
        values = {name: self._value(array) for name, array in arrays.items()}
        return Block(program, values, sum(array.nbytes for array in arrays.values()))

    def join(self, steps: Sequence[Step], *, lean: bool = False, aside: bool = False) -> Chain:
        """Makes the session of a chain, with copies of weights that are laid out for speed.

        Args:
          steps: in the order of execution.
          lean: large weights are read where the blocks hold them, unless a unit cannot be run so.
          aside: requests are being answered meanwhile, and go first.

        Raises:
          ExecutorError: ONNX Runtime does not take a unit's program, or not the units one after
            the other.
        """
        try:
            session = self._joined(steps, lean, aside)
        except Exception as error:
            # Its exceptions have no class in common but this one.
            raise self._blamed(steps, error) from error
        self._compiles += 1
        first, last = steps[0].block.program.unit, steps[-1].block.program.unit
        joined = _Joined(session, f"{first}/{INPUT}", (f"{last}/{OUTPUT}",))
        return Chain(tuple(steps), joined)

    def warm(self, chain: Chain, batch: np.ndarray) -> None:
        """Runs `batch` once."""
        self.run(chain, batch)

    def run(self, chain: Chain, batch: np.ndarray) -> np.ndarray:
        """Logits f32[batch, classes].

        Raises:
          ExecutorError: the batch is not what the first program takes.
        """
        session, input, outputs = chain.function
        try:
            (logits,) = session.run(outputs, {input: batch})
        except Exception as error:
            unit = chain.steps[0].block.program.unit
            raise ExecutorError(f"program of {unit}: {error}") from error
        return np.asarray(logits, dtype=np.float32)

    def _joined(self, steps: Sequence[Step], lean: bool, aside: bool) -> Any:
        if lean and os.name == "posix":
            # It fails where a large weight's values are needed beforehand, to compute from them.
            with contextlib.suppress(Exception):
                return self._session(steps, lean=True, aside=aside)
        return self._session(steps, aside=aside)

    def _session(self, steps: Sequence[Step], *, lean: bool = False, aside: bool = False) -> Any:
        constants = {}
        for step in steps:
            program = step.block.program
            for place, name in enumerate(program.arguments(step.stream)):
                constants[f"{program.unit}/w{place}"] = step.block.tensors[name]
        links = [step.block.program.function for step in steps]
        for step, part in zip(steps, links, strict=True):
            if part.opsets != links[0].opsets:
                raise ExecutorError(
                    f"program of {step.block.program.unit} is written in other operators than that "
                    f"of {steps[0].block.program.unit}"
                )
        described = {name: value.numpy() for name, value in constants.items()}
        options = self._runtime.SessionOptions()
        # Errors are raised; what is said besides would come between a program's own lines.
        options.log_severity_level = 4
        # Threads that spin on after a request take the core from the next one, and from a climb.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        if lean:
            options.add_session_config_entry("session.disable_prepacking", "1")
            # Where the file must be that they are said to lie in; nobody reads it.
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", "/dev"
            )
            for name in [name for name, array in described.items() if array.nbytes >= _LARGE]:
                options.add_initializer(name, constants.pop(name))
        if constants:
            options.add_external_initializers(list(constants), list(constants.values()))
        make = functools.partial(
            self._runtime.InferenceSession,
            chain(links, described),
            options,
            providers=["CPUExecutionProvider"],
        )
        return apart(lambda: make(disabled_optimizers=_standing_back())) if aside else make()

    def _blamed(self, steps: Sequence[Step], error: Exception) -> ExecutorError:
        """The error of the first step that cannot be run alone; else that of all together."""
        if isinstance(error, ExecutorError):
            return error
        for step in steps:
            try:
                self._session([step])
            except Exception as own:
                return ExecutorError(f"program of {step.block.program.unit} cannot be run: {own}")
        units = ", ".join(str(step.block.program.unit) for step in steps)
        return ExecutorError(f"programs of {units} cannot be run one after the other: {error}")

    def _value(self, array: np.ndarray) -> Any:
        return self._runtime.OrtValue.ortvalue_from_numpy(array)


def _standing_back() -> Iterator[str]:
    """No optimizers. They are asked for when a session has its threads and begins to compute.

    Those threads answer requests later and so must not inherit that their maker stood back.
    """
    stand_back()
    yield from ()


def _widened(array: np.ndarray) -> np.ndarray:
    narrow = array.dtype.itemsize < 4 and array.dtype.kind not in "iub"
    return np.ascontiguousarray(array, np.float32 if narrow else None)
