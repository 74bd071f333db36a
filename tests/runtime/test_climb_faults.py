"""Damaged shards under a running climb: it stays on the last good rung, retries, recovers."""

import contextlib
import gc
import json
import shutil
import threading
import time

import numpy as np
import pytest

from pwl_jax.errors import UserError
from pwl_jax.runtime import Backoff, InOrder, LiveModel, create_executor
from pwl_jax.serving import serve_folder
from tests import tiny_bundle as tiny

IMAGES = np.random.default_rng(3).normal(size=(2, *tiny.INPUT_SHAPE)).astype(np.float32)
SECONDS = 60
BACKOFF = Backoff(first=0.02, largest=0.1)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"more")


def change(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


DAMAGES = [cut, lengthen, change, empty, remove]


def file_of(folder, shard: str):
    manifest = json.loads((folder / "manifest.json").read_text())
    return folder / manifest["shards"][shard]["file"]


def program_of(folder, unit: str):
    manifest = json.loads((folder / "manifest.json").read_text())
    return folder / manifest["programs"][unit][0]["file"]


@pytest.fixture
def folder(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "bundle")


@pytest.fixture(scope="module")
def alone(bundle, executor):
    logits = {}
    for name in tiny.RUNGS:
        with LiveModel.open(bundle, executor=executor, rung=name, climb=False) as model:
            logits[name] = model.predict(IMAGES).logits
    assert len({values.tobytes() for values in logits.values()}) == len(tiny.RUNGS)
    return logits


@contextlib.contextmanager
def address(folder, how: str):
    if how == "folder":
        yield folder
    else:
        with serve_folder(folder) as url:
            yield url


def wait_for_failures(model, count: int) -> None:
    deadline = time.monotonic() + SECONDS
    while model.progress.failures < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("how", ["folder", "http"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_stays_on_the_last_good_rung_then_recovers(folder, alone, damage, how, executor):
    shard = file_of(folder, "teacher/1@4")
    good = shard.read_bytes()
    damage(shard)
    with (
        address(folder, how) as where,
        LiveModel.open(where, executor=executor, backoff=BACKOFF) as model,
    ):
        wait_for_failures(model, 3)
        assert model.rung == "TSS@4"
        progress = model.progress
        assert progress.state == "retrying" and progress.next_rung == "TTS@4"
        assert shard.name in progress.reason
        np.testing.assert_array_equal(model.predict(IMAGES).logits, alone["TSS@4"])
        failed = [event for event in model.events if event.kind == "failed"]
        assert failed[0].rung == "TTS@4" and shard.name in failed[0].message
        shard.write_bytes(good)
        assert model.wait(timeout=SECONDS) == "TTT@exact"
        assert model.progress.state == "resting" and model.progress.failures >= 3
        np.testing.assert_array_equal(model.predict(IMAGES).logits, alone["TTT@exact"])


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_update_leaves_the_base_answering(folder, alone, damage, executor):
    damage(file_of(folder, "teacher/0@exact"))
    with LiveModel.open(folder, executor=executor, backoff=BACKOFF) as model:
        wait_for_failures(model, 2)
        assert model.rung == "TTT@4"
        np.testing.assert_array_equal(model.predict(IMAGES).logits, alone["TTT@4"])


@pytest.mark.parametrize("damage", [cut, change, remove], ids=lambda damage: damage.__name__)
def test_damaged_program_is_not_run(folder, alone, damage, executor):
    damage(program_of(folder, "teacher/2"))
    with LiveModel.open(folder, executor=executor, backoff=BACKOFF) as model:
        wait_for_failures(model, 2)
        assert model.rung == "TTS@4"
        assert program_of(folder, "teacher/2").name in model.progress.reason


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_open_names_the_damaged_file_of_the_first_rung(folder, damage, executor):
    shard = file_of(folder, "student/0@4")
    damage(shard)
    threads = threading.active_count()
    with pytest.raises(UserError, match=shard.name):
        LiveModel.open(folder, executor=executor, backoff=BACKOFF)
    assert threading.active_count() == threads


def test_attempts_come_further_and_further_apart(folder, executor):
    remove(file_of(folder, "teacher/0@4"))
    with LiveModel.open(
        folder, executor=executor, backoff=Backoff(first=0.05, largest=0.2)
    ) as model:
        wait_for_failures(model, 5)
        seconds = [event.seconds for event in model.events if event.kind == "failed"]
    assert (np.diff(seconds)[:4] >= [0.05, 0.1, 0.2, 0.2]).all()
    assert [Backoff(1.0, 30.0).delay(n) for n in (1, 2, 3, 9, 2000)] == [1, 2, 4, 30, 30]


def test_close_and_demote_do_not_wait_for_a_long_backoff(folder, executor):
    remove(file_of(folder, "teacher/1@4"))
    with LiveModel.open(
        folder, executor=executor, backoff=Backoff(first=SECONDS, largest=SECONDS)
    ) as model:
        wait_for_failures(model, 1)
        began = time.monotonic()
        model.demote("SSS@4", timeout=SECONDS)
        assert model.rung == "SSS@4"
    assert time.monotonic() - began < SECONDS / 2


def test_hammered_while_climbing(bundle, alone, executor):
    """Many callers: no failure, and each answer is bitwise that of the rung it names, alone."""
    answers, failures = [], []
    stop = threading.Event()

    def call(model):
        try:
            while not stop.is_set():
                prediction = model.predict(IMAGES)
                answers.append((prediction.rung, prediction.logits))
        except Exception as error:
            failures.append(error)

    size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    with (
        serve_folder(bundle, bytes_per_second=size / 2) as url,
        LiveModel.open(url, executor=executor, warm_batches=(2,)) as model,
    ):
        callers = [threading.Thread(target=call, args=(model,)) for _ in range(6)]
        for caller in callers:
            caller.start()
        model.wait(timeout=SECONDS)
        model.demote("TSS@4", timeout=SECONDS)
        model.promote()
        model.wait("TTT@exact", timeout=SECONDS)
        stop.set()
        for caller in callers:
            caller.join()
    assert not failures
    assert len({name for name, _ in answers}) >= 5
    for name, logits in answers:
        np.testing.assert_array_equal(logits, alone[name])


def test_a_policy_that_fails_leaves_the_rung_answering(bundle, executor, alone):
    class Broken(InOrder):
        def next_rung(self, state):
            if state.current == 1:
                raise ZeroDivisionError("policy is broken")
            return super().next_rung(state)

    with LiveModel.open(bundle, executor=executor, policy=Broken()) as model:
        assert model.wait(timeout=SECONDS) == "TSS@4"
        assert "policy is broken" in model.progress.reason
        np.testing.assert_array_equal(model.predict(IMAGES).logits, alone["TSS@4"])


def test_replaced_weights_are_gone_without_the_garbage_collector(bundle):
    executor = create_executor("jax")
    gc.collect()
    gc.disable()
    try:
        with LiveModel.open(bundle, executor=executor) as model:
            model.wait(timeout=SECONDS)
            with LiveModel.open(bundle, executor=executor, climb=False) as teacher:
                assert model.live_bytes == teacher.live_bytes
    finally:
        gc.enable()


def test_a_request_in_pieces_stays_on_the_rung_it_began_with(bundle, alone, monkeypatch):
    executor = create_executor("jax")
    run, calls = executor.run, []

    with LiveModel.open(bundle, executor=executor, largest_batch=2) as model:
        model.wait(timeout=SECONDS)
        model.predict(IMAGES)

        def run_then_demote(steps, batch):
            logits = run(steps, batch)
            calls.append(len(batch))
            if len(calls) == 1:
                monkeypatch.setattr(executor, "run", run)
                model.demote("SSS@4", timeout=SECONDS)
                monkeypatch.setattr(executor, "run", run_then_demote)
            return logits

        monkeypatch.setattr(executor, "run", run_then_demote)
        prediction = model.predict(np.concatenate([IMAGES] * 3))
        assert model.rung == "SSS@4"
    assert calls == [2, 2, 2] and prediction.rung == "TTT@exact"
    np.testing.assert_array_equal(prediction.logits, np.concatenate([alone["TTT@exact"]] * 3))
