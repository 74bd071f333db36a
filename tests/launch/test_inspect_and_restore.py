import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from pwl_jax.bundle import BundleReader, BundleWriter, Preprocessing
from pwl_jax.ladder import EXACT, Unit
from pwl_jax.precision import expand, quantizable
from pwl_jax.serving import serve_folder
from tests import tiny_bundle as tiny
from tests.commands import failed, launched


def test_inspect_shows_the_ladder(bundle):
    result = launched("launch.inspect", f"--bundle={bundle}")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert "pair        tiny" in lines and "blocks      3" in lines and "input       8x8x3" in lines
    table = [line.split() for line in lines[-len(tiny.RUNGS) :]]
    assert [row[0] for row in table] == list(tiny.RUNGS)
    assert [row[1] for row in table][:2] == ["50.00", "55.00"]
    sizes = [int(row[-1].replace(",", "")) for row in table]
    assert sizes == [rung.cumulative_bytes for rung in BundleReader.open(bundle).ladder.rungs]


def test_inspect_verifies_over_http(bundle):
    with serve_folder(bundle) as url:
        result = launched("launch.inspect", f"--bundle={url}", "--verify")
    assert result.returncode == 0
    assert f"{len(tiny.all_tensors())} tensors equal their originals" in result.stdout


def test_inspect_names_damaged_files(bundle, tmp_path):
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    first, second = sorted((folder / "shards").iterdir())[:2]
    first.write_bytes(first.read_bytes() + b"x")
    second.unlink()
    result = launched("launch.inspect", f"--bundle={folder}", "--verify")
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert first.name in result.stderr and second.name in result.stderr


@pytest.mark.parametrize("command", ["inspect", "restore"])
def test_no_bundle(command, tmp_path):
    flags = [f"--output={tmp_path}/x"] if command == "restore" else []
    assert failed(
        launched(f"launch.{command}", "--bundle=/no/such", *flags),
        "/no/such is no folder with a bundle",
    )
    assert not list(tmp_path.iterdir())


def test_restore_gives_the_originals(bundle, tmp_path):
    result = launched("launch.restore", f"--bundle={bundle}", f"--output={tmp_path}/x.safetensors")
    assert (result.returncode, result.stderr) == (0, "")
    restored, originals = load_file(tmp_path / "x.safetensors"), tiny.all_tensors()
    assert restored.keys() == originals.keys()
    for name, original in originals.items():
        assert restored[name].tobytes() == original.tobytes()
        assert restored[name].dtype == original.dtype


def test_restore_at_a_stage_gives_what_a_receiver_sees(bundle, tmp_path):
    result = launched(
        "launch.restore", f"--bundle={bundle}", f"--output={tmp_path}/x.safetensors", "--stage=4"
    )
    assert (result.returncode, result.stderr) == (0, "")
    restored, coded = load_file(tmp_path / "x.safetensors"), 0
    for name, original in tiny.all_tensors().items():
        converter = name.startswith(("encoders", "decoders"))
        expected = original if converter else expand(original, 4, (4, EXACT))
        np.testing.assert_array_equal(restored[name], expected)
        coded += not converter and quantizable(original)
    assert coded > 4


def test_restore_bfloat16_without_programs_or_ladder(tmp_path):
    import ml_dtypes

    patterns = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    tensors = {"weights": patterns.view(ml_dtypes.bfloat16), "steps": np.array(7, np.int64)}
    with BundleWriter(tmp_path / "bundle") as writer:
        writer.add_unit(Unit("teacher", 0), tensors, (4, 8, EXACT))
        writer.finish(
            pair={}, preprocessing=Preprocessing((8, 8, 1), (0.0,), (1.0,)), classes=(), blocks=1
        )
    result = launched("launch.inspect", f"--bundle={tmp_path}/bundle", "--verify")
    assert result.returncode == 0 and "no ladder" in result.stdout
    target = tmp_path / "x.safetensors"
    assert (
        launched("launch.restore", f"--bundle={tmp_path}/bundle", f"--output={target}").returncode
        == 0
    )
    data = target.read_bytes()
    assert b'"dtype":"BF16"' in data and patterns.tobytes() in data


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("5", "the bundle has no stage 5 of student/0; it has 4, exact"),
        ("half", "'half' is no precision; expected 2 to 8 bits, or exact"),
    ],
)
def test_restore_refuses_unknown_stages(bundle, tmp_path, stage, message):
    flags = [f"--bundle={bundle}", f"--output={tmp_path}/x", f"--stage={stage}"]
    assert failed(launched("launch.restore", *flags), message)
    assert not list(tmp_path.iterdir())


def test_restore_writes_nothing_from_a_damaged_bundle(bundle, tmp_path):
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    shard = min((folder / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert failed(
        launched("launch.restore", f"--bundle={folder}", f"--output={tmp_path}/x"), shard.name
    )
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
