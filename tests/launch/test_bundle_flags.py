"""--public_key and --against, on every command that opens a bundle."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from pwl_jax.bundle import BundleReader, BundleWriter, Preprocessing
from pwl_jax.ladder import EXACT, Unit
from pwl_jax.runtime import LiveModel
from tests import tiny_bundle as tiny
from tests.commands import failed, launched

ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
from cryptography.hazmat.primitives import serialization as pem  # noqa: E402

COMMANDS = {"inspect": [], "restore": ["--output=x"], "predict": ["--input=x.npy"], "serve": []}


def write(path, value, **options):
    with BundleWriter(path, **options) as writer:
        tensors = {"a": np.full((8, 8), value, np.float32), "b": np.arange(5)}
        writer.add_unit(Unit("teacher", 0), tensors, (4, EXACT))
        writer.finish(
            pair={}, preprocessing=Preprocessing((1, 1, 1), (0.0,), (1.0,)), classes=(), blocks=1
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A signed bundle, its public key, another key, and a delta against the bundle."""
    folder = tmp_path_factory.mktemp("flags")
    key = ed25519.Ed25519PrivateKey.from_private_bytes(b"1" * 32)
    for name, each in (("public", key), ("other", ed25519.Ed25519PrivateKey.generate())):
        how = (pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pem").write_bytes(each.public_key().public_bytes(*how))
    write(folder / "old", 1.0, sign_key=key)
    write(folder / "new", 2.0, sign_key=key, against=BundleReader.open(folder / "old"))
    np.save(folder / "x.npy", np.zeros((1, 8, 8, 1), np.float32))
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_what_is_not_signed_by_the_key(folder, command):
    rest = [flag.replace("=", f"={folder}/", 1) for flag in COMMANDS[command]]
    flags = [f"--bundle={folder}/old", *rest]
    wrong = launched(f"launch.{command}", *flags, f"--public_key={folder}/other.pem")
    assert failed(wrong, "is not signed by the owner of this public key")
    missing = launched(f"launch.{command}", *flags, f"--public_key={folder}/no.pem")
    assert failed(missing, "no.pem: No such file")
    assert not (folder / "x").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_which_flag_a_delta_needs(folder, command):
    rest = [flag.replace("=", f"={folder}/", 1) for flag in COMMANDS[command]]
    alone = launched(f"launch.{command}", f"--bundle={folder}/new", *rest)
    assert failed(alone, "none is given: name that one's folder or address by --against")


def test_inspect_and_restore_with_both_flags(folder, tmp_path):
    flags = [
        f"--bundle={folder}/new",
        f"--against={folder}/old",
        f"--public_key={folder}/public.pem",
    ]
    shown = launched("launch.inspect", *flags, "--verify")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"against     {BundleReader.open(folder / 'old').manifest_sha256}" in shown.stdout
    assert f"signed by the owner of {folder}/public.pem" in shown.stdout
    assert "2 tensors equal their originals to the bit" in shown.stdout
    done = launched("launch.restore", *flags, f"--output={tmp_path}/x.safetensors")
    assert (done.returncode, done.stderr) == (0, "")
    restored = load_file(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(restored["a"], np.full((8, 8), 2.0, np.float32))
    np.testing.assert_array_equal(restored["b"], np.arange(5))


def test_a_live_model_runs_from_a_delta(bundle, tmp_path):
    """Its ladder has exact rungs only; the last answers as the whole bundle's does."""
    old = BundleReader.open(bundle)
    path = tmp_path / "delta"
    with BundleWriter(path, against=old) as writer:
        for name in old.manifest.stages:
            unit = Unit.parse(name)
            writer.add_unit(unit, old.tensors(unit, EXACT), (EXACT,))
            entries = old.manifest.programs[name]
            programs = {entry.format: old.program(unit, entry.format)[0] for entry in entries}
            writer.add_programs(unit, programs, old.manifest.bindings[name])
        rungs = [entry.rung for entry in old.manifest.ladder if set(entry.rung.bits) == {EXACT}]
        writer.finish(
            pair=old.manifest.pair,
            preprocessing=Preprocessing.from_dict(old.manifest.preprocessing),
            classes=old.manifest.classes,
            blocks=old.manifest.blocks,
            ladder=rungs,
        )
    images = np.random.default_rng(0).normal(size=(2, *tiny.INPUT_SHAPE)).astype(np.float32)
    last = rungs[-1].name
    with LiveModel.open(bundle, rung=last, climb=False) as whole:
        expected = whole.predict(images).logits
    with LiveModel.open(path, against=[bundle], rung=last, climb=False) as model:
        np.testing.assert_array_equal(model.predict(images).logits, expected)
