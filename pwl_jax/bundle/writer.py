"""Writes a bundle, whole or not at all."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pwl_jax.bundle import signature
from pwl_jax.bundle.entries import ProgramEntry, ShardEntry, TensorEntry
from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.fetch_order import fetch_order
from pwl_jax.bundle.manifest import MANIFEST_NAME, RESERVED_NAMES, Manifest
from pwl_jax.bundle.placing import held_manifest, put_in_place
from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.bundle.reader import BundleReader, ExactTensors
from pwl_jax.bundle.safetensors_file import write_safetensors
from pwl_jax.bundle.shard_file import P2uSpool
from pwl_jax.bundle.staging import StagingFolder
from pwl_jax.bundle.stores import remote_path
from pwl_jax.bundle.unit_files import LARGEST_TENSOR, MOST_AXES
from pwl_jax.ladder import EXACT, Bits, LadderRung, Measurement, Rung, Unit
from pwl_jax.precision import (
    check_stages,
    dtype_name,
    encode_delta,
    encode_tensor,
    tensor_sha256,
)

_FOLDERS = ("shards", "programs")


class BundleWriter:
    """Collects units and programs in a folder beside `path`, and moves it there at `finish`.

    Equal input gives equal bytes. Without `finish`, leaving the context removes all that was
    written and `path` is as it was. Memory is what it takes to encode one tensor.

        with BundleWriter(path) as writer:
            writer.add_unit(unit, tensors, (4, "exact"))
            writer.add_programs(unit, {"stablehlo": program}, {"own": names})
            writer.finish(...)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sign_key: signature.Key = None,
        against: BundleReader | None = None,
    ) -> None:
        """Makes sure that `path` is free or holds a bundle, which `finish` will replace.

        Args:
          path: folder of the bundle, or an address that `etils.epath` knows.
          sign_key: Ed25519 private key, as PEM file or key of the package cryptography, to sign
            the manifest with.
          against: a bundle that the client has; the new one then holds only what changed since.

        Raises:
          BundleError: `path` is anything else, or cannot be written; or it is where `against` lies.
          UserError: `sign_key` is no such key.
        """
        self._sign_key = None if sign_key is None else signature.private_key(sign_key)
        self._address = os.fspath(path)
        self._remote = "://" in self._address
        self._target: Any = remote_path(self._address) if self._remote else Path(path).absolute()
        self._against = against
        self._previous: ExactTensors | None = None
        with self._disk_errors():
            held = held_manifest(self._target)
            if against is not None and held == against.manifest_sha256:
                raise BundleError(
                    f"{self._address} holds the bundle that the delta is told against and would "
                    "lose it; name a new folder"
                )
            beside = None if self._remote else self._target.parent
            if beside is not None:
                beside.mkdir(parents=True, exist_ok=True)
            self._folder = StagingFolder(self._target.name, beside)
            self._staging = self._folder.path
            for folder in _FOLDERS:
                (self._staging / folder).mkdir()
        if against is not None:
            self._previous = against.exact_tensors()
        self._codecs: set[str] = set()
        self._stages: dict[str, tuple[Bits, ...]] = {}
        self._shards: dict[str, ShardEntry] = {}
        self._tensors: dict[str, TensorEntry] = {}
        self._programs: dict[str, tuple[ProgramEntry, ...]] = {}
        self._bindings: dict[str, dict[str, tuple[str, ...]]] = {}

    def add_unit(
        self,
        unit: Unit,
        tensors: Mapping[str, np.ndarray],
        stages: Sequence[Bits],
        *,
        widths: Mapping[str, Sequence[Bits]] | None = None,
        quantization: Any = None,
    ) -> None:
        """Encodes a unit's tensors and writes a shard a stage.

        Args:
          unit: block or converter; identity converters have no tensors and are not added.
          tensors: by name, names being unique over the bundle. Each is asked for once, and the
            next only when it is written, so a mapping that loads them keeps memory small.
          stages: ascending, the last one "exact"; ("exact",) for converters, which are written
            as .safetensors, whole in memory. A delta has the one stage "exact", whatever is given.
          widths: bits of single tensors at each stage, by name; see `encode_tensor`.
          quantization: how base codes are chosen; see `encode_tensor`.

        Raises:
          UserError: a unit or tensor was added before, nothing to add, or wrong stages.
        """
        if str(unit) in self._stages:
            raise BundleError(f"unit {unit} was added before")
        if not len(tensors):
            raise BundleError(f"unit {unit} has no tensors; leave it out")
        if tuple(stages[-1:]) != (EXACT,):
            raise BundleError(f"stages {list(stages)} of {unit} do not end in exact")
        stages = (EXACT,) if self._against is not None else check_stages(stages)
        names = sorted(tensors)
        for name in names:
            if name in self._tensors:
                raise BundleError(f"tensor '{name}' was added before")
            if name in RESERVED_NAMES:
                raise BundleError(f"no tensor of {unit} can be called {name!r}")
        plain = unit.kind in ("encoder", "decoder")
        if plain and stages != (EXACT,):
            raise BundleError(f"{unit} has stages {list(stages)}; converters are always exact")
        options = {} if quantization is None else {"quantization": quantization}
        entries: dict[str, TensorEntry] = {}
        with self._disk_errors():
            if plain and self._against is None:
                held = {name: tensors[name] for name in names}
                entries = {name: _entry(array) for name, array in held.items()}
                self._add_shard(unit, EXACT, [write_safetensors(held)], "safetensors", names)
            else:
                with self._spools(stages) as spools:
                    for name in names:
                        chosen = (widths or {}).get(name)
                        plan = options if chosen is None else {**options, "widths": chosen}
                        entries[name] = self._spool(name, tensors, spools, plan)
                    for stage, spool in spools.items():
                        self._add_shard(unit, stage, spool.pieces(unit, stage), "p2u", spool.names)
        self._tensors |= entries
        self._stages[str(unit)] = stages

    def add_programs(
        self,
        unit: Unit,
        programs: Mapping[str, bytes],
        bindings: Mapping[str, Sequence[str]],
    ) -> None:
        """Writes a unit's program in each of its formats.

        Args:
          unit: block or converter.
          programs: by format, such as "stablehlo" or "onnx", which is also the file's suffix;
            called as f(*tensors, features) with a symbolic batch.
          bindings: names of the tensor arguments in order, by entry stream.

        Raises:
          BundleError: the unit has programs already.
        """
        if str(unit) in self._programs:
            raise BundleError(f"unit {unit} has programs already")
        with self._disk_errors():
            self._programs[str(unit)] = tuple(
                ProgramEntry(*self._write("programs", [program], format), format)
                for format, program in programs.items()
            )
        self._bindings[str(unit)] = {stream: tuple(names) for stream, names in bindings.items()}

    def finish(
        self,
        *,
        pair: Mapping[str, Any],
        preprocessing: Preprocessing | None,
        classes: Sequence[str],
        blocks: int,
        ladder: Sequence[Rung] = (),
        measurements: Sequence[Measurement] = (),
        measured_on: Mapping[str, Any] | None = None,
        created_with: Mapping[str, str] | None = None,
    ) -> Manifest:
        """Writes the manifest, then puts the bundle in place.

        Args:
          pair: the pair's complete spec.
          preprocessing: of the network's input; None for tensors of no known network.
          classes: names of the classes.
          blocks: N.
          ladder: rungs in the order of climbing. Shards and bytes are worked out here; accuracy
            is that measured on the split `measured_on["split"]` ("validation" if not given),
            fields in `_test` that on "test".
          measurements: everything measured.
          measured_on: JSON-able: dataset, split, examples, how the order was selected.
          created_with: versions; no dates, so that equal input gives equal bytes.

        Raises:
          BundleError: parts that contradict each other, or a path that cannot be written.
        """
        measured_on = dict(measured_on or {})
        split = measured_on.get("split") or "validation"
        manifest = Manifest(
            codecs=tuple(sorted(self._codecs)),
            pair=pair,
            preprocessing={} if preprocessing is None else preprocessing.to_dict(),
            classes=tuple(classes),
            blocks=blocks,
            stages=self._stages,
            shards=self._shards,
            tensors=self._tensors,
            programs=self._programs,
            bindings=self._bindings,
            ladder=self._ladder(ladder, measurements, str(split)),
            measurements=tuple(measurements),
            measured_on=measured_on,
            created_with=dict(created_with or {}),
            against=None if self._against is None else self._against.manifest_sha256,
        )
        data = manifest.to_json()
        manifest = Manifest.from_json(data)
        signed = None if self._sign_key is None else signature.sign(data, self._sign_key)
        with self._disk_errors():
            (self._staging / MANIFEST_NAME).write_bytes(data)
            put_in_place(
                self._folder, self._target, manifest, signed, self._move, whole=not self._remote
            )
        self.abort()
        return manifest

    def abort(self) -> None:
        """Removes what was written beside `path`."""
        if self._previous is not None:
            self._previous.close()
        self._folder.remove()

    def __enter__(self) -> "BundleWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()

    def _spool(
        self,
        name: str,
        tensors: Mapping[str, np.ndarray],
        spools: Mapping[Bits, P2uSpool],
        options: Mapping[str, Any],
    ) -> TensorEntry:
        """Loads and encodes one tensor; nothing of it is held when this returns."""
        try:
            array = np.asarray(tensors[name])
        except OSError as error:
            raise BundleError(f"tensor '{name}' cannot be loaded: {error}") from error
        if array.ndim > MOST_AXES or array.nbytes > LARGEST_TENSOR:
            raise BundleError(
                f"tensor '{name}' has {array.ndim} axes and {array.nbytes} bytes; readers take at "
                f"most {MOST_AXES} and {LARGEST_TENSOR}"
            )
        if self._previous is not None and name in self._previous:
            payloads = [encode_delta(array, self._previous[name])]
        else:
            payloads = encode_tensor(array, tuple(spools), **options)
        for payload in payloads:
            spools[payload.stage].add(name, payload)
            self._codecs |= {codec for codec, _ in payload.header["parts"]}
        return _entry(array)

    @contextlib.contextmanager
    def _spools(self, stages: tuple[Bits, ...]) -> Iterator[dict[Bits, P2uSpool]]:
        with contextlib.ExitStack() as stack:
            spools: dict[Bits, P2uSpool] = {}
            for stage in stages:
                spools[stage] = P2uSpool(self._staging / f"spool-{stage}")
                stack.callback(spools[stage].close)
            yield spools

    def _add_shard(
        self,
        unit: Unit,
        stage: Bits,
        pieces: Iterable[bytes],
        suffix: str,
        names: Sequence[str],
    ) -> None:
        file, sha256, size = self._write("shards", pieces, suffix)
        entry = ShardEntry(file, sha256, size, unit, stage, tuple(names))
        self._shards[f"{unit}@{stage}"] = entry

    def _write(self, folder: str, pieces: Iterable[bytes], suffix: str) -> tuple[str, str, int]:
        """Writes a file and names it after its content: name, SHA-256 and size."""
        digest, size = hashlib.sha256(), 0
        unnamed = self._staging / "unnamed"
        try:
            with unnamed.open("wb") as file:
                for piece in pieces:
                    digest.update(piece)
                    size += len(piece)
                    file.write(piece)
        except BaseException:
            unnamed.unlink(missing_ok=True)
            raise
        sha256 = digest.hexdigest()
        name = f"{folder}/{sha256}.{suffix}"
        unnamed.replace(self._staging / name)
        return name, sha256, size

    def _ladder(
        self, rungs: Sequence[Rung], measurements: Sequence[Measurement], split: str
    ) -> tuple[LadderRung, ...]:
        found = {(entry.rung, entry.split): entry for entry in measurements}
        order = fetch_order(
            rungs,
            self._stages,
            {shard: entry.bytes for shard, entry in self._shards.items()},
            {unit: (e[0].file, e[0].bytes) for unit, e in self._programs.items() if e},
        )
        return tuple(
            LadderRung(
                rung=rung,
                **_accuracy(found.get((rung, split)), ""),
                **_accuracy(found.get((rung, "test")), "_test"),
                shards=fetch.shards,
                shard_bytes=fetch.shard_bytes,
                cumulative_bytes=fetch.cumulative_bytes,
            )
            for rung, fetch in zip(rungs, order, strict=True)
        )

    def _move(self, name: str) -> None:
        source, target = self._staging / name, self._target / name
        if self._remote:
            with source.open("rb") as read, target.open("wb") as written:
                shutil.copyfileobj(read, written, 1 << 20)
        else:
            source.replace(target)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BundleError(f"{self._address}: {error.strerror or error}") from error


def _accuracy(found: Measurement | None, suffix: str) -> dict[str, float | None]:
    """The fields of a rung that hold what was measured on one split."""
    fields = ("top1", "mean_average_precision")
    return {f"{field}{suffix}": getattr(found, field, None) for field in fields}


def _entry(array: np.ndarray) -> TensorEntry:
    return TensorEntry(array.shape, dtype_name(array), tensor_sha256(array))
