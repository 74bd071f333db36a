"""Checkpoints of transformers and timm as block networks, without either of them."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest

from pwl_jax.bundle.safetensors_file import write_safetensors
from pwl_jax.errors import UserError
from pwl_jax.hybrid.masks import leaf_names
from pwl_jax.interop.baseline_configs import config_of
from pwl_jax.interop.imported_teacher import TeacherRequest
from pwl_jax.interop.teachers import read_teacher
from pwl_jax.models.registry import PairSpec, pair
from pwl_jax.models.shallow import shallow
from tests.interop.foreign_checkpoints import (
    CHECKPOINTS,
    TWO_HEADS,
    images,
    request,
    tensors_of,
    write,
)
from tests.interop.foreign_logits import GOLDEN_LOGITS


def leaves(variables):
    return dict(zip(leaf_names(variables), jax.tree.leaves(variables), strict=True))


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
    for content, message in (
        ('{"rescale_factor": 1.0}', "rescale_factor is not 1/255"),
        ('{"do_normalize": false}', "do_normalize is false; expected images to be normalised"),
        ('{"do_rescale": false}', "do_rescale is false; expected images to be scaled to 0..1"),
    ):
        (tmp_path / "preprocessor_config.json").write_text(content)
        with pytest.raises(UserError, match=message):
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
