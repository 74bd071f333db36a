"""The index of a bundle: what it holds, how it is checked, in which order it is climbed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pwl_jax.bundle import strict_json
from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.fetch_order import fetch_order
from pwl_jax.bundle.integrity import CONTENT_NAME, is_sha256
from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.errors import UserError
from pwl_jax.ladder import (
    EXACT,
    Bits,
    Composition,
    LadderRung,
    Measurement,
    Rung,
    Unit,
    parse_bits,
)
from pwl_jax.precision import canonical_json, check_stages, item_bytes

FORMAT, VERSION = "pwl-bundle", 1
MANIFEST_NAME = "manifest.json"
SHARD_SUFFIXES = ("p2u", "safetensors")
OWN_STREAM = "own"
# A safetensors file has its metadata under this name.
RESERVED_NAMES = ("", "__metadata__")


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """A tensor's shape, type, and the SHA-256 of its original bytes (little-endian, C order)."""

    shape: tuple[int, ...]
    dtype: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A content-addressed file."""

    file: str
    sha256: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class ShardEntry(FileEntry):
    """What one stage brings of one unit: `tensors` are the names it has payloads of."""

    unit: Unit
    stage: Bits
    tensors: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ProgramEntry(FileEntry):
    """A unit's function in one format.

    `bindings` give the tensor arguments in order, by the stream that enters: "own", or the number
    of the boundary at which a student's stream began. The features are the last argument.
    """

    format: str
    bindings: Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The manifest; see docs/bundle_format.md for the meaning of every field.

    `against` is the SHA-256 of the manifest of the bundle that a delta bundle is told against.

    In `ladder`, `cumulative_bytes` counts programs and shards but not the manifest, which cannot
    state its own size; `BundleReader.ladder` adds it.
    """

    pair: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    classes: tuple[str, ...]
    blocks: int
    stages: Mapping[str, tuple[Bits, ...]]
    shards: Mapping[str, ShardEntry]
    tensors: Mapping[str, TensorEntry]
    programs: Mapping[str, tuple[ProgramEntry, ...]]
    ladder: tuple[LadderRung, ...]
    measurements: tuple[Measurement, ...]
    measured_on: Mapping[str, Any]
    created_with: Mapping[str, str]
    against: str | None = None

    def to_json(self) -> bytes:
        """Canonical JSON: equal manifests give equal bytes."""
        against = {} if self.against is None else {"against": {"manifest_sha256": self.against}}
        return canonical_json(
            {
                "format": FORMAT,
                "version": VERSION,
                **against,
                "pair": dict(self.pair),
                "preprocessing": dict(self.preprocessing),
                "classes": list(self.classes),
                "blocks": self.blocks,
                "stages": {u: [str(s) for s in stages] for u, stages in self.stages.items()},
                "shards": {name: _shard_json(entry) for name, entry in self.shards.items()},
                "tensors": {name: _plain(entry) for name, entry in self.tensors.items()},
                "programs": {
                    unit: [_plain(entry) for entry in entries]
                    for unit, entries in self.programs.items()
                },
                "ladder": [_rung_json(entry) for entry in self.ladder],
                "measurements": [_measurement_json(entry) for entry in self.measurements],
                "measured_on": dict(self.measured_on),
                "created_with": dict(self.created_with),
            }
        )

    @classmethod
    def from_json(cls, data: bytes, where: str = MANIFEST_NAME) -> "Manifest":
        """Reads and checks a manifest.

        Raises:
          BundleError: of another format or version, or with anything missing, unknown, repeated
            or contradictory; the message names the place.
        """
        document = strict_json.parse(data, where)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise BundleError(f"{where} is no manifest of a bundle (no format '{FORMAT}')")
        if document.get("version") != VERSION or type(document["version"]) is not int:
            raise BundleError(
                f"{where} has version {document.get('version')!r}; this reader knows {VERSION}"
            )
        names = [field.name for field in dataclasses.fields(cls) if field.name != "against"]
        strict_json.fields(document, where, ["format", "version", *names], ["against"])
        try:
            manifest = cls(
                pair=strict_json.items(document["pair"], "pair"),
                preprocessing=strict_json.items(document["preprocessing"], "preprocessing"),
                classes=strict_json.strings(document["classes"], "classes"),
                blocks=strict_json.size(document["blocks"], "blocks", least=1),
                stages=_each(document, "stages", _read_stages),
                shards=_each(document, "shards", _read_shard),
                tensors=_each(document, "tensors", _read_tensor),
                programs=_each(document, "programs", _read_programs),
                ladder=_all(document, "ladder", _read_rung),
                measurements=_all(document, "measurements", _read_measurement),
                measured_on=strict_json.items(document["measured_on"], "measured_on"),
                created_with=_each(
                    document, "created_with", lambda v, at: strict_json.typed(v, str, at)
                ),
                against=_read_against(document["against"]) if "against" in document else None,
            )
            manifest.check()
        # ValueError: a number in a name with more digits than Python reads.
        except (UserError, ValueError) as error:
            raise BundleError(f"{where}: {error}") from error
        return manifest

    def check(self) -> None:
        """Raises BundleError where two parts contradict each other."""
        for unit, stages in self.stages.items():
            self._check_unit(unit, stages)
            if self.against is not None and stages != (EXACT,):
                raise BundleError(f"{unit} of a delta has stages {list(stages)}; expected exact")
        expected = {f"{unit}@{stage}" for unit, stages in self.stages.items() for stage in stages}
        for name in self.shards.keys() ^ expected:
            raise BundleError(f"shard '{name}' is listed under only one of 'shards' and 'stages'")
        owners: dict[str, str] = {}
        for unit, stages in self.stages.items():
            first = self.shards[f"{unit}@{stages[0]}"]
            for tensor in first.tensors:
                if tensor in RESERVED_NAMES:
                    raise BundleError(f"no tensor of {unit} can be called {tensor!r}")
                if owners.setdefault(tensor, unit) != unit:
                    raise BundleError(f"tensor '{tensor}' is in {owners[tensor]} and in {unit}")
        for tensor in self.tensors.keys() ^ owners.keys():
            raise BundleError(f"tensor '{tensor}' is listed in only one of 'tensors' and 'shards'")
        for unit, entries in self.programs.items():
            for entry in entries:
                self._check_bindings(unit, entry, owners)
        if self.preprocessing:
            Preprocessing.from_dict(self.preprocessing)
        rungs = [entry.rung for entry in self.ladder]
        rungs += [entry.rung for entry in self.measurements]
        for rung in rungs:
            if len(rung.composition) != self.blocks:
                raise BundleError(f"rung {rung.name} in a network of {self.blocks} blocks")
        self._check_ladder()

    def _check_ladder(self) -> None:
        rungs = [entry.rung for entry in self.ladder]
        if len(set(rungs)) != len(rungs):
            raise BundleError("the ladder holds a rung twice")
        order = fetch_order(
            rungs,
            self.stages,
            {shard: entry.bytes for shard, entry in self.shards.items()},
            {unit: (e[0].file, e[0].bytes) for unit, e in self.programs.items() if e},
        )
        for entry, fetch in zip(self.ladder, order, strict=True):
            if sorted(entry.shards) != sorted(fetch.shards):
                raise BundleError(f"rung {entry.name} does not list the shards new to it")
            for field in ("shard_bytes", "cumulative_bytes"):
                said, found = getattr(entry, field), getattr(fetch, field)
                if said != found:
                    raise BundleError(f"rung {entry.name} says {field} {said}; it is {found}")

    def _check_bindings(self, unit: str, entry: ProgramEntry, owners: Mapping[str, str]) -> None:
        parsed = self._parsed(unit)
        boundaries = parsed.index if parsed.kind == "student" else 0
        streams = entry.bindings.keys() - {OWN_STREAM}
        if OWN_STREAM not in entry.bindings or not all(
            _is_index(stream, boundaries) for stream in streams
        ):
            raise BundleError(
                f"program of {unit} is bound for {sorted(entry.bindings)[:8]}; expected own, and "
                f"of others only the {boundaries} boundaries before it"
            )
        for name in (name for names in entry.bindings.values() for name in names):
            if owners.get(name) != unit:
                raise BundleError(f"program of {unit} binds '{name}', no tensor of that unit")

    def _check_unit(self, unit: str, stages: tuple[Bits, ...]) -> None:
        parsed = self._parsed(unit)
        if stages[-1] != EXACT or (parsed.kind in ("encoder", "decoder") and len(stages) > 1):
            wanted = "exact last" if parsed.kind in ("teacher", "student") else "exact alone"
            raise BundleError(f"{unit} has stages {list(stages)}; expected {wanted}")
        base: tuple[str, ...] | None = None
        for stage in stages:
            shard = self.shards.get(f"{unit}@{stage}")
            if shard is None or (shard.unit, shard.stage) != (parsed, stage):
                raise BundleError(f"there is no shard '{unit}@{stage}' of that unit and stage")
            if len(set(shard.tensors)) != len(shard.tensors):
                raise BundleError(f"shard '{unit}@{stage}' lists a tensor twice")
            base = shard.tensors if base is None else base
            if set(shard.tensors) - set(base):
                raise BundleError(f"shard '{unit}@{stage}' updates a tensor that has no base")

    def _parsed(self, unit: str) -> Unit:
        parsed = Unit.parse(unit)
        if str(parsed) != unit:
            raise BundleError(f"unit '{unit}' is spelled {parsed}")
        converter = parsed.kind in ("encoder", "decoder")
        if parsed.index >= self.blocks - converter:
            raise BundleError(f"unit {unit} in a network of {self.blocks} blocks")
        return parsed


def _each(document: Mapping[str, Any], field: str, read: Any) -> dict[str, Any]:
    entries = strict_json.items(document[field], field)
    return {name: read(value, f"{field}['{name}']") for name, value in entries.items()}


def _all(document: Mapping[str, Any], field: str, read: Any) -> tuple[Any, ...]:
    entries = strict_json.array(document[field], field)
    return tuple(read(value, f"{field}[{i}]") for i, value in enumerate(entries))


def _plain(entry: TensorEntry | ProgramEntry) -> dict[str, Any]:
    return dataclasses.asdict(entry)


def _shard_json(entry: ShardEntry) -> dict[str, Any]:
    return {**dataclasses.asdict(entry), "unit": str(entry.unit), "stage": str(entry.stage)}


def _rung_json(entry: LadderRung) -> dict[str, Any]:
    rest = {name: value for name, value in vars(entry).items() if name != "rung"}
    return {**_named_rung(entry.rung), **rest}


def _measurement_json(entry: Measurement) -> dict[str, Any]:
    rest = {name: value for name, value in vars(entry).items() if name != "rung"}
    return {**_named_rung(entry.rung), **rest}


def _named_rung(rung: Rung) -> dict[str, Any]:
    return {"name": rung.name, "composition": str(rung.composition), "bits": list(rung.bits)}


def _is_index(text: str, count: int) -> bool:
    """Whether a text is a number below `count`, without leading zeros."""
    # Compared as a number: a hostile manifest may state more blocks than any list can hold.
    return text.isascii() and text.isdigit() and str(int(text)) == text and int(text) < count


def _read_against(value: Any) -> str:
    record = strict_json.fields(value, "against", ["manifest_sha256"])
    if not is_sha256(record["manifest_sha256"]):
        raise BundleError(f"against.manifest_sha256 is {record['manifest_sha256']!r}, no SHA-256")
    return record["manifest_sha256"]


def _read_stages(value: Any, where: str) -> tuple[Bits, ...]:
    stages = tuple(parse_bits(text) for text in strict_json.strings(value, where))
    check_stages(stages)
    return stages


def _read_file(record: Mapping[str, Any], where: str, folder: str, suffixes: Any) -> dict[str, Any]:
    name = strict_json.typed(record["file"], str, f"{where}.file")
    sha256 = record["sha256"]
    match = CONTENT_NAME.match(name)
    if match is None or match[1] != folder or (suffixes and match[3] not in suffixes):
        raise BundleError(f"{where}.file is {name!r}, no name of a file in {folder}/")
    if not is_sha256(sha256) or match[2] != sha256:
        raise BundleError(f"{where}.file {name!r} is not named after its sha256 {sha256!r}")
    return {
        "file": name,
        "sha256": sha256,
        "bytes": strict_json.size(record["bytes"], f"{where}.bytes"),
    }


def _read_shard(value: Any, where: str) -> ShardEntry:
    names = ["unit", "stage", "file", "sha256", "bytes", "tensors"]
    record = strict_json.fields(value, where, names)
    return ShardEntry(
        **_read_file(record, where, "shards", SHARD_SUFFIXES),
        unit=Unit.parse(strict_json.typed(record["unit"], str, f"{where}.unit")),
        stage=parse_bits(strict_json.typed(record["stage"], str, f"{where}.stage")),
        tensors=strict_json.strings(record["tensors"], f"{where}.tensors"),
    )


def _read_tensor(value: Any, where: str) -> TensorEntry:
    record = strict_json.fields(value, where, ["shape", "dtype", "sha256"])
    shape = strict_json.array(record["shape"], f"{where}.shape")
    dtype = strict_json.typed(record["dtype"], str, f"{where}.dtype")
    item_bytes(dtype)
    if not is_sha256(record["sha256"]):
        raise BundleError(f"{where}.sha256 is {record['sha256']!r}, no SHA-256")
    return TensorEntry(
        tuple(strict_json.size(size, f"{where}.shape") for size in shape), dtype, record["sha256"]
    )


def _read_programs(value: Any, where: str) -> tuple[ProgramEntry, ...]:
    entries = tuple(
        _read_program(entry, f"{where}[{i}]")
        for i, entry in enumerate(strict_json.array(value, where))
    )
    if len({entry.format for entry in entries}) != len(entries):
        raise BundleError(f"{where} lists a format twice")
    return entries


def _read_program(value: Any, where: str) -> ProgramEntry:
    record = strict_json.fields(value, where, ["format", "file", "sha256", "bytes", "bindings"])
    bindings = strict_json.items(record["bindings"], f"{where}.bindings")
    return ProgramEntry(
        **_read_file(record, where, "programs", None),
        format=strict_json.typed(record["format"], str, f"{where}.format"),
        bindings={
            stream: strict_json.strings(names, f"{where}.bindings['{stream}']")
            for stream, names in bindings.items()
        },
    )


def _read_named_rung(record: Mapping[str, Any], where: str) -> Rung:
    bits = strict_json.array(record["bits"], f"{where}.bits")
    if not all(type(width) in (int, str) for width in bits):
        raise BundleError(f"{where}.bits is no list of widths")
    composition = strict_json.typed(record["composition"], str, f"{where}.composition")
    rung = Rung(Composition.parse(composition), tuple(parse_bits(str(width)) for width in bits))
    if rung.name != record["name"]:
        raise BundleError(
            f"{where}.name is {record['name']!r}; its composition and bits say '{rung.name}'"
        )
    return rung


_ACCURACIES = [
    f"{name}{end}" for name in ("top1", "mean_average_precision") for end in ("", "_test")
]


def _read_accuracy(record: Mapping[str, Any], name: str, where: str) -> float | None:
    return strict_json.number(record[name], f"{where}.{name}", optional=True)


def _read_rung(value: Any, where: str) -> LadderRung:
    names = [field.name for field in dataclasses.fields(LadderRung) if field.name != "rung"]
    record = strict_json.fields(value, where, ["name", "composition", "bits", *names])
    return LadderRung(
        rung=_read_named_rung(record, where),
        **{name: _read_accuracy(record, name, where) for name in names if name in _ACCURACIES},
        shards=strict_json.strings(record["shards"], f"{where}.shards"),
        shard_bytes=strict_json.size(record["shard_bytes"], f"{where}.shard_bytes"),
        cumulative_bytes=strict_json.size(record["cumulative_bytes"], f"{where}.cumulative_bytes"),
    )


def _read_measurement(value: Any, where: str) -> Measurement:
    names = [field.name for field in dataclasses.fields(Measurement) if field.name != "rung"]
    record = strict_json.fields(value, where, ["name", "composition", "bits", *names])
    loss = strict_json.number(record["loss"], f"{where}.loss")
    assert loss is not None
    return Measurement(
        rung=_read_named_rung(record, where),
        split=strict_json.typed(record["split"], str, f"{where}.split"),
        loss=loss,
        **{name: _read_accuracy(record, name, where) for name in names if name in _ACCURACIES},
        examples=strict_json.size(record["examples"], f"{where}.examples"),
    )
