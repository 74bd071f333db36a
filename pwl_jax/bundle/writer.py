"""Writes a bundle, whole or not at all."""

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pwl_jax.bundle import shard_file
from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.fetch_order import fetch_order
from pwl_jax.bundle.integrity import sha256_of
from pwl_jax.bundle.manifest import (
    MANIFEST_NAME,
    Manifest,
    ProgramEntry,
    ShardEntry,
    TensorEntry,
)
from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.bundle.stores import remote_path
from pwl_jax.ladder import EXACT, Bits, LadderRung, Measurement, Rung, Unit
from pwl_jax.precision import (
    StagePayload,
    check_stages,
    dtype_name,
    encode_tensor,
    tensor_sha256,
)

_FOLDERS = ("shards", "programs")


class BundleWriter:
    """Collects units and programs in a folder beside `path`, and moves it there at `finish`.

    Equal input gives equal bytes. Without `finish`, leaving the context removes all that was
    written and `path` is as it was.

        with BundleWriter(path) as writer:
            writer.add_unit(unit, tensors, (4, "exact"))
            writer.add_program(unit, "stablehlo", program, {"own": names})
            writer.finish(...)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Makes sure that `path` is free or holds a bundle, which `finish` will replace.

        Raises:
          BundleError: it is anything else, or cannot be written.
        """
        self._address = os.fspath(path)
        self._remote = "://" in self._address
        self._target: Any = remote_path(self._address) if self._remote else Path(path).absolute()
        try:
            self._replaces = _holds_bundle(self._target)
            beside = None if self._remote else self._target.parent
            if beside is not None:
                beside.mkdir(parents=True, exist_ok=True)
            prefix = f".{self._target.name}.partial-"
            self._staging = Path(tempfile.mkdtemp(prefix=prefix, dir=beside))
        except OSError as error:
            raise BundleError(f"{self._address}: {error.strerror or error}") from error
        self._remove = weakref.finalize(self, shutil.rmtree, self._staging, ignore_errors=True)
        for folder in _FOLDERS:
            (self._staging / folder).mkdir()
        self._stages: dict[str, tuple[Bits, ...]] = {}
        self._shards: dict[str, ShardEntry] = {}
        self._tensors: dict[str, TensorEntry] = {}
        self._programs: dict[str, list[ProgramEntry]] = {}

    def add_unit(
        self, unit: Unit, tensors: Mapping[str, np.ndarray], stages: Sequence[Bits]
    ) -> None:
        """Encodes a unit's tensors and writes a shard a stage.

        Args:
          unit: block or converter; identity converters have no tensors and are not added.
          tensors: by name, names being unique over the bundle.
          stages: ascending, the last one "exact"; ("exact",) for converters, which are written
            as .safetensors.

        Raises:
          UserError: a unit or tensor was added before, nothing to add, or wrong stages.
        """
        if str(unit) in self._stages:
            raise BundleError(f"unit {unit} was added before")
        if not tensors:
            raise BundleError(f"unit {unit} has no tensors; leave it out")
        if stages[-1:] not in ((EXACT,), [EXACT]):
            raise BundleError(f"stages {list(stages)} of {unit} do not end in exact")
        check_stages(stages)
        for name in tensors:
            if name in self._tensors:
                raise BundleError(f"tensor '{name}' was added before")
            if name in ("", "__metadata__"):
                raise BundleError(f"no tensor of {unit} can be called {name!r}")
        if unit.kind in ("encoder", "decoder"):
            if tuple(stages) != (EXACT,):
                raise BundleError(f"{unit} has stages {list(stages)}; converters are always exact")
            data = shard_file.write_safetensors(tensors)
            self._add_shard(unit, EXACT, data, "safetensors", sorted(tensors))
        else:
            self._add_payloads(unit, tensors, tuple(stages))
        for name, array in tensors.items():
            entry = TensorEntry(array.shape, dtype_name(array), tensor_sha256(array))
            self._tensors[name] = entry
        self._stages[str(unit)] = tuple(stages)

    def add_program(
        self, unit: Unit, format: str, program: bytes, bindings: Mapping[str, Sequence[str]]
    ) -> None:
        """Writes a unit's program.

        Args:
          unit: block or converter.
          format: such as "stablehlo" or "onnx"; also the file's suffix.
          program: its bytes; called as f(*tensors, features) with a symbolic batch.
          bindings: names of the tensor arguments in order, by entry stream.

        Raises:
          BundleError: the unit has a program of this format already.
        """
        entries = self._programs.setdefault(str(unit), [])
        if format in (entry.format for entry in entries):
            raise BundleError(f"unit {unit} has a {format} program already")
        file, sha256 = self._write("programs", program, format)
        bound = {stream: tuple(names) for stream, names in bindings.items()}
        entries.append(ProgramEntry(file, sha256, len(program), format, bound))

    def finish(
        self,
        *,
        pair: Mapping[str, Any],
        preprocessing: Preprocessing,
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
          preprocessing: of the network's input.
          classes: names of the classes.
          blocks: N.
          ladder: rungs in the order of climbing. Shards and bytes are worked out here; `top1` is
            the measurement on the split `measured_on["split"]` ("validation" if not given),
            `top1_test` the one on "test".
          measurements: everything measured.
          measured_on: JSON-able: dataset, split, examples, how the order was selected.
          created_with: versions; no dates, so that equal input gives equal bytes.

        Raises:
          BundleError: parts that contradict each other, or a path that cannot be written.
        """
        measured_on = dict(measured_on or {})
        split = measured_on.get("split") or "validation"
        manifest = Manifest(
            pair=pair,
            preprocessing=preprocessing.to_dict(),
            classes=tuple(classes),
            blocks=blocks,
            stages=self._stages,
            shards=self._shards,
            tensors=self._tensors,
            programs={unit: tuple(entries) for unit, entries in self._programs.items()},
            ladder=self._ladder(ladder, measurements, str(split)),
            measurements=tuple(measurements),
            measured_on=measured_on,
            created_with=dict(created_with or {}),
        )
        data = manifest.to_json()
        manifest = Manifest.from_json(data)
        try:
            (self._staging / MANIFEST_NAME).write_bytes(data)
            self._put_in_place(manifest)
        except OSError as error:
            raise BundleError(f"{self._address}: {error.strerror or error}") from error
        self.abort()
        return manifest

    def abort(self) -> None:
        """Removes what was written beside `path`."""
        self._remove()

    def __enter__(self) -> "BundleWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()

    def _add_payloads(
        self, unit: Unit, tensors: Mapping[str, np.ndarray], stages: tuple[Bits, ...]
    ) -> None:
        by_stage: dict[Bits, dict[str, StagePayload]] = {stage: {} for stage in stages}
        for name in sorted(tensors):
            for payload in encode_tensor(tensors[name], stages):
                by_stage[payload.stage][name] = payload
        for stage, payloads in by_stage.items():
            data = shard_file.write_p2u(unit, stage, payloads)
            self._add_shard(unit, stage, data, "p2u", sorted(payloads))

    def _add_shard(
        self, unit: Unit, stage: Bits, data: bytes, suffix: str, names: Sequence[str]
    ) -> None:
        file, sha256 = self._write("shards", data, suffix)
        entry = ShardEntry(file, sha256, len(data), unit, stage, tuple(names))
        self._shards[f"{unit}@{stage}"] = entry

    def _write(self, folder: str, data: bytes, suffix: str) -> tuple[str, str]:
        sha256 = sha256_of(data)
        name = f"{folder}/{sha256}.{suffix}"
        try:
            (self._staging / name).write_bytes(data)
        except OSError as error:
            raise BundleError(f"{self._address}: {error.strerror or error}") from error
        return name, sha256

    def _ladder(
        self, rungs: Sequence[Rung], measurements: Sequence[Measurement], split: str
    ) -> tuple[LadderRung, ...]:
        top1 = {(entry.rung, entry.split): entry.top1 for entry in measurements}
        order = fetch_order(
            rungs,
            self._stages,
            {shard: entry.bytes for shard, entry in self._shards.items()},
            {unit: (e[0].file, e[0].bytes) for unit, e in self._programs.items()},
        )
        return tuple(
            LadderRung(
                rung=rung,
                top1=top1.get((rung, split)),
                top1_test=top1.get((rung, "test")),
                shards=fetch.shards,
                shard_bytes=fetch.shard_bytes,
                cumulative_bytes=fetch.cumulative_bytes,
            )
            for rung, fetch in zip(rungs, order, strict=True)
        )

    def _put_in_place(self, manifest: Manifest) -> None:
        """All files first, the manifest last: at every moment the old bundle or the new one."""
        if not self._remote and not self._replaces:
            # mkdtemp's folder is closed to everybody else.
            self._staging.chmod(0o755)
            # An empty folder may be there already.
            self._staging.replace(self._target)
            return
        entries = [*manifest.shards.values()]
        files = [entry.file for entry in entries]
        files += [entry.file for entries in manifest.programs.values() for entry in entries]
        for name in dict.fromkeys(files):
            (self._target / name).parent.mkdir(parents=True, exist_ok=True)
            self._move(name)
        self._move(MANIFEST_NAME)
        for folder in (self._target / folder for folder in _FOLDERS):
            for file in list(folder.iterdir()) if folder.is_dir() else ():
                if f"{folder.name}/{file.name}" not in files:
                    with contextlib.suppress(OSError):
                        file.unlink()

    def _move(self, name: str) -> None:
        if self._remote:
            (self._target / name).write_bytes((self._staging / name).read_bytes())
        else:
            (self._staging / name).replace(self._target / name)


def _holds_bundle(target: Any) -> bool:
    """Whether there is a bundle to replace.

    Raises:
      BundleError: there is something else.
    """
    if not target.exists():
        return False
    if not target.is_dir():
        raise BundleError(f"{target} is a file; a bundle is a folder")
    if (target / MANIFEST_NAME).exists():
        try:
            Manifest.from_json((target / MANIFEST_NAME).read_bytes(), str(target / MANIFEST_NAME))
        except BundleError as error:
            raise BundleError(f"{target} is not replaced: {error}") from error
        return True
    if any(True for _ in target.iterdir()):
        raise BundleError(f"{target} holds files but no bundle; name a new folder")
    return False
