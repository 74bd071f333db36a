"""A network by itself on pictures of several labels: its loss, its score, its best checkpoint."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from pwl_jax.data import pipeline, sources
from pwl_jax.models.normalization import blend_moments
from pwl_jax.training import loop, preparation, workdir
from pwl_jax.training.checkpoints import CheckpointError
from pwl_jax.training.evaluation import Accuracy, accuracy
from pwl_jax.training.loop import TrainingError
from pwl_jax.training.step import device_mesh
from tests import tiny_runs
from tests.tiny_models import few

DATA = {"name": "multi_digits"}
TRAINED = {"augmentation": {}, "optimizer": {"name": "adamw", "learning_rate": 0.01}}


def binary_cross_entropy(logits, labels):
    """Each example's mean over the classes, in float64."""
    signed = np.where(labels, -1.0, 1.0) * np.asarray(logits, np.float64)
    return np.logaddexp(0, signed).mean(1)


@pytest.fixture(scope="module", params=["teacher", pytest.param("student", marks=pytest.mark.slow)])
def trained(request, tmp_path_factory):
    """Workdir of a network of four epochs. Do not change it: copy it."""
    path = tmp_path_factory.mktemp(request.param)
    run = tiny_runs.config(request.param, data=DATA, epochs=4, eval_every_epochs=4, **TRAINED)
    assert tiny_runs.train(run, path).finished
    return path


@pytest.mark.parametrize("count", [3, 16, 21])
def test_accuracy_is_exact_over_batches_padding_and_devices(count):
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 2, 2, 1), dtype=np.uint8)
    present = rng.integers(0, 2, (count, 3), dtype=np.uint8)
    present[0] = 1
    records = [
        {"image": i, "labels": np.flatnonzero(p)} for i, p in zip(images, present, strict=True)
    ]
    source = sources.Source("made", "test", ("a", "b", "c"), records, np.arange(count), True)
    preprocessing = sources.preprocessing("made", (2, 2, 1))
    prepared = pipeline.PreparedSource(source, preprocessing)
    # One answer is so coarse that many scores are equal.
    networks = {
        "fine": lambda x: x.reshape(len(x), -1)[:, :3],
        "coarse": lambda x: jnp.sign(x.reshape(len(x), -1)[:, 1:]),
    }
    found = accuracy(
        lambda x: {name: network(x) for name, network in networks.items()},
        pipeline.eval_batches(prepared, 8),
        preprocessing.normalize,
        device_mesh(),
    )
    assert device_mesh().size == 8
    for name, network in networks.items():
        logits = np.asarray(network(preprocessing.normalize(images)))
        result = found[name]
        assert (result.top1, result.examples) == (None, count)
        assert result.metric == "mean_average_precision"
        expected = average_precision_score(present, logits)
        assert result.score == result.mean_average_precision == pytest.approx(expected, rel=1e-12)
        # Summed in float32.
        assert result.loss == pytest.approx(binary_cross_entropy(logits, present).mean(), rel=1e-5)


def test_what_an_accuracy_is_judged_by():
    assert Accuracy(0.25, 1.0, 4).score == 0.25 and Accuracy(0.25, 1.0, 4).metric == "top1"
    assert Accuracy(None, 1.0, 4, 0.0).score == 0.0


@pytest.mark.slow
def test_the_step_trains_binary_cross_entropy_of_multi_hot_labels():
    run = tiny_runs.config("teacher", data=DATA, batch_size=16, **TRAINED, sync_batch_norm=False)
    task = loop.prepare(run).task
    network = run.pair.teacher.build()
    variables = {"teacher": jax.jit(network.init)(jax.random.key(0))}
    rng = np.random.default_rng(0)
    images = rng.normal(size=(16, *run.pair.teacher.input_shape)).astype(np.float32)
    labels = rng.integers(0, 2, (16, 10), dtype=np.uint8)
    loss, outputs = jax.jit(task.program.loss)(
        variables, images, labels, {}, jax.random.key(0), 0.0
    )
    direct = jax.jit(functools.partial(network.apply, train=True))(variables["teacher"], images)
    expected = binary_cross_entropy(direct.logits, labels).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert outputs.terms.keys() == {"hard"}
    stats = blend_moments(variables["teacher"]["batch_stats"], direct.moments)
    for a, b in zip(jax.tree.leaves(outputs.batch_stats), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_run_improves_on_chance_and_logs_mean_average_precision(trained):
    name = workdir.read_config(trained).task
    lines = tiny_runs.metric_lines(trained)
    (last,) = [line for line in lines if f"validation/{name}/mean_average_precision" in line]
    assert last.keys() == {
        "step",
        f"validation/{name}/mean_average_precision",
        f"validation/{name}/loss",
    }
    # Scores at random rank a class's pictures by its share of them, about a fifth.
    least = {"teacher": 0.3, "student": 0.27}[name]
    assert last[f"validation/{name}/mean_average_precision"] > least
    losses = [line["train/hard"] for line in lines if "train/hard" in line]
    assert losses[-1] < losses[0]


def test_a_network_alone_is_measured_as_by_hand(trained):
    model = workdir.load_network(trained)
    letter = {"teacher": "T", "student": "S"}[model.config.task]
    assert str(model.composition) == letter * 3
    source = few(workdir.open_data(model.config, "test"), 100)
    ((composition, found),) = workdir.measure_network(model, source, batch_size=32).items()
    assert composition == model.composition
    preprocessing = workdir.preprocessing_of(model.config)
    images, labels = pipeline.in_memory(source, preprocessing)
    logits = model.network.apply(model.variables, preprocessing.normalize(images)).logits
    # Batches of other shapes may round differently, and so swap scores that are nearly equal.
    expected = average_precision_score(labels, logits)
    assert found.mean_average_precision == pytest.approx(expected, abs=1e-3)
    assert found.loss == pytest.approx(binary_cross_entropy(logits, labels).mean(), rel=1e-4)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(model.variables))
    assert model.live_bytes(composition) == size


@pytest.mark.slow
def test_best_is_chosen_by_mean_average_precision(tmp_path, monkeypatch):
    run = tiny_runs.config("teacher", data=DATA, epochs=2, **TRAINED)
    scores = iter([0.9, 0.1])
    monkeypatch.setattr(
        "pwl_jax.training.evaluation.mean_average_precision", lambda *_: next(scores)
    )
    assert tiny_runs.train(run, tmp_path).finished
    per_epoch = loop.prepare(run).total // 2
    assert workdir.load_network(tmp_path, "best").step == per_epoch
    assert workdir.load_network(tmp_path, "last").step == 2 * per_epoch


def test_a_multi_label_set_is_not_distilled(tmp_path):
    run = tiny_runs.config("distill", data=DATA)
    for attempt in (
        lambda: tiny_runs.train(run, tmp_path / "new", tmp_path / "no_teacher"),
        lambda: preparation.dry_run(run),
        lambda: preparation.dry_run(tiny_runs.config("distill", data={"name": "folder:absent"})),
    ):
        with pytest.raises(TrainingError, match="is a multi-label set, which cannot be distilled"):
            attempt()
    assert not list(tmp_path.iterdir())


def test_a_dry_run_shows_multi_hot_labels():
    run = tiny_runs.config("teacher", data={"name": "folder:absent"}, batch_size=16)
    facts = preparation.dry_run(run)
    assert "data_dir is missing" in facts["no_data"]
    assert facts["batch"]["label"] == ((16, 10), "uint8")
    facts = preparation.dry_run(tiny_runs.config("teacher", batch_size=16))
    assert facts["batch"]["label"] == ((16,), "int32")


def test_data_of_the_other_kind_is_refused():
    one, several = (
        tiny_runs.config("teacher", data={"name": n}) for n in ("digits", "multi_digits")
    )
    with pytest.raises(sources.DataError, match="'multi_digits' has any number of labels an image"):
        workdir.open_data(one, "test", "multi_digits")
    with pytest.raises(sources.DataError, match="'digits' has one label an image; the network was"):
        workdir.open_data(several, "test", "digits")
    pair = tiny_runs.config("distill", data={"name": "unheard_of"})
    with pytest.raises(sources.DataError, match="'multi_digits' has any number of labels an image"):
        workdir.open_data(pair, "test", "multi_digits")
    assert workdir.open_data(several, "test").multi_label


def test_a_distillation_is_no_network_alone(tmp_path):
    workdir.write_config(tmp_path, tiny_runs.config("distill"))
    with pytest.raises(
        CheckpointError, match="holds a distillation; expected the workdir of a net"
    ):
        workdir.load_network(tmp_path)
