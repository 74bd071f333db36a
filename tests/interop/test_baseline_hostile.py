"""Checkpoints of the baseline that are damaged, hostile or not supported: one clear line."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pwl_jax.errors import UserError
from pwl_jax.interop.baseline import read_checkpoint
from pwl_jax.interop.baseline_configs import spec_of
from pwl_jax.interop.safetensors_weights import InteropError
from tests.interop import baseline_reference as reference

KERNEL = "swapnet.student.vgg.blocks.1.0.0.weight"
BLOCKS = "swapnet.teacher.vgg.blocks"


def refused(folder, message):
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def without(tensors, name):
    del tensors[name]


def transposed(tensors, name):
    tensors[name] = np.ascontiguousarray(tensors[name].T)


def with_value(value):
    def change(tensors, name):
        tensors[name] = tensors[name].copy()
        tensors[name].flat[-1] = value

    return change


def typed(dtype):
    return lambda tensors, name: tensors.update({name: tensors[name].astype(dtype)})


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (without, KERNEL, "lacks the tensor '{name}', which its config asks for"),
        (without, f"{BLOCKS}.0.0.1.num_batches_tracked", "lacks the tensor '{name}'"),
        (without, "swapnet.encoders.0.linear.bias", "lacks the tensor '{name}'"),
        (transposed, KERNEL, r"'{name}' is float32\[3, 3, 4, 8\]; its config .* \[8, 4, 3, 3\]"),
        (with_value(np.nan), KERNEL, "'{name}' holds a value that is not finite"),
        (with_value(np.inf), "swapnet.decoders.0.linear.weight", "'{name}' holds .* not finite"),
        (with_value(-np.inf), f"{BLOCKS}.2.0.1.running_mean", "'{name}' holds .* not finite"),
        (with_value(-1e-3), f"{BLOCKS}.2.0.1.running_var", "'{name}' holds a variance below zero"),
        (typed(np.float16), KERNEL, "'{name}' is float16.*; its config asks for float32"),
        (typed(np.float64), KERNEL, "'{name}' is float64.*; its config asks for float32"),
        (typed(np.int32), f"{BLOCKS}.0.0.1.num_batches_tracked", "'{name}' is int32.* int64"),
    ],
)
def test_a_tensor_that_is_not_as_it_should_be_is_named(tmp_path, change, name, message):
    tensors = reference.pair_tensors("vgg")
    change(tensors, name)
    folder = reference.write_pair(tmp_path, "vgg", tensors)
    refused(folder, message.format(name=name.replace(".", r"\.")).replace(r".* \[", r".*\["))


@pytest.mark.parametrize(
    "name",
    [
        "swapnet.student.vgg.blocks.1.0.3.weight",
        "swapnet.encoders.1.linear.weight",
        "swapnet.mask_token",
        "loss.weight",
        "teacher.classifier.2.weight",
    ],
)
def test_a_tensor_that_no_network_has_is_named(tmp_path, name):
    tensors = reference.pair_tensors("vgg") | {name: np.zeros(8, np.float32)}
    refused(reference.write_pair(tmp_path, "vgg", tensors), f"have no tensor '{name}'")


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        (
            "vgg",
            {"depths": [2, 1, 4]},
            r"lacks the tensor 'swapnet.teacher.vgg.blocks.2.0.9.weight",
        ),
        ("vgg", {"depths": [2, 1, 2]}, r"have no tensor 'swapnet.teacher.vgg.blocks.2.0.6.bias'"),
        ("vgg", {"hidden_sizes": [6, 8, 9]}, r"\[8, 8, 3, 3\]; its config asks for float32\[9, 8"),
        ("vgg", {"hidden_sizes": [6, 8]}, r"widths \(6, 8\) and depths \(2, 1, 3\) disagree"),
        ("vgg", {"in_channels": 1}, r"asks for float32\[6, 1, 3, 3\]"),
        ("vgg", {"id2label": {"0": "a", "1": "b"}}, r"float32\[10, 8\]; its config .*\[2, 8\]"),
        ("vgg", {"num_labels": 7}, "num_labels is 7, and id2label names 10 classes"),
        ("vgg", {"id2label": []}, "id2label is no object"),
        ("vgg", {"pool_kernel": 3}, "pool_kernel is 3; expected 2, as ours"),
        ("vgg", {"pool_stride": 1}, "pool_stride is 1; expected 2"),
        ("vgg", {"depths": "221"}, "depths is '221'; expected a list of whole numbers"),
        ("vgg", {"depths": [2, True, 3]}, "depths is .2, True, 3.; expected a list"),
        ("vgg", {"depths": [500, 500, 1]}, "depths is .*; expected .*, 1000 at most in all"),
        ("vgg", {"depths": [499, 500, 1]}, "lacks the tensor"),
        ("vgg", {"hidden_sizes": [65535, 65535, 8]}, r"its config asks for float32\[65535, 3"),
        (
            "vgg",
            {"in_channels": 10**9},
            "in_channels is 1000000000; expected a whole number from 1",
        ),
        ("vgg", {"model_type": "resnet"}, "model_type is 'resnet'; expected one of block_lenet5"),
        ("vgg", {"model_type": ["block_vgg"]}, "model_type is .'block_vgg'.; expected one of"),
        (
            "resnet",
            {"layer_type": "bottleneck"},
            "bottleneck is 4; expected a divisor of widths",
        ),
        ("resnet", {"layer_type": "deep"}, "layer_type is 'deep'; expected one of basic, bottle"),
        (
            "resnet_bottleneck",
            {"layer_type": "basic"},
            r"asks for float32\[8, 4, 3, 3\]",
        ),
        ("resnet", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; expected 'relu'"),
        ("resnet", {"embedder_kernel_size": 4}, "stem_kernel is 4; expected an odd number"),
        ("resnet", {"embedder_use_pooler": 1}, "embedder_use_pooler is 1; expected true or false"),
        ("resnet", {"embedder_use_pooler": True}, r"features at boundary 0 are \(16, 16"),
        (
            "lenet5",
            {"fc_sizes": [151, 12, 10]},
            "fc_sizes begins with 151; expected 6 channels x 5",
        ),
        ("lenet5", {"fc_sizes": [150, 12]}, "fc_sizes 2 numbers; expected 2 and 3"),
        ("lenet5", {"cnn_channels": [4, 2], "fc_sizes": [50, 12, 10]}, "its config asks for"),
        ("vit", {"hidden_act": "silu"}, "hidden_act is 'silu'; expected one of gelu, gelu_new"),
        ("vit", {"hidden_act": ["gelu"]}, r"hidden_act is \['gelu'\]; expected one of gelu"),
        ("vit", {"layer_norm_eps": "1e-6"}, "layer_norm_eps is '1e-6'; expected a number between"),
        ("vit", {"layer_norm_eps": 2.0}, "layer_norm_eps is 2.0; expected a number between 0"),
        ("vit", {"qkv_bias": False}, "have no tensor 'swapnet.teacher.vit.*key.bias'|k_proj.bias"),
        ("vit", {"num_attention_heads": 5}, "heads is 5; expected a divisor of hidden, 12"),
        ("vit", {"image_size": 64}, r"\[1, 17, 12\]; its config asks for float32\[1, 65, 12\]"),
        ("vit", {"image_size": [32, 32]}, r"image_size is \[32, 32\]; expected a whole number"),
        ("vit", {"layers_per_block": 3}, "lacks the tensor 'swapnet.teacher.vit.blocks.0.2.module"),
        ("vit", {"layers_per_block": 4}, "layers_per_block is 4; expected a divisor of layers, 6"),
    ],
)
def test_a_config_that_contradicts_the_weights_or_is_not_supported(
    tmp_path, family, change, message
):
    refused(reference.write_pair(tmp_path, family, teacher=change), message)


def test_an_image_size_that_a_config_contradicts(tmp_path):
    folder = reference.write_pair(tmp_path, "vit")
    assert read_checkpoint(folder, image_size=32).pair.teacher.input_shape == (32, 32, 3)
    with pytest.raises(InteropError, match=r"config.json: image_size is 32, not 64"):
        read_checkpoint(folder, image_size=64)


def test_networks_that_do_not_fit_are_refused_as_pairs(tmp_path):
    teacher, student = reference.CONFIGS["vgg"]
    tensors = {
        name.replace("teacher", "x").replace("student", "teacher").replace("x", "student"): tensor
        for name, tensor in reference.pair_tensors("vgg").items()
    }
    folder = reference.write(tmp_path, tensors, teacher=student, student=teacher)
    refused(folder, "teacher is narrower than the student at boundary 0: 4 and 6 channels")


def test_dropout_names_and_versions_change_nothing():
    config = {**reference.CONFIGS["vit"][0], **reference.LABELS}
    others = {"hidden_dropout_prob": 0.5, "transformers_version": "4.52.0", "architectures": ["X"]}
    assert spec_of({**config, **others}, "it") == spec_of(config, "it")
    assert spec_of({**config, "model_type": "vit"}, "it") == spec_of(config, "it")
    assert spec_of({"model_type": "block_vgg"}, "it").classes == 2
    assert spec_of({"model_type": "block_lenet5"}, "it").classes == 10


def test_weights_that_are_missing_or_a_pickle(tmp_path):
    folder = reference.write_pair(tmp_path, "vgg")
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    refused(folder, "cannot read .*model.safetensors: No such file")
    (folder / "model.safetensors.index.json").write_text("{}")
    refused(folder, "holds model.safetensors.index.json, the index of several files")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    refused(folder, "holds pytorch_model.bin, which is a pickle and never read")
    for pickled in (pickle.dumps({"a": 1}), b"PK\x03\x04" + bytes(100)):
        weights.write_bytes(pickled)
        refused(folder, "model.safetensors is a pickle, which is never read")
    weights.write_bytes(content + b"more")
    refused(folder, "model.safetensors is no readable")
    weights.write_bytes(content)
    assert read_checkpoint(folder).pair.name == "baseline_vgg"


def test_configs_that_are_missing_or_no_json(tmp_path):
    refused(tmp_path / "none", "expected a checkpoint folder of the baseline, with teacher_config/")
    folder = reference.write_pair(tmp_path, "vgg")
    for content in (b"\xff", b"{", b"[1]", b'{"a": NaN}', b'{"a": 1, "a": 2}'):
        (folder / "student_config/config.json").write_bytes(content)
        refused(folder, "student_config/config.json is ")
    (folder / "student_config/config.json").unlink()
    refused(folder, "cannot read .*student_config/config.json: No such file")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    tensors = reference.network_tensors("lenet5")
    return reference.write(folder, tensors, alone=reference.CONFIGS["lenet5"][0])


@given(st.data())
def test_any_other_content_is_read_or_refused_by_name(sound, tmp_path_factory, data):
    whole = (sound / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    cut = data.draw(st.integers(0, len(whole) - 1), "cut")
    at, byte = data.draw(st.integers(0, header - 1), "at"), data.draw(st.integers(0, 255), "byte")
    folder = tmp_path_factory.mktemp("damaged")
    config = (sound / "config.json").read_bytes()
    (folder / "config.json").write_bytes(config)
    (folder / "model.safetensors").write_bytes(whole[:cut])
    with pytest.raises(InteropError, match=r"model\.safetensors"):
        read_checkpoint(folder)
    changed = bytearray(whole)
    changed[at] = byte
    (folder / "model.safetensors").write_bytes(changed)
    try:
        found = read_checkpoint(folder)
    except InteropError as error:
        assert "model.safetensors" in str(error)
    else:
        # Only what the file says of itself, beside its tensors, may differ unseen.
        assert bytes(changed) == whole or found.kept.metadata != {"format": "pt"}


def test_a_config_of_any_json_is_read_or_refused(sound, tmp_path_factory):
    config = json.loads((sound / "config.json").read_text())

    @given(
        st.sampled_from([*config, "num_labels", "in_channels"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=4,
        ),
    )
    def check(name, value):
        try:
            spec_of({**config, name: value}, "it")
        except InteropError as error:
            assert str(error).startswith("it: ")

    check()
