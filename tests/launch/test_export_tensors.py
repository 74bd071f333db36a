"""export --weights --precision_only and restore: any safetensors file, there and back."""

import pickle
import struct

import ml_dtypes
import numpy as np
import pytest

from pwl_jax.bundle import BundleReader
from pwl_jax.bundle.lazy_safetensors import SafetensorsFile
from pwl_jax.bundle.safetensors_file import write_safetensors
from pwl_jax.ladder import EXACT, Unit
from pwl_jax.precision import Quantization, expand
from tests.commands import done, failed, launched

ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
from cryptography.hazmat.primitives import serialization as pem  # noqa: E402

# Each case is a process or several.
pytestmark = pytest.mark.slow

METADATA = {"format": "pt", "note": "zwölf\n\tZeilen"}
FIRST = Quantization(channel_axis=0)
UNIT = Unit("teacher", 0)


def export(weights, bundle, *arguments):
    return launched(
        "launch.export",
        f"--weights={weights}",
        "--precision_only",
        f"--bundle={bundle}",
        *arguments,
    )


def model(seed=0):
    """Of every kind of type: with NaN payloads, infinities, -0, subnormals; empty; scalar."""
    rng = np.random.default_rng(seed)
    odd = np.array([0x7F800001, 0xFFC12345, 0x7F800000, 0xFF800000, 0x80000000, 1], "<u4")
    kernel = rng.standard_normal((24, 16)).astype(np.float32)
    kernel.reshape(-1).view("<u4")[: odd.size] = odd
    return {
        "kernel": kernel,
        "bf16": rng.standard_normal((16, 3, 9)).astype(ml_dtypes.bfloat16),
        "fp16": rng.integers(0, 1 << 16, (32, 8), np.uint16).view(np.float16),
        "double": rng.standard_normal((9, 8)),
        "int8": rng.integers(-128, 128, (40, 8), np.int8),
        "steps": np.array(12345678901, np.int64),
        "scale": np.array(0.5, np.float32),
        "mask": rng.integers(0, 2, 11).astype(bool),
        "none": np.zeros((0, 4), np.float32),
        "bias": np.arange(16, dtype=np.float32),
        "fp8": rng.integers(0, 256, (4, 4), np.uint8).view(ml_dtypes.float8_e4m3fn),
    }


def write(path, tensors, metadata=None):
    path.write_bytes(write_safetensors(tensors, metadata))
    return path


def assert_same(path, tensors, metadata=METADATA):
    file = SafetensorsFile(path)
    assert file.metadata == metadata and set(file) == tensors.keys()
    for name, array in tensors.items():
        assert (file[name].dtype, file[name].shape) == (array.dtype, array.shape), name
        assert file[name].tobytes() == array.tobytes(), name


def shard_bytes(folder):
    return sum(path.stat().st_size for path in (folder / "shards").iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights, keys, and the weights' bundle in 4, 8 and all bits, signed."""
    folder = tmp_path_factory.mktemp("tensors")
    for name in ("own", "other"):
        key = ed25519.Ed25519PrivateKey.generate()
        how = (pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
        (folder / f"{name}.pem").write_bytes(key.private_bytes(*how))
        how = (pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.public.pem").write_bytes(key.public_key().public_bytes(*how))
    weights = write(folder / "x.safetensors", model(), METADATA)
    flags = ["--bits=4,8,exact", f"--sign_key={folder}/own.pem"]
    shown = done(export(weights, folder / "b", *flags))
    assert shown.startswith("11 tensors\n")
    assert [line.split()[0] for line in shown.splitlines()[2:]] == ["T@4", "T@8", "T@exact"]
    return folder


def test_every_tensor_comes_back_byte_for_byte_with_its_metadata(folder, tmp_path):
    flags = [f"--bundle={folder}/b", f"--public_key={folder}/own.public.pem"]
    shown = done(launched("launch.restore", *flags, f"--output={tmp_path}/y.safetensors"))
    assert shown.startswith("11 tensors, ") and "equal to the original by its hash" in shown
    assert_same(tmp_path / "y.safetensors", model())
    # The layout that is written is one for all, so the second time even the file is the same.
    done(export(tmp_path / "y.safetensors", tmp_path / "again", "--bits=4,8,exact"))
    done(
        launched(
            "launch.restore", f"--bundle={tmp_path}/again", f"--output={tmp_path}/z.safetensors"
        )
    )
    restored = [(tmp_path / f"{name}.safetensors").read_bytes() for name in "yz"]
    assert restored[0] == restored[1]
    again, first = (BundleReader.open(path / "b" if path == folder else path / "again")
                    for path in (tmp_path, folder))  # fmt: skip
    assert again.manifest_sha256 == first.manifest_sha256


@pytest.mark.parametrize("stage", [4, 8])
def test_a_stage_is_what_expand_says_by_the_first_axis(folder, tmp_path, stage):
    target = tmp_path / "y.safetensors"
    done(
        launched("launch.restore", f"--bundle={folder}/b", f"--output={target}", f"--stage={stage}")
    )
    expected = {
        name: expand(array, stage, (4, 8, EXACT), quantization=FIRST)
        for name, array in model().items()
    }
    assert_same(target, expected)
    coded = [name for name, array in model().items() if expected[name].tobytes() != array.tobytes()]
    assert coded == ["kernel", "bf16", "fp16", "double"]


def test_inspect_verifies_what_export_signed(folder):
    flags = [f"--bundle={folder}/b", "--verify"]
    shown = done(launched("launch.inspect", *flags, f"--public_key={folder}/own.public.pem"))
    assert "11 tensors equal their originals to the bit" in shown
    foreign = launched("launch.inspect", *flags, f"--public_key={folder}/other.public.pem")
    assert failed(foreign, "is not signed by the owner of this public key")


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        (["--scheme=affine", "--channels=last"], Quantization("affine")),
        (
            ["--granularity=channel", "--scale=percentile", "--percentile=99"],
            Quantization(
                granularity="channel", scale="percentile", percentile=99.0, channel_axis=0
            ),
        ),
        (
            ["--granularity=tensor", "--scale=minmax"],
            Quantization(granularity="tensor", scale="minmax", channel_axis=0),
        ),
        (["--group_size=8"], Quantization(group_size=8, channel_axis=0)),
    ],
)
def test_the_flags_of_the_quantizer_arrive(folder, tmp_path, flags, rule):
    done(export(folder / "x.safetensors", tmp_path / "b", "--bits=3,exact", *flags))
    reader = BundleReader.open(tmp_path / "b")
    found, plain = reader.tensors(UNIT, 3), 0
    for name, array in model().items():
        expected = expand(array, 3, (3, EXACT), quantization=rule)
        assert found[name].tobytes() == expected.tobytes(), name
        default = expand(array, 3, (3, EXACT), quantization=FIRST)
        plain += default.tobytes() == expected.tobytes()
    assert plain < len(found)
    assert reader.verify().ok


@pytest.mark.parametrize("tensors", [{"i": np.arange(9)}, {"e": np.zeros((0, 9), np.float32)}])
def test_a_file_without_a_tensor_to_code(tmp_path, tensors):
    done(export(write(tmp_path / "x", tensors), tmp_path / "b", "--bits=4,exact"))
    for stage in ("4", "exact"):
        target = tmp_path / stage
        done(
            launched(
                "launch.restore", f"--bundle={tmp_path}/b", f"--output={target}", f"--stage={stage}"
            )
        )
        assert_same(target, tensors, {})
    done(launched("launch.inspect", f"--bundle={tmp_path}/b", "--verify"))


def header(dtype, size):
    text = f'{{"a":{{"dtype":"{dtype}","shape":[{size}],"data_offsets":[0,8]}}}}'.encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


FILES = {
    "pickle": (lambda: pickle.dumps({"weights": [1.0] * 99}), "is a pickle, which is never read"),
    "zip": (lambda: b"PK\x03\x04" + bytes(99), "safetensors"),
    "cut": (lambda: write_safetensors(model())[:-3], "is no readable safetensors file"),
    "F4": (lambda: header("F4", 16), "tensor 'a' has the unknown type F4"),
    "C64": (lambda: header("C64", 1), "tensor 'a' has the unknown type C64"),
    "empty": (lambda: b"", "its header is cut"),
    "no tensors": (lambda: write_safetensors({}), "holds no tensors"),
}


@pytest.mark.parametrize("what", FILES)
def test_files_that_cannot_be_exported(tmp_path, what):
    content, message = FILES[what]
    path = tmp_path / "weights.bin"
    path.write_bytes(content())
    assert failed(export(path, tmp_path / "b"), message)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.bin"]


@pytest.mark.parametrize(
    ("flags", "message", "status"),
    [
        (["--noprecision_only"], "--weights holds no pair; add --precision_only", 1),
        (["--base_budget=1.1"], "--base_budget measures a network", 1),
        (["--bits=9,exact"], "'9' is no precision; expected 2 to 8 bits, or exact", 1),
        (["--bits=4"], "stages [4] do not end in exact, such as [4, 'exact']", 1),
        (["--bits=8,4,exact"], "[8, 4, 'exact']", 1),
        (["--bits="], "stages [] do not end in exact", 1),
        (["--sign_key={0}/none.pem"], "none.pem: No such file", 1),
        (["--sign_key={0}/own.public.pem"], "holds no private key in PEM", 1),
        (["--against={0}"], "manifest.json is missing in", 1),
        (["--against={0}/none"], "is no folder with a bundle", 1),
        (["--against={0}/b", "--bits=4,exact"], "--bits is for whole bundles", 1),
        (["--against={0}/b", "--bundle={0}/b"], "would lose it; name a new folder", 1),
        (["--group_size=0"], "group_size is 0; expected 1 or more", 1),
        (["--percentile=30", "--scale=percentile"], "percentile is 30.0", 1),
        (["--scheme=cubic"], "value should be one of", 2),
        (["--workdir={0}"], "Exactly one of (workdir, weights)", 2),
        (["--weights={0}/none"], "cannot read", 1),
        (["--weights={0}"], "cannot read", 1),
        (["--bundle={0}"], "holds files but no bundle", 1),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(folder, tmp_path, flags, message, status):
    before = sorted(path.name for path in folder.iterdir())
    result = export(
        folder / "x.safetensors", tmp_path / "new", *(flag.format(folder) for flag in flags)
    )
    assert failed(result, message, status)
    assert not list(tmp_path.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == before


def changed(tensors, *names):
    """A new version in which some tensors have a few other values."""
    new = {name: array.copy() for name, array in tensors.items()}
    for name in names:
        new[name].reshape(-1).view(np.uint8)[::64] ^= 1
    return new


@pytest.mark.slow
def test_a_delta_holds_what_changed_and_restores_the_new_tensors(folder, tmp_path):
    """Then a delta of the delta; and none is restored from anything but its own past."""
    rng = np.random.default_rng(5)
    versions = [{**model(), "large": rng.standard_normal((256, 128)).astype(np.float32)}]
    versions.append(changed(versions[0], "kernel"))
    versions.append({**changed(versions[1], "bias", "large"), "new": np.arange(4)})
    del versions[2]["fp8"]
    for number, tensors in enumerate(versions):
        write(tmp_path / f"{number}.safetensors", tensors, {"version": str(number)})
    names = [tmp_path / f"bundle{number}" for number in range(3)]
    done(export(tmp_path / "0.safetensors", names[0]))
    flags = [f"--sign_key={folder}/own.pem", f"--against={names[0]}"]
    shown = done(export(tmp_path / "1.safetensors", names[1], *flags))
    assert [line.split()[0] for line in shown.splitlines()[2:]] == ["T@exact"]
    past = f"--against={names[1]},{names[0]}"
    done(export(tmp_path / "2.safetensors", names[2], past))
    sizes = [shard_bytes(name) for name in names]
    # Names and hashes of a dozen tensors, and next to nothing of their values.
    assert sizes[1] < 4000 and sizes[1] < 0.04 * sizes[0]
    assert sizes[2] < 0.3 * sizes[0]
    for number, against in ((1, names[0]), (2, f"{names[0]},{names[1]}")):
        target = tmp_path / f"restored{number}"
        flags = [f"--bundle={names[number]}", f"--against={against}", f"--output={target}"]
        done(launched("launch.restore", *flags))
        assert_same(target, versions[number], {"version": str(number)})
    lost = launched(
        "launch.restore", f"--bundle={names[2]}", f"--output={tmp_path}/no", f"--against={names[1]}"
    )
    assert failed(lost, "name that one's folder or address by --against")
    foreign = [f"--bundle={names[1]}", f"--output={tmp_path}/no", f"--against={folder}/b"]
    assert failed(launched("launch.restore", *foreign), "none of those given is it")
    half = export(tmp_path / "2.safetensors", tmp_path / "b", f"--against={names[1]}")
    assert failed(half, "name that one's folder or address by --against")
    assert not (tmp_path / "no").exists() and not (tmp_path / "b").exists()


def test_an_equal_version_is_a_delta_of_nothing(folder, tmp_path):
    flags = [f"--against={folder}/b"]
    done(export(folder / "x.safetensors", tmp_path / "same", *flags))
    reader = BundleReader.open(tmp_path / "same", against=[folder / "b"])
    assert reader.verify().ok
    for name, array in reader.tensors(UNIT, EXACT).items():
        assert array.tobytes() == model()[name].tobytes()
    (shard,) = (tmp_path / "same" / "shards").iterdir()
    (length,) = struct.unpack_from("<Q", shard.read_bytes(), 8)
    # A header, and no byte of data.
    assert shard.stat().st_size == 16 + length
