"""The entries of a manifest, and how each is read from JSON and checked by itself."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pwl_jax.bundle import strict_json
from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.integrity import CONTENT_NAME, is_sha256
from pwl_jax.ladder import Bits, Composition, LadderRung, Measurement, Rung, Unit, parse_bits
from pwl_jax.precision import check_stages, item_bytes

SHARD_SUFFIXES = ("p2u", "safetensors")


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
    """A unit's function in one format, called as f(*tensors, features)."""

    format: str


def plain_json(entry: TensorEntry | ProgramEntry) -> dict[str, Any]:
    """An entry as JSON-able data, field by field."""
    return dataclasses.asdict(entry)


def shard_json(entry: ShardEntry) -> dict[str, Any]:
    """A shard's entry, its unit and stage as texts."""
    return {**dataclasses.asdict(entry), "unit": str(entry.unit), "stage": str(entry.stage)}


def rung_json(entry: LadderRung) -> dict[str, Any]:
    """A rung of the ladder: its name, composition and bits, then its figures."""
    rest = {name: value for name, value in vars(entry).items() if name != "rung"}
    return {**_named_rung(entry.rung), **rest}


def measurement_json(entry: Measurement) -> dict[str, Any]:
    """A measurement: the rung's name, composition and bits, then what was measured."""
    rest = {name: value for name, value in vars(entry).items() if name != "rung"}
    return {**_named_rung(entry.rung), **rest}


def _named_rung(rung: Rung) -> dict[str, Any]:
    return {"name": rung.name, "composition": str(rung.composition), "bits": list(rung.bits)}


def each_entry(document: Mapping[str, Any], field: str, read: Any) -> dict[str, Any]:
    """An object's values, each read by `read(value, place)`; raises UserError."""
    entries = strict_json.items(document[field], field)
    return {name: read(value, f"{field}['{name}']") for name, value in entries.items()}


def all_entries(document: Mapping[str, Any], field: str, read: Any) -> tuple[Any, ...]:
    """A list's items, each read by `read(value, place)`; raises UserError."""
    entries = strict_json.array(document[field], field)
    return tuple(read(value, f"{field}[{i}]") for i, value in enumerate(entries))


def read_against(value: Any) -> str:
    """The SHA-256 that a delta's manifest names; raises BundleError."""
    record = strict_json.fields(value, "against", ["manifest_sha256"])
    if not is_sha256(record["manifest_sha256"]):
        raise BundleError(f"against.manifest_sha256 is {record['manifest_sha256']!r}, no SHA-256")
    return record["manifest_sha256"]


def read_stages(value: Any, where: str) -> tuple[Bits, ...]:
    """A unit's stages, coarse to fine; raises UserError."""
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


def read_shard(value: Any, where: str) -> ShardEntry:
    """A shard's entry, its file named after its content; raises UserError."""
    names = ["unit", "stage", "file", "sha256", "bytes", "tensors"]
    record = strict_json.fields(value, where, names)
    return ShardEntry(
        **_read_file(record, where, "shards", SHARD_SUFFIXES),
        unit=Unit.parse(strict_json.typed(record["unit"], str, f"{where}.unit")),
        stage=parse_bits(strict_json.typed(record["stage"], str, f"{where}.stage")),
        tensors=strict_json.strings(record["tensors"], f"{where}.tensors"),
    )


def read_tensor(value: Any, where: str) -> TensorEntry:
    """A tensor's entry, of a known type; raises UserError."""
    record = strict_json.fields(value, where, ["shape", "dtype", "sha256"])
    shape = strict_json.array(record["shape"], f"{where}.shape")
    dtype = strict_json.typed(record["dtype"], str, f"{where}.dtype")
    item_bytes(dtype)
    if not is_sha256(record["sha256"]):
        raise BundleError(f"{where}.sha256 is {record['sha256']!r}, no SHA-256")
    return TensorEntry(
        tuple(strict_json.size(size, f"{where}.shape") for size in shape), dtype, record["sha256"]
    )


def read_programs(value: Any, where: str) -> tuple[ProgramEntry, ...]:
    """A unit's programs, one a format; raises BundleError."""
    entries = tuple(
        _read_program(entry, f"{where}[{i}]")
        for i, entry in enumerate(strict_json.array(value, where))
    )
    if len({entry.format for entry in entries}) != len(entries):
        raise BundleError(f"{where} lists a format twice")
    return entries


def _read_program(value: Any, where: str) -> ProgramEntry:
    record = strict_json.fields(value, where, ["format", "file", "sha256", "bytes"])
    return ProgramEntry(
        **_read_file(record, where, "programs", None),
        format=strict_json.typed(record["format"], str, f"{where}.format"),
    )


def read_bindings(value: Any, where: str) -> dict[str, tuple[str, ...]]:
    """A unit's tensor names by stream; raises BundleError."""
    streams = strict_json.items(value, where)
    return {
        stream: strict_json.strings(names, f"{where}['{stream}']")
        for stream, names in streams.items()
    }


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


def read_rung(value: Any, where: str) -> LadderRung:
    """A rung of the ladder whose name, composition and bits agree; raises UserError."""
    names = [field.name for field in dataclasses.fields(LadderRung) if field.name != "rung"]
    record = strict_json.fields(value, where, ["name", "composition", "bits", *names])
    return LadderRung(
        rung=_read_named_rung(record, where),
        **_read_accuracies(record, names, where),
        shards=strict_json.strings(record["shards"], f"{where}.shards"),
        shard_bytes=strict_json.size(record["shard_bytes"], f"{where}.shard_bytes"),
        cumulative_bytes=strict_json.size(record["cumulative_bytes"], f"{where}.cumulative_bytes"),
    )


def read_measurement(value: Any, where: str) -> Measurement:
    """A measurement of such a rung; raises UserError."""
    names = [field.name for field in dataclasses.fields(Measurement) if field.name != "rung"]
    record = strict_json.fields(value, where, ["name", "composition", "bits", *names])
    loss = strict_json.number(record["loss"], f"{where}.loss")
    assert loss is not None
    return Measurement(
        rung=_read_named_rung(record, where),
        split=strict_json.typed(record["split"], str, f"{where}.split"),
        loss=loss,
        **_read_accuracies(record, names, where),
        examples=strict_json.size(record["examples"], f"{where}.examples"),
    )


def _read_accuracies(
    record: Mapping[str, Any], names: Sequence[str], where: str
) -> dict[str, float | None]:
    return {
        name: strict_json.number(record[name], f"{where}.{name}", optional=True)
        for name in names
        if name in _ACCURACIES
    }
