"""Properties of the two kinds of shard file, over any names, types, shapes and bit patterns."""

import contextlib
import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pwl_jax.bundle import BundleError, BundleReader
from pwl_jax.bundle.safetensors_file import read_safetensors, write_safetensors
from pwl_jax.ladder import EXACT, Unit
from pwl_jax.precision import decode_tensor, encode_tensor
from tests.bundle.p2u import read_p2u, write_p2u

UNIT = Unit("student", 3)
NATIVE = ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", ">f4", ">i8")


@st.composite
def arrays(draw) -> np.ndarray:
    """Any bit pattern in any native type; floats include NaN payloads and subnormals."""
    dtype = np.dtype(draw(st.sampled_from(NATIVE)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    if dtype.kind == "b":
        return draw(hnp.arrays(bool, shape))
    return draw(hnp.arrays(f"u{dtype.itemsize}", shape)).view(dtype)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
trees = st.dictionaries(names.filter(lambda name: name != "__metadata__"), arrays(), max_size=5)


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    little = expected.astype(expected.dtype.newbyteorder("<"))
    return (found.dtype, found.shape, found.tobytes()) == (
        little.dtype,
        little.shape,
        little.tobytes(),
    )


@given(trees)
def test_p2u_round_trip(tree):
    payloads = {name: encode_tensor(array, (EXACT,))[0] for name, array in tree.items()}
    data = write_p2u(UNIT, EXACT, payloads)
    assert data == write_p2u(UNIT, EXACT, dict(reversed(payloads.items())))
    found = read_p2u(data, UNIT, EXACT, "file")
    assert found.keys() == tree.keys()
    assert all(same(decode_tensor([found[name]]), tree[name]) for name in tree)


@given(trees)
def test_safetensors_round_trip_here_and_in_the_library(tree):
    data = write_safetensors(tree)
    assert data == write_safetensors(dict(reversed(tree.items())))
    for found in (read_safetensors(data, "file"), safetensors.numpy.load(data)):
        assert found.keys() == tree.keys()
        assert all(same(found[name], tree[name]) for name in tree)


@given(trees, st.data())
def test_no_cut_p2u_is_read(tree, data):
    payloads = {name: encode_tensor(array, (EXACT,))[0] for name, array in tree.items()}
    whole = write_p2u(UNIT, EXACT, payloads)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(BundleError, match="the-file"):
        read_p2u(cut, UNIT, EXACT, "the-file")


@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_bytes_are_read_or_refused(junk, length):
    """Nothing but BundleError, with the file's name, whatever the bytes."""
    for prefix in (b"", b"PWLP2U01", b"PWLP2U01" + length.to_bytes(8, "little")):
        with contextlib.suppress(BundleError):
            read_p2u(prefix + junk, UNIT, EXACT, "file")
        with contextlib.suppress(BundleError):
            read_safetensors(prefix + junk, "file")


def test_a_codec_that_the_manifest_does_not_name_is_refused(bundle, tmp_path):
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["codecs"] == ["raw", "zstd"]
    manifest["codecs"] = ["raw"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="uses codec 'zstd', which the manifest does not name"):
        BundleReader.open(folder).tensors(Unit("teacher", 0), "exact")
