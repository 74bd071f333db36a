import jax
import numpy as np
import pytest

from pwl_jax.ladder import Composition, Unit
from pwl_jax.runtime import ExecutorError, Step, create_executor
from tests import tiny_bundle as tiny

TENSORS = tiny.all_tensors()
IMAGES = np.random.default_rng(1).normal(size=(4, *tiny.INPUT_SHAPE)).astype(np.float32)


@pytest.mark.parametrize("composition", [str(c) for c in Composition.all(tiny.BLOCKS)])
def test_every_composition_agrees_with_numpy(executor, composition):
    logits = executor.run(tiny.chain_of(executor, composition), IMAGES)
    expected = tiny.reference_logits(TENSORS, composition, IMAGES)
    assert logits.dtype == np.float32
    # float32 against float64 over a handful of small matrix products.
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_streams_bind_their_own_statistics(executor):
    """The same blocks answer differently in another stream, so the check above has teeth."""
    chain = tiny.chain_of(executor, "TSS")
    wrong = executor.join([Step(step.block, "own") for step in chain.steps])
    assert np.abs(executor.run(chain, IMAGES) - executor.run(wrong, IMAGES)).max() > 1e-3


def test_one_compile_for_each_unit_and_batch_size():
    executor, compiled = create_executor("jax"), []

    def count(event: str, seconds: float, **rest: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        executor.warm(tiny.chain_of(executor, "TTT"), IMAGES)
        assert executor.compiles == tiny.BLOCKS
        executor.warm(tiny.chain_of(executor, "TTT"), IMAGES[:2])
        assert executor.compiles == 2 * tiny.BLOCKS
        compiled.clear()
        other = {name: tensor + 1 for name, tensor in TENSORS.items()}
        executor.run(tiny.chain_of(executor, "TTT", other), IMAGES)
        executor.run(tiny.chain_of(executor, "TTT"), IMAGES[:2])
        assert not compiled
        executor.run(tiny.chain_of(executor, "TTT"), IMAGES[:3])
        assert len(compiled) == tiny.BLOCKS
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


def test_only_what_the_program_reads_is_held(executor):
    unit = Unit("teacher", 1)
    tensors = tiny.unit_tensors(unit, TENSORS)
    block = executor.load(
        tiny.read(executor, unit), {**tensors, "teacher/params/unused": np.zeros(1000)}
    )
    assert block.nbytes == sum(tensor.nbytes for tensor in tensors.values())


def test_bytes_that_are_no_program(executor):
    unit = Unit("teacher", 0)
    data = tiny.program(unit)
    for damaged in (b"", b"hello", data[: len(data) // 2]):
        with pytest.raises(ExecutorError, match="program of teacher/0 is no StableHLO program"):
            tiny.read(executor, unit, damaged)


def test_bindings_that_do_not_fit_the_program(executor):
    unit = Unit("teacher", 0)
    with pytest.raises(ExecutorError, match="takes 6 arguments; its binding 'own' names 4 tensors"):
        tiny.read(executor, unit, bound={"own": tiny.arguments(unit)[:-1]})


def test_program_for_another_backend(executor):
    exported = jax.export.export(jax.jit(lambda x: x), platforms=["tpu"])(np.zeros(2, np.float32))
    with pytest.raises(ExecutorError, match="was exported for tpu; this machine's backend is cpu"):
        tiny.read(executor, Unit("teacher", 0), bytes(exported.serialize()), {"own": []})


def test_tensors_that_do_not_fit_the_program(executor):
    unit = Unit("teacher", 1)
    tensors = tiny.unit_tensors(unit, TENSORS)
    program = tiny.read(executor, unit)
    kernel = "teacher/params/block1/kernel"
    with pytest.raises(ExecutorError, match=f"reads '{kernel}', which no shard holds"):
        executor.load(program, {name: t for name, t in tensors.items() if name != kernel})
    for wrong in (tensors[kernel][:-1], tensors[kernel].astype(np.float64)):
        with pytest.raises(ExecutorError, match=f"takes '{kernel}' as float32"):
            executor.load(program, {**tensors, kernel: wrong})


def test_names_of_executors():
    with pytest.raises(
        ExecutorError, match="unknown executor 'fpga'; expected one of auto, onnxruntime, jax"
    ):
        create_executor("fpga")
    with pytest.raises(ExecutorError, match="needs stablehlo programs; this bundle holds wasm"):
        create_executor("auto", ["wasm"])
