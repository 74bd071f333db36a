"""One network as a bundle: it climbs in precision alone, and ends as its checkpoint."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

import pwl_jax.bundle
from pwl_jax.bundle import BundleReader, Manifest
from pwl_jax.data import pipeline, sources
from pwl_jax.export import export_bundle
from pwl_jax.export.exporter import as_hybrid
from pwl_jax.export.measure import expanded
from pwl_jax.ladder import EXACT, Rung, ladder_table
from pwl_jax.precision import tensor_sha256
from pwl_jax.runtime import LiveModel
from pwl_jax.runtime.jax_executor import JaxExecutor
from pwl_jax.training import workdir
from pwl_jax.training.evaluation import Evaluator
from pwl_jax.training.step import device_mesh
from tests.export.networks import live_logits, named, network_of
from tests.tiny_models import few, tiny_model

BITS = (4, 8, EXACT)
SCHEMA = json.loads(
    Path(pwl_jax.bundle.__file__).with_name("manifest.schema.json").read_text("utf-8")
)
SPLITS = ("validation", "test")


def splits_of(name):
    return [few(sources.load(name, split), 40) for split in SPLITS]


@pytest.fixture(scope="module")
def executor():
    """Shared by all live models here, so that each block is compiled once."""
    return JaxExecutor()


def made(model, path, name):
    return model, path, export_bundle(model, path, BITS, *splits_of(name))


@pytest.fixture(scope="module", params=["teacher", "student", "teacher of a pair"])
def exported(request, tmp_path_factory):
    """A network, the folder of its bundle, and the manifest."""
    if request.param in ("teacher", "student"):
        model = network_of(request.param)
    else:
        model = workdir.teacher_of(tiny_model("vgg"))
    return made(model, tmp_path_factory.mktemp("network") / "b", "digits")


@pytest.fixture(scope="module")
def multi_label(tmp_path_factory):
    model = network_of("teacher", data="multi_digits")
    return made(model, tmp_path_factory.mktemp("multi") / "b", "multi_digits")


def rungs_of(model):
    return [Rung.uniform(model.composition, bits) for bits in BITS]


def evaluated(model, source, batch=40):
    """What the evaluator says of each rung, without the exporter's own measuring."""
    hybrid, variables = as_hybrid(model)
    preprocessing = workdir.preprocessing_of(model.config)
    prepared = pipeline.PreparedSource(source, preprocessing)
    trees = {bits: expanded(variables, bits, BITS) for bits in BITS}
    return Evaluator(hybrid, device_mesh()).evaluate(
        rungs_of(model),
        trees.__getitem__,
        pipeline.eval_batches(prepared, batch),
        preprocessing.normalize,
    )


def test_every_precision_is_a_rung_and_is_measured(exported):
    model, path, manifest = exported
    letters = str(model.composition)
    assert letters == ("SSS" if model.config.task == "student" else "TTT")
    assert [entry.name for entry in manifest.ladder] == [f"{letters}@{bits}" for bits in BITS]
    expected = [evaluated(model, source) for source in splits_of("digits")]
    for entry in manifest.ladder:
        validation, test = (found[entry.rung] for found in expected)
        assert (entry.top1, entry.top1_test) == (validation.top1, test.top1)
        assert entry.mean_average_precision is entry.mean_average_precision_test is None
    assert {(m.rung, m.split) for m in manifest.measurements} == {
        (rung, split) for rung in rungs_of(model) for split in SPLITS
    }
    assert manifest.measured_on == {
        "dataset": "digits",
        "split": "validation",
        "examples": 40,
        "test_examples": 40,
        "selection": "one network: every precision is a rung; test is only reported",
    }
    steps = [entry.shard_bytes for entry in manifest.ladder]
    assert all(steps) and manifest.ladder[-1].cumulative_bytes >= sum(steps)
    assert ladder_table(BundleReader.open(path).ladder).count("not measured") == 0


def test_the_bundle_holds_the_network_alone_to_the_bit(exported):
    model, path, manifest = exported
    originals = named(model)
    assert manifest.tensors.keys() == originals.keys()
    assert {name.partition("/")[0] for name in manifest.stages} == {str(model.config.task)}
    reader = BundleReader.open(path)
    assert reader.verify().ok
    with reader.exact_tensors() as restored:
        for name, array in restored.items():
            assert array.tobytes() == np.asarray(originals[name]).tobytes()
            assert tensor_sha256(array) == manifest.tensors[name].sha256


def test_the_runtime_climbs_it_to_the_checkpoints_logits(exported, executor):
    """Equal bits at every rung, through the same programs; at last those of the checkpoint."""
    model, path, _ = exported
    hybrid, variables = as_hybrid(model)
    preprocessing = workdir.preprocessing_of(model.config)
    images, _ = pipeline.in_memory(splits_of("digits")[1], preprocessing)
    inputs = preprocessing.normalize(images)
    trees = {bits: expanded(variables, bits, BITS) for bits in BITS}
    expected = Evaluator(hybrid, device_mesh()).logits(rungs_of(model), trees.get, inputs)
    for rung in rungs_of(model):
        found = live_logits(path, rung.name, inputs, executor)
        assert found.tobytes() == np.asarray(expected[rung]).tobytes(), rung.name
    with LiveModel.open(path, executor=executor, exact_batches=True, warm_batches=()) as live:
        assert live.wait(timeout=60) is not False
        answer = live.predict(inputs)
    assert answer.rung == f"{model.composition}@exact"
    exact = np.asarray(expected[rungs_of(model)[-1]])
    assert answer.logits.tobytes() == exact.tobytes()
    # The network in one piece computes in another order.
    whole = model.network.apply(model.variables, inputs).logits
    np.testing.assert_allclose(answer.logits, whole, atol=1e-5 * np.abs(exact).max())


def test_a_students_own_statistics_are_the_only_ones(tmp_path):
    model = network_of("student")
    manifest = export_bundle(model, tmp_path / "b", BITS, None, None)
    streams = {stream for bound in manifest.bindings.values() for stream in bound}
    assert streams == {"own"}
    assert not [name for name in manifest.tensors if "/entry" in name]


def test_a_multi_label_ladder_has_mean_average_precision_alone(multi_label):
    model, path, manifest = multi_label
    validation, test = (evaluated(model, source) for source in splits_of("multi_digits"))
    for entry in manifest.ladder:
        assert entry.top1 is None and entry.top1_test is None
        assert entry.mean_average_precision == validation[entry.rung].mean_average_precision
        assert entry.mean_average_precision_test == test[entry.rung].mean_average_precision
        assert entry.score == entry.mean_average_precision
    assert len({entry.mean_average_precision for entry in manifest.ladder}) > 1
    assert manifest.classes == tuple("0123456789")
    table = ladder_table(BundleReader.open(path).ladder)
    assert "validation mAP %" in table and "test mAP %" in table and "top-1" not in table
    for entry in manifest.ladder:
        assert f"{100 * entry.mean_average_precision:.2f}" in table
        assert f"{100 * entry.mean_average_precision_test:.2f}" in table


def test_the_precision_a_receiver_ranks_with_is_the_one_reported(multi_label, executor):
    """By scikit-learn, from what the runtime answers."""
    model, path, manifest = multi_label
    preprocessing = workdir.preprocessing_of(model.config)
    images, labels = pipeline.in_memory(splits_of("multi_digits")[1], preprocessing)
    inputs = preprocessing.normalize(images)
    for entry in manifest.ladder:
        scores = live_logits(path, entry.name, inputs, executor)
        # One block per device rounds as all of them together; ties do not move.
        found = average_precision_score(labels, scores)
        assert entry.mean_average_precision_test == pytest.approx(found, rel=1e-9)


def test_a_multi_label_manifest_is_valid_and_round_trips(multi_label):
    _, path, manifest = multi_label
    data = (path / "manifest.json").read_bytes()
    document = json.loads(data)
    jsonschema.validate(document, SCHEMA)
    for rung in document["ladder"]:
        assert rung["top1"] is None and 0 < rung["mean_average_precision"] <= 1
    assert Manifest.from_json(data) == manifest and manifest.to_json() == data
    # The schema refuses what no writer writes.
    document["ladder"][0]["mean_average_precision"] = "high"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)
