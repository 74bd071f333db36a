"""Checkpoints of transformers and timm that are damaged, hostile or not supported: one line."""

import pickle

import numpy as np
import pytest

from pwl_jax.bundle.safetensors_file import write_safetensors
from pwl_jax.errors import UserError
from pwl_jax.interop.source_tensors import open_tensors
from pwl_jax.interop.teachers import read_teacher
from tests.interop.foreign_checkpoints import request, tensors_of, value, write

SHAPES_FROM = {
    "timm:vit": {"pos_embed", "cls_token"},
    "timm:resnet basic": {f"layer{i}.0.conv2.weight" for i in range(1, 5)},
}
"""Tensors that say what a network without a config is: another's shape may be what is wrong."""


@pytest.mark.parametrize(
    "case", ["hf:vit", "hf:resnet bottleneck", "timm:vit", "timm:resnet basic"]
)
@pytest.mark.parametrize("damage", ["missing", "extra", "misshaped", "infinite", "integer"])
def test_each_damaged_tensor_is_named(case, damage, tmp_path):
    """All tensors of a checkpoint, one after the other; what its shapes imply may be said first."""
    tensors = tensors_of(case)
    source = write(tmp_path, case)
    for name, array in tensors.items():
        if name.endswith("num_batches_tracked"):
            continue
        changed = dict(tensors)
        if damage == "missing":
            del changed[name]
        elif damage == "extra":
            changed[f"{name}.more"] = array
        elif damage == "misshaped":
            changed[name] = np.concatenate([array, array], axis=-1)
        elif damage == "infinite":
            changed[name] = np.where(np.arange(array.size).reshape(array.shape) == 0, np.inf, array)
        else:
            changed[name] = array.astype(np.int32)
        (tmp_path / "model.safetensors").write_bytes(write_safetensors(changed))
        with pytest.raises(UserError) as error:
            read_teacher(source, request(case))
        message = str(error.value)
        assert "\n" not in message
        assert f"'{name}" in message or name in SHAPES_FROM.get(case, ()), (name, message)


@pytest.mark.parametrize("case", ["hf:resnet bottleneck", "timm:resnet basic"])
def test_a_variance_below_zero_is_named(case, tmp_path):
    tensors = tensors_of(case)
    name = [name for name in tensors if name.endswith("running_var")][-1]
    changed = tensors | {name: -tensors[name]}
    with pytest.raises(UserError, match=f"tensor '{name}' holds a variance below zero"):
        read_teacher(write(tmp_path, case, changed), request(case))


@pytest.mark.parametrize(
    ("case", "fields", "message"),
    [
        ("hf:vit", {"num_hidden_layers": 6}, "says 6 layers .num_hidden_layers.; .* holds 5"),
        ("hf:vit", {"hidden_size": 8}, r"is \[1, 5, 6\]; expected \[1, 5, 8\]"),
        ("hf:vit", {"num_attention_heads": 4}, "heads is 4; expected a divisor of hidden, 6"),
        ("hf:vit", {"hidden_act": "relu"}, "hidden_act is 'relu'; supported: 'gelu'"),
        ("hf:vit", {"layer_norm_eps": "small"}, "layer_norm_eps is 'small', expected a number"),
        ("hf:vit", {"layer_norm_eps": 3}, "epsilon is 3.0; expected a number between 0 and 1"),
        ("hf:vit", {"image_size": -8}, "image_size is -8, expected a whole number from 1 up"),
        ("hf:vit", {"image_size": []}, r"image_size is \[\]; expected height and width"),
        ("hf:vit", {"image_size": 16}, r"expected \[1, 17, 6\]"),
        ("hf:vit", {"patch_size": [4, 2]}, r"patch_size is \[4, 2\]; supported: square"),
        ("hf:vit", {"qkv_bias": False}, "holds the tensor '.*key.bias', which its network does"),
        ("hf:vit", {"qkv_bias": 1}, "qkv_bias is 1; supported: True, False"),
        ("hf:vit", {"id2label": {"0": "a"}}, "names 1 classes; the head in .* has 3"),
        (
            "hf:vit",
            {"model_type": "swin"},
            "model_type is 'swin'; supported: 'resnet', 'vit', 'deit'",
        ),
        ("hf:vit", {"id2label": 7}, "id2label is 7; expected an object"),
        ("hf:vit", {"model_type": "deit"}, "says 5 layers .num_hidden_layers.; .* holds 0"),
        ("hf:resnet basic", {"layer_type": "bottleneck"}, r"expected \[2, 4, 1, 1\]"),
        ("hf:resnet basic", {"depths": [2, 1]}, "lacks the tensor '.*stages.0.layers.1"),
        ("hf:resnet basic", {"depths": [1, 3]}, "says 4 layers .depths.; .* holds 3"),
        ("hf:resnet basic", {"hidden_sizes": [8]}, "expected one entry a block"),
        ("hf:resnet basic", {"depths": "many"}, "depths is 'many', expected a whole number"),
        ("timm:vit", {"architecture": "vit_base_patch16_clip_224"}, "architecture is 'vit_base_pa"),
        ("timm:vit", {"global_pool": "avg"}, "global_pool is 'avg'; supported: 'token'"),
        ("timm:vit", {"num_classes": 10}, "names 10 classes; the head in .* has 3"),
        (
            "timm:vit",
            {"model_args": {"img_size": 8, "act_layer": "relu"}},
            "has act_layer, which is",
        ),
        ("timm:vit", {"model_args": {"no_embed_class": True}}, "no_embed_class is True; supported"),
        (
            "timm:vit",
            {"model_args": {"img_size": 16}},
            "'pos_embed' has 5 positions; expected 1 and",
        ),
        ("timm:vit", {"model_args": [1]}, "model_args is .1.; expected an object"),
        ("timm:resnet basic", {"architecture": "resnetaa50"}, "architecture is 'resnetaa50'"),
        ("timm:resnet basic", {"pretrained_cfg": {"mean": [1, "a", 2]}}, "expected a number"),
    ],
)
def test_a_config_that_contradicts_or_is_not_supported(case, fields, message, tmp_path):
    source = write(tmp_path, case, config=fields)
    with pytest.raises(UserError, match=message) as error:
        read_teacher(source, request(case))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("case", "name", "shape", "message"),
    [
        ("timm:vit", "norm_pre.weight", (6,), "a norm before the first layer"),
        ("timm:vit", "reg_token", (1, 4, 6), "register tokens"),
        ("timm:vit", "fc_norm.weight", (6,), "a norm behind the mean over patches"),
        ("timm:vit", "blocks.3.ls1.gamma", (6,), "layer scale"),
        ("timm:vit", "blocks.0.attn.q_norm.weight", (3,), "normalised queries and keys"),
        ("timm:vit", "pos_embed", (1, 4, 6), "none for the class token"),
        ("timm:resnet basic", "layer2.0.downsample.2.weight", (8,), "average pooling"),
        ("timm:resnet basic", "layer1.0.se.fc1.weight", (2, 4, 1, 1), "squeeze and excitation"),
        ("timm:resnet basic", "conv1.0.weight", (32, 3, 3, 3), "a stem of several convolutions"),
    ],
)
def test_variants_that_are_not_supported_are_named(case, name, shape, message, tmp_path):
    tensors = {**tensors_of(case), name: value(name, shape)}
    with pytest.raises(UserError, match=message):
        read_teacher(write(tmp_path, case, tensors), request(case))


def test_pickles_and_damaged_files_are_never_read(tmp_path):
    source = write(tmp_path, "hf:vit")
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-5])
    with pytest.raises(UserError, match="is no readable safetensors file"):
        read_teacher(source, request("hf:vit"))
    weights.write_bytes(pickle.dumps(tensors_of("hf:vit")))
    with pytest.raises(UserError, match="is a pickle, which is never read"):
        read_teacher(source, request("hf:vit"))
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin is a pickle.*convert it.*save_pretr"):
        read_teacher(source, request("hf:vit"))
    with pytest.raises(UserError, match="is a pickle, which is never read; convert"):
        open_tensors(tmp_path / "pytorch_model.bin")
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"holds neither model.safetensors nor model.safetensors.i"):
        read_teacher(source, request("hf:vit"))
    (tmp_path / "config.json").write_text('{"model_type": "vit", "model_type": "deit"}')
    with pytest.raises(UserError, match="is no valid JSON: the key 'model_type' is repeated"):
        read_teacher(source, request("hf:vit"))
