import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import safetensors.numpy

import pwl_jax.bundle
from pwl_jax.bundle import BundleError, BundleReader, BundleWriter, Manifest, writer
from pwl_jax.ladder import Unit
from pwl_jax.precision import expand
from tests.bundle.conftest import unit_tensors, write

SCHEMA = Path(pwl_jax.bundle.__file__).with_name("manifest.schema.json")
UNITS = [Unit(kind, i) for kind in ("teacher", "student") for i in range(2)] + [Unit("encoder", 0)]


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("stages", [("exact",), (4, "exact"), (8, "exact"), (4, 8, "exact")])
def test_every_stage_is_what_expand_says(tmp_path, stages):
    write(tmp_path / "bundle", stages=stages)
    reader = BundleReader.open(tmp_path / "bundle")
    for unit in UNITS[:-1]:
        for stage in stages:
            decoded = reader.tensors(unit, stage)
            assert decoded.keys() == unit_tensors(unit).keys()
            for name, original in unit_tensors(unit).items():
                expected = expand(original, stage, stages)
                assert decoded[name].dtype == original.dtype
                assert decoded[name].shape == original.shape
                assert decoded[name].tobytes() == expected.tobytes()
    report = reader.verify()
    assert report.ok and report.tensors == 4 * 5 + 1


def test_the_exact_stage_is_the_original_and_the_base_is_not(bundle):
    reader = BundleReader.open(bundle)
    unit = Unit("teacher", 1)
    original = unit_tensors(unit)
    base, exact = reader.tensors(unit, 4), reader.tensors(unit, "exact")
    for name, array in original.items():
        assert exact[name].tobytes() == array.tobytes()
        coded = name.endswith(("kernel", "half"))
        assert (base[name].tobytes() != array.tobytes()) == coded


def test_converters_are_plain_safetensors(bundle):
    entry = BundleReader.open(bundle).manifest.shards["encoder/0@exact"]
    tensors = safetensors.numpy.load_file(bundle / entry.file)
    for name, array in unit_tensors(Unit("encoder", 0)).items():
        np.testing.assert_array_equal(tensors[name], array, strict=True)


def test_equal_input_gives_equal_bytes(bundle, tmp_path):
    write(tmp_path / "again")
    assert files(tmp_path / "again") == files(bundle)
    write(tmp_path / "other", seed=1)
    assert files(tmp_path / "other") != files(bundle)


def test_manifest_conforms_to_the_schema_and_comes_back(bundle):
    data = (bundle / "manifest.json").read_bytes()
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(data), schema)
    manifest = Manifest.from_json(data)
    assert manifest.to_json() == data
    assert manifest.stages["teacher/0"] == (4, "exact")


def test_ladder_counts_each_file_once(bundle):
    reader = BundleReader.open(bundle)
    manifest = reader.manifest
    rungs = manifest.ladder
    assert [rung.name for rung in rungs] == ["SS@4", "TS@4", "TT@4", "TT@exact"]
    assert rungs[1].shards == ("teacher/0@4", "encoder/0@exact")
    assert rungs[3].shards == ("teacher/0@exact", "teacher/1@exact")
    assert (rungs[0].top1, rungs[0].top1_test, rungs[1].top1) == (0.5, 0.25, None)
    for rung, climbed in zip(rungs, reader.ladder.rungs, strict=True):
        assert rung.shard_bytes == sum(manifest.shards[s].bytes for s in rung.shards)
        assert climbed.cumulative_bytes == rung.cumulative_bytes + reader.manifest_bytes
    fetched = {s for rung in rungs for s in rung.shards}
    programs = sum(entries[0].bytes for entries in manifest.programs.values())
    assert rungs[-1].cumulative_bytes == programs + sum(manifest.shards[s].bytes for s in fetched)


def test_bytes_fetched_counts_each_file_once(bundle):
    reader = BundleReader.open(bundle)
    size = (bundle / "manifest.json").stat().st_size
    assert reader.bytes_fetched == reader.manifest_bytes == size
    reader.tensors(Unit("teacher", 0), 4)
    base = reader.bytes_fetched
    reader.tensors(Unit("teacher", 0), 4)
    assert reader.bytes_fetched == base
    reader.verify()
    assert reader.bytes_fetched == sum(len(data) for data in files(bundle).values())


def test_a_reader_of_the_replaced_bundle_reads_on_until_the_next_replacement(bundle, tmp_path):
    path = tmp_path / "bundle"
    write(path, seed=7)
    old = BundleReader.open(path)
    write(path)
    assert old.verify().ok
    assert BundleReader.open(path).verify().ok
    assert files(path).items() > files(bundle).items()
    write(path)
    assert files(path) == files(bundle)
    assert "missing" in old.verify().problems[0]
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_writer_that_is_not_finished_leaves_nothing(tmp_path):
    path = tmp_path / "bundle"
    with pytest.raises(RuntimeError), BundleWriter(path) as unfinished:
        unfinished.add_unit(Unit("teacher", 0), unit_tensors(Unit("teacher", 0)), (4, "exact"))
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_failing_replacement_keeps_the_old_bundle_readable(bundle, tmp_path, monkeypatch):
    path = tmp_path / "bundle"
    write(path, seed=7)
    moved = []

    def fail(self, name):
        moved.append(name)
        if name == "manifest.json":
            raise OSError(28, "No space left on device")
        move(self, name)

    move = writer.BundleWriter._move
    monkeypatch.setattr(writer.BundleWriter, "_move", fail)
    with pytest.raises(BundleError, match="No space left"):
        write(path)
    assert moved[-1] == "manifest.json"
    reader = BundleReader.open(path)
    assert reader.verify().ok
    kernel = "teacher/params/block0/kernel"
    original = unit_tensors(Unit("teacher", 0), seed=7)[kernel]
    assert reader.tensors(Unit("teacher", 0), "exact")[kernel].tobytes() == original.tobytes()


def test_refuses_to_replace_what_is_no_bundle(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    for name, message in (("file", "is a file"), ("folder", "no bundle")):
        with pytest.raises(BundleError, match=message):
            BundleWriter(tmp_path / name)
    assert (tmp_path / "folder" / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert BundleReader.open(tmp_path / "empty").verify().ok


def test_remote_paths_are_written_manifest_last(tmp_path, monkeypatch, bundle):
    """`etils.epath` gives paths like pathlib's; a local one stands for a bucket here."""
    monkeypatch.setattr(writer, "remote_path", lambda address: tmp_path / address[5:])
    order = []
    move = writer.BundleWriter._move
    monkeypatch.setattr(
        writer.BundleWriter, "_move", lambda self, name: (order.append(name), move(self, name))
    )
    write("gs://bucket/bundle")
    assert files(tmp_path / "bucket" / "bundle") == files(bundle)
    assert order[-1] == "manifest.json" and len(order) == len(files(bundle))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.add_unit(Unit("teacher", 0), {"x": np.ones(2)}, (4, "exact")), "added before"),
        (lambda w: w.add_unit(Unit("teacher", 1), {"a": np.ones(2)}, ("exact",)), "'a' was added"),
        (lambda w: w.add_unit(Unit("teacher", 1), {}, ("exact",)), "no tensors"),
        (lambda w: w.add_unit(Unit("teacher", 1), {"x": np.ones(2)}, (4,)), "end in exact"),
        (lambda w: w.add_unit(Unit("teacher", 1), {"x": np.ones(2)}, (8, 4, "exact")), "stages"),
        (lambda w: w.add_unit(Unit("encoder", 0), {"x": np.ones(2)}, (4, "exact")), "always exact"),
        (lambda w: w.add_programs(Unit("teacher", 0), {}, {}), "already"),
    ],
)  # fmt: skip
def test_writer_refuses(tmp_path, change, message):
    from pwl_jax.errors import UserError

    with BundleWriter(tmp_path / "bundle") as unfinished:
        unfinished.add_unit(Unit("teacher", 0), {"a": np.ones(2)}, (4, "exact"))
        unfinished.add_programs(Unit("teacher", 0), {"onnx": b"p"}, {})
        with pytest.raises(UserError, match=message):
            change(unfinished)
