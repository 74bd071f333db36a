"""Bundles that their author signed, and others."""

import subprocess
import sys

import numpy as np
import pytest

from pwl_jax.bundle import (
    SIGNATURE_NAME,
    BundleError,
    BundleReader,
    BundleWriter,
    Manifest,
    Preprocessing,
    SignatureError,
    placing,
)
from pwl_jax.errors import UserError
from pwl_jax.ladder import Unit
from pwl_jax.serving import serve_folder

ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
from cryptography.hazmat.primitives import serialization as pem  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

KEY, OTHER = (ed25519.Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))


def write(path, key=None, value=1.0):
    with BundleWriter(path, sign_key=key) as writer:
        writer.add_unit(Unit("teacher", 0), {"a": np.full(3, value)}, ("exact",))
        writer.finish(
            pair={}, preprocessing=Preprocessing((1, 1, 1), (0.0,), (1.0,)), classes=(), blocks=1
        )


def private_pem(key, password=None):
    how = pem.BestAvailableEncryption(password) if password else pem.NoEncryption()
    return key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, how)


def public_pem(key):
    how = (pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    return key.public_key().public_bytes(*how)


@pytest.fixture
def keys(tmp_path):
    files = {
        "private": private_pem(KEY),
        "public": public_pem(KEY),
        "other": public_pem(OTHER),
        "encrypted": private_pem(KEY, b"secret"),
        "curve": public_pem(ec.generate_private_key(ec.SECP256R1())),
        "curve_private": private_pem(ec.generate_private_key(ec.SECP256R1())),
        "text": b"no key\n",
        "large": b"-" * 100_000,
    }
    for name, data in files.items():
        (tmp_path / f"{name}.pem").write_bytes(data)
    return lambda name: tmp_path / f"{name}.pem"


@pytest.fixture
def signed(tmp_path, keys):
    write(tmp_path / "bundle", keys("private"))
    return tmp_path / "bundle"


def test_a_signature_is_64_raw_bytes_over_the_manifest(signed, keys):
    signature = (signed / SIGNATURE_NAME).read_bytes()
    assert len(signature) == 64
    KEY.public_key().verify(signature, (signed / "manifest.json").read_bytes())
    for key in (keys("public"), str(keys("public")), KEY.public_key()):
        assert BundleReader.open(signed, public_key=key).verify().ok
    assert BundleReader.open(signed).verify().ok


def test_over_http(signed, keys):
    with serve_folder(signed) as url:
        assert BundleReader.open(url, public_key=keys("public")).verify().ok
        with pytest.raises(SignatureError, match="not signed by the owner"):
            BundleReader.open(url, public_key=keys("other"))
        (signed / SIGNATURE_NAME).unlink()
        with pytest.raises(SignatureError, match=r"not signed: manifest.json.sig .*404"):
            BundleReader.open(url, public_key=keys("public"))


@pytest.mark.parametrize(
    ("data", "message"),
    [(None, "not signed"), (b"", "has 0 bytes"), (bytes(63), "has 63 bytes"),
     (bytes(64), "not signed by"), (bytes(64 * 4), "not signed by"), (bytes(64 * 5), "320 bytes")],
)  # fmt: skip
def test_a_missing_or_wrong_signature_is_refused_unparsed(signed, monkeypatch, data, message):
    path = signed / SIGNATURE_NAME
    path.unlink() if data is None else path.write_bytes(data)
    monkeypatch.setattr(Manifest, "from_json", None)
    with pytest.raises(SignatureError, match=message):
        BundleReader.open(signed, public_key=KEY.public_key())


def test_another_manifest_or_key_is_refused_unparsed(signed, monkeypatch):
    monkeypatch.setattr(Manifest, "from_json", None)
    with pytest.raises(SignatureError, match="not signed by the owner of this public key"):
        BundleReader.open(signed, public_key=OTHER.public_key())
    manifest = signed / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"blocks":1', b'"blocks":2'))
    with pytest.raises(SignatureError, match="not signed by the owner of this public key"):
        BundleReader.open(signed, public_key=KEY.public_key())


@pytest.mark.parametrize(
    ("name", "message"),
    [("no", "No such file"), ("text", "holds no public key"), ("private", "is a private key"),
     ("encrypted", "is a private key"), ("curve", "cannot verify; expected Ed25519PublicKey"),
     ("large", "more than 64 KiB")],
)  # fmt: skip
def test_what_is_no_public_key_is_said(signed, keys, name, message):
    with pytest.raises(UserError, match=message) as caught:
        BundleReader.open(signed, public_key=keys(name))
    assert name == "curve" or f"{name}.pem" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("no", "No such file"), ("text", "holds no private key"), ("public", "holds no private key"),
     ("encrypted", "is encrypted; expected one without a password"),
     ("curve_private", "cannot sign; expected Ed25519PrivateKey")],
)  # fmt: skip
def test_what_is_no_private_key_is_said_before_anything_is_written(tmp_path, keys, name, message):
    with pytest.raises(UserError, match=message):
        BundleWriter(tmp_path / "new" / "bundle", sign_key=keys(name))
    assert not (tmp_path / "new").exists()


def test_replacing_a_signed_bundle_never_leaves_one_without_its_signature(
    signed, keys, monkeypatch
):
    """The old signature is good until the manifest is replaced, and the new one from then on."""
    seen = []
    write_whole = placing._write_whole

    def watched(path, data):
        write_whole(path, data)
        reader = BundleReader.open(signed, public_key=keys("public"))
        seen.append((len(data), reader.tensors(Unit("teacher", 0), "exact")["a"][0]))

    monkeypatch.setattr(placing, "_write_whole", watched)
    write(signed, KEY, value=2.0)
    assert seen == [(128, 1.0), (64, 2.0)]
    monkeypatch.undo()
    # One that is not signed leaves no signature that could be taken for its own.
    write(signed, value=3.0)
    assert not (signed / SIGNATURE_NAME).exists()
    write(signed, KEY)
    assert BundleReader.open(signed, public_key=keys("public")).verify().ok


def test_equal_input_gives_an_equal_signature(signed, tmp_path):
    write(tmp_path / "again", KEY)
    again = (tmp_path / "again" / SIGNATURE_NAME).read_bytes()
    assert again == (signed / SIGNATURE_NAME).read_bytes()


def test_without_the_package_the_error_names_it_and_its_extra(signed, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(UserError, match=r"package cryptography: pip install 'pwl_jax\[sign\]'"):
        BundleReader.open(signed, public_key="key.pem")
    assert BundleReader.open(signed).verify().ok


def test_reading_an_unsigned_bundle_does_not_import_cryptography(signed):
    code = (
        "import sys; from pwl_jax.bundle import BundleReader; "
        "assert BundleReader.open(sys.argv[1]).verify().ok; "
        "assert 'cryptography' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(signed)], check=True, timeout=60)


def test_a_signature_error_is_a_bundle_error():
    assert issubclass(SignatureError, BundleError)
