"""The executor of edge CPUs: the same answers as NumPy's, from the same shards as JAX's."""

import gc
import threading

import numpy as np
import pytest

from pwl_jax.ladder import Composition, Unit
from pwl_jax.runtime import ExecutorError, LiveModel, Step, create_executor
from tests import tiny_bundle as tiny

pytest.importorskip("onnxruntime")

TENSORS = tiny.all_tensors()
IMAGES = np.random.default_rng(1).normal(size=(4, *tiny.INPUT_SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def executor():
    return create_executor("onnxruntime", ["stablehlo", "onnx"])


@pytest.mark.parametrize("composition", [str(c) for c in Composition.all(tiny.BLOCKS)])
def test_every_composition_agrees_with_numpy(executor, composition):
    steps = tiny.steps_of(executor, composition)
    for count in (4, 1, 3):
        logits = executor.run(steps, IMAGES[:count])
        expected = tiny.reference_logits(TENSORS, composition, IMAGES[:count])
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_streams_bind_their_own_statistics(executor):
    steps = tiny.steps_of(executor, "TSS")
    wrong = [Step(step.block, "own") for step in steps]
    assert np.abs(executor.run(steps, IMAGES) - executor.run(wrong, IMAGES)).max() > 1e-3


def test_a_session_for_each_stream_that_runs():
    executor = create_executor("onnxruntime", ["onnx"])
    steps = tiny.steps_of(executor, "TSS")
    units = len(steps)
    executor.warm(steps, IMAGES)
    assert executor.compiles == units + 2  # both student blocks stand in stream 0, not their own
    executor.run(steps, IMAGES[:3])
    assert executor.compiles == units + 2
    for step in steps:
        tensors = tiny.unit_tensors(step.block.program.unit, TENSORS)
        assert step.block.nbytes == sum(tensor.nbytes for tensor in tensors.values())


def test_other_weights_give_other_answers(executor):
    """Constants are of the session that was made with them."""
    other = {name: tensor + 1 for name, tensor in TENSORS.items()}
    before = executor.run(steps := tiny.steps_of(executor, "TTT"), IMAGES)
    changed = executor.run(tiny.steps_of(executor, "TTT", other), IMAGES)
    expected = tiny.reference_logits(other, "TTT", IMAGES)
    np.testing.assert_allclose(changed, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(executor.run(steps, IMAGES), before)


def test_blocks_keep_their_weights_alive(executor):
    """ONNX Runtime reads weights in place: what nobody else holds must not be freed under it."""
    tensors = {name: tensor.copy() for name, tensor in TENSORS.items()}
    steps = tiny.steps_of(executor, "TST", tensors)
    shapes = [tensor.shape for tensor in tensors.values()]
    del tensors
    gc.collect()
    overwriting = [np.full(shape, np.nan, np.float32) for shape in shapes * 8]
    expected = tiny.reference_logits(TENSORS, "TST", IMAGES)
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(executor.run(steps, IMAGES), expected, rtol=0, atol=atol)
    assert len(overwriting) == 8 * len(shapes)


def test_narrow_floats_are_widened(executor):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    narrow = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in TENSORS.items()}
    wide = {name: tensor.astype(np.float32) for name, tensor in narrow.items()}
    np.testing.assert_array_equal(
        executor.run(tiny.steps_of(executor, "STS", narrow), IMAGES),
        executor.run(tiny.steps_of(executor, "STS", wide), IMAGES),
    )


def test_a_live_model_climbs_to_the_same_teacher(bundle, executor):
    with LiveModel.open(bundle, executor=executor) as model:
        assert model.wait(timeout=60) == "TTT@exact"
        answer = model.predict(IMAGES)
    assert (answer.rung, answer.executor) == ("TTT@exact", "onnxruntime")
    np.testing.assert_array_equal(
        answer.logits, executor.run(tiny.steps_of(executor, "TTT"), IMAGES)
    )


def test_only_onnx_programs_are_fetched(bundle, executor):
    with LiveModel.open(bundle, executor=executor) as model:
        model.wait(timeout=60)
        programs = model.manifest.programs.values()
        files = {e.file for entries in programs for e in entries if e.format == "stablehlo"}
        assert files and not files & model._reader.files_read
        assert model.progress.bytes_fetched == model.progress.bytes_total


def test_many_threads_share_a_session(executor):
    steps, answers = tiny.steps_of(executor, "TSS"), {}
    expected = executor.run(steps, IMAGES)

    def ask(number):
        answers[number] = executor.run(steps, IMAGES)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        np.testing.assert_array_equal(answers[number], expected)


def test_mistakes_name_the_unit(executor):
    unit = Unit("teacher", 1)
    tensors = tiny.unit_tensors(unit, TENSORS)
    kernel = "teacher/params/block1/kernel"
    with pytest.raises(ExecutorError, match=f"teacher/1 reads '{kernel}', which no shard"):
        executor.load(tiny.read(executor, unit), {n: t for n, t in tensors.items() if n != kernel})
    with pytest.raises(ExecutorError, match="program of teacher/1 "):
        executor.load(tiny.read(executor, unit), {**tensors, kernel: tensors[kernel][:-1]})
    with pytest.raises(ExecutorError, match="program of teacher/1 "):
        executor.load(
            tiny.read(executor, unit), {**tensors, kernel: tensors[kernel].astype(np.float64)}
        )
    for damaged in (b"hello", tiny.onnx_model(unit)[:40]):
        with pytest.raises(ExecutorError, match="program of teacher/1 cannot be run"):
            executor.load(tiny.read(executor, unit, damaged), tensors)
    with pytest.raises(ExecutorError, match="program of teacher/1 "):
        short = {"own": tiny.arguments(unit)[:-1]}
        executor.load(tiny.read(executor, unit, bound=short), tensors)
    with pytest.raises(ExecutorError, match="program of teacher/0: "):
        executor.run(tiny.steps_of(executor, "TTT"), IMAGES[..., :1])


def test_a_wrong_statistic_of_another_stream_is_refused(executor):
    unit = Unit("student", 2)
    tensors = tiny.unit_tensors(unit, TENSORS)
    name = "student/batch_stats/entry1/block2/mean"
    block = executor.load(tiny.read(executor, unit), {**tensors, name: tensors[name][:-1]})
    x = np.zeros((1, *tiny.INPUT_SHAPE[:2], tiny.STUDENT_WIDTH), np.float32)
    executor.run([Step(block, "own")], x)
    with pytest.raises(ExecutorError, match="program of student/2 "):
        executor.warm([Step(block, "1")], x)
