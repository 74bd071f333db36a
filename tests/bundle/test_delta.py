"""A new version as what changed since one that the client has."""

import json
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import pwl_jax.bundle
from pwl_jax.bundle import BundleError, BundleReader, BundleWriter, Preprocessing
from pwl_jax.bundle.integrity import sha256_of
from pwl_jax.bundle.unit_files import UnitFiles
from pwl_jax.ladder import EXACT, Composition, Rung, Unit
from pwl_jax.serving import serve_folder
from tests.bundle.p2u import join_p2u, split_p2u
from tests.bundle.page_reader import read_unit

SCHEMA = Path(pwl_jax.bundle.__file__).with_name("manifest.schema.json")
UNITS = (Unit("teacher", 0), Unit("teacher", 1), Unit("encoder", 0))


def network(version: int) -> dict[Unit, dict[str, np.ndarray]]:
    """Version n differs in a few values; from version 1 on one tensor is new, one is reshaped."""
    rng = np.random.default_rng(3)
    units = {
        unit: {
            f"{unit}/kernel": rng.normal(size=(64, 32)).astype(np.float32),
            f"{unit}/half": rng.normal(size=(32, 16)).astype(np.float16),
            f"{unit}/steps": np.arange(10),
            f"{unit}/empty": np.zeros((0, 3), np.float32),
        }
        for unit in UNITS
    }
    for step in range(version):
        for unit in UNITS[:2]:
            kernel = units[unit][f"{unit}/kernel"]
            kernel[step : step + 3] *= np.float32(1.001)
            kernel[0, 0] = np.array(0x7FC00000 + step, "<u4").view("<f4")
    if version:
        first = units[UNITS[0]]
        first["new"] = np.arange(5, dtype=np.int16)
        first[f"{UNITS[0]}/half"] = first[f"{UNITS[0]}/half"].reshape(16, 32)
    return units


def write(path, version, *, against=None, stages=(4, EXACT), **options):
    with BundleWriter(path, against=against, **options) as writer:
        for unit, tensors in network(version).items():
            writer.add_unit(unit, tensors, stages if unit.kind == "teacher" else (EXACT,))
            writer.add_programs(unit, {"stablehlo": b"program"}, {"own": sorted(tensors)[:1]})
        return writer.finish(
            pair={},
            preprocessing=Preprocessing((1, 1, 1), (0.0,), (1.0,)),
            classes=(),
            blocks=2,
            ladder=[Rung.uniform(Composition.parse("TT"), EXACT)],
        )


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Folders of version 0, whole, and of 1 and 2, each a delta against the one before."""
    folder = tmp_path_factory.mktemp("versions")
    readers = []
    for version in range(3):
        write(folder / str(version), version, against=readers[-1] if readers else None)
        readers.append(BundleReader.open(folder / str(version), against=readers))
    return [folder / str(version) for version in range(3)]


def equals(reader, version):
    assert reader.verify().ok
    for unit, originals in network(version).items():
        found = reader.tensors(unit, EXACT)
        assert found.keys() == originals.keys()
        for name, original in originals.items():
            assert (found[name].dtype, found[name].shape) == (original.dtype, original.shape)
            assert found[name].tobytes() == original.tobytes()
    return True


def headers(folder):
    found = {}
    for path in (folder / "shards").iterdir():
        header, _ = split_p2u(path.read_bytes())
        found |= {t["name"]: t for t in header["tensors"]}
    return found


def test_a_delta_gives_the_new_version_to_the_bit(versions):
    assert equals(BundleReader.open(versions[1], against=[versions[0]]), 1)


def test_a_delta_ships_what_changed(versions, tmp_path):
    kinds = {name: header["kind"] for name, header in headers(versions[1]).items()}
    assert kinds["new"] == "exact" and kinds["teacher/0/half"] == "exact"
    assert kinds["teacher/0/kernel"] == kinds["teacher/1/kernel"] == "delta"
    assert kinds["teacher/1/half"] == kinds["teacher/0/steps"] == "same"
    # Converters are told alike.
    assert kinds["encoder/0/kernel"] == "same" and len(kinds) == 13
    write(tmp_path / "whole", 1, stages=(EXACT,))
    sizes = [
        sum(path.stat().st_size for path in (folder / "shards").iterdir())
        for folder in (versions[1], tmp_path / "whole")
    ]
    assert sizes[0] < 0.25 * sizes[1]


def test_stages_given_to_a_delta_become_exact(versions):
    manifest = BundleReader.open(versions[1], against=[versions[0]]).manifest
    assert set(manifest.stages.values()) == {(EXACT,)}
    base = BundleReader.open(versions[0])
    assert manifest.against == base.manifest_sha256


def test_a_chain_is_followed_to_its_end_in_any_order(versions):
    for given in (versions[:2], versions[1::-1], [*versions, versions[0]]):
        assert equals(BundleReader.open(versions[2], against=given), 2)
    readers = [BundleReader.open(versions[0])]
    readers.append(BundleReader.open(versions[1], against=readers))
    assert equals(BundleReader.open(versions[2], against=readers), 2)
    assert equals(BundleReader.open(versions[2], against=readers[1:]), 2)


def test_a_delta_of_the_same_is_almost_nothing(versions, tmp_path):
    write(tmp_path / "again", 0, against=BundleReader.open(versions[0]))
    kinds = {header["kind"] for header in headers(tmp_path / "again").values()}
    assert kinds == {"same"}
    assert equals(BundleReader.open(tmp_path / "again", against=[versions[0]]), 0)


def test_equal_input_gives_equal_bytes(versions, tmp_path):
    base = BundleReader.open(versions[0])
    for name in ("a", "b"):
        write(tmp_path / name, 1, against=base)
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (
        tmp_path / "b" / "manifest.json"
    ).read_bytes()


def test_the_manifest_conforms_to_the_schema(versions):
    document = json.loads((versions[1] / "manifest.json").read_bytes())
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    assert document["against"].keys() == {"manifest_sha256"}


@pytest.mark.parametrize(
    ("opened", "given", "message"),
    [
        (1, [], r"is a delta against .*[0-9a-f]{64}; none is given: name .* by --against"),
        (1, [2, 1], r"is a delta against .*none of those given is it.*--against"),
        (2, [1], r"a bundle given by --against is a delta against .*none of those given is it"),
        (2, [0], r"the bundle is a delta against"),
    ],
)
def test_a_missing_or_other_base_is_refused(versions, opened, given, message):
    with pytest.raises(BundleError, match=message):
        BundleReader.open(versions[opened], against=[versions[at] for at in given])


def test_a_base_that_is_not_needed_does_no_harm(versions):
    assert equals(BundleReader.open(versions[0], against=[versions[1]]), 0)


def test_over_http_with_a_cache(versions, tmp_path):
    with serve_folder(versions[0]) as old, serve_folder(versions[1]) as new:
        reader = BundleReader.open(new, tmp_path / "cache", against=[old])
        assert equals(reader, 1)
        size = sum(path.stat().st_size for path in versions[1].rglob("*") if path.is_file())
        # The programs are one file.
        assert reader.bytes_fetched == size - (len(list((versions[1] / "programs").iterdir())) - 1)


def test_a_delta_does_not_replace_what_it_is_told_against(versions, tmp_path):
    path = shutil.copytree(versions[0], tmp_path / "bundle")
    with pytest.raises(BundleError, match="would lose it; name a new folder"):
        BundleWriter(path, against=BundleReader.open(path))
    assert BundleReader.open(path).verify().ok


def test_a_damaged_base_is_named(versions, tmp_path):
    base = shutil.copytree(versions[0], tmp_path / "base")
    entry = BundleReader.open(base).manifest.shards["teacher/1@exact"]
    (base / entry.file).write_bytes(b"!" * entry.bytes)
    reader = BundleReader.open(versions[1], against=[base])
    reader.tensors(UNITS[0], EXACT)
    with pytest.raises(BundleError, match=entry.sha256):
        reader.tensors(UNITS[1], EXACT)


def edited(folder, tmp_path, change):
    """A copy with another manifest."""
    path = shutil.copytree(folder, tmp_path / "edited")
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "against is None"),
        ({}, "against lacks 'manifest_sha256'"),
        ({"manifest_sha256": "x"}, "no SHA-256"),
        ({"manifest_sha256": "0" * 64, "path": "../old"}, "unknown field 'path'"),
    ],
)
def test_a_manifest_that_misstates_its_base_is_refused(versions, tmp_path, value, message):
    path = edited(versions[1], tmp_path, lambda manifest: manifest.update(against=value))
    with pytest.raises(BundleError, match=message):
        BundleReader.open(path, against=[versions[0]])


def test_a_delta_whose_manifest_hides_it_is_refused(versions, tmp_path):
    path = edited(versions[1], tmp_path, lambda manifest: manifest.pop("against"))
    with pytest.raises(BundleError, match="told against another bundle, but the manifest names"):
        BundleReader.open(path, against=[versions[0]]).tensors(UNITS[0], EXACT)


def test_a_delta_with_stages_is_refused(versions, tmp_path):
    against = {"manifest_sha256": "0" * 64}
    path = edited(versions[0], tmp_path, lambda manifest: manifest.update(against=against))
    with pytest.raises(BundleError, match="of a delta has stages"):
        BundleReader.open(path)


@pytest.mark.parametrize("change", [{"shape": [16, 32]}, {"dtype": "int16"}])
def test_a_base_of_another_shape_or_type_is_refused_before_it_is_loaded(
    versions, tmp_path, monkeypatch, change
):
    path = shutil.copytree(versions[1], tmp_path / "edited")
    manifest = json.loads((path / "manifest.json").read_text())
    entry = manifest["shards"]["teacher/1@exact"]
    header, data = split_p2u((path / entry["file"]).read_bytes())
    for record in header["tensors"]:
        if record["name"] == "teacher/1/half":
            record |= change
    manifest["tensors"]["teacher/1/half"] |= change
    shard = join_p2u(header, data)
    sha256 = sha256_of(shard)
    entry |= {"file": f"shards/{sha256}.p2u", "sha256": sha256, "bytes": len(shard)}
    (path / entry["file"]).write_bytes(shard)
    manifest["ladder"] = []
    (path / "manifest.json").write_text(json.dumps(manifest))
    asked = []
    load = UnitFiles.tensor
    monkeypatch.setattr(UnitFiles, "tensor", lambda *a: (asked.append(a[1]), load(*a))[1])
    with pytest.raises(BundleError, match=r"half' .* does not hold in this type and shape"):
        BundleReader.open(path, against=[versions[0]]).tensors(UNITS[1], EXACT)
    assert asked.count("teacher/1/half") == 1


def test_a_reader_from_the_page_agrees(versions):
    for unit in map(str, UNITS):
        found = read_unit(versions[2], unit, EXACT, (versions[1], versions[0]))
        for name, original in network(2)[Unit.parse(unit)].items():
            assert found[name] == (original.dtype.name, original.tobytes())


def test_exact_tensors_are_a_mapping_of_one_tensor_at_a_time(versions):
    reader = BundleReader.open(versions[2], against=versions[:2])
    expected = {name: a for tensors in network(2).values() for name, a in tensors.items()}
    with reader.exact_tensors() as tensors:
        assert tensors.keys() == expected.keys() and len(tensors) == len(expected)
        for name in sorted(expected, reverse=True):
            assert tensors[name].tobytes() == expected[name].tobytes()
        with pytest.raises(KeyError):
            tensors["nothing"]
