"""Rules between the fields of a manifest, each broken in a manifest that is otherwise whole."""

import json
import subprocess
import sys

import jsonschema
import pytest

from pwl_jax.bundle import BundleError, Manifest
from tests.bundle.test_round_trip import SCHEMA

MANY_DIGITS = "9" * 5000


def respelled(manifest):
    """`teacher/01` beside `teacher/1`: one unit under two keys."""
    manifest["stages"]["teacher/01"] = ["exact"]
    shard = {**manifest["shards"]["teacher/1@exact"], "tensors": []}
    manifest["shards"]["teacher/01@exact"] = shard


def without_exact(manifest):
    manifest["ladder"] = []
    manifest["stages"]["teacher/1"].remove("exact")
    del manifest["shards"]["teacher/1@exact"]


def many_digits_in_a_unit(manifest):
    manifest["stages"][f"teacher/{MANY_DIGITS}"] = ["exact"]


def many_digits_in_a_stage(manifest):
    manifest["stages"]["teacher/1"][0] = MANY_DIGITS


def foreign_binding(manifest):
    own = manifest["shards"]["teacher/1@4"]["tensors"]
    manifest["bindings"]["teacher/0"] = {"own": own}


def rung_beyond_the_bundle(manifest):
    rung = manifest["ladder"][0]
    manifest["ladder"][0] = {**rung, "name": "SS@8", "bits": [8, 8]}


def string_bits_in_the_ladder(manifest):
    manifest["ladder"][0]["bits"] = [[4], 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (respelled, "'teacher/01' is spelled teacher/1"),
        (without_exact, "expected exact last"),
        (many_digits_in_a_unit, "is no unit"),
        (many_digits_in_a_stage, "is no precision"),
        (foreign_binding, "no tensor of that unit"),
        (rung_beyond_the_bundle, "SS@8 needs student/0@8"),
        (string_bits_in_the_ladder, "no list of widths"),
    ],
)
def test_a_broken_rule_is_named(bundle, change, message):
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    change(manifest)
    with pytest.raises(BundleError, match=rf"manifest\.json: .*{message}"):
        Manifest.from_json(json.dumps(manifest).encode())


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(version=2),
        lambda m: m.update(extra=1),
        lambda m: m.pop("classes"),
        lambda m: m["shards"]["teacher/0@4"].update(file="../../etc/passwd"),
        lambda m: m["shards"]["teacher/0@4"].update(bytes=-1),
        lambda m: m["stages"].update({"pupil/0": ["exact"]}),
        lambda m: m["ladder"][0].update(bits=[4, 9]),
    ],
)
def test_schema_and_reader_refuse_alike(bundle, change):
    schema = json.loads(SCHEMA.read_text())
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    change(manifest)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, schema)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Manifest.from_json(json.dumps(manifest).encode())


def test_a_repeated_key_among_very_many_is_found_in_no_time():
    keys = ",".join(f'"{i}":0' for i in range(200_000))
    with pytest.raises(BundleError, match="the key '5' is repeated"):
        Manifest.from_json(f'{{{keys},"5":0}}'.encode())


@pytest.mark.slow
def test_the_worst_manifest_of_the_largest_size_takes_less_than_a_gibibyte(tmp_path):
    text = b'{"format":"pwl-bundle","version":1,"pair":[' + b'{"":[]},' * ((16 << 20) // 8 - 10)
    (tmp_path / "manifest.json").write_bytes(text + b"0]}")
    code = (
        "import sys; from experiments.peak_memory import peak_bytes\n"
        "from pwl_jax.bundle import BundleError, BundleReader\n"
        "try: BundleReader.open(sys.argv[1])\n"
        "except BundleError as error: assert 'lacks' in str(error), error\n"
        "print(peak_bytes())"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 1 << 30
