"""Runs ONNX block programs by ONNX Runtime on a CPU, where there may be no JAX.

ONNX Runtime is imported when the first executor is made, never with this module.
"""

import dataclasses
import hashlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pwl_jax.ladder import Unit
from pwl_jax.runtime.executor import Block, ExecutorError, Program, Step
from pwl_jax.runtime.onnx_constants import with_constants

_INPUT, _OUTPUT = "x", "y"


@dataclasses.dataclass(frozen=True, eq=False)
class SessionBlock(Block):
    """A block with the sessions that hold its weights, by entry stream; each takes any batch.

    ONNX Runtime reads `tensors` where they lie and does not own them.
    """

    sessions: dict[str, Any] = dataclasses.field(default_factory=dict)


class OnnxExecutor:
    """One session for each loaded block and stream, whose weights are constants of it.

    Given as inputs, weights would be laid out anew for every request: convolutions then take
    several times as long. So a program becomes a session when it first runs with its weights, and
    another precision or another stream's statistics make another one.
    """

    name = "onnxruntime"
    program_format = "onnx"

    def __init__(self, threads: int | None = None) -> None:
        """Imports ONNX Runtime, and reads nothing yet.

        Args:
          threads: that compute one request; as many as there are cores if None.
        """
        import onnxruntime

        self._runtime = onnxruntime
        self._threads = threads
        self._lock = threading.Lock()
        self._compiles = 0

    @property
    def compiles(self) -> int:
        """How many sessions were made so far."""
        return self._compiles

    def read_program(
        self, unit: Unit, data: bytes, bindings: Mapping[str, Sequence[str]]
    ) -> Program:
        """The program as it is; `load` makes something of it."""
        bound = {stream: tuple(names) for stream, names in bindings.items()}
        return Program(unit, hashlib.sha256(data).hexdigest(), bound, data)

    def load(self, program: Program, tensors: Mapping[str, np.ndarray]) -> SessionBlock:
        """Takes a unit's tensors, which must not change from then on; makes a session of the first
        stream, so that what does not fit is said here.

        Floats narrower than float32 are widened, which is exact.

        Raises:
          ExecutorError: the program is none that ONNX Runtime takes, or a tensor that it reads is
            missing or has another shape or type.
        """
        values, size = {}, 0
        for name in (name for names in program.bindings.values() for name in names):
            if name not in tensors:
                raise ExecutorError(
                    f"program of {program.unit} reads '{name}', which no shard holds"
                )
            if name not in values:
                array = _widened(tensors[name])
                values[name] = self._value(array)
                size += array.nbytes
        block = SessionBlock(program, values, size)
        self._session(block, next(iter(program.bindings)))
        return block

    def warm(self, steps: Sequence[Step], batch: np.ndarray) -> None:
        """Makes the sessions that are missing and runs `batch` once."""
        self.run(steps, batch)

    def run(self, steps: Sequence[Step], batch: np.ndarray) -> np.ndarray:
        """Logits f32[batch, classes].

        Raises:
          ExecutorError: the batch is not what the first program takes.
        """
        x = self._value(np.ascontiguousarray(batch))
        for step in steps:
            session = self._session(step.block, step.stream)
            try:
                (x,) = session.run_with_ort_values([_OUTPUT], {_INPUT: x})
            except Exception as error:
                # Its exceptions have no class in common but this one.
                raise ExecutorError(f"program of {step.block.program.unit}: {error}") from error
        return np.asarray(x.numpy(), dtype=np.float32)

    def _session(self, block: Any, stream: str) -> Any:
        session = block.sessions.get(stream)
        if session is None:
            with self._lock:
                session = block.sessions.get(stream)
                if session is None:
                    session = block.sessions[stream] = self._made(block, stream)
        return session

    def _made(self, block: SessionBlock, stream: str) -> Any:
        names = block.program.arguments(stream)
        constants = {f"w{place}": block.tensors[name] for place, name in enumerate(names)}
        options = self._runtime.SessionOptions()
        # Errors are raised; what is said besides would come between a program's own lines.
        options.log_severity_level = 4
        # Blocks run one after the other: threads that spin for one would be in the next one's way.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        if constants:
            options.add_external_initializers(list(constants), list(constants.values()))
        try:
            described = {name: value.numpy() for name, value in constants.items()}
            session = self._runtime.InferenceSession(
                with_constants(block.program.function, described),
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:
            raise ExecutorError(
                f"program of {block.program.unit} cannot be run: {error}"
            ) from error
        inputs = [value.name for value in session.get_inputs()]
        if inputs != [_INPUT]:
            raise ExecutorError(
                f"program of {block.program.unit} takes {', '.join(inputs)} beside the "
                f"{len(names)} tensors that binding '{stream}' names; expected {_INPUT}"
            )
        self._compiles += 1
        return session

    def _value(self, array: np.ndarray) -> Any:
        return self._runtime.OrtValue.ortvalue_from_numpy(array)


def _widened(array: np.ndarray) -> np.ndarray:
    narrow = array.dtype.itemsize < 4 and array.dtype.kind not in "iub"
    return np.ascontiguousarray(array, np.float32 if narrow else None)
