"""Checkpoints of the PyTorch baseline: the same numbers, and every tensor back as it was."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from pwl_jax.bundle.safetensors_file import read_metadata, read_safetensors
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.hybrid.masks import leaf_names
from pwl_jax.interop import baseline, baseline_configs, baseline_folder
from pwl_jax.interop.baseline_configs import config_of, spec_of
from pwl_jax.interop.safetensors_weights import InteropError
from pwl_jax.ladder import compositions_of
from pwl_jax.models.registry import PairSpec
from tests.interop import baseline_reference as reference
from tests.tiny_models import tiny_model

FAMILIES = tuple(reference.CONFIGS)


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def tensors_in(folder):
    return read_safetensors((folder / "model.safetensors").read_bytes(), "")


def assert_same_tensors(a, b):
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert (tensor.dtype, tensor.shape) == (b[name].dtype, b[name].shape), name
        assert tensor.tobytes() == b[name].tobytes(), name


def baseline_pair(family):
    teacher, student = (
        spec_of({**config, **reference.LABELS}, "it") for config in reference.CONFIGS[family]
    )
    return PairSpec(name="it", teacher=teacher, student=student, statistics="shared")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_composition_computes_what_the_baseline_computes(tmp_path, family):
    tensors = reference.pair_tensors(family)
    found = baseline.read_checkpoint(reference.write_pair(tmp_path, family, tensors))
    hybrid = HybridNetwork.from_pair(found.pair)
    apply = jax.jit(lambda variables, images, mask: hybrid.apply(variables, images, mask).logits)
    images = reference.images_of()
    for composition in compositions_of(["all"], hybrid.num_blocks):
        mask = jax.tree.map(np.asarray, hybrid.mask_of(found.variables, composition))
        ours = np.asarray(apply(found.variables, images, mask))
        theirs = reference.logits(family, tensors, str(composition), images)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5, err_msg=str(composition))
        assert (ours.argmax(-1) == theirs.argmax(-1)).all()


@pytest.mark.parametrize("naming", ["4", "5"])
@pytest.mark.parametrize("prefix", ["swapnet.", ""])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_comes_back_byte_for_byte(tmp_path, family, prefix, naming):
    kind = {"prefix": prefix, "naming": naming}
    folder = reference.write_pair(tmp_path / "theirs", family, **kind)
    found = baseline.read_checkpoint(folder)
    assert found.pair.statistics == "shared"
    for path, content in baseline_folder.kept_files(found.kept).items():
        (tmp_path / "w" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "w" / path).write_bytes(content)
    kept = baseline_folder.read_kept(tmp_path / "w")
    size = baseline_folder.write_pair(tmp_path / "ours", found.pair, found.variables, kept)
    assert_same_tensors(tensors_in(tmp_path / "ours"), tensors_in(folder))
    assert size == sum(tensor.nbytes for tensor in tensors_in(folder).values())
    ours, theirs = files(tmp_path / "ours"), files(folder)
    metadata = [read_metadata(each.pop("model.safetensors"), "") for each in (ours, theirs)]
    assert ours == theirs
    assert metadata == [{"format": "pt"}] * 2


@pytest.mark.parametrize("naming", ["4", "5"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_alone_comes_back_byte_for_byte(tmp_path, family, naming):
    tensors = reference.network_tensors(family, naming)
    config = reference.CONFIGS[family][0]
    folder = reference.write(tmp_path / "theirs", tensors, alone=config)
    found = baseline.read_checkpoint(folder)
    assert isinstance(found, baseline.ImportedNetwork)
    baseline_folder.write_network(tmp_path / "ours", found.spec, found.variables, found.kept)
    assert_same_tensors(tensors_in(tmp_path / "ours"), tensors_in(folder))
    assert (tmp_path / "ours/config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_a_teacher_is_the_same_alone_as_in_its_pair(tmp_path):
    pair = reference.pair_tensors("resnet")
    own = {
        name.removeprefix("swapnet.teacher."): tensor
        for name, tensor in pair.items()
        if name.startswith("swapnet.teacher.")
    }
    config = reference.CONFIGS["resnet"][0]
    alone = baseline.read_checkpoint(reference.write(tmp_path / "alone", own, alone=config))
    together = baseline.read_checkpoint(reference.write_pair(tmp_path / "pair", "resnet", pair))
    assert alone.spec == together.pair.teacher
    jax.tree.map(np.testing.assert_array_equal, alone.variables, together.variables["teacher"])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_trained_here_is_written_with_configs_that_describe_it(tmp_path, family):
    found = baseline.read_checkpoint(reference.write_pair(tmp_path / "a", family))
    baseline_folder.write_pair(tmp_path / "b", found.pair, found.variables)
    again = baseline.read_checkpoint(tmp_path / "b")
    assert again.pair == found.pair
    jax.tree.map(np.testing.assert_array_equal, again.variables, found.variables)
    for name, tensor in again.kept.tensors.items():
        fresh = 1 if name.endswith(".weight") else 0
        assert (tensor == fresh).all(), name
    config = json.loads((tmp_path / "b/student_config/config.json").read_text())
    assert len(config["id2label"]) == config["num_labels"] == reference.CLASSES


def test_both_namings_of_a_vit_mean_the_same():
    pair = baseline_pair("vit")
    found = [
        baseline.variables_of(pair, reference.pair_tensors("vit", naming=naming))
        for naming in ("4", "5")
    ]
    jax.tree.map(np.testing.assert_array_equal, *found)
    tensors = {n: baseline.tensors_of(pair, found[0], naming=n) for n in ("4", "5")}
    assert "swapnet.student.vit.blocks.0.0.module.intermediate.dense.bias" in tensors["4"]
    assert "swapnet.student.vit.blocks.0.0.module.mlp.fc1.bias" in tensors["5"]


def test_statistics_per_stream_all_start_from_the_one_set_and_own_goes_back():
    tensors = reference.pair_tensors("vgg")
    per_stream = dataclasses.replace(baseline_pair("vgg"), statistics="per_stream")
    variables = baseline.variables_of(per_stream, tensors)
    streams = variables["student"]["batch_stats"]
    assert set(streams) == {"own", "entry0", "entry1"}
    for stream, parts in streams.items():
        for part, tree in parts.items():
            jax.tree.map(np.testing.assert_array_equal, tree, streams["own"][part])
        if stream != "own":
            parts["block2"]["norm0"]["mean"] = parts["block2"]["norm0"]["mean"] + 1
    counters = {name: x for name, x in tensors.items() if name.endswith("num_batches_tracked")}
    assert_same_tensors(baseline.tensors_of(per_stream, variables, counters), tensors)


def test_leaves_are_all_filled_by_different_numbers(tmp_path):
    """Tensors that changed places would otherwise go unseen where shapes agree."""
    for family in FAMILIES:
        found = baseline.read_checkpoint(reference.write_pair(tmp_path / family, family))
        sums = [float(np.sum(leaf)) for leaf in jax.tree.leaves(found.variables)]
        assert len(set(sums)) == len(sums), family
        assert len(leaf_names(found.variables)) + len(found.kept.tensors) == len(
            tensors_in(tmp_path / family)
        )


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("vit", {}, "never applies its final norm"),
        ("lenet5", {}, "images of 32x32 alone; this one takes 16x16"),
        ("vgg", {"converters": "linear"}, None),
    ],
)
def test_what_the_baseline_cannot_hold_is_refused(tmp_path, family, fields, message):
    model = tiny_model(family, **fields)
    if message is None:
        pair = dataclasses.replace(model.config.pair, student=model.config.pair.teacher)
        variables, message = {}, "6 channels at boundary 0, where the baseline converts nothing"
    else:
        pair, variables = model.config.pair, model.variables
    with pytest.raises(InteropError, match=message):
        baseline_folder.write_pair(tmp_path / "out", pair, variables)
    assert not (tmp_path / "out").exists()


def test_a_config_of_another_network_is_never_written(monkeypatch):
    """Also where a spec has learnt something that the writer of its config knows nothing of."""
    spec = baseline_pair("resnet").teacher
    writers = dict(baseline_configs._WRITERS)
    writers[type(spec)] = lambda spec: writer(dataclasses.replace(spec, stem_pool=False))
    writer = baseline_configs._WRITERS[type(spec)]
    monkeypatch.setattr(baseline_configs, "_WRITERS", writers)
    assert config_of(spec)["embedder_use_pooler"] is False
    with pytest.raises(InteropError, match="has no resnet with stem_pool True; its own has False"):
        config_of(dataclasses.replace(spec, stem_pool=True))


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    found = baseline.read_checkpoint(reference.write_pair(tmp_path / "a", "vgg"))
    before = files(tmp_path / "a")
    with pytest.raises(InteropError, match="holds something already"):
        baseline_folder.write_pair(tmp_path / "a", found.pair, found.variables, found.kept)
    assert files(tmp_path / "a") == before


def test_what_was_kept_of_another_network_is_refused(tmp_path):
    vgg, resnet = (
        baseline.read_checkpoint(reference.write_pair(tmp_path / family, family))
        for family in ("vgg", "resnet")
    )
    with pytest.raises(InteropError, match="num_batches_tracked' that was kept is of another"):
        baseline_folder.write_pair(tmp_path / "out", vgg.pair, vgg.variables, resnet.kept)
    assert not (tmp_path / "out").exists()
