"""`auto` answers by ONNX Runtime at once, and moves to JAX where that is better."""

import importlib.util
import json
import shutil
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from pwl_jax.runtime import LiveModel, create_executor, hand_over
from pwl_jax.runtime.hand_over import Successor, judged, probes, time_ratio
from pwl_jax.runtime.jax_executor import JaxExecutor
from pwl_jax.serving import serve_folder
from tests import tiny_bundle as tiny

IMAGES = np.random.default_rng(4).normal(size=(2, *tiny.INPUT_SHAPE)).astype(np.float32)
SECONDS = 60


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(hand_over, "SETTLED_SECONDS", 0.0)


@pytest.fixture
def accelerator(monkeypatch):
    """JAX's CPU stands for an accelerator."""
    monkeypatch.setattr(JaxExecutor, "accelerated", True)


@pytest.fixture
def faster(monkeypatch):
    monkeypatch.setattr(hand_over, "FASTER", 1e9)


@pytest.fixture
def slower(monkeypatch):
    monkeypatch.setattr(hand_over, "FASTER", 0.0)


@pytest.fixture(scope="module")
def alone(bundle):
    """Logits of every rung in every executor."""
    logits = {}
    for name in ("onnxruntime", "jax"):
        for rung in tiny.RUNGS:
            with LiveModel.open(bundle, executor=name, rung=rung, climb=False) as model:
                logits[rung, name] = model.predict(IMAGES).logits
    return logits


def decision(model):
    """The event that says who answers; waits for it."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for event in model.events:
            if event.kind == "executor":
                return event
        time.sleep(0.005)
    raise AssertionError([event.line() for event in model.events])


def check_answer(model, alone):
    answer = model.predict(IMAGES)
    np.testing.assert_array_equal(answer.logits, alone[answer.rung, answer.executor])
    return answer


def bytes_of_teacher() -> int:
    tensors = tiny.all_tensors()
    return sum(tensors[name].nbytes for name in tensors if name.startswith("teacher"))


def test_moves_to_an_accelerator_in_the_midst_of_a_climb(bundle, alone, accelerator):
    size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    with (
        serve_folder(bundle, bytes_per_second=size) as url,
        LiveModel.open(url, warm_batches=(2,)) as model,
    ):
        first = check_answer(model, alone)
        event = decision(model)
        assert model.wait(timeout=SECONDS) == "TTT@exact"
        last = check_answer(model, alone)
        progress = model.progress
        climbed = [event for event in model.events if event.kind == "rung"]
    assert (first.executor, last.executor) == ("onnxruntime", "jax")
    assert "jax takes over: it computes on an accelerator" in event.message
    assert event.executor == "jax" and event.rung in tiny.RUNGS[:-1]
    assert [event.rung for event in climbed] == list(tiny.RUNGS)
    moved = tiny.RUNGS.index(event.rung) + 1
    assert [event.executor for event in climbed[:moved]] == ["onnxruntime"] * moved
    assert [event.executor for event in climbed[moved:]] == ["jax"] * (len(climbed) - moved)
    assert progress.executor == "jax" and progress.bytes_fetched == progress.bytes_total


def test_on_the_same_processor_the_faster_one_takes_over_once_the_climb_rests(
    bundle, alone, faster
):
    with LiveModel.open(bundle, warm_batches=(2,)) as model:
        model.wait(timeout=SECONDS)
        event = decision(model)
        assert "jax takes over: it needs " in event.message and event.rung == "TTT@exact"
        assert check_answer(model, alone).executor == model.executor.name == "jax"
        assert model.live_bytes == bytes_of_teacher()
        assert model.progress.state == "resting"
        model.demote("TSS@4", timeout=SECONDS)
        assert check_answer(model, alone).executor == "jax"
        model.promote()
        assert model.wait("TTT@exact", timeout=SECONDS) == "TTT@exact"
        assert check_answer(model, alone).executor == "jax"


def test_the_slower_one_is_dropped(bundle, alone, slower):
    with LiveModel.open(bundle, warm_batches=(2,)) as model:
        model.wait(timeout=SECONDS)
        event = decision(model)
        assert "onnxruntime answers on; jax: it needs " in event.message
        assert event.executor == check_answer(model, alone).executor == "onnxruntime"
        assert model.live_bytes == bytes_of_teacher()


def test_other_logits_do_not_take_over(bundle, alone, accelerator, monkeypatch):
    run = JaxExecutor.run
    monkeypatch.setattr(JaxExecutor, "run", lambda *given: run(*given) * np.float32(1.0003))
    with LiveModel.open(bundle, warm_batches=(2,)) as model:
        assert "jax: its logits differ by up to" in decision(model).message
        model.wait(timeout=SECONDS)
        assert check_answer(model, alone).executor == "onnxruntime"


def test_logits_that_are_no_numbers_do_not_take_over(bundle, accelerator, monkeypatch):
    run = JaxExecutor.run
    monkeypatch.setattr(JaxExecutor, "run", lambda *given: run(*given) * np.float32(np.nan))
    with LiveModel.open(bundle) as model:
        assert "jax: its logits differ" in decision(model).message


def test_no_device_leaves_the_first_executor(bundle, alone, monkeypatch):
    def no_device(*_):
        raise RuntimeError("no device found")

    monkeypatch.setattr(JaxExecutor, "__init__", no_device)
    with LiveModel.open(bundle) as model:
        assert "jax: cannot start: no device found" in decision(model).message
        assert model.wait(timeout=SECONDS) == "TTT@exact"
        assert check_answer(model, alone).executor == "onnxruntime"
        assert model.progress.failures == 0


def test_a_program_that_does_not_compile_leaves_the_first_executor(
    bundle, alone, accelerator, monkeypatch
):
    def broken(*_):
        raise RuntimeError("the compiler gave up")

    monkeypatch.setattr(JaxExecutor, "_compile", broken)
    with LiveModel.open(bundle) as model:
        assert "jax: the compiler gave up" in decision(model).message
        assert model.wait(timeout=SECONDS) == "TTT@exact"
        assert check_answer(model, alone).executor == "onnxruntime"
        assert model.live_bytes == bytes_of_teacher()


def test_a_damaged_program_leaves_the_first_executor(bundle, alone, accelerator, tmp_path):
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["programs"]["student/0"]:
        if entry["format"] == "stablehlo":
            path = folder / entry["file"]
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    with LiveModel.open(folder, rung="SSS@4") as model:
        message = decision(model).message
        # The climb may have passed the student by then.
        if path.name in message:
            assert "jax: " in message
        assert model.wait(timeout=SECONDS) == "TTT@exact"
        check_answer(model, alone)


def test_what_both_take_must_fit_the_budget(bundle, alone, accelerator):
    tensors = tiny.all_tensors()
    with LiveModel.open(bundle, rung="SSS@4", climb=False) as model:
        student = model.live_bytes
    assert student < sum(tensor.nbytes for tensor in tensors.values())
    budget = 2 * student - 1
    with LiveModel.open(bundle, stop_at="SSS@4", memory_budget=budget) as model:
        message = decision(model).message
        assert f"jax: needs {2 * student} bytes of weights; memory_budget is {budget}" in message
        assert check_answer(model, alone).executor == "onnxruntime"
    with LiveModel.open(bundle, stop_at="SSS@4", memory_budget=budget + 1) as model:
        most, event = 0, None
        while event is None:
            most = max(most, model.live_bytes)
            event = next((event for event in model.events if event.kind == "executor"), None)
        assert "takes over" in event.message
        assert student < max(most, model.live_bytes) <= budget + 1


def test_programs_of_the_other_executor_count_in_the_byte_budget(bundle, accelerator):
    with LiveModel.open(bundle, executor="onnxruntime", stop_at="SSS@4") as model:
        model.wait(timeout=SECONDS)
        budget = model.progress.bytes_fetched
    with LiveModel.open(bundle, stop_at="SSS@4", byte_budget=budget) as model:
        assert f"byte_budget {budget}" in decision(model).message
        assert model.progress.bytes_fetched == budget


def test_nothing_moves_while_paused(bundle, accelerator, monkeypatch):
    monkeypatch.setattr(hand_over, "SETTLED_SECONDS", 0.3)
    with LiveModel.open(bundle, stop_at="SSS@4") as model:
        model.pause()
        fetched = model.progress.bytes_fetched
        time.sleep(0.8)
        assert model.progress.bytes_fetched == fetched
        assert model.progress.executor == "onnxruntime"
        model.resume()
        assert decision(model).executor == "jax"


def test_weights_come_from_the_cache_without_the_network(bundle, faster, monkeypatch):
    """Only the other executor's programs are fetched: no shard is."""
    with serve_folder(bundle) as url, LiveModel.open(url) as model:
        model.wait(timeout=SECONDS)
        assert decision(model).executor == "jax"
        progress = model.progress
        programs = [
            entry
            for entries in model.manifest.programs.values()
            for entry in entries
            if entry.format == "stablehlo"
        ]
        with LiveModel.open(bundle, executor="onnxruntime") as other:
            other.wait(timeout=SECONDS)
            more = progress.bytes_fetched - other.progress.bytes_fetched
    assert 0 < more <= sum({entry.file: entry.bytes for entry in programs}.values())
    assert progress.bytes_fetched == progress.bytes_total


def test_every_answer_is_that_of_the_rung_and_executor_it_names(bundle, alone, accelerator):
    answers, failures, stop = [], [], threading.Event()

    def call(model):
        try:
            while not stop.is_set():
                answers.append(model.predict(IMAGES))
        except Exception as error:
            failures.append(error)

    size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    with (
        serve_folder(bundle, bytes_per_second=size) as url,
        LiveModel.open(url, warm_batches=(2,)) as model,
    ):
        callers = [threading.Thread(target=call, args=(model,)) for _ in range(4)]
        for caller in callers:
            caller.start()
        decision(model)
        model.wait(timeout=SECONDS)
        stop.set()
        for caller in callers:
            caller.join()
    assert not failures
    assert {answer.executor for answer in answers} == {"onnxruntime", "jax"}
    for answer in answers:
        np.testing.assert_array_equal(answer.logits, alone[answer.rung, answer.executor])


def test_nothing_compiles_after_the_move(bundle, faster):
    compiled = []

    def count(event: str, seconds: float, **rest: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    with LiveModel.open(bundle, warm_batches=(1, 2)) as model:
        model.predict(np.concatenate([IMAGES] * 2))
        model.wait(timeout=SECONDS)
        assert decision(model).executor == "jax"
        jax.monitoring.register_event_duration_secs_listener(count)
        try:
            for size in (1, 2, 4):
                model.predict(np.concatenate([IMAGES] * 2)[:size])
        finally:
            jax.monitoring.unregister_event_duration_listener(count)
    assert not compiled


@pytest.mark.parametrize("missing", ["library", "programs"])
def test_jax_is_not_looked_at_where_it_cannot_be_used(bundle, tmp_path, monkeypatch, missing):
    folder = bundle
    if missing == "library":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    else:
        folder = tmp_path / "bundle"
        tiny.write_bundle(folder, ["onnx"])
    monkeypatch.setattr(JaxExecutor, "__init__", lambda *_: pytest.fail("JAX was started"))
    with LiveModel.open(folder) as model:
        assert model.wait(timeout=SECONDS) == "TTT@exact"
        assert not [thread for thread in threading.enumerate() if thread.name == "pwl-successor"]
        assert model.predict(IMAGES).executor == "onnxruntime"


def test_where_only_jax_can_answer_it_does(bundle, tmp_path):
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    entries = manifest["programs"]["teacher/1"]
    manifest["programs"]["teacher/1"] = [e for e in entries if e["format"] == "stablehlo"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with LiveModel.open(folder) as model:
        assert model.wait(timeout=SECONDS) == "TTT@exact"
        assert model.predict(IMAGES).executor == "jax"


def test_one_answer_does_not_import_jax(bundle, tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    code = (
        "import sys, numpy; from pwl_jax.runtime import LiveModel\n"
        f"with LiveModel.open({str(bundle)!r}, rung='TTT', climb=False) as model:\n"
        f"    print(model.predict(numpy.load({str(tmp_path / 'images.npy')!r})).executor)\n"
        "print('jax' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["onnxruntime", "False"]
    assert importlib.util.find_spec("jax")


def test_a_short_process_does_not_begin():
    hand_over.SETTLED_SECONDS = SECONDS
    successor = Successor("jax", lambda: pytest.fail("begun"))
    successor.start(lambda: None)
    successor.close()
    assert not successor.settled


def test_closing_waits_for_an_import_under_way(bundle):
    entered, release, left = threading.Event(), threading.Event(), []

    def create():
        entered.set()
        assert release.wait(SECONDS)
        left.append(True)
        return create_executor("jax")

    successor = Successor("jax", create)
    successor.start(lambda: None)
    assert entered.wait(SECONDS)
    threading.Timer(0.1, release.set).start()
    successor.close()
    assert left == [True]


class Timed:
    """A rung whose requests take a given time."""

    def __init__(self, seconds: float, accelerated: bool = False) -> None:
        self.seconds, self.executor = seconds, self
        self.accelerated = accelerated

    def logits(self, batch):
        time.sleep(self.seconds * len(batch))
        return batch.reshape(len(batch), -1)[:, :3]


def test_time_is_measured_at_every_batch_size():
    batches = probes((1, 2), (2, 2, 1))
    assert [batch.shape for batch in batches] == [(1, 2, 2, 1), (2, 2, 2, 1)]
    assert 1.5 < time_ratio(Timed(0.01), Timed(0.02), batches) < 2.5
    assert judged(Timed(0.02), Timed(0.01), batches).takes_over
    assert not judged(Timed(0.01), Timed(0.02), batches).takes_over
    assert judged(Timed(0.01), Timed(0.02, accelerated=True), batches).takes_over
