"""The index of a bundle: what it holds, how it is checked, in which order it is climbed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pwl_jax.bundle import strict_json
from pwl_jax.bundle.entries import (
    ProgramEntry,
    ShardEntry,
    TensorEntry,
    all_entries,
    each_entry,
    measurement_json,
    plain_json,
    read_against,
    read_bindings,
    read_measurement,
    read_programs,
    read_rung,
    read_shard,
    read_stages,
    read_tensor,
    rung_json,
    shard_json,
)
from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.fetch_order import fetch_order
from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.errors import UserError
from pwl_jax.ladder import (
    EXACT,
    OWN_STREAM,
    Bits,
    LadderRung,
    Measurement,
    Rung,
    Unit,
)
from pwl_jax.precision import CODECS, canonical_json

FORMAT, VERSION = "pwl-bundle", 1
MANIFEST_NAME = "manifest.json"
# A safetensors file has its metadata under this name.
RESERVED_NAMES = ("", "__metadata__")
# Every block of a rung costs memory before it is known whether the bundle holds it.
MOST_BLOCKS = 4096


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The manifest; see docs/bundle_format.md for the meaning of every field.

    `codecs` are the names of all byte codecs that its shards use. `against` is the SHA-256 of the
    manifest of the bundle that a delta bundle is told against.

    `bindings` are a unit's tensors in the order of its programs' arguments, by the stream that
    enters: "own", or the number of the boundary at which a student's stream began.

    In `ladder`, `cumulative_bytes` counts programs and shards but not the manifest, which cannot
    state its own size; `BundleReader.ladder` adds it.
    """

    codecs: tuple[str, ...]
    pair: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    classes: tuple[str, ...]
    blocks: int
    stages: Mapping[str, tuple[Bits, ...]]
    shards: Mapping[str, ShardEntry]
    tensors: Mapping[str, TensorEntry]
    programs: Mapping[str, tuple[ProgramEntry, ...]]
    bindings: Mapping[str, Mapping[str, tuple[str, ...]]]
    ladder: tuple[LadderRung, ...]
    measurements: tuple[Measurement, ...]
    measured_on: Mapping[str, Any]
    created_with: Mapping[str, str]
    against: str | None = None

    @property
    def scores(self) -> dict[Rung, float]:
        """Accuracy, 0..1, of every rung measured on the split that chose the ladder."""
        split = self.measured_on.get("split") or "validation"
        found = [entry for entry in self.measurements if entry.split == split]
        return {entry.rung: entry.score for entry in found if entry.score is not None}

    def to_json(self) -> bytes:
        """Canonical JSON: equal manifests give equal bytes."""
        against = {} if self.against is None else {"against": {"manifest_sha256": self.against}}
        return canonical_json(
            {
                "format": FORMAT,
                "version": VERSION,
                **against,
                "codecs": list(self.codecs),
                "pair": dict(self.pair),
                "preprocessing": dict(self.preprocessing),
                "classes": list(self.classes),
                "blocks": self.blocks,
                "stages": {u: [str(s) for s in stages] for u, stages in self.stages.items()},
                "shards": {name: shard_json(entry) for name, entry in self.shards.items()},
                "tensors": {name: plain_json(entry) for name, entry in self.tensors.items()},
                "programs": {
                    unit: [plain_json(entry) for entry in entries]
                    for unit, entries in self.programs.items()
                },
                "bindings": {unit: dict(streams) for unit, streams in self.bindings.items()},
                "ladder": [rung_json(entry) for entry in self.ladder],
                "measurements": [measurement_json(entry) for entry in self.measurements],
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
                codecs=_read_codecs(document["codecs"]),
                pair=strict_json.items(document["pair"], "pair"),
                preprocessing=strict_json.items(document["preprocessing"], "preprocessing"),
                classes=strict_json.strings(document["classes"], "classes"),
                blocks=strict_json.size(document["blocks"], "blocks", least=1),
                stages=each_entry(document, "stages", read_stages),
                shards=each_entry(document, "shards", read_shard),
                tensors=each_entry(document, "tensors", read_tensor),
                programs=each_entry(document, "programs", read_programs),
                bindings=each_entry(document, "bindings", read_bindings),
                ladder=all_entries(document, "ladder", read_rung),
                measurements=all_entries(document, "measurements", read_measurement),
                measured_on=strict_json.items(document["measured_on"], "measured_on"),
                created_with=each_entry(
                    document, "created_with", lambda v, at: strict_json.typed(v, str, at)
                ),
                against=read_against(document["against"]) if "against" in document else None,
            )
            manifest.check()
        # ValueError: a number in a name with more digits than Python reads.
        except (UserError, ValueError) as error:
            raise BundleError(f"{where}: {error}") from error
        return manifest

    def check(self) -> None:
        """Raises BundleError where two parts contradict each other."""
        if self.blocks > MOST_BLOCKS:
            raise BundleError(f"blocks is {self.blocks}, expected at most {MOST_BLOCKS}")
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
        for unit in self.programs.keys() ^ self.bindings.keys():
            raise BundleError(f"{unit} is listed in only one of 'programs' and 'bindings'")
        for unit, streams in self.bindings.items():
            self._check_bindings(unit, streams, owners)
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

    def _check_bindings(
        self, unit: str, streams: Mapping[str, tuple[str, ...]], owners: Mapping[str, str]
    ) -> None:
        parsed = self._parsed(unit)
        boundaries = parsed.index if parsed.kind == "student" else 0
        if OWN_STREAM not in streams or not all(
            _is_index(stream, boundaries) for stream in streams.keys() - {OWN_STREAM}
        ):
            raise BundleError(
                f"program of {unit} is bound for {sorted(streams)[:8]}; expected own, and "
                f"of others only the {boundaries} boundaries before it"
            )
        for name in (name for names in streams.values() for name in names):
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


def _is_index(text: str, count: int) -> bool:
    """Whether a text is a number below `count`, without leading zeros."""
    # Compared as a number: a hostile manifest may state more blocks than any list can hold.
    return text.isascii() and text.isdigit() and str(int(text)) == text and int(text) < count


def _read_codecs(value: Any) -> tuple[str, ...]:
    names = strict_json.strings(value, "codecs")
    for name in names:
        if name not in CODECS:
            raise BundleError(f"codec '{name}' is unknown; this reader knows {', '.join(CODECS)}")
    return names
