"""A retrained network as what changed since the bundle that clients have."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from pwl_jax.bundle import BundleError, BundleReader
from pwl_jax.data import sources
from pwl_jax.errors import UserError
from pwl_jax.export import BundleOptions, export_bundle
from pwl_jax.export.exporter import as_hybrid
from pwl_jax.hybrid.masks import leaf_names
from pwl_jax.ladder import EXACT, Composition, Rung, Unit
from pwl_jax.runtime.jax_executor import JaxExecutor
from pwl_jax.training.evaluation import Evaluator
from pwl_jax.training.step import device_mesh
from tests.export.networks import live_logits, network_of
from tests.tiny_models import few, images_of, tiny_model

BITS = (4, EXACT)


def retrained(model, *blocks, step=2**-10):
    """The model after a few more steps on some blocks of its teacher."""
    variables = jax.tree.map(np.array, model.variables)
    tree = variables.get("teacher", variables)
    for block in blocks:
        for leaf in jax.tree.leaves(tree["params"][f"block{block}"]):
            leaf *= np.float32(1 + step)
    return dataclasses.replace(model, variables=variables, step=model.step + 8)


def data_bytes(folder, manifest, shard):
    """Bytes of a shard beside its header."""
    entry = manifest.shards[shard]
    content = (folder / entry.file).read_bytes()
    return len(content) - 16 - int.from_bytes(content[8:16], "little")


@pytest.fixture(scope="module")
def executor():
    """Shared by all live models here, so that each block is compiled once."""
    return JaxExecutor()


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """The bundle of the small pair that clients have."""
    path = tmp_path_factory.mktemp("old") / "b"
    export_bundle(tiny_model("vgg"), path, BITS, None, None)
    return path


@pytest.fixture(scope="module")
def new(old, tmp_path_factory):
    """The pair with two blocks retrained, and the folder of the delta."""
    path = tmp_path_factory.mktemp("new") / "b"
    model = retrained(tiny_model("vgg"), 1, 2)
    options = BundleOptions(against=BundleReader.open(old))
    return model, path, export_bundle(model, path, BITS, None, None, options=options)


def test_blocks_that_did_not_change_cost_nothing(new):
    model, path, manifest = new
    assert all(stages == (EXACT,) for stages in manifest.stages.values())
    costs = {unit: data_bytes(path, manifest, f"{unit}@exact") for unit in manifest.stages}
    assert {unit for unit, cost in costs.items() if cost} == {"teacher/1", "teacher/2"}
    held = dict(zip(leaf_names(model.variables), jax.tree.leaves(model.variables), strict=True))
    changed = sum(array.nbytes for name, array in held.items() if "teacher/params/block" in name)
    assert sum(costs.values()) < 0.7 * changed
    rungs = [entry.rung for entry in manifest.ladder]
    assert rungs == [Rung.uniform(c, EXACT) for c in Composition.prefixes(3)]


def test_a_client_with_the_old_bundle_has_every_new_tensor_to_the_bit(old, new):
    model, path, manifest = new
    reader = BundleReader.open(path, against=[old])
    assert reader.verify().ok
    held = dict(zip(leaf_names(model.variables), jax.tree.leaves(model.variables), strict=True))
    with reader.exact_tensors() as tensors:
        assert set(tensors) == held.keys()
        for name, array in tensors.items():
            assert array.tobytes() == held[name].tobytes(), name
    assert manifest.against == BundleReader.open(old).manifest_sha256
    for unit in manifest.stages:
        assert reader.tensors(Unit.parse(unit), EXACT).keys() <= held.keys()


def test_the_runtime_answers_as_the_new_checkpoint_on_every_rung(old, new, executor):
    model, path, manifest = new
    images = images_of(model, 5)
    rungs = [entry.rung for entry in manifest.ladder]
    evaluator = Evaluator(model.hybrid, device_mesh())
    expected = evaluator.logits(rungs, lambda _: model.variables, images)
    before = evaluator.logits(rungs[-1:], lambda _: tiny_model("vgg").variables, images)
    for rung in rungs:
        found = live_logits(path, rung.name, images, executor, against=[old])
        assert found.tobytes() == np.asarray(expected[rung]).tobytes(), rung.name
    assert found.tobytes() != np.asarray(before[rungs[-1]]).tobytes()


def test_without_the_old_bundle_or_with_another_it_is_refused(old, new, tmp_path):
    _, path, _ = new
    export_bundle(network_of("teacher"), tmp_path / "other", BITS, None, None)
    with pytest.raises(BundleError, match="none is given"):
        BundleReader.open(path)
    with pytest.raises(BundleError, match="none of those given is it"):
        BundleReader.open(path, against=[tmp_path / "other"])
    with pytest.raises(UserError, match="none of those given is it"):
        live_logits(path, "TTT@exact", None, against=[tmp_path / "other"])


def test_a_bundle_that_passes_for_the_old_one_but_holds_other_tensors(new, tmp_path):
    """Same spec, same names, and named by the delta: the hash of each tensor refuses it."""
    _, path, _ = new
    other = retrained(tiny_model("vgg"), 0, 1, 2)
    export_bundle(other, tmp_path / "other", BITS, None, None)
    forged = shutil.copytree(path, tmp_path / "forged")
    document = json.loads((forged / "manifest.json").read_bytes())
    sha256 = BundleReader.open(tmp_path / "other").manifest_sha256
    document["against"] = {"manifest_sha256": sha256}
    (forged / "manifest.json").write_text(json.dumps(document))
    reader = BundleReader.open(forged, against=[tmp_path / "other"])
    with pytest.raises(BundleError, match="a delta belongs to another tensor"):
        reader.tensors(Unit("teacher", 1), EXACT)
    assert not reader.verify().ok


def test_a_delta_of_a_delta_of_one_network(tmp_path, executor):
    first = network_of("teacher")
    versions = [first, retrained(first, 2), retrained(retrained(first, 2), 0)]
    folders = [tmp_path / str(number) for number in range(3)]
    export_bundle(versions[0], folders[0], (4, 8, EXACT), None, None)
    chain = []
    for model, folder, before in zip(versions[1:], folders[1:], folders, strict=False):
        reader = BundleReader.open(before, against=chain)
        chain.insert(0, before)
        options = BundleOptions(against=reader)
        manifest = export_bundle(model, folder, (4, 8, EXACT), None, None, options=options)
        assert [entry.name for entry in manifest.ladder] == ["TTT@exact"]
    changed = [data_bytes(folders[2], manifest, f"teacher/{block}@exact") for block in range(3)]
    assert changed[0] and changed[1:] == [0, 0]
    hybrid, variables = as_hybrid(versions[2])
    images, rung = images_of(tiny_model("vgg"), 3), Rung.parse("TTT@exact")
    expected = Evaluator(hybrid, device_mesh()).logits([rung], lambda _: variables, images)[rung]
    found = live_logits(folders[2], rung.name, images, executor, against=chain)
    assert found.tobytes() == np.asarray(expected).tobytes()
    with pytest.raises(BundleError, match="a bundle given by --against is a delta"):
        BundleReader.open(folders[2], against=[folders[1]])


@pytest.mark.slow
def test_a_delta_is_measured_and_takes_no_budget(old, tmp_path):
    model = retrained(tiny_model("vgg"), 2)
    against = BundleReader.open(old)
    splits = [few(sources.load("digits", split), 24) for split in ("validation", "test")]
    manifest = export_bundle(
        model, tmp_path / "b", BITS, *splits, options=BundleOptions(against=against)
    )
    assert all(None not in (entry.top1, entry.top1_test) for entry in manifest.ladder)
    assert set(manifest.ladder[-1].rung.bits) == {EXACT}
    assert manifest.measured_on["selection"] == (
        "order and rungs were chosen on the validation split; test is only reported"
    )
    options = BundleOptions(against=against, base_budget=1.1)
    with pytest.raises(UserError, match="a delta has none"):
        export_bundle(model, tmp_path / "c", BITS, *splits, options=options)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
