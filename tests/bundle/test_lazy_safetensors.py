"""safetensors files read tensor by tensor: in bounded memory, and hostile ones refused."""

import json
import pickle
import struct
import tracemalloc
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
import safetensors

from pwl_jax.bundle import BundleError, BundleReader
from pwl_jax.bundle.lazy_safetensors import SafetensorsFile
from pwl_jax.bundle.safetensors_file import DTYPES, SafetensorsLayout, write_safetensors
from pwl_jax.bundle.tensor_bundle import metadata_of, write_tensor_bundle
from pwl_jax.ladder import Unit
from pwl_jax.precision import Quantization, expand

UNIT = Unit("teacher", 0)
STAGES = ((4, "exact"), (4, 8, "exact"), (2, 5, "exact"), ("exact",))


def file_of(path, header, data=b"", length=None):
    """A safetensors file by hand; `header` is text or what JSON makes of it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def tensor(dtype, shape, start, stop):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def numpy_type(name):
    return np.dtype(getattr(ml_dtypes, name, None) or name)


@st.composite
def files(draw):
    """Tensors of all types and shapes, of any bits; names and metadata of any text."""
    text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
    shapes = st.sampled_from([(), (0,), (1,), (5,), (3, 0, 2), (8, 3), (16, 4), (2, 4, 9), (33, 8)])
    names = draw(st.lists(text, min_size=1, max_size=5, unique=True))
    tensors = {}
    for name in names:
        dtype = numpy_type(draw(st.sampled_from(sorted(DTYPES.values()))))
        shape = draw(shapes)
        seed = draw(st.integers(0, 1000))
        raw = np.random.default_rng(seed).bytes(int(np.prod(shape, dtype=int)) * dtype.itemsize)
        tensors[name] = np.frombuffer(raw, dtype).reshape(shape)
    metadata = draw(st.none() | st.dictionaries(text, st.text(st.characters(codec="utf-8"))))
    return tensors, metadata


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(files(), st.sampled_from(STAGES), st.sampled_from([0, -1]))
def test_every_file_comes_back_to_the_byte(tmp_path_factory, made, stages, axis):
    """Even of booleans that are neither true nor false."""
    tensors, metadata = made
    if "__metadata__" in tensors:
        return
    path = tmp_path_factory.mktemp("file")
    (path / "x.safetensors").write_bytes(write_safetensors(tensors, metadata))
    file = SafetensorsFile(path / "x.safetensors")
    assert set(file) == tensors.keys() and len(file) == len(tensors)
    assert file.metadata == (metadata or {})
    rule = Quantization(channel_axis=axis)
    write_tensor_bundle(path / "b", file, stages, quantization=rule, metadata=file.metadata)
    reader = BundleReader.open(path / "b")
    assert metadata_of(reader.manifest) == (metadata or None)
    for stage in stages:
        found = reader.tensors(UNIT, stage)
        assert found.keys() == tensors.keys()
        for name, array in tensors.items():
            expected = expand(array, stage, stages, quantization=rule)
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            assert found[name].tobytes() == expected.tobytes()
    for name, array in found.items():
        assert array.tobytes() == tensors[name].tobytes()
    assert reader.verify().ok


def test_the_library_wrote_it_and_reads_what_is_restored(tmp_path):
    from safetensors.numpy import load_file, save_file

    tensors = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array(True)}
    save_file(tensors, tmp_path / "x.safetensors", {"format": "np"})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert file.metadata == {"format": "np"}
    kinds = {name: (str(array.dtype), array.shape) for name, array in file.items()}
    layout = SafetensorsLayout(kinds, file.metadata)
    with (tmp_path / "y.safetensors").open("wb") as out:
        layout.write_header(out)
        for name, array in file.items():
            layout.write_tensor(out, name, array)
    for name, array in load_file(tmp_path / "y.safetensors").items():
        assert array.tobytes() == tensors[name].tobytes()


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_a_header_as_long_as_a_pickle_begins(tmp_path, length):
    """0x280 to 0x580: little-endian, what protocols 2 to 5 write first."""
    header = json.dumps({"a": tensor("U8", [3], 0, 3)}).encode().ljust(length)
    path = file_of(tmp_path / "x", header, b"abc")
    assert path.read_bytes().startswith(b"\x80")
    assert SafetensorsFile(path)["a"].tobytes() == b"abc"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_called_one(tmp_path, protocol):
    path = tmp_path / "x"
    path.write_bytes(pickle.dumps({"weights": list(range(400))}, protocol=protocol))
    with pytest.raises(BundleError, match="is a pickle, which is never read"):
        SafetensorsFile(path)
    path.write_bytes(b"PK\x03\x04" + bytes(500))
    with pytest.raises(BundleError, match=r"is a pickle|header is cut"):
        SafetensorsFile(path)


F = "F32"
HOSTILE = {
    "overlap": ({"a": tensor(F, [2], 0, 8), "b": tensor(F, [2], 4, 12)}, 12),
    "same bytes twice": ({"a": tensor(F, [2], 0, 8), "b": tensor(F, [2], 0, 8)}, 8),
    "gap": ({"a": tensor(F, [1], 0, 4), "b": tensor(F, [1], 8, 12)}, 12),
    "gap at the start": ({"a": tensor(F, [1], 4, 8)}, 8),
    "bytes left": ({"a": tensor(F, [1], 0, 4)}, 12),
    "bytes missing": ({"a": tensor(F, [4], 0, 16)}, 12),
    "size against shape": ({"a": tensor(F, [3], 0, 8)}, 8),
    "backwards": ({"a": tensor(F, [1], 4, 0)}, 4),
    "negative": ({"a": tensor(F, [-1], 0, 4)}, 4),
    "negative offset": ({"a": tensor(F, [1], -4, 0)}, 4),
    "fraction": ({"a": tensor(F, [1.5], 0, 6)}, 6),
    "overflow": ({"a": tensor(F, [2**40, 2**40], 0, 4)}, 4),
    "no shape": ({"a": {"dtype": F, "data_offsets": [0, 4]}}, 4),
    "no list": ([], 0),
    "number": (7, 0),
    "type unknown to all": ({"a": tensor("Q7", [1], 0, 4)}, 4),
    "4 bit floats": ({"a": tensor("F4", [8], 0, 4)}, 4),
    "complex": ({"a": tensor("C64", [1], 0, 8)}, 8),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, 0),
    "metadata as a list": ({"__metadata__": ["a"]}, 0),
    "hidden by a zero": ({"a": tensor(F, [0, 2**62], 0, 0)}, 0),
    "forty axes": ({"a": tensor(F, [1] * 40, 0, 4)}, 4),
    "seventy axes": ({"a": tensor(F, [1] * 70, 0, 4)}, 4),
    "repeated name": (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
                      b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
    "no JSON": (b"{", 0),
    "no text": (b"\xff\xfe{}", 0),
    "too deep": (b"[" * 100_000, 0),
    "empty": (b"", 0),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_headers_are_refused_in_one_line(tmp_path, what):
    header, size = HOSTILE[what]
    path = file_of(tmp_path / "x.safetensors", header, bytes(size))
    with pytest.raises(BundleError, match=r"x\.safetensors") as caught:
        SafetensorsFile(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [1, 100, 1 << 27, 1 << 40, (1 << 63) + 1, (1 << 64) - 1])
def test_a_header_length_beyond_the_file_allocates_nothing(tmp_path, length):
    path = file_of(tmp_path / "x", b"", length=length)
    tracemalloc.start()
    with pytest.raises(BundleError, match="its header is cut"):
        SafetensorsFile(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_header_longer_than_the_library_takes_is_not_parsed(tmp_path):
    """The file is sparse: it holds as many bytes as it declares."""
    path = file_of(tmp_path / "x", b"{}", length=100_000_001)
    with path.open("r+b") as file:
        file.truncate(100_000_009)
    with pytest.raises(BundleError, match="no readable safetensors"):
        SafetensorsFile(path)


@pytest.mark.parametrize("size", range(0, 120, 7))
def test_every_cut_is_refused(tmp_path, size):
    data = write_safetensors({"a": np.arange(9.0), "b": np.ones((2, 2), np.float16)}, {"k": "v"})
    assert len(data) > 120
    (tmp_path / "x").write_bytes(data[:size])
    with pytest.raises(BundleError, match="x is no readable safetensors"):
        SafetensorsFile(tmp_path / "x")


def test_no_file_a_folder_and_a_file_that_shrinks(tmp_path):
    with pytest.raises(BundleError, match=r"cannot read .*none: No such file"):
        SafetensorsFile(tmp_path / "none")
    with pytest.raises(BundleError, match="cannot read"):
        SafetensorsFile(tmp_path)
    path = tmp_path / "x"
    path.write_bytes(write_safetensors({"a": np.arange(100.0)}))
    file = SafetensorsFile(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BundleError, match="changed while it was read"):
        file["a"]
    path.unlink()
    with pytest.raises(BundleError, match="cannot read"):
        file["a"]
    with pytest.raises(KeyError):
        file["b"]


def test_metadata_may_be_null(tmp_path):
    path = file_of(tmp_path / "x", {"__metadata__": None, "a": tensor("U8", [1], 0, 1)}, b"a")
    assert SafetensorsFile(path).metadata == {}


def test_memory_is_that_of_one_tensor(tmp_path):
    """Opened, read and exported: beside the coder's own, one tensor and its copy."""
    values, count = 1 << 17, 24
    size = 4 * values
    rng = np.random.default_rng(0)
    tensors = {
        f"t{i:02}": rng.standard_normal((values // 64, 64), np.float32) for i in range(count)
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(write_safetensors(tensors))
    one = tensors["t00"]
    del tensors

    def peak_of(function):
        tracemalloc.start()
        try:
            function()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def read():
        file = SafetensorsFile(path)
        for name in file:
            assert file[name].nbytes == size

    assert peak_of(read) < 2.2 * size
    single = {"t00": one}
    coder = peak_of(lambda: write_tensor_bundle(tmp_path / "one", single, (4, "exact")))
    all_of_them = peak_of(
        lambda: write_tensor_bundle(tmp_path / "all", SafetensorsFile(path), (4, "exact"))
    )
    assert all_of_them < coder + 2 * size < count * size / 2


def test_what_is_taken_here_the_library_reads_too(tmp_path):
    """One bit is flipped, anywhere in a header."""
    data = bytearray(write_safetensors({"a": np.arange(6.0), "b": np.ones(3, np.int16)}))
    rng = np.random.default_rng(1)
    path: Path = tmp_path / "x"
    (length,) = struct.unpack_from("<Q", data)
    refused = 0
    for _ in range(300):
        changed = bytearray(data)
        changed[int(rng.integers(0, 8 + length))] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(changed)
        try:
            file = SafetensorsFile(path)
        except BundleError:
            refused += 1
            continue
        with safetensors.safe_open(path, framework="numpy") as library:
            assert set(library.keys()) == set(file)
        for name in file:
            assert file[name].nbytes <= len(data)
    assert refused > 100
