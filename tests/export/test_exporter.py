"""From a checkpoint to a bundle: tensors, rungs, measurements, and what is chosen on what."""

import dataclasses
import itertools
import shutil

import jax
import numpy as np
import pytest

from pwl_jax.bundle import BundleReader
from pwl_jax.data import pipeline
from pwl_jax.errors import UserError
from pwl_jax.export import export_bundle, exporter
from pwl_jax.export.measure import expanded
from pwl_jax.export.programs import units_of
from pwl_jax.hybrid.masks import leaf_names
from pwl_jax.ladder import EXACT, Composition, Rung, Unit, candidate_rungs, ladder_table
from pwl_jax.models.registry import PairSpec
from pwl_jax.precision import tensor_sha256
from pwl_jax.runtime import LiveModel
from pwl_jax.runtime.jax_executor import JaxExecutor
from pwl_jax.training.evaluation import Evaluator
from pwl_jax.training.step import device_mesh
from tests.export.conftest import BITS
from tests.tiny_models import images_of, model_of, tiny_model
from tests.tiny_pairs import NETWORKS


@pytest.fixture(scope="module")
def executor():
    """Shared by all live models here, so that each block is compiled once."""
    return JaxExecutor()


@pytest.fixture(scope="module")
def evaluator(exported):
    return Evaluator(exported.model.hybrid, device_mesh())


def live_logits(path, rung, images, executor):
    options = {"climb": False, "exact_batches": True, "warm_batches": (), "executor": executor}
    with LiveModel.open(path, rung=rung, **options) as live:
        answer = live.predict(images)
    assert answer.rung == rung
    return answer.logits


def test_the_last_rung_holds_the_checkpoint_to_the_bit(exported):
    reader = BundleReader.open(exported.path)
    last = reader.ladder[-1].rung
    assert last == Rung.uniform(Composition.prefix(3, 3), EXACT)
    host = exported.model.variables
    originals = dict(zip(leaf_names(host), jax.tree.leaves(host), strict=True))
    assert reader.manifest.tensors.keys() == originals.keys()
    restored = {}
    for unit, stage in last.stages().items():
        restored |= reader.tensors(unit, stage)
    assert restored.keys() == {name for name in originals if name.startswith("teacher/")}
    for name, entry in reader.manifest.tensors.items():
        assert entry.sha256 == tensor_sha256(originals[name])
    for name, array in restored.items():
        assert array.tobytes() == originals[name].tobytes()


def test_every_rung_computes_what_export_measured(exported, executor, evaluator):
    """Rungs of the ladder and others, 4 bits and exact: equal logits, and equal accuracy."""
    preprocessing = exporter.workdir.preprocessing_of(exported.model.config)
    images, labels = pipeline.in_memory(exported.validation, preprocessing)
    inputs = preprocessing.normalize(images)
    measured = {m.rung: m for m in exported.manifest.measurements if m.split == "validation"}
    trees = {bits: expanded(exported.model.variables, bits, BITS) for bits in BITS}
    expected = evaluator.logits(measured, trees.__getitem__, inputs)
    assert len(measured) == 8 + 3
    distinct = set()
    for rung, measurement in measured.items():
        logits = live_logits(exported.path, rung.name, inputs, executor)
        assert logits.tobytes() == np.asarray(expected[rung]).tobytes(), rung.name
        assert measurement.top1 == (logits.argmax(-1) == labels).mean(), rung.name
        assert measurement.examples == len(labels)
        distinct.add(logits.tobytes())
    assert len(distinct) == len(measured)


def test_the_last_rung_equals_the_checkpoints_teacher_at_any_batch(exported, executor, evaluator):
    teacher = Rung.uniform(Composition.prefix(3, 3), EXACT)
    for batch in (1, 7):
        images = images_of(exported.model, batch)
        logits = evaluator.logits([teacher], lambda _: exported.model.variables, images)[teacher]
        found = live_logits(exported.path, "TTT@exact", images, executor)
        assert found.tobytes() == np.asarray(logits).tobytes()


def test_only_rungs_that_pay_are_kept(exported):
    top1 = {m.rung: m.top1 for m in exported.manifest.measurements if m.split == "validation"}
    ladder = exported.manifest.ladder
    kept = [entry.rung for entry in ladder]
    candidates = [rung for rung in top1 if rung in kept or rung.composition.is_teacher]
    assert kept[0].name == "SSS@4" and kept[-1].name == "TTT@exact"
    assert [entry.top1 for entry in ladder] == [top1[rung] for rung in kept]
    for earlier, rung in itertools.pairwise(kept[:-1]):
        assert top1[rung] > top1[earlier]
    for rung in set(candidates) - set(kept):
        assert top1[rung] <= max(top1[other] for other in kept[:-1])
    # The case must be one in which something is dropped.
    assert len(kept) < len(candidate_rungs(Composition.prefixes(3), BITS))


def test_no_update_of_a_student_block_is_climbed(exported):
    shards = [shard for entry in exported.manifest.ladder for shard in entry.shards]
    assert len(set(shards)) == len(shards)
    student = [shard for shard in shards if shard.startswith("student/")]
    assert student and all(shard.endswith("@4") for shard in student)
    assert {f"teacher/{i}@{stage}" for i in range(3) for stage in BITS} <= set(shards)


def test_the_test_split_is_reported_and_chooses_nothing(exported, tmp_path):
    """The fixture's test images cannot be read before the choices; here there are none at all."""
    found = export_bundle(exported.model, tmp_path / "b", BITS, exported.validation, None)
    assert [entry.rung for entry in found.ladder] == [e.rung for e in exported.manifest.ladder]
    assert [entry.top1 for entry in found.ladder] == [e.top1 for e in exported.manifest.ladder]
    assert [entry.top1_test for entry in found.ladder] == [None] * len(found.ladder)
    assert None not in [entry.top1_test for entry in exported.manifest.ladder]
    # All else is equal to the byte.
    for field in ("shards", "tensors", "programs", "stages", "pair", "classes", "created_with"):
        assert getattr(found, field) == getattr(exported.manifest, field), field
    assert found.measured_on == {
        "dataset": "digits",
        "split": "validation",
        "examples": 48,
        "test_examples": 0,
        "selection": "order and rungs were chosen on the validation split",
    }
    assert exported.manifest.measured_on["test_examples"] == 40
    assert exported.manifest.measured_on["selection"].endswith("test is only reported")
    assert exported.manifest.created_with.keys() == {"pwl_jax", "jax", "flax", "numpy", "zstandard"}


def test_without_data_the_ladder_is_all_prefixes_unmeasured_and_the_same_each_time(tmp_path):
    model, bits = tiny_model("vgg"), (3, 8, EXACT)
    for name in ("first", "second"):
        manifest = export_bundle(model, tmp_path / name, bits, None, None)
    first, second = (
        (tmp_path / name / "manifest.json").read_bytes() for name in ("first", "second")
    )
    assert first == second
    rungs = [entry.rung for entry in manifest.ladder]
    assert rungs == candidate_rungs(Composition.prefixes(3), bits)
    assert len(rungs) == 4 + 3 + 3
    assert all(entry.top1 is None and entry.top1_test is None for entry in manifest.ladder)
    assert manifest.measurements == () and manifest.measured_on["dataset"] is None
    assert manifest.measured_on["selection"] == "no validation split: prefix order, every rung"
    assert manifest.classes == tuple("0123456789")
    reader = BundleReader.open(tmp_path / "first")
    assert reader.verify().ok
    assert ladder_table(reader.ladder).count("not measured") == 2 * len(rungs)


def test_identities_and_shared_statistics(tmp_path, executor):
    teacher, student = NETWORKS["vgg"]
    student = dataclasses.replace(student, widths=(6, 4, 6))
    pair = PairSpec(name="p", teacher=teacher, student=student, statistics="shared")
    model = model_of(pair)
    manifest = export_bundle(model, tmp_path / "b", (EXACT,), None, None)
    assert "encoder/0" not in manifest.programs and "encoder/0" not in manifest.stages
    assert "encoder/1" in manifest.programs and Unit("encoder", 0) not in units_of(model.hybrid)
    assert [entry.rung.name for entry in manifest.ladder] == [
        f"{composition}@exact" for composition in ("SSS", "TSS", "TTS", "TTT")
    ]
    images = images_of(model, 3)
    rungs = [Rung.parse(name) for name in ("TSS@exact", "STS@exact", "TTS@exact")]
    logits = Evaluator(model.hybrid, device_mesh()).logits(rungs, lambda _: model.variables, images)
    for rung in rungs:
        found = live_logits(tmp_path / "b", rung.name, images, executor)
        assert found.tobytes() == np.asarray(logits[rung]).tobytes()


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ((8, 4, EXACT), r"\[8, 4, 'exact'\]"),
        ((4, 8), r"'exact'"),
        ((EXACT, 4), r"\['exact', 4\]"),
        ((4, 4, EXACT), r"\[4, 4, 'exact'\]"),
        ((9, EXACT), r"2 to 8 bits"),
        ((1, EXACT), r"2 to 8 bits"),
        ((), r"\[\]"),
    ],
)
def test_wrong_precisions_are_named_and_nothing_is_written(tmp_path, bits, message):
    with pytest.raises(UserError, match=message) as caught:
        export_bundle(tiny_model("vgg"), tmp_path / "bundle", bits, None, None)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_path_that_cannot_be_written_is_said_before_anything_is_read(exported, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    broken = dataclasses.replace(exported.validation, records=None)
    with pytest.raises(UserError, match="holds files but no bundle"):
        export_bundle(exported.model, tmp_path, BITS, broken, None)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_data_that_cannot_be_read_leave_the_old_bundle(exported, tmp_path):
    path = shutil.copytree(exported.path, tmp_path / "bundle")
    before = (path / "manifest.json").read_bytes()

    class Broken(list):
        def __getitem__(self, index):
            raise OSError("disk on fire")

    broken = dataclasses.replace(exported.validation, records=Broken())
    with pytest.raises(UserError, match="disk on fire"):
        export_bundle(exported.model, path, BITS, broken, None)
    assert (path / "manifest.json").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]
