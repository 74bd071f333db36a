"""Weights of one composition in a .safetensors file: out, in, and what is refused."""

import dataclasses
import json
import pickle
import struct

import jax
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file

from pwl_jax.bundle import Preprocessing
from pwl_jax.errors import UserError
from pwl_jax.hybrid import live_bytes
from pwl_jax.hybrid.masks import leaf_names
from pwl_jax.interop import ComposedWeights, InteropError, read_weights, write_weights
from pwl_jax.ladder import Composition
from tests.tiny_models import tiny_model
from tests.tiny_pairs import FAMILIES, tiny_pair


def weights_of(family, composition, **fields):
    model = tiny_model(family, **fields)
    return ComposedWeights(model.config.pair, Composition.parse(composition), model.variables)


def named(variables):
    return dict(zip(leaf_names(variables), jax.tree.leaves(variables), strict=True))


def read_of(weights):
    """Names that the composition's mask reads."""
    model = tiny_model(weights.pair.name.removesuffix("_tiny"), statistics=weights.pair.statistics)
    mask = model.hybrid.mask_of(weights.variables, weights.composition)
    return {name for name, read in named(mask).items() if read}, live_bytes(weights.variables, mask)


def save(path, tensors, metadata):
    """A file with any content, its header written by hand."""
    header, data = {"__metadata__": metadata}, b""
    for name, array in sorted(tensors.items()):
        kind = {"float32": "F32", "float64": "F64"}[array.dtype.name]
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.safetensors"
    write_weights(path, weights_of("resnet", "TSS"))
    return path


def parts(path):
    with safetensors.safe_open(path, "np") as opened:
        return load_file(path), opened.metadata()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("letters", ["T", "S", "TS", "ST"])
def test_what_is_read_comes_back_to_the_bit_and_the_rest_is_zero(tmp_path, family, letters):
    blocks = tiny_model(family).hybrid.num_blocks
    weights = weights_of(family, (letters * blocks)[:blocks])
    read, size = read_of(weights)
    assert write_weights(tmp_path / "a", weights) == size
    found = read_weights(tmp_path / "a", weights.pair)
    assert (found.pair, found.composition) == (weights.pair, weights.composition)
    originals, leaves = named(weights.variables), named(found.variables)
    assert jax.tree.structure(found.variables) == jax.tree.structure(weights.variables)
    for name, leaf in leaves.items():
        original = originals[name]
        assert (leaf.shape, leaf.dtype) == (original.shape, original.dtype)
        expected = original if name in read else np.zeros_like(original)
        assert leaf.tobytes() == expected.tobytes()
    write_weights(tmp_path / "b", found)
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_the_library_reads_the_file_too(file):
    weights = weights_of("resnet", "TSS")
    tensors, metadata = parts(file)
    originals = named(weights.variables)
    assert tensors.keys() == read_of(weights)[0]
    for name, array in tensors.items():
        assert array.tobytes() == originals[name].tobytes()
    # Behind boundary 0 the student has the statistics of what enters there, and no others.
    streams = {name.split("/")[2] for name in tensors if name.startswith("student/batch_stats")}
    assert streams == {"entry0"}
    assert metadata.keys() == {"format", "version", "composition", "pair"}
    assert (metadata["format"], metadata["version"]) == ("pwl-weights", "1")
    assert metadata["composition"] == "TSS"
    assert json.loads(metadata["pair"]) == weights.pair.to_dict()


def test_shared_statistics(tmp_path):
    weights = weights_of("resnet", "TSS", statistics="shared")
    write_weights(tmp_path / "a", weights)
    tensors, _ = parts(tmp_path / "a")
    streams = {name.split("/")[2] for name in tensors if name.startswith("student/batch_stats")}
    assert streams == {"own"}
    assert read_weights(tmp_path / "a").pair.statistics == "shared"


def test_every_bit_pattern_survives(tmp_path):
    weights = weights_of("vgg", "SSS")
    variables = jax.tree.map(np.array, weights.variables)
    kernel = variables["student"]["params"]["head"]["dense"]["kernel"]
    odd = [0x7FC00001, 0xFF800000, 0x80000000, 0x00000001, 0x7F800123]
    kernel.reshape(-1)[: len(odd)] = np.array(odd, np.uint32).view(np.float32)
    write_weights(tmp_path / "a", dataclasses.replace(weights, variables=variables))
    found = read_weights(tmp_path / "a").variables["student"]["params"]["head"]["dense"]["kernel"]
    assert found.view(np.uint32).reshape(-1)[: len(odd)].tolist() == odd


def test_classes_and_preprocessing_come_along(tmp_path):
    """In the metadata, as JSON, and back."""
    known = Preprocessing((8, 8, 1), (0.5,), (0.25,))
    weights = dataclasses.replace(
        weights_of("vgg", "TSS"), classes=("ant", "\u00e9l\u00e9phant"), preprocessing=known
    )
    write_weights(tmp_path / "a", weights)
    _, metadata = parts(tmp_path / "a")
    assert tuple(json.loads(metadata["classes"])) == weights.classes
    assert json.loads(metadata["preprocessing"]) == known.to_dict()
    found = read_weights(tmp_path / "a")
    assert (found.classes, found.preprocessing) == (weights.classes, known)


def test_folded_weights_say_so_and_cannot_be_read_back(tmp_path):
    weights = weights_of("vgg", "TSS")
    size = write_weights(tmp_path / "a", weights, fold_batch_norm=True)
    tensors, metadata = parts(tmp_path / "a")
    assert metadata["folded"] == "batch_norm"
    assert size == sum(array.nbytes for array in tensors.values())
    assert tensors.keys() < read_of(weights)[0] and not any("norm" in name for name in tensors)
    assert refused(tmp_path / "a", "holds folded BatchNorms, which cannot be taken apart again")


def test_a_network_alone_needs_no_other(tmp_path):
    """Only what the composition reads has to be there."""
    weights = weights_of("vgg", "TTT")
    alone = dataclasses.replace(weights, variables={"teacher": weights.variables["teacher"]})
    write_weights(tmp_path / "pair", weights)
    write_weights(tmp_path / "alone", alone)
    assert (tmp_path / "pair").read_bytes() == (tmp_path / "alone").read_bytes()


def refused(path, message, pair=None):
    with pytest.raises(InteropError, match=message) as caught:
        read_weights(path, pair)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return True


def test_a_truncated_file_is_refused_wherever_it_ends(file):
    data = file.read_bytes()
    for length in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:length])
        assert refused(file, "no readable .safetensors")
    file.write_bytes(data + b"x")
    assert refused(file, "no readable .safetensors")


def test_a_pickle_is_not_read(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was read",))

    for protocol in (2, 5):
        (tmp_path / "x").write_bytes(pickle.dumps(Bomb(), protocol))
        assert refused(tmp_path / "x", "is a pickle, which is never read")


@pytest.mark.parametrize("length", [1 << 16 | 640, 1 << 16 | 1408])
def test_a_header_as_long_as_a_pickle_begins(file, length):
    """Little-endian, 0x10280 and 0x10580 begin with what protocols 2 and 5 write first."""
    data = file.read_bytes()
    (short,) = struct.unpack_from("<Q", data)
    header = data[8 : 8 + short].ljust(length)
    file.write_bytes(struct.pack("<Q", length) + header + data[8 + short :])
    assert file.read_bytes().startswith(b"\x80")
    assert str(read_weights(file).composition) == "TSS"


def test_missing_files_and_folders(tmp_path):
    assert refused(tmp_path / "no", "cannot read .*No such file")
    assert refused(tmp_path, "cannot read .*Is a directory")
    with pytest.raises(UserError, match=r"cannot write .*No such file"):
        write_weights(tmp_path / "no" / "x", weights_of("resnet", "TSS"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*[Ii]s a directory"):
        write_weights(tmp_path / "folder", weights_of("resnet", "TSS"))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_another_pair_is_refused_by_its_first_difference(file):
    ours = tiny_pair("resnet")
    assert read_weights(file, dataclasses.replace(ours, name="renamed")).pair == ours
    wider = dataclasses.replace(ours.teacher, widths=(6, 8, 12))
    other = dataclasses.replace(ours, teacher=wider)
    message = r"teacher.widths is \[6, 8, 10\]; expected \[6, 8, 12\]"
    assert refused(file, message, other)
    assert refused(file, "another pair: teacher.family is resnet", tiny_pair("vgg"))
    shared = dataclasses.replace(ours, statistics="shared")
    assert refused(file, "statistics is per_stream; expected shared", shared)


KERNEL = "student/params/block1/layer0/first_conv/kernel"


def test_tensors_are_checked_by_name_shape_and_type(file, tmp_path):
    tensors, metadata = parts(file)
    path = tmp_path / "y"
    changes = {
        f"lacks the tensor '{KERNEL}'": {KERNEL: None},
        "holds the tensor 'extra', which its composition": {"extra": np.zeros(2, np.float32)},
        "holds the tensor 'decoders/params/boundary0/bias'": {
            "decoders/params/boundary0/bias": np.zeros(6, np.float32)
        },
        rf"'{KERNEL}' is float64\[3, 3, 4, 6\]; expected float32\[3, 3, 4, 6\]": {
            KERNEL: tensors[KERNEL].astype(np.float64)
        },
        rf"'{KERNEL}' is float32\[216\]; expected float32\[3, 3, 4, 6\]": {
            KERNEL: tensors[KERNEL].reshape(-1)
        },
    }
    for message, change in changes.items():
        changed = {name: a for name, a in (tensors | change).items() if a is not None}
        save(path, changed, metadata)
        assert refused(path, message)
    save(path, tensors, metadata)
    assert read_weights(path).composition == Composition.parse("TSS")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "pt"}, "name no format 'pwl-weights'"),
        ({"version": "2"}, "has version '2'; this reader knows '1'"),
        ({"composition": "TXS"}, "'TXS' is no composition"),
        ({"composition": "TSSS"}, "names composition TSSS; its pair has 3 blocks"),
        ({"composition": "SSS"}, "lacks the tensor 'student/"),
        ({"composition": None}, "lacks 'composition'"),
        ({"pair": None}, "lacks 'pair'"),
        ({"pair": "{"}, "Expecting property name"),
        ({"pair": "[1]"}, "its pair is no JSON object"),
        ({"pair": "{}"}, "missing"),
        ({"pair": '{"teacher": 3}'}, "teacher"),
        ({"classes": "[1]"}, "its classes are no JSON list of names"),
        ({"classes": "ant"}, "Expecting value"),
        ({"preprocessing": '{"mean": []}'}, "preprocessing"),
    ],
)
def test_metadata_are_checked(file, tmp_path, change, message):
    tensors, metadata = parts(file)
    metadata = {key: text for key, text in (metadata | change).items() if text is not None}
    save(tmp_path / "y", tensors, metadata)
    assert refused(tmp_path / "y", message)


def test_a_file_of_another_program_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "x")
    assert refused(tmp_path / "x", "holds no weights of a composition")


def test_a_failed_write_leaves_the_old_file(file, monkeypatch):
    before = file.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        write_weights(file, weights_of("resnet", "SSS"))
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]
