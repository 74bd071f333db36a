"""Turns the shards of a bundle into loaded blocks, and a rung into the steps that compute it."""

import threading
import weakref
from collections.abc import Mapping, Sequence

from pwl_jax.bundle import BundleReader, Preprocessing, ProgramEntry
from pwl_jax.ladder import Bits, CompositionError, Rung, Unit
from pwl_jax.precision import byte_count
from pwl_jax.runtime.executor import Block, Chain, Executor, ExecutorError, Program, Step
from pwl_jax.runtime.policy import BlockKey


class BlockSource:
    """Reads, verifies and decodes through the bundle's reader; places through the executor.

    `load` is called by one thread at a time; everything else from any.
    """

    def __init__(self, reader: BundleReader, executor: Executor) -> None:
        self.executor = executor
        self.preprocessing = Preprocessing.from_dict(reader.manifest.preprocessing)
        self.block_bytes: dict[BlockKey, int] = {}
        self._reader = reader
        self._manifest = reader.manifest
        self._programs: dict[Unit, Program] = {}
        self._alive: weakref.WeakSet[Block] = weakref.WeakSet()
        self._lock = threading.Lock()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        height, width, channels = self.preprocessing.input_shape
        return height, width, channels

    @property
    def bytes_fetched(self) -> int:
        """All bytes read from the bundle so far."""
        return self._reader.bytes_fetched

    def bytes_in_all(self, rungs: Sequence[Rung]) -> int:
        """All bytes that are read on the way through `rungs`, each file once."""
        read: dict[str, int] = {}
        for rung in rungs:
            read |= self.files(rung) or {}
        return self._reader.manifest_bytes + sum(read.values())

    @property
    def live_bytes(self) -> int:
        """Bytes of the blocks that something still refers to."""
        with self._lock:
            return sum(block.nbytes for block in self._alive)

    def check(self, rung: Rung) -> None:
        """Makes sure that the bundle holds all a rung reads, and how large its weights are.

        Raises:
          CompositionError: a wrong number of blocks, or a unit or precision the bundle lacks.
        """
        if len(rung.composition) != self._manifest.blocks:
            raise CompositionError(
                f"rung {rung.name} has {len(rung.composition)} blocks; this bundle's network has "
                f"{self._manifest.blocks}"
            )
        for unit, stage in rung.stages().items():
            if self._is_identity(unit):
                self.block_bytes[unit, stage] = 0
                continue
            stages = self._manifest.stages.get(str(unit), ())
            if stage not in stages:
                held = ", ".join(map(str, stages)) or "nothing"
                raise CompositionError(
                    f"rung {rung.name} needs {unit} at {stage}; this bundle holds {held} of it"
                )
            self.block_bytes[unit, stage] = self._weight_bytes(unit)

    def files(self, rung: Rung) -> dict[str, int] | None:
        """What a rung reads, by name with the bytes; None where the bundle does not hold it."""
        found: dict[str, int] = {}
        for unit, stage in self.keys(rung):
            stages = self._manifest.stages.get(str(unit), ())
            if stage not in stages:
                return None
            shards = [
                self._manifest.shards[f"{unit}@{below}"]
                for below in stages[: stages.index(stage) + 1]
            ]
            found |= {entry.file: entry.bytes for entry in (self._entry(unit), *shards)}
        return found

    def missing_bytes(self, rung: Rung) -> int:
        """Bytes of a rung's files that were not read yet."""
        read = self._reader.files_read
        return sum(size for name, size in (self.files(rung) or {}).items() if name not in read)

    def load(self, unit: Unit, stage: Bits) -> Block:
        """One unit's verified tensors at a precision, where the executor computes."""
        program = self._programs.get(unit)
        if program is None:
            data, bindings = self._reader.program(unit, self.executor.program_format)
            program = self._programs[unit] = self.executor.read_program(unit, data, bindings)
        block = self.executor.load(program, self._reader.tensors(unit, stage))
        with self._lock:
            self._alive.add(block)
        return block

    def keys(self, rung: Rung) -> tuple[BlockKey, ...]:
        """What a rung loads, in the order of execution. Identity converters are nothing."""
        return tuple(key for key in rung.stages().items() if not self._is_identity(key[0]))

    def chain(self, rung: Rung, blocks: Mapping[BlockKey, Block]) -> Chain:
        """What computes a rung from its loaded blocks."""
        stream = rung.composition.stream
        return self.executor.join([Step(blocks[key], stream(key[0])) for key in self.keys(rung)])

    def _is_identity(self, unit: Unit) -> bool:
        """A converter between equal widths has neither tensors nor, it may be, a program."""
        return unit.kind in ("encoder", "decoder") and not self._manifest.programs.get(str(unit))

    def _entry(self, unit: Unit) -> ProgramEntry:
        for entry in self._manifest.programs.get(str(unit), ()):
            if entry.format == self.executor.program_format:
                return entry
        raise ExecutorError(
            f"this bundle has no {self.executor.program_format} program of {unit}, which executor "
            f"'{self.executor.name}' needs"
        )

    def _weight_bytes(self, unit: Unit) -> int:
        streams = self._manifest.bindings[str(unit)]
        names = {name for bound in streams.values() for name in bound}
        tensors = [self._manifest.tensors[name] for name in names]
        return sum(byte_count(tensor.dtype, tensor.shape) for tensor in tensors)
