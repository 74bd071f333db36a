"""Turns the shards of a bundle into loaded blocks, and a rung into the steps that compute it."""

import threading
import weakref
from collections.abc import Mapping, Sequence

from pwl_jax.bundle import BundleReader, ProgramEntry
from pwl_jax.ladder import Bits, CompositionError, Rung, Unit
from pwl_jax.precision import byte_count
from pwl_jax.runtime.executor import Block, Chain, Executor, ExecutorError, Program, Step
from pwl_jax.runtime.policy import BlockKey


class LiveBlocks:
    """The blocks that something still refers to, whichever executor holds them."""

    def __init__(self) -> None:
        self._blocks: weakref.WeakSet[Block] = weakref.WeakSet()
        self._lock = threading.Lock()

    def add(self, block: Block) -> None:
        """Counts a block for as long as it lives."""
        with self._lock:
            self._blocks.add(block)

    @property
    def nbytes(self) -> int:
        """Bytes of their weights."""
        with self._lock:
            return sum(block.nbytes for block in self._blocks)


class BlockSource:
    """Reads, verifies and decodes through the bundle's reader; places through one executor.

    `load` is called by one thread at a time; everything else from any.

    Attributes:
      executor: holds the blocks and computes with them.
      block_bytes: of the rungs that were checked, bytes of each block's weights once loaded.
    """

    def __init__(
        self,
        reader: BundleReader,
        executor: Executor,
        *,
        lean: bool = False,
        live: LiveBlocks | None = None,
    ) -> None:
        """Reads nothing yet.

        Args:
          reader: of the bundle.
          executor: computes.
          lean: memory matters more than speed: no copies of weights.
          live: counts the blocks of other executors too.
        """
        self.executor = executor
        self.block_bytes: dict[BlockKey, int] = {}
        self._reader = reader
        self._manifest = reader.manifest
        self._programs: dict[Unit, Program] = {}
        self._lean = lean
        self._live = live or LiveBlocks()

    def beside(self, executor: Executor) -> "BlockSource":
        """A source of the same bundle for another executor, whose blocks count with this one's."""
        return BlockSource(self._reader, executor, lean=self._lean, live=self._live)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        height, width, channels = self._manifest.preprocessing["input_shape"]
        return height, width, channels

    @property
    def bytes_fetched(self) -> int:
        """All bytes read from the bundle so far."""
        return self._reader.bytes_fetched

    def bytes_in_all(self, rungs: Sequence[Rung]) -> int:
        """All bytes that were read so far or will be on the way through `rungs`, each file once."""
        missing: dict[str, int] = {}
        for rung in rungs:
            missing |= self._missing(rung)
        return self.bytes_fetched + sum(missing.values())

    @property
    def live_bytes(self) -> int:
        """Bytes of the blocks that something still refers to."""
        return self._live.nbytes

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
        return sum(self._missing(rung).values())

    def load(self, unit: Unit, stage: Bits) -> Block:
        """One unit's verified tensors at a precision, where the executor computes."""
        program = self._programs.get(unit)
        if program is None:
            data, bindings = self._reader.program(unit, self.executor.program_format)
            program = self._programs[unit] = self.executor.read_program(unit, data, bindings)
        block = self.executor.load(program, self._reader.tensors(unit, stage))
        self._live.add(block)
        return block

    def keys(self, rung: Rung) -> tuple[BlockKey, ...]:
        """What a rung loads, in the order of execution. Identity converters are nothing."""
        return tuple(key for key in rung.stages().items() if not self._is_identity(key[0]))

    def chain(self, rung: Rung, blocks: Mapping[BlockKey, Block], *, aside: bool = False) -> Chain:
        """What computes a rung from its loaded blocks; see `Executor.join`."""
        stream = rung.composition.stream
        steps = [Step(blocks[key], stream(key[0])) for key in self.keys(rung)]
        # What another thread frees, the C library keeps for that thread.
        return self.executor.join(steps, lean=self._lean, aside=aside and not self._lean)

    def _missing(self, rung: Rung) -> dict[str, int]:
        read = self._reader.files_read
        return {n: size for n, size in (self.files(rung) or {}).items() if n not in read}

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
