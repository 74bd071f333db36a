"""Damaged and hostile bundles: refused with an error that names the file, or decoded exactly."""

import hashlib
import json
import os
import shutil
import struct

import pytest

from pwl_jax.bundle import BundleError, BundleReader, Manifest, unit_files
from pwl_jax.bundle.safetensors_file import read_safetensors
from pwl_jax.bundle.shard_file import MAGIC
from pwl_jax.ladder import Unit
from tests.bundle.conftest import unit_tensors
from tests.bundle.p2u import join_p2u, read_p2u, split_p2u

TEACHER = Unit("teacher", 0)


@pytest.fixture
def folder(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "bundle")


def document(folder):
    return json.loads((folder / "manifest.json").read_text())


def save(folder, manifest):
    (folder / "manifest.json").write_text(json.dumps(manifest))


def shard_path(folder, shard="teacher/0@4"):
    return folder / document(folder)["shards"][shard]["file"]


def replace_shard(folder, shard, data):
    """Puts other bytes in a shard's place with all hashes made to fit, as a hostile author can."""
    manifest = document(folder)
    entry = manifest["shards"][shard]
    sha256 = hashlib.sha256(data).hexdigest()
    entry |= {
        "file": f"shards/{sha256}.{entry['file'].rpartition('.')[2]}",
        "sha256": sha256,
        "bytes": len(data),
    }
    (folder / entry["file"]).write_bytes(data)
    # Its bytes would no longer fit, and the manifest would be refused before the shard is read.
    manifest["ladder"] = []
    save(folder, manifest)
    return entry["file"]


def flip(data):
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


@pytest.mark.parametrize("shard", ["teacher/0@4", "teacher/0@exact", "encoder/0@exact"])
@pytest.mark.parametrize(
    "damage", [flip, lambda data: data[:-1], lambda data: data + b"x", lambda data: b""]
)
def test_a_damaged_file_is_named(folder, shard, damage):
    path = shard_path(folder, shard)
    path.write_bytes(damage(path.read_bytes()))
    unit, _, stage = shard.partition("@")
    opened = BundleReader.open(folder)
    with pytest.raises(BundleError, match=path.name):
        opened.tensors(Unit.parse(unit), int(stage) if stage.isdigit() else "exact")
    report = opened.verify()
    assert not report.ok and all(path.name in problem for problem in report.problems)


def test_a_missing_file_and_a_pipe_are_named(folder):
    path = shard_path(folder)
    path.unlink()
    with pytest.raises(BundleError, match=f"{path.name} is missing"):
        BundleReader.open(folder).tensors(TEACHER, 4)
    os.mkfifo(path)
    with pytest.raises(BundleError, match=f"{path.name} is missing"):
        BundleReader.open(folder).tensors(TEACHER, 4)


def test_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="no folder"):
        BundleReader.open(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        BundleReader.open(tmp_path)


def set_in(*path, value):
    def change(manifest):
        here = manifest
        for key in path[:-1]:
            here = here[key]
        here[path[-1]] = value

    return change


BASE = ("shards", "teacher/0@4")
KERNEL = ("tensors", "teacher/params/block0/kernel")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in("format", value="zip"), "no manifest of a bundle"),
        (set_in("version", value=2), "version 2; this reader knows 1"),
        (set_in("version", value=True), "version True"),
        (set_in("extra", value=1), "unknown field 'extra'"),
        (lambda m: m.pop("classes"), "lacks 'classes'"),
        (set_in("classes", value="ant"), "classes is 'ant', expected a list"),
        (set_in("blocks", value=0), "blocks is 0"),
        (set_in("blocks", value=1), "network of 1 blocks"),
        (set_in("blocks", value=2.0), "blocks is 2.0"),
        (set_in(*BASE, "bytes", value=-1), "bytes is -1"),
        (set_in(*BASE, "bytes", value=1 << 70), "whole number"),
        (set_in(*BASE, "file", value="../../etc/passwd"), "no name of a file"),
        (set_in(*BASE, "file", value="/etc/passwd"), "no name of a file"),
        (set_in(*BASE, "file", value=f"shards/../shards/{'0' * 64}.p2u"), "no name of a file"),
        (set_in(*BASE, "file", value=f"shards/{'0' * 64}.p2u"), "not named after its sha256"),
        (set_in(*BASE, "file", value=f"shards/{'0' * 64}.pkl"), "no name of a file"),
        (set_in(*BASE, "sha256", value="0" * 64), "not named after its sha256"),
        (set_in(*BASE, "stage", value="9"), "no precision"),
        (set_in(*BASE, "unit", value="teacher/1"), "no shard 'teacher/0@4' of that unit"),
        (set_in(*BASE, "tensors", value=["a", "a"]), "lists a tensor twice"),
        (set_in(*BASE, "tensors", value=[]), "no base"),
        (set_in("stages", "teacher/0", value=["exact"]), "listed under only one|no base"),
        (set_in("stages", "teacher/0", value=["exact", "4"]), "stages"),
        (set_in("stages", "teacher/9", value=["exact"]), "network of 2 blocks"),
        (set_in(*KERNEL, "dtype", value="object"), "unknown type 'object'"),
        (set_in(*KERNEL, "shape", value=[-1]), "whole number"),
        (set_in(*KERNEL, "sha256", value="F" * 64), "no SHA-256"),
        (set_in("tensors", "stray", value={"shape": [], "dtype": "int8", "sha256": "0" * 64}),
         "'stray' is listed in only one"),
        (set_in("bindings", "teacher/0", value={"own": ["stray"]}), "binds 'stray', no tensor of that unit"),  # noqa: E501
        (set_in("ladder", 0, "bits", value=[4, 9]), "no precision"),
        (set_in("ladder", 0, "name", value="TT@4"), "composition and bits say 'SS@4'"),
        (set_in("ladder", 0, "shards", value=["teacher/7@4"]), "does not list the shards new to it"),  # noqa: E501
        (set_in("ladder", 0, "shard_bytes", value=1), "says shard_bytes 1"),
        (set_in("ladder", 1, "cumulative_bytes", value=1), "says cumulative_bytes 1"),
        (lambda m: m["ladder"].append(m["ladder"][0]), "holds a rung twice"),
        (set_in("preprocessing", "resize", value="lanczos"), "unknown filter"),
        (set_in("bindings", "teacher/0", value={"own": [], "0": []}), "bound for"),
        (lambda m: m["bindings"].pop("teacher/0"), "teacher/0 is listed in only one of 'programs'"),
        (lambda m: m["programs"].pop("teacher/0"), "teacher/0 is listed in only one of 'programs'"),
        (set_in("stages", "encoder/0", value=["4", "exact"]), "exact alone"),
        (set_in("measurements", 0, "top1", value="high"), "expected a number"),
        (set_in("codecs", value=["zstd", "lzma"]), "codec 'lzma' is unknown; this"),
    ],
)  # fmt: skip
def test_an_edited_manifest_is_refused(folder, change, message):
    manifest = document(folder)
    change(manifest)
    save(folder, manifest)
    with pytest.raises(BundleError, match=message) as caught:
        BundleReader.open(folder)
    assert "manifest.json" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ['{"format": "pwl-bundle", "version": ' + "9" * 5000 + "}", "", "{", "[]", "null", "[" * 100_000, '{"format": "pwl-bundle", "format": "pwl-bundle"}',  # noqa: E501
     '{"format": "pwl-bundle", "version": NaN}', "\ud800".encode("utf-8", "surrogatepass")],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(text):
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Manifest.from_json(data)


def test_a_repeated_key_is_refused(folder):
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"blocks":2', '"blocks":2,"blocks":2'))
    with pytest.raises(BundleError, match="the key 'blocks' is repeated"):
        BundleReader.open(folder)


@pytest.mark.parametrize("name", ["", "__metadata__"])
def test_a_name_that_safetensors_cannot_hold_is_refused(folder, name):
    text = (folder / "manifest.json").read_text()
    text = text.replace("teacher/params/block0/kernel", name)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=f"can be called '{name}'"):
        BundleReader.open(folder)


def test_half_a_character_is_refused_before_anybody_prints_it(folder):
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"ant"', '"\\ud800"'))
    with pytest.raises(BundleError, match="surrogates not allowed"):
        BundleReader.open(folder)
    (folder / "manifest.json").write_text(text.replace('"ant"', '"\\ud83d\\ude00"'))
    assert BundleReader.open(folder).manifest.classes[0] == "\U0001f600"


def test_more_blocks_than_any_network_has_are_not_counted(folder):
    """Neither a list of boundaries nor a rung's units are made before the number is looked at."""
    good = document(folder)
    manifest = good | {"blocks": 1 << 62, "ladder": [], "measurements": []}
    manifest["programs"] |= {"student/999999999": good["programs"]["student/0"]}
    save(folder, manifest)
    with pytest.raises(BundleError, match="expected at most 4096"):
        BundleReader.open(folder)
    manifest["blocks"] = 4096
    manifest["programs"]["student/4095"] = manifest["programs"].pop("student/999999999")
    manifest["bindings"]["student/4095"] = {"own": [], "9" * 30: []}
    save(folder, manifest)
    with pytest.raises(BundleError, match="bound for"):
        BundleReader.open(folder)


def test_a_header_too_large_to_parse_is_refused_unread(folder, monkeypatch):
    monkeypatch.setattr("pwl_jax.bundle.shard_file.LARGEST_HEADER", 100)
    monkeypatch.setattr("pwl_jax.bundle.shard_file.strict_json", None)
    with pytest.raises(BundleError, match=r"has a header of .* bytes, more than 100"):
        BundleReader.open(folder).tensors(TEACHER, 4)


def test_a_reader_may_take_only_small_tensors(folder):
    kernel = unit_tensors(TEACHER)["teacher/params/block0/kernel"].nbytes
    BundleReader.open(folder, largest_tensor=kernel).tensors(TEACHER, 4)
    with pytest.raises(BundleError, match=f"more than {kernel - 1} bytes"):
        BundleReader.open(folder, largest_tensor=kernel - 1).tensors(TEACHER, 4)


def test_an_exact_tensor_without_its_update_is_refused(folder):
    """A manifest that drops a tensor from the exact shard would leave its base to pass for it."""
    name = "teacher/params/block0/kernel"
    header, data = split_p2u(shard_path(folder, "teacher/0@exact").read_bytes())
    at = 0
    for record in list(header["tensors"]):
        size = sum(stored for _, stored in record["parts"])
        if record["name"] == name:
            header["tensors"].remove(record)
            data = data[:at] + data[at + size :]
        else:
            at += size
    replace_shard(folder, "teacher/0@exact", join_p2u(header, data))
    manifest = document(folder)
    manifest["shards"]["teacher/0@exact"]["tensors"].remove(name)
    save(folder, manifest)
    opened = BundleReader.open(folder)
    opened.tensors(TEACHER, 4)
    with pytest.raises(BundleError, match="kernel' does not hash to the original"):
        opened.tensors(TEACHER, "exact")


def test_a_tensor_of_two_units_is_refused(folder):
    manifest = document(folder)
    manifest["shards"]["teacher/1@4"]["tensors"].append("teacher/params/block0/kernel")
    save(folder, manifest)
    with pytest.raises(BundleError, match="kernel' is in teacher/0 and in teacher/1"):
        BundleReader.open(folder)


def test_a_number_beyond_all_floats_is_refused(folder):
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"loss":1.25', '"loss":1e999'))
    with pytest.raises(BundleError, match="loss is too large a number"):
        BundleReader.open(folder)


def test_a_manifest_without_end_is_not_read(folder, monkeypatch):
    monkeypatch.setattr("pwl_jax.bundle.stores.LARGEST_UNDECLARED", 100)
    with pytest.raises(BundleError, match="expected at most 100"):
        BundleReader.open(folder)


def test_huge_declared_tensors_are_refused_before_they_are_allocated(folder, monkeypatch):
    monkeypatch.setattr(unit_files, "decode_tensor", None)
    for shape in ([1 << 40], [0, 1 << 62], [1] * 100):
        manifest = document(folder)
        manifest["tensors"]["teacher/params/block0/kernel"]["shape"] = shape
        save(folder, manifest)
        with pytest.raises(BundleError, match="more than"):
            BundleReader.open(folder).tensors(TEACHER, 4)


def test_files_larger_than_what_they_hold_are_refused_before_they_are_fetched(folder, monkeypatch):
    manifest = document(folder)
    manifest["shards"]["teacher/0@4"]["bytes"] = 1 << 40
    manifest["programs"]["teacher/0"][0]["bytes"] = 1 << 40
    manifest["ladder"] = []
    save(folder, manifest)
    opened = BundleReader.open(folder)
    monkeypatch.setattr(opened, "_store", None)
    with pytest.raises(BundleError, match="declares 1099511627776 bytes for tensors of"):
        opened.tensors(TEACHER, 4)
    with pytest.raises(BundleError, match="a program has at most"):
        opened.program(TEACHER, "stablehlo")


def test_a_shape_other_than_declared_is_refused_before_decoding(folder, monkeypatch):
    monkeypatch.setattr(unit_files, "decode_tensor", None)
    manifest = document(folder)
    for entry in manifest["tensors"].values():
        entry["shape"] = [*entry["shape"], 1]
    save(folder, manifest)
    with pytest.raises(BundleError, match="not as the manifest declares it"):
        BundleReader.open(folder).tensors(TEACHER, 4)


def test_bytes_that_belong_to_no_tensor_are_refused(folder):
    replace_shard(folder, "teacher/0@4", shard_path(folder).read_bytes() + b"hidden")
    with pytest.raises(BundleError, match="6 bytes that belong to no tensor"):
        BundleReader.open(folder).tensors(TEACHER, 4)


def test_a_name_twice_in_a_shard_is_refused(folder):
    header, data = split_p2u(shard_path(folder).read_bytes())
    repeat_name(header)
    with pytest.raises(BundleError, match="twice"):
        read_p2u(join_p2u(header, data), TEACHER, 4, "the-file")


def change_shape(header):
    header["tensors"][-1]["shape"] = [1, 1]


def change_codec(header):
    header["tensors"][0]["parts"][0][0] = "rot13"


def repeat_name(header):
    header["tensors"][1]["name"] = header["tensors"][0]["name"]


def longer_part(header):
    header["tensors"][-1]["parts"][-1][1] += 1


def shorter_part(header):
    header["tensors"][-1]["parts"][-1][1] -= 1


def huge_part(header):
    header["tensors"][0]["parts"][0][1] = 1 << 62


def other_unit(header):
    header["unit"] = "teacher/1"


def unknown_kind(header):
    header["tensors"][0]["kind"] = "pickle"


def unknown_field(header):
    header["tensors"][0]["code"] = "import os"


@pytest.mark.parametrize(
    "change",
    [change_shape, change_codec, repeat_name, longer_part, shorter_part, huge_part, other_unit,
     unknown_kind, unknown_field],
)  # fmt: skip
def test_a_hostile_header_with_fitting_hashes_is_refused(folder, change):
    header, data = split_p2u(shard_path(folder).read_bytes())
    change(header)
    name = replace_shard(folder, "teacher/0@4", join_p2u(header, data))
    with pytest.raises(BundleError, match=name.rpartition("/")[2]):
        BundleReader.open(folder).tensors(TEACHER, 4)


@pytest.mark.parametrize(
    "data",
    [b"", b"PWLP2U02" + bytes(8), MAGIC, MAGIC + struct.pack("<Q", 1 << 63) + b"{}",
     MAGIC + struct.pack("<Q", 2) + b"{}", MAGIC + struct.pack("<Q", 2) + b"[]"],
)  # fmt: skip
def test_what_is_no_shard_is_refused(data):
    with pytest.raises(BundleError, match="the-file"):
        read_p2u(data, TEACHER, 4, "the-file")
    with pytest.raises(BundleError, match="the-file"):
        read_safetensors(data, "the-file")


def test_an_update_to_another_base_is_refused(folder, tmp_path):
    from tests.bundle.conftest import write

    write(tmp_path / "other", seed=5)
    other = shard_path(tmp_path / "other", "teacher/0@exact").read_bytes()
    replace_shard(folder, "teacher/0@exact", other)
    with pytest.raises(BundleError, match="belongs to"):
        BundleReader.open(folder).tensors(TEACHER, "exact")


def test_a_changed_exact_tensor_with_fitting_hashes_is_refused(folder):
    """The manifest's hash of the original is the last word."""
    manifest = document(folder)
    manifest["tensors"]["teacher/params/block0/kernel"]["sha256"] = "0" * 64
    save(folder, manifest)
    opened = BundleReader.open(folder)
    opened.tensors(TEACHER, 4)
    with pytest.raises(BundleError, match="does not hash to the original"):
        opened.tensors(TEACHER, "exact")
