"""Statistics of each composition by itself, and stitched pairs, against what they are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pwl_jax.data import sources
from pwl_jax.hybrid import walk
from pwl_jax.ladder import EXACT, Composition, Rung, Unit
from pwl_jax.training import workdir
from pwl_jax.training.evaluation import Evaluator
from pwl_jax.training.recalibration import (
    calibrated_over_all,
    composition_statistics,
    measure_recalibrated,
)
from pwl_jax.training.step import device_mesh
from pwl_jax.training.stitching import stitched
from tests.tiny_models import few, tiny_model


def normalize(images):
    return images.astype(np.float32) / 128 - 1


def batches(count=2, size=16):
    rng = np.random.default_rng(0)
    shape = (count, size, 8, 8, 1)
    return [
        {"image": images, "label": np.zeros(size, np.int32)}
        for images in rng.integers(0, 256, shape, dtype=np.uint8)
    ]


@pytest.mark.slow
def test_statistics_are_the_mean_moments_of_each_composition():
    model = tiny_model("vgg")
    hybrid, variables = model.hybrid, model.variables
    compositions = [Composition.parse(name) for name in ("SSS", "STS", "TSS")]
    evaluator = Evaluator(hybrid, device_mesh())
    data = batches()
    found = composition_statistics(evaluator, variables, compositions, data, normalize)
    assert set(found) == {"S", "SS", "SSS", "STS", "TS", "TSS"}

    @jax.jit
    def apart(images, mask):
        return hybrid.apply(variables, images, mask, train=True).moments

    for composition in compositions:
        mask = jax.tree.map(jnp.asarray, hybrid.mask_of(variables, composition))
        each = [apart(jnp.asarray(normalize(b["image"])), mask) for b in data]
        mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *each)
        for index, source in enumerate(composition.sources):
            if source == "T":
                continue
            got = found[str(composition)[: index + 1]]
            for part, tree in got.items():
                for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(mean[part]), strict=True):
                    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("statistics", ["per_stream", "shared"])
def test_a_stream_calibrated_over_all_is_the_mean_of_what_enters_it(statistics):
    model = tiny_model("vgg", statistics=statistics)
    hybrid, variables = model.hybrid, model.variables
    evaluator = Evaluator(hybrid, device_mesh())
    got = calibrated_over_all(evaluator, variables, batches(1), normalize)
    assert jax.tree.structure(got) == jax.tree.structure(variables)
    for same in ("teacher", "encoders", "decoders"):
        assert got[same] is variables[same]
    every = Composition.all(3)
    found = composition_statistics(evaluator, variables, every, batches(1), normalize)
    last = hybrid.student.parts_of(2)
    entering = {
        "per_stream": {"own": ["SSS"], "entry0": ["TSS"], "entry1": ["TTS", "STS"]},
        "shared": {"own": ["SSS", "TSS", "TTS", "STS"]},
    }[statistics]
    for stream, names in entering.items():
        for part in (p for p in last if p in found["SSS"]):
            mean = jax.tree.map(
                lambda *leaves: sum(leaves) / len(leaves), *(found[name][part] for name in names)
            )
            measured = got["student"]["batch_stats"][stream][part]
            for a, b in zip(jax.tree.leaves(measured), jax.tree.leaves(mean), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_logits_use_the_statistics_of_the_composition():
    model = tiny_model("vgg")
    hybrid, variables = model.hybrid, model.variables
    composition = Composition.parse("STS")
    evaluator = Evaluator(hybrid, device_mesh())
    images = jnp.asarray(normalize(batches(1)[0]["image"]))
    own = variables["student"]["batch_stats"]["own"]
    shifted = jax.tree.map(lambda leaf: leaf + 0.25, own)
    given = {
        "S": {p: shifted[p] for p in hybrid.student.parts_of(0) if p in own},
        "STS": {p: shifted[p] for p in hybrid.student.parts_of(2) if p in own},
    }
    rung = Rung.uniform(composition, EXACT)
    (got,) = evaluator.logits([rung], lambda _: variables, images, given).values()
    # The same numbers where the ladder looks for them: the own stream, and the one behind block 1.
    streams = variables["student"]["batch_stats"]
    moved = {**streams, "own": shifted, "entry1": {p: shifted[p] for p in streams["entry1"]}}
    student = {**variables["student"], "batch_stats": moved}
    (expected,) = evaluator.logits(
        [rung], lambda _: {**variables, "student": student}, images
    ).values()
    np.testing.assert_array_equal(got, expected)
    (plain,) = evaluator.logits([rung], lambda _: variables, images).values()
    assert not np.allclose(got, plain, atol=1e-3)


@pytest.mark.slow
def test_stitching_fits_converters_and_statistics_and_nothing_else():
    model = tiny_model("vgg")
    training = few(sources.load("digits", "train"), 512)
    found = stitched(model, training, examples=512, batch_size=128)
    for same in ("teacher", "student"):
        for a, b in zip(
            jax.tree.leaves(found[same]["params"]),
            jax.tree.leaves(model.variables[same]["params"]),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
    # On images it has not seen, a converter beats the best constant.
    preprocessing = workdir.preprocessing_of(model.config)
    test = sources.load("digits", "test")
    shown = np.stack([preprocessing.prepare(test[i]["image"]) for i in range(64)])
    out = jax.jit(lambda x: walk(model.hybrid, found, x))(preprocessing.normalize(shown))
    for k, (wide, narrow) in enumerate(zip(out.teacher_features, out.features, strict=True)):
        for unit, x, y in (
            (Unit("encoder", k), wide, narrow[0]),
            (Unit("decoder", k), narrow[0], wide),
        ):
            got = model.hybrid.run(unit, model.hybrid.unit_variables(found, unit), x)
            constant = y - y.mean((0, 1, 2), keepdims=True)
            assert jnp.square(got - y).sum() < 0.9 * jnp.square(constant).sum(), unit
    # With the statistics that belong to these converters, recalibrating changes little.
    fitted = workdir.TrainedModel(model.config, model.hybrid, found, 0)
    prefixes = Composition.prefixes(3)
    images = few(test, 256)
    ladder = workdir.measure(fitted, prefixes, images, 128)
    apart = measure_recalibrated(fitted, prefixes, images, training, 512, 128)
    for prefix in prefixes:
        assert ladder[prefix].loss == pytest.approx(apart[prefix].loss, rel=0.05), prefix
