"""Runs StableHLO block programs (`jax.export`) on whatever device JAX finds.

JAX is imported when the first executor is made, never with this module.
"""

import contextlib
import os
import pickle
import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from pwl_jax.ladder import Unit
from pwl_jax.runtime.background import apart
from pwl_jax.runtime.executable_cache import ExecutableCache
from pwl_jax.runtime.executor import Block, Chain, ExecutorError, Program, Step

_T = TypeVar("_T")

_JAXS_CACHE = ("jax_enable_compilation_cache", "jax_compilation_cache_dir")
"""Both are set where JAX keeps executables itself."""


class JaxExecutor:
    """One executable for each program and batch shape; a swap of weights is another argument.

    Each program is compiled ahead of time for the concrete batch, so `run` never traces.
    Executables are kept in the user's cache folder, so that the next process loads them instead.
    """

    name = "jax"
    program_format = "stablehlo"

    def __init__(
        self, device: Any = None, cache: ExecutableCache | Literal["default"] | None = "default"
    ) -> None:
        """Imports JAX, and compiles nothing yet.

        Args:
          device: where to compute; the first device of JAX's default backend if None.
          cache: of executables; None compiles anew in every process. Where JAX's own cache is
            on, the default is None: what that gave cannot be serialised again.
        """
        import jax
        import jax.export

        self._jax = jax
        if cache == "default":
            jaxs = all(getattr(jax.config, name) for name in _JAXS_CACHE)
            cache = None if jaxs else ExecutableCache.default()
        self._cache = cache
        self._device = jax.local_devices()[0] if device is None else device
        self._machine = _machine(jax.__version__, self._device)
        self._executables: dict[tuple[str, tuple[int, ...]], Any] = {}
        self._lock = threading.Lock()
        self._compiles = 0

    @property
    def accelerated(self) -> bool:
        """Whether JAX found another device than the CPU."""
        return bool(self._device.platform != "cpu")

    @property
    def compiles(self) -> int:
        """How many executables were built so far."""
        return self._compiles

    def read_program(
        self, unit: Unit, data: bytes, bindings: Mapping[str, Sequence[str]]
    ) -> Program:
        """Reads a serialised `jax.export.Exported`, which holds no pickled data.

        Raises:
          ExecutorError: the bytes do not parse, the program was not exported for this backend, or
            its number of arguments is not that of its bindings.
        """
        try:
            exported = _apart(lambda: self._jax.export.deserialize(bytearray(data)))
        except Exception as error:
            # The parser raises whatever the bytes lead it to.
            raise ExecutorError(f"program of {unit} is no StableHLO program: {error!r}") from error
        platform = self._device.platform
        platform = {"gpu": "cuda"}.get(platform, platform)
        if platform not in exported.platforms:
            raise ExecutorError(
                f"program of {unit} was exported for {', '.join(exported.platforms)}; this "
                f"machine's backend is {platform}"
            )
        for stream, names in bindings.items():
            if len(names) + 1 != len(exported.in_avals):
                raise ExecutorError(
                    f"program of {unit} takes {len(exported.in_avals)} arguments; its binding "
                    f"'{stream}' names {len(names)} tensors and the input makes one more"
                )
        return Program.of(unit, data, bindings, exported)

    def load(self, program: Program, tensors: Mapping[str, np.ndarray]) -> Block:
        """Copies a unit's tensors to the device and waits until they are there.

        Raises:
          ExecutorError: a tensor the program reads is missing or has another shape or type.
        """
        unit = program.unit
        for names in program.bindings.values():
            for name, expected in zip(names, program.function.in_avals, strict=False):
                tensor = tensors.get(name)
                if tensor is None:
                    raise ExecutorError(f"program of {unit} reads '{name}', which no shard holds")
                if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
                    raise ExecutorError(
                        f"program of {unit} takes '{name}' as {expected.dtype}{expected.shape}; "
                        f"the shards hold {tensor.dtype}{tensor.shape}"
                    )
        placed = {name: self._jax.device_put(tensors[name], self._device) for name in program.reads}
        self._jax.block_until_ready(placed)
        return Block(program, placed, sum(array.nbytes for array in placed.values()))

    def join(self, steps: Sequence[Step], *, lean: bool = False, aside: bool = False) -> Chain:
        """The programs with their weights in the order of the arguments; compiles nothing yet.

        There never are copies, and nothing that could stand back.
        """
        del lean, aside
        calls = []
        for step in steps:
            program, tensors = step.block.program, step.block.tensors
            names = program.arguments(step.stream)
            calls.append((program, tuple(tensors[name] for name in names)))
        return Chain(tuple(steps), tuple(calls))

    def warm(self, chain: Chain, batch: np.ndarray) -> None:
        """Compiles what is missing for this batch shape and runs it once."""
        self.run(chain, batch)

    def run(self, chain: Chain, batch: np.ndarray) -> np.ndarray:
        """Logits f32[batch, classes]; compiles only for a batch shape never seen before."""
        x = self._jax.device_put(batch, self._device)
        for program, weights in chain.function:
            executable = self._executables.get((program.digest, x.shape))
            if executable is None:
                executable = self._compile(program, x)
            x = executable(*weights, x)
        return np.asarray(x, dtype=np.float32)

    def _compile(self, program: Program, x: Any) -> Any:
        key = (program.digest, x.shape)
        with self._lock:
            if key not in self._executables:
                exported = program.function
                self._check_input(program.unit, exported.in_avals[-1], x)
                specs = [
                    self._jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=x.sharding)
                    for aval in exported.in_avals[:-1]
                ]
                specs.append(self._jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding))
                self._executables[key] = self._executable(
                    program.digest, x.shape, self._jax.jit(exported.call), specs
                )
            return self._executables[key]

    def _executable(
        self, digest: str, shape: tuple[int, ...], function: Any, specs: Sequence[Any]
    ) -> Any:
        """What an earlier process left in the cache, else a new one, left there."""
        name = (digest, str(shape), *self._machine)
        device = self._device
        kept = self._cache.load(*name) if self._cache is not None else None
        if kept is not None:
            # One that does not load is compiled anew, whatever its matter.
            with contextlib.suppress(Exception):
                return _apart(lambda: _deserialised(kept, device))
        executable = _apart(lambda: function.lower(*specs).compile())
        self._compiles += 1
        if self._cache is not None:
            # Not every back end can serialise.
            with contextlib.suppress(Exception):
                self._cache.store(_serialised(executable), *name)
        return executable

    def _check_input(self, unit: Unit, expected: Any, x: Any) -> None:
        agree = (
            len(expected.shape) == x.ndim
            and expected.dtype == x.dtype
            and all(
                not isinstance(want, int) or want == have
                for want, have in zip(expected.shape, x.shape, strict=True)
            )
        )
        if not agree:
            raise ExecutorError(
                f"program of {unit} takes {expected.dtype}{expected.shape}; it was given "
                f"{x.dtype}{x.shape}"
            )


def _machine(version: str, device: Any) -> tuple[str, ...]:
    """All that an executable depends on besides its program."""
    processor = platform.machine()
    # What XLA compiles for on a CPU, where Linux tells it.
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    client = device.client
    flags = os.environ.get("XLA_FLAGS", "")
    kind = (device.platform, device.device_kind, str(device.id), client.platform_version)
    return (version, *kind, processor, flags)


def _serialised(executable: Any) -> bytes:
    from jax.experimental import serialize_executable

    return pickle.dumps(serialize_executable.serialize(executable))


def _deserialised(data: bytes, device: Any) -> Any:
    from jax.experimental import serialize_executable

    payload, inputs, outputs = pickle.loads(data)
    return serialize_executable.deserialize_and_load(
        payload, inputs, outputs, backend=device.client, execution_devices=[device]
    )


def _apart(call: Callable[[], _T]) -> _T:
    """The result of `call`, made in a thread of its own.

    Tracing leaves exceptions in reference cycles, and through their tracebacks every frame below:
    in the caller's thread these would hold replaced weights until the garbage collector ran.
    """
    return apart(call, daemon=False)
