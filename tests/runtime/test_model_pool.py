import itertools
import shutil
import threading
import time

import numpy as np
import pytest

from pwl_jax.errors import UserError
from pwl_jax.ladder import Composition, Rung
from pwl_jax.runtime import ClimbState, LiveModel, ModelPool, NotReadyError, PoolError
from pwl_jax.runtime.policy import block_keys
from pwl_jax.runtime.share import Share
from tests import tiny_bundle as tiny

IMAGES = np.random.default_rng(1).normal(size=(2, *tiny.INPUT_SHAPE)).astype(np.float32)
FIRST, TOP = tiny.RUNGS[0], tiny.RUNGS[-1]
SECONDS = 30


def bytes_of(*compositions: str) -> int:
    tensors = tiny.all_tensors()
    units = {unit for text in compositions for unit in Composition.parse(text).units()}
    return sum(t.nbytes for unit in units for t in tiny.unit_tensors(unit, tensors).values())


LOW, HIGH = bytes_of("SSS"), bytes_of("SSS", "TTT")


def until(true, seconds=SECONDS):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.002)


def pool_of(bundle, executor, budget, names="abc", **options):
    pool = ModelPool(budget, executor=executor, **options)
    for name in names:
        pool.open(name, bundle)
    return pool


def ask(pool, name, times=1):
    for _ in range(times):
        prediction = pool.predict(name, IMAGES)
    return prediction


def test_a_model_climbs_when_it_is_asked_for(bundle, executor):
    with pool_of(bundle, executor, 100 * HIGH) as pool:
        assert pool.names == ("a", "b", "c")
        assert [ask_nothing.rung for ask_nothing in map(pool.model, pool.names)] == [FIRST] * 3
        assert ask(pool, "b").rung == FIRST
        until(lambda: pool.model("b").rung == TOP)
        assert ask(pool, "b").rung == TOP
        time.sleep(0.1)
        assert pool.model("a").rung == pool.model("c").rung == FIRST
        assert pool.live_bytes == sum(pool.model(name).live_bytes for name in "abc")


def test_the_most_wanted_holds_the_room_and_others_answer_low(bundle, executor):
    budget = 2 * LOW + HIGH
    with pool_of(bundle, executor, budget) as pool:
        ask(pool, "a", 5)
        until(lambda: pool.model("a").rung == TOP)
        for name in "bca":
            before = pool.model(name).rung
            # More than the demand for the one that holds the room, and then some.
            assert ask(pool, name, 90).rung is not None
            until(lambda name=name: pool.model(name).rung == TOP)
            assert before == FIRST
            assert [pool.model(other).rung for other in "abc" if other != name] == [FIRST] * 2
        assert pool.live_bytes <= budget


def test_as_many_requests_do_not_displace_a_model_in_demand(bundle, executor):
    with pool_of(bundle, executor, 2 * LOW + HIGH) as pool:
        ask(pool, "a", 20)
        until(lambda: pool.model("a").rung == TOP)
        ask(pool, "b", 22)
        time.sleep(0.2)
        assert pool.model("a").rung == TOP and pool.model("b").rung == FIRST


def test_with_a_short_half_life_a_few_requests_do(bundle, executor):
    with pool_of(bundle, executor, 2 * LOW + HIGH, half_life=4.0) as pool:
        ask(pool, "a", 500)
        until(lambda: pool.model("a").rung == TOP)
        ask(pool, "b", 24)
        until(lambda: pool.model("b").rung == TOP and pool.model("a").rung == FIRST)


def test_what_the_most_wanted_leaves_is_climbed_with_as_far_as_it_goes(bundle, executor):
    part = bytes_of("SSS", "TTS")
    assert part < HIGH
    with pool_of(bundle, executor, LOW + HIGH + part) as pool:
        ask(pool, "a", 20)
        until(lambda: pool.model("a").rung == TOP)
        ask(pool, "b", 10)
        until(lambda: pool.model("b").rung == "TTS@4")
        ask(pool, "b", 200)
        until(lambda: pool.model("b").rung == TOP)
        until(lambda: pool.model("a").rung == "TTS@4")


def test_the_budget_holds_at_every_moment(bundle, executor):
    """Every event of every model, and a thread that looks all the time."""
    budget = 2 * LOW + HIGH
    seen: list[int] = []
    done = threading.Event()
    with pool_of(bundle, executor, budget, half_life=4.0) as pool:

        def look():
            while not done.is_set():
                seen.append(pool.live_bytes)

        watching = threading.Thread(target=look)
        watching.start()
        for name in "abcabc":
            ask(pool, name, 30)
            until(lambda name=name: pool.model(name).rung == TOP)
        done.set()
        watching.join()
    assert max(seen) <= budget
    assert max(seen) > HIGH


def test_a_new_model_gets_the_room_of_one_that_climbed(bundle, executor):
    with pool_of(bundle, executor, LOW + HIGH, names="ab") as pool:
        ask(pool, "a", 9)
        until(lambda: pool.model("a").rung == TOP)
        pool.open("c", bundle)
        assert ask(pool, "c").rung == FIRST
        assert pool.live_bytes <= LOW + HIGH
        until(lambda: pool.model("a").rung == FIRST)


def test_answers_are_those_of_the_rung_they_name_under_many_threads(bundle, executor):
    with LiveModel.open(bundle, executor=executor) as model:
        model.wait(timeout=SECONDS)
        expected = {}
        for rung in reversed(tiny.RUNGS):
            model.demote(rung)
            expected[rung] = model.predict(IMAGES).logits.tobytes()
    wrong: list[object] = []
    with pool_of(bundle, executor, 2 * LOW + HIGH, half_life=8.0) as pool:

        def asking(seed):
            rng = np.random.default_rng(seed)
            favourite = "abc"[seed % 3]
            for _ in range(200):
                name = favourite if rng.random() < 0.7 else str(rng.choice(list("abc")))
                try:
                    found = pool.predict(name, IMAGES)
                except Exception as error:
                    wrong.append(error)
                else:
                    if found.logits.tobytes() != expected[found.rung]:
                        wrong.append(found)

        threads = [threading.Thread(target=asking, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_what_cannot_be_done_is_refused(bundle, executor, tmp_path):
    for budget in (0, -1):
        with pytest.raises(PoolError, match="positive"):
            ModelPool(budget)
    with pytest.raises(PoolError, match=r"at least 4, not 0\.5"):
        ModelPool(1, half_life=0.5)
    for option in ("policy", "memory_budget", "stop_at", "climb"):
        with pytest.raises(PoolError, match=f"'{option}' is not for a model of a pool"):
            ModelPool(1, **{option: 1})
    with pool_of(bundle, executor, 2 * LOW, names="ab") as pool:
        with pytest.raises(PoolError, match="a model 'a' already"):
            pool.open("a", bundle)
        with pytest.raises(PoolError, match=r"no model 'x'; it holds a, b"):
            pool.predict("x", IMAGES)
        with pytest.raises(PoolError, match=f"need {3 * LOW} bytes; the budget is {2 * LOW}"):
            pool.open("c", bundle)
        with pytest.raises(PoolError, match="'deadline' is not for"):
            pool.open("c", bundle, deadline=1.0)
        assert pool.names == ("a", "b")
    with pytest.raises(NotReadyError, match="closed"):
        pool.predict("a", IMAGES)
    with pytest.raises(PoolError, match="closed"):
        pool.open("c", bundle)
    pool.close()


def test_a_bundle_that_cannot_be_read_leaves_the_pool_as_it_was(bundle, executor, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    for shard in (broken / "shards").iterdir():
        shard.write_bytes(b"nothing")
    with pool_of(bundle, executor, 10 * HIGH, names="a") as pool:
        with pytest.raises(UserError, match="no rung answers: SSS@4"):
            pool.open("b", broken, attempts=2)
        with pytest.raises(UserError):
            pool.open("b", tmp_path / "nowhere")
        assert pool.names == ("a",)
        pool.open("b", bundle)
        assert ask(pool, "b").rung == FIRST


@pytest.mark.parametrize("rungs", [tiny.RUNGS, ("SSS@4", "SST@4", "TTT@4", "TTT@8", "TTT@exact")])
def test_a_share_is_never_exceeded_and_reaches_what_it_can(rungs):
    rungs = [Rung.parse(name) for name in rungs]
    rng = np.random.default_rng(3)
    keys = sorted({key for rung in rungs for key in block_keys(rung)}, key=str)
    sizes = {key: int(rng.integers(1, 100)) for key in keys}

    def held(*indices):
        return sum(sizes[key] for key in set().union(*(block_keys(rungs[i]) for i in indices)))

    everything = sum(sizes.values())
    for limit in range(0, everything + 10, 7):
        share = Share()
        share.bytes, path = limit, [-1]
        while (step := share.next_rung(ClimbState(rungs, path[-1], sizes)).rung) is not None:
            path.append(step)
        climbed = path[1:]
        reachable = [i for i in range(len(rungs)) if held(0, i) <= limit]
        assert climbed[-1:] == reachable[-1:]
        assert all(held(*pair) <= limit for pair in itertools.pairwise(climbed))
        assert all(held(0, rung) <= limit for rung in climbed)
        assert share.within(limit) == (held(0, climbed[-1]) if climbed else share.first)
    assert climbed == list(range(len(rungs)))


def test_a_larger_share_may_ask_to_begin_again_from_the_first_rung():
    """Beside the teacher in 4 bits, which takes as much memory, the exact one does not fit."""
    rungs = [Rung.parse(name) for name in ("SSS@4", "TTT@4", "TTT@exact")]
    keys = {key for rung in rungs for key in block_keys(rung)}
    sizes = {key: 20 if key[0].kind == "teacher" else 10 for key in keys}
    share = Share()
    share.bytes = 90
    assert share.next_rung(ClimbState(rungs, 0, sizes)).rung == 2
    assert share.leads_up(90)
    assert share.next_rung(ClimbState(rungs, 1, sizes)).rung is None
    assert not share.leads_up(90)
    share.bytes = 120
    assert share.next_rung(ClimbState(rungs, 0, sizes)).rung == 1
    assert share.next_rung(ClimbState(rungs, 1, sizes)).rung == 2


def test_models_share_one_executor(bundle):
    with ModelPool(10 * HIGH, executor="jax") as pool:
        one, other = pool.open("a", bundle), pool.open("b", bundle)
        assert one.executor is other.executor
        assert one.executor.name == "jax"
    with (
        ModelPool(10 * HIGH, executor="abacus") as pool,
        pytest.raises(UserError, match="unknown executor 'abacus'"),
    ):
        pool.open("a", bundle)
