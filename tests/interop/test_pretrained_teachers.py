"""Checkpoints of transformers and timm as block networks, without either of them."""

import dataclasses
import json
import pickle

import jax
import ml_dtypes
import numpy as np
import pytest

from pwl_jax.bundle.safetensors_file import write_safetensors
from pwl_jax.errors import UserError
from pwl_jax.hybrid.masks import leaf_names
from pwl_jax.interop.baseline_configs import config_of
from pwl_jax.interop.imported_teacher import TeacherRequest
from pwl_jax.interop.source_tensors import open_tensors
from pwl_jax.interop.teachers import read_teacher
from pwl_jax.models.registry import PairSpec, pair
from pwl_jax.models.shallow import shallow
from tests.interop import foreign_checkpoints
from tests.interop.foreign_checkpoints import CHECKPOINTS, TWO_HEADS, images, tensors_of, write
from tests.interop.foreign_logits import GOLDEN_LOGITS

SMALL = (16, 16)


def request(case, blocks=2, **fields):
    """ResNets are read for small images, to be computed quickly."""
    size = SMALL if "resnet" in case else None
    return TeacherRequest(blocks=blocks, **{"image_size": size, **fields})


def leaves(variables):
    return dict(zip(leaf_names(variables), jax.tree.leaves(variables), strict=True))


SHAPES_FROM = {
    "timm:vit": {"pos_embed", "cls_token"},
    "timm:resnet basic": {f"layer{i}.0.conv2.weight" for i in range(1, 5)},
}
"""Tensors that say what a network without a config is: another's shape may be what is wrong."""


def logits(found):
    size = found.spec.input_shape[0]
    return np.asarray(jax.jit(found.spec.build().apply)(found.variables, images(size)).logits)


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_logits_are_the_librarys(case, tmp_path):
    source = write(tmp_path, case)
    found = read_teacher(source, request(case))
    np.testing.assert_allclose(logits(found)[0], GOLDEN_LOGITS[case], rtol=1e-4, atol=2e-5)
    shapes = jax.eval_shape(found.spec.build().init, jax.random.key(0))
    assert jax.tree.structure(found.variables) == jax.tree.structure(shapes)
    for name, leaf in leaves(found.variables).items():
        assert (leaf.shape, leaf.dtype) == (leaves(shapes)[name].shape, np.float32), name
    counters = {name for name in CHECKPOINTS[case][1] if name.endswith("num_batches_tracked")}
    assert set(found.unused) == counters


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_every_value_of_the_source_is_in_the_network(case, tmp_path):
    found = read_teacher(write(tmp_path, case), request(case))
    ours = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found.variables)])
    heads = ("head", "head_dist", *TWO_HEADS) if case in ("timm:deit", "hf:deit two heads") else ()
    values = [
        np.ravel(array) / (2 if heads and name.startswith(heads) else 1)
        for name, array in tensors_of(case).items()
        if not name.endswith("num_batches_tracked")
        and not (heads and name.startswith(heads) and name.endswith("bias"))
    ]
    missing = np.setdiff1d(np.concatenate(values).astype(np.float32), ours)
    assert not missing.size


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
    tensors = {**tensors_of(case), name: foreign_checkpoints.value(name, shape)}
    with pytest.raises(UserError, match=message):
        read_teacher(write(tmp_path, case, tensors), request(case))


def test_a_bare_file_needs_the_number_of_heads(tmp_path):
    config = read_teacher(write(tmp_path, "timm:vit"), request("timm:vit"))
    source = f"timm:{tmp_path}/model.safetensors"
    with pytest.raises(UserError, match=r"does not say how many attention heads.*--heads"):
        read_teacher(source, request("timm:vit"))
    bare = read_teacher(source, request("timm:vit", heads=2))
    assert bare.spec == config.spec
    assert (bare.normalization.mean, bare.normalization.std) == (None, None)
    with pytest.raises(UserError, match="is of 2 attention heads, not 3"):
        read_teacher(f"timm:{tmp_path}", request("timm:vit", heads=3))


def test_heads_follow_from_an_architectures_name(tmp_path):
    fields = {"architecture": "vit_small_patch16_224.augreg_in1k".partition(".")[0]}
    source = write(tmp_path, "timm:vit", config={**fields, "model_args": {"img_size": 8}})
    assert read_teacher(source, request("timm:vit")).spec.heads == 6


@pytest.mark.parametrize(
    ("blocks", "layers"), [(2, (3, 2)), (3, (2, 2, 1)), (5, (1,) * 5), ((1, 3, 1), (1, 3, 1))]
)
def test_layers_are_grouped_as_asked(blocks, layers, tmp_path):
    whole = read_teacher(write(tmp_path, "hf:vit"), request("hf:vit", blocks=1))
    found = read_teacher(f"hf:{tmp_path}", request("hf:vit", blocks=blocks))
    assert found.spec.block_layers == layers
    dealt = [
        found.variables["params"][f"block{i}"][f"layer{j}"]
        for i, depth in enumerate(layers)
        for j in range(depth)
    ]
    for number, layer in enumerate(dealt):
        jax.tree.map(
            np.testing.assert_array_equal,
            layer,
            whole.variables["params"]["block0"][f"layer{number}"],
        )


def test_blocks_that_do_not_fit(tmp_path):
    source = write(tmp_path, "hf:vit")
    with pytest.raises(UserError, match="5 layers in 6 blocks; expected 1 to 5"):
        read_teacher(source, request("hf:vit", blocks=6))
    with pytest.raises(UserError, match=r"layers_per_block is .2, 2., 4 in all; expected the 5"):
        read_teacher(source, request("hf:vit", blocks=(2, 2)))


@pytest.mark.parametrize("case", ["hf:deit two heads", "timm:resnet bottleneck"])
def test_an_imported_teacher_has_a_shallow_student_for_any_grouping(case, tmp_path):
    source = write(tmp_path, case)
    for blocks in (1, 2, 3):
        spec = read_teacher(source, request(case, blocks=blocks)).spec
        made = PairSpec(name="any", teacher=spec, student=shallow(spec))
        assert made.num_blocks == blocks
        assert PairSpec.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize("case", ["hf:deit two heads", "hf:resnet basic"])
def test_a_new_head_replaces_the_old_one(case, tmp_path):
    source = write(tmp_path, case)
    old = read_teacher(source, request(case))
    new = read_teacher(source, request(case, classes=5))
    assert new.spec.classes == 5 and new.variables["params"]["head"]["dense"]["bias"].shape == (5,)
    heads = {"hf:deit two heads": TWO_HEADS, "hf:resnet basic": ("classifier.1",)}[case]
    replaced = {f"{head}.{leaf}" for head in heads for leaf in ("weight", "bias")}
    assert set(new.unused) - set(old.unused) == replaced
    again, other = (read_teacher(source, request(case, classes=5, seed=s)) for s in (0, 1))
    kernel = "params/head/dense/kernel"
    for name, leaf in leaves(new.variables).items():
        np.testing.assert_array_equal(leaf, leaves(again.variables)[name])
        if not name.startswith("params/head"):
            np.testing.assert_array_equal(leaf, leaves(old.variables)[name])
    assert (leaves(new.variables)[kernel] != leaves(other.variables)[kernel]).any()


def test_a_base_model_needs_a_new_head(tmp_path):
    """Without a head transformers leaves the prefix out, and may add a pooler."""
    tensors = {
        name.removeprefix("vit."): array
        for name, array in tensors_of("hf:vit").items()
        if not name.startswith("classifier")
    }
    tensors |= {"pooler.dense.weight": np.ones((6, 6), np.float32)}
    source = write(tmp_path, "hf:vit", tensors)
    with pytest.raises(UserError, match=r"has no head .'classifier.weight'.; expected one, or"):
        read_teacher(source, request("hf:vit"))
    found = read_teacher(source, request("hf:vit", classes=4))
    assert found.unused == ("pooler.dense.weight",)
    with_head = read_teacher(write(tmp_path / "whole", "hf:vit"), request("hf:vit", classes=4))
    jax.tree.map(np.testing.assert_array_equal, found.variables, with_head.variables)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_widened_exactly(dtype, tmp_path):
    half = {name: array.astype(dtype) for name, array in tensors_of("hf:vit").items()}
    widened = {name: array.astype(np.float32) for name, array in half.items()}
    found = read_teacher(write(tmp_path / "half", "hf:vit", half), request("hf:vit"))
    expected = read_teacher(write(tmp_path / "whole", "hf:vit", widened), request("hf:vit"))
    for name, leaf in leaves(found.variables).items():
        assert leaf.tobytes() == leaves(expected.variables)[name].tobytes(), name


def shards(folder, tensors, change=lambda index: None):
    """The tensors in two files with their index, which `change` may edit."""
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"model-{i}.safetensors"
        (folder / file).write_bytes(write_safetensors({n: tensors[n] for n in part}))
        places |= dict.fromkeys(part, file)
    change(places)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_shards_are_read_as_one(tmp_path):
    whole = read_teacher(write(tmp_path, "hf:vit"), request("hf:vit"))
    shards(tmp_path, tensors_of("hf:vit"))
    found = read_teacher(f"hf:{tmp_path}", request("hf:vit"))
    jax.tree.map(np.testing.assert_array_equal, found.variables, whole.variables)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda places: places.pop("classifier.bias"), "holds 'classifier.bias', unknown to"),
        (lambda places: places.update(more="model-0.safetensors"), "lacks 'more', which"),
        (lambda places: places.update(more="../x.safetensors"), "names the file '../x.safeten"),
        (lambda places: places.update(more=7), "names the file 7; expected one beside it"),
        (lambda places: places.update(more="gone.safetensors"), "cannot read .*gone.safetensors"),
        (lambda places: places.clear(), "has no 'weight_map'"),
    ],
)
def test_an_index_that_does_not_fit_its_files(change, message, tmp_path):
    source = write(tmp_path, "hf:vit")
    shards(tmp_path, tensors_of("hf:vit"), change)
    with pytest.raises(UserError, match=message):
        read_teacher(source, request("hf:vit"))


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


def test_what_a_checkpoint_says_of_its_images(tmp_path):
    source = write(tmp_path, "hf:resnet basic")
    assert read_teacher(source, TeacherRequest(2)).spec.input_shape == (224, 224, 3)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_mean": [0.1, 0.2, 0.3],
                "image_std": [0.5, 0.6, 0.7],
                "size": {"shortest_edge": 64},
                "crop_pct": 0.875,
                "resample": 3,
            }
        )
    )
    found = read_teacher(source, TeacherRequest(2))
    assert found.spec.input_shape == (64, 64, 3)
    assert found.normalization.mean == (0.1, 0.2, 0.3)
    assert found.normalization.std == (0.5, 0.6, 0.7)
    assert ["crops" in note for note in found.normalization.notes] == [True, False]
    assert "another filter" in found.normalization.notes[1]
    (tmp_path / "preprocessor_config.json").write_text('{"rescale_factor": 1.0}')
    with pytest.raises(UserError, match="rescale_factor is not 1/255"):
        read_teacher(source, TeacherRequest(2))

    timm = read_teacher(write(tmp_path / "timm", "timm:vit"), request("timm:vit")).normalization
    assert (timm.mean, timm.std) == ((0.5, 0.4, 0.3), (0.5, 0.25, 0.2))
    assert len(timm.notes) == 2


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("hf:vit", r"layers_per_block is \(3, 2\); expected a whole number"),
        ("timm:vit", "final norm"),
        ("timm:resnet bottleneck", "the baseline has no resnet with bottleneck 2; its own has 4"),
        ("timm:resnet basic", r"has no resnet with block_layers \[2, 2\]; its own has \[\]"),
    ],
)
def test_the_baseline_has_no_such_networks(case, message, tmp_path):
    spec = read_teacher(write(tmp_path, case), request(case)).spec
    if case == "hf:vit":
        spec = dataclasses.replace(spec, final_norm=False)
    if "bottleneck" in case:
        spec = dataclasses.replace(spec, bottleneck=2, block_layers=())
    with pytest.raises(UserError, match=message):
        config_of(spec)


@pytest.mark.parametrize("name", ["vit_b16", "vit_l16_narrow"])
def test_the_registrys_teachers_are_what_an_import_gives(name, tmp_path, monkeypatch):
    """The spec of a full-size checkpoint, of which only names and shapes are made."""
    expected = pair(name, classes=1000).teacher
    from pwl_jax.interop import huggingface

    monkeypatch.setattr(huggingface, "vit_variables", lambda *args, **kwargs: {})
    monkeypatch.setattr(huggingface, "_check_layers", lambda *args: None)
    monkeypatch.setattr(huggingface.SourceTensors, "unused", lambda *args: ())
    fields = {
        "hidden_size": expected.hidden,
        "num_attention_heads": expected.heads,
        "intermediate_size": expected.mlp,
        "num_hidden_layers": expected.layers,
        "image_size": 224,
        "patch_size": 16,
        "num_labels": 1000,
    }
    head = {"classifier.weight": np.zeros((1000, 1), np.float32)}
    source = write(tmp_path, "hf:vit", head, fields)
    assert read_teacher(source, TeacherRequest(blocks=6)).spec == expected
