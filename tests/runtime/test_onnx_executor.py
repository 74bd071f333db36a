"""The executor of edge CPUs: the same answers as NumPy's, from the same shards as JAX's."""

import gc
import os
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import onnx
import pytest

from pwl_jax.ladder import Composition, Unit
from pwl_jax.runtime import (
    ExecutorError,
    LiveModel,
    Step,
    background,
    create_executor,
    onnx_executor,
)
from pwl_jax.runtime.onnx_executor import OnnxExecutor
from tests import tiny_bundle as tiny

pytest.importorskip("onnxruntime")

TENSORS = tiny.all_tensors()
IMAGES = np.random.default_rng(1).normal(size=(4, *tiny.INPUT_SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def executor():
    return create_executor("onnxruntime", ["stablehlo", "onnx"])


@pytest.mark.parametrize("composition", [str(c) for c in Composition.all(tiny.BLOCKS)])
def test_every_composition_agrees_with_numpy(executor, composition):
    chain = tiny.chain_of(executor, composition)
    for count in (4, 1, 3):
        logits = executor.run(chain, IMAGES[:count])
        expected = tiny.reference_logits(TENSORS, composition, IMAGES[:count])
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_streams_bind_their_own_statistics(executor):
    chain = tiny.chain_of(executor, "TSS")
    wrong = executor.join([Step(step.block, "own") for step in chain.steps])
    assert np.abs(executor.run(chain, IMAGES) - executor.run(wrong, IMAGES)).max() > 1e-3


def test_one_session_for_a_whole_composition():
    executor = create_executor("onnxruntime", ["onnx"])
    chain = tiny.chain_of(executor, "TSS")
    assert executor.compiles == 1
    executor.warm(chain, IMAGES)
    executor.run(chain, IMAGES[:3])
    assert executor.compiles == 1
    for step in chain.steps:
        tensors = tiny.unit_tensors(step.block.program.unit, TENSORS)
        assert step.block.nbytes == sum(tensor.nbytes for tensor in tensors.values())


def test_equal_programs_with_other_weights_stay_apart(executor):
    """Blocks of one composition may share a program's bytes, never weights."""
    first = tiny.read(executor, Unit("teacher", 1))
    second = executor.read_program(
        Unit("teacher", 2), tiny.onnx_model(Unit("teacher", 1)), first.bindings
    )
    assert first.digest == second.digest
    tensors = tiny.unit_tensors(Unit("teacher", 1), TENSORS)
    other = {name: tensor + 1 for name, tensor in tensors.items()}
    blocks = [executor.load(first, tensors), executor.load(second, other)]
    x = np.random.default_rng(2).normal(size=(2, 8, 8, tiny.TEACHER_WIDTH)).astype(np.float32)
    joined = executor.run(executor.join([Step(block, "own") for block in blocks]), x)
    for block in blocks:
        x = executor.run(executor.join([Step(block, "own")]), x)
    np.testing.assert_allclose(joined, x, rtol=0, atol=1e-5)


def test_a_chain_that_is_dropped_frees_its_session_and_weights(executor):
    """Nothing is kept of it but what another chain or request still refers to."""
    chain = tiny.chain_of(executor, "TSS")
    pinned = executor.join(chain.steps[:2])
    session, kept = weakref.ref(chain.function.session), weakref.ref(chain.steps[0].block)
    freed = weakref.ref(chain.steps[-1].block)
    executor.run(chain, IMAGES)
    del chain
    assert session() is None and freed() is None
    assert kept() is pinned.steps[0].block


def test_other_weights_give_other_answers(executor):
    """Constants are of the session that was made with them."""
    other = {name: tensor + 1 for name, tensor in TENSORS.items()}
    before = executor.run(chain := tiny.chain_of(executor, "TTT"), IMAGES)
    changed = executor.run(tiny.chain_of(executor, "TTT", other), IMAGES)
    expected = tiny.reference_logits(other, "TTT", IMAGES)
    np.testing.assert_allclose(changed, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(executor.run(chain, IMAGES), before)


def test_blocks_keep_their_weights_alive(executor):
    """ONNX Runtime reads weights in place: what nobody else holds must not be freed under it."""
    tensors = {name: tensor.copy() for name, tensor in TENSORS.items()}
    chain = tiny.chain_of(executor, "TST", tensors)
    shapes = [tensor.shape for tensor in tensors.values()]
    del tensors
    gc.collect()
    overwriting = [np.full(shape, np.nan, np.float32) for shape in shapes * 8]
    expected = tiny.reference_logits(TENSORS, "TST", IMAGES)
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(executor.run(chain, IMAGES), expected, rtol=0, atol=atol)
    assert len(overwriting) == 8 * len(shapes)


def test_narrow_floats_are_widened(executor):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    narrow = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in TENSORS.items()}
    wide = {name: tensor.astype(np.float32) for name, tensor in narrow.items()}
    np.testing.assert_array_equal(
        executor.run(tiny.chain_of(executor, "STS", narrow), IMAGES),
        executor.run(tiny.chain_of(executor, "STS", wide), IMAGES),
    )


def test_a_live_model_climbs_to_the_same_teacher(bundle, executor):
    with LiveModel.open(bundle, executor=executor) as model:
        assert model.wait(timeout=60) == "TTT@exact"
        answer = model.predict(IMAGES)
    assert (answer.rung, answer.executor) == ("TTT@exact", "onnxruntime")
    np.testing.assert_array_equal(
        answer.logits, executor.run(tiny.chain_of(executor, "TTT"), IMAGES)
    )


def test_only_onnx_programs_are_fetched(bundle, executor):
    with LiveModel.open(bundle, executor=executor) as model:
        model.wait(timeout=60)
        programs = model.manifest.programs.values()
        files = {e.file for entries in programs for e in entries if e.format == "stablehlo"}
        assert files and not files & model._reader.files_read
        assert model.progress.bytes_fetched == model.progress.bytes_total


def test_many_threads_share_a_session(executor):
    chain, answers = tiny.chain_of(executor, "TSS"), {}
    expected = executor.run(chain, IMAGES)

    def ask(number):
        answers[number] = executor.run(chain, IMAGES)

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
    for wrong in (tensors[kernel][:-1], tensors[kernel].astype(np.float64), tensors[kernel][None]):
        with pytest.raises(ExecutorError, match=f"teacher/1 takes '{kernel}' as float32"):
            executor.load(tiny.read(executor, unit), {**tensors, kernel: wrong})
    whole = tiny.onnx_model(unit)
    for damaged in (b"", b"hello", whole[:40], whole[:-1], whole + b"\x3a\x7f", b"\xff" * 20):
        with pytest.raises(ExecutorError, match="program of teacher/1 cannot be run"):
            tiny.read(executor, unit, damaged)
    with pytest.raises(ExecutorError, match=r"program of teacher/1 takes w0, .*'own' names 3"):
        tiny.read(executor, unit, bound={"own": tiny.arguments(unit)[:-1]})
    with pytest.raises(ExecutorError, match="program of teacher/0: "):
        executor.run(tiny.chain_of(executor, "TTT"), IMAGES[..., :1])


def test_units_that_do_not_follow_each_other_are_named(executor):
    first, _, last = tiny.steps_of(executor, "TTS")[0], *tiny.steps_of(executor, "SSS")[1:]
    with pytest.raises(ExecutorError, match="programs of teacher/0, student/2 cannot be run one"):
        executor.join([first, last])


def test_what_onnx_runtime_refuses_is_named(executor):
    """The unit that is at fault is told from those before it in the same session."""
    unit = Unit("teacher", 1)
    model = onnx.load_from_string(tiny.onnx_model(unit))
    model.graph.node[0].op_type = "Unheard"
    program = tiny.read(executor, unit, model.SerializeToString())
    block = executor.load(program, tiny.unit_tensors(unit, TENSORS))
    first = tiny.steps_of(executor, "TTT")[0]
    with pytest.raises(ExecutorError, match=r"program of teacher/1 cannot be run: .*Unheard"):
        executor.join([first, Step(block, "own")])


def test_a_program_of_other_operators_is_named(executor):
    unit = Unit("teacher", 1)
    model = onnx.load_from_string(tiny.onnx_model(unit))
    model.opset_import[0].version += 1
    program = tiny.read(executor, unit, model.SerializeToString())
    block = executor.load(program, tiny.unit_tensors(unit, TENSORS))
    first = tiny.steps_of(executor, "TTT")[0]
    with pytest.raises(ExecutorError, match="program of teacher/1 is written in other operators"):
        executor.join([first, Step(block, "own")])


def test_a_wrong_statistic_of_another_stream_is_refused(executor):
    unit = Unit("student", 2)
    tensors = tiny.unit_tensors(unit, TENSORS)
    name = "student/batch_stats/entry1/block2/mean"
    with pytest.raises(ExecutorError, match=f"program of student/2 takes '{name}' as float32"):
        executor.load(tiny.read(executor, unit), {**tensors, name: tensors[name][:1]})


@pytest.mark.parametrize("composition", ["TSS", "TTT"])
def test_a_lean_chain_answers_the_same(executor, composition, monkeypatch):
    """Whether all of its weights are read where they lie, or some must be known beforehand."""
    steps = tiny.steps_of(executor, composition)
    plain = executor.run(executor.join(steps), IMAGES)
    for large in (1 << 18, 200, 1):
        monkeypatch.setattr(onnx_executor, "_LARGE", large)
        found = executor.run(executor.join(steps, lean=True), IMAGES)
        np.testing.assert_allclose(found, plain, rtol=0, atol=1e-5 * np.abs(plain).max())


def test_a_lean_chain_lets_go_of_its_weights(monkeypatch):
    monkeypatch.setattr(onnx_executor, "_LARGE", 1)
    executor = create_executor("onnxruntime", ["onnx"])
    chain = executor.join(tiny.steps_of(executor, "TTT"), lean=True)
    executor.run(chain, IMAGES)
    block = weakref.ref(chain.steps[0].block)
    del chain
    assert block() is None


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness of their own")
def test_a_session_made_aside_has_threads_that_do_not_stand_back(monkeypatch):
    """Its maker does, once these exist; they would inherit it, and answer requests later."""
    begun = threads()
    seen = []

    def standing_back():
        maker = {threading.get_native_id()}
        seen.append(threads() - begun - maker)
        background.stand_back()

    monkeypatch.setattr(onnx_executor, "stand_back", standing_back)
    executor = OnnxExecutor(threads=3)
    chain = executor.join(tiny.steps_of(executor, "TSS"), aside=True)
    (own,) = seen
    assert len(own) == 2
    here = os.getpriority(os.PRIO_PROCESS, 0)
    assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in own} == {here}
    plain = executor.join(tiny.steps_of(executor, "TSS"))
    np.testing.assert_array_equal(executor.run(chain, IMAGES), executor.run(plain, IMAGES))


def threads():
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}
