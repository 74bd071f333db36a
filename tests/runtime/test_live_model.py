import threading
import time

import jax
import numpy as np
import pytest
from PIL import Image

from pwl_jax.bundle import BundleReader
from pwl_jax.errors import UserError
from pwl_jax.ladder import Composition, Rung
from pwl_jax.runtime import Decision, LiveModel, LiveModelError, NotReadyError, create_executor
from pwl_jax.serving import serve_folder
from tests import tiny_bundle as tiny

IMAGES = np.random.default_rng(1).normal(size=(4, *tiny.INPUT_SHAPE)).astype(np.float32)
SECONDS = 60


def bytes_of(*compositions: str) -> int:
    """Bytes of all the weights that any of the compositions reads."""
    tensors = tiny.all_tensors()
    units = {unit for text in compositions for unit in Composition.parse(text).units()}
    return sum(t.nbytes for unit in units for t in tiny.unit_tensors(unit, tensors).values())


def logits_alone(executor, bundle, rung: str, images=IMAGES) -> np.ndarray:
    with LiveModel.open(bundle, executor=executor, rung=rung, climb=False) as model:
        prediction = model.predict(images)
    assert prediction.rung == rung
    return prediction.logits


def test_climbs_to_the_teacher_and_says_so(bundle, executor):
    with LiveModel.open(bundle, executor=executor) as model:
        first = model.predict(IMAGES)
        assert model.wait(timeout=SECONDS) == tiny.RUNGS[-1]
        last = model.predict(IMAGES)
        progress = model.progress
    assert first.executor == last.executor == "jax"
    assert last.rung == "TTT@exact"
    expected = tiny.reference_logits(tiny.all_tensors(), "TTT", IMAGES)
    # float32 against float64 over a handful of small matrix products.
    np.testing.assert_allclose(last.logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert last.labels == tuple(tiny.CLASS_NAMES[i] for i in np.argmax(expected, axis=-1))
    np.testing.assert_allclose(last.probabilities.sum(axis=-1), 1, rtol=1e-5)
    assert progress.state == "resting" and progress.reason == "top of the ladder"
    assert progress.rungs == tiny.RUNGS and progress.rung_index == len(tiny.RUNGS) - 1
    assert progress.failures == 0
    rungs = [event.rung for event in model.events if event.kind == "rung"]
    assert rungs == list(tiny.RUNGS)


def test_bytes_fetched_end_at_bytes_total(bundle, executor):
    with LiveModel.open(bundle, executor=executor) as model:
        model.wait(timeout=SECONDS)
        progress = model.progress
    assert progress.bytes_fetched == progress.bytes_total
    sizes = [event.bytes_fetched for event in model.events if event.kind == "rung"]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("composition", [str(c) for c in Composition.all(tiny.BLOCKS)])
def test_any_composition_can_be_loaded_alone(bundle, composition, executor):
    """Suffixes and mixed ones too, each student block with the statistics of its stream."""
    logits = logits_alone(executor, bundle, f"{composition}@exact")
    expected = tiny.reference_logits(tiny.all_tensors(), composition, IMAGES)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_single_rung_fetches_only_its_own_shards(bundle, executor):
    with (
        LiveModel.open(bundle, executor=executor) as whole,
        LiveModel.open(bundle, executor=executor, rung="SSS@4", climb=False) as one,
    ):
        whole.wait(timeout=SECONDS)
        assert one.wait() == "SSS@4"
        assert one.progress.bytes_fetched == one.progress.bytes_total
        assert one.progress.bytes_total < whole.progress.bytes_total


def test_bare_composition_and_no_name_mean_the_most_exact(bundle, executor):
    with LiveModel.open(bundle, executor=executor, rung="TTT", climb=False) as model:
        assert model.rung == "TTT@exact"
    with LiveModel.open(bundle, executor=executor, climb=False) as model:
        assert model.rungs == ("TTT@exact",)
    with LiveModel.open(bundle, executor=executor, rung="TSS", climb=False) as model:
        assert model.rung == "TSS@4"


def test_begins_at_a_rung_and_climbs_on(bundle, executor):
    with LiveModel.open(bundle, executor=executor, rung="TTS@4") as model:
        assert model.rungs == tiny.RUNGS[2:]
        assert model.wait(timeout=SECONDS) == "TTT@exact"


def test_stops_where_told(bundle, executor):
    with LiveModel.open(bundle, executor=executor, stop_at="TTS@4") as model:
        assert model.wait(timeout=SECONDS) == "TTS@4"
        assert model.progress.reason == "told to stop at TTS@4"
        with pytest.raises(LiveModelError, match="TTT@4 not reached: resting at TTS@4"):
            model.wait("TTT@4", timeout=SECONDS)


def test_memory_budget_stops_the_climb_and_says_so(bundle, executor):
    fits = bytes_of("SSS", "TSS")
    with LiveModel.open(bundle, executor=executor, memory_budget=fits) as model:
        most = 0
        while model.progress.state != "resting":
            most = max(most, model.live_bytes)
            time.sleep(0.001)
        assert model.rung == "TSS@4"
        assert model.progress.reason.startswith("TTS@4 needs")
        assert f"memory_budget is {fits}" in model.progress.reason
        assert max(most, model.live_bytes) <= fits
        np.testing.assert_array_equal(
            model.predict(IMAGES).logits, logits_alone(executor, bundle, "TSS@4")
        )
    with pytest.raises(LiveModelError, match=r"no rung answers: .*memory_budget is 10"):
        LiveModel.open(bundle, executor=executor, memory_budget=10)


def test_byte_budget_is_never_exceeded(bundle, executor):
    with LiveModel.open(bundle, executor=executor) as model:
        model.wait("TTS@4", timeout=SECONDS)
        ladder = model.ladder
    budget = ladder[2].cumulative_bytes - 1
    with LiveModel.open(bundle, executor=executor, byte_budget=budget) as model:
        assert model.wait(timeout=SECONDS) == "TSS@4"
        assert model.progress.bytes_fetched == ladder[1].cumulative_bytes
        assert f"of byte_budget {budget} are fetched" in model.progress.reason


def test_quality_floor_is_where_answers_begin(bundle, executor):
    with LiveModel.open(bundle, executor=executor, quality_floor=0.6, block=False) as model:
        model.wait(timeout=SECONDS)
        answered = [event.rung for event in model.events if event.kind == "rung"]
        assert model.rungs[0] == answered[0] == "TTS@4"
        assert model.rungs[-1] == answered[-1] == "TTT@exact"


def test_nothing_is_fetched_after_the_deadline(bundle, executor):
    with LiveModel.open(bundle, executor=executor, deadline=1e-9) as model:
        assert model.wait(timeout=SECONDS) == "SSS@4"
        assert model.progress.bytes_fetched == model.ladder[0].cumulative_bytes
        assert "the deadline is 1e-09 s" in model.progress.reason


@pytest.mark.parametrize(
    ("order", "climbed"),
    [
        ("exported", tiny.RUNGS),
        ("depth", tiny.RUNGS),
        ("precision", ("SSS@4", "SSS@exact", "TSS@exact", "TTS@exact", "TTT@exact")),
        ("greedy", None),
    ],
)
def test_orders_end_at_the_same_teacher(bundle, executor, order, climbed):
    with LiveModel.open(bundle, executor=executor, order=order) as model:
        assert model.wait(timeout=SECONDS) == "TTT@exact"
        answered = tuple(event.rung for event in model.events if event.kind == "rung")
        assert answered == model.rungs and climbed in (None, answered)
        assert model.progress.bytes_fetched == model.progress.bytes_total
        np.testing.assert_array_equal(
            model.predict(IMAGES).logits, logits_alone(executor, bundle, "TTT@exact")
        )


def test_blocks_that_no_later_rung_reads_are_freed(bundle, executor):
    with LiveModel.open(bundle, executor=executor) as model:
        model.wait(timeout=SECONDS)
        assert model.live_bytes == bytes_of("TTT")
        assert model.live_bytes < bytes_of("TTT", "SSS")
    assert model.live_bytes == 0


def test_demote_frees_and_promote_climbs_again(bundle, executor):
    with LiveModel.open(bundle, executor=executor) as model:
        model.wait(timeout=SECONDS)
        last = model.predict(IMAGES).logits
        model.demote("TSS@4", timeout=SECONDS)
        assert model.rung == "TSS@4"
        assert model.live_bytes == bytes_of("TSS")
        np.testing.assert_array_equal(
            model.predict(IMAGES).logits, logits_alone(executor, bundle, "TSS@4")
        )
        model.wait(timeout=SECONDS)
        assert model.progress.reason == "demoted to TSS@4"
        with pytest.raises(LiveModelError, match="cannot demote to TTT@4"):
            model.demote("TTT@4")
        model.promote()
        assert model.wait("TTT@exact", timeout=SECONDS) == "TTT@exact"
        np.testing.assert_array_equal(model.predict(IMAGES).logits, last)


def test_demote_and_promote_over_http_need_no_network(bundle, executor):
    with serve_folder(bundle) as url:
        model = LiveModel.open(url, executor=executor)
        model.wait(timeout=SECONDS)
    with model:
        model.demote("SSS@4", timeout=SECONDS)
        model.promote()
        assert model.wait("TTT@exact", timeout=SECONDS) == "TTT@exact"


def test_pause_and_resume(bundle, executor):
    with LiveModel.open(bundle, executor=executor, block=False) as model:
        model.pause()
        time.sleep(0.1)
        before = model.progress
        time.sleep(0.2)
        after = model.progress
        assert after.state == "paused"
        assert (after.rung, after.bytes_fetched) == (before.rung, before.bytes_fetched)
        model.resume()
        assert model.wait(timeout=SECONDS) == "TTT@exact"


def test_no_compile_over_rungs_after_warm_up(bundle):
    compiled = []

    def count(event: str, seconds: float, **rest: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    with LiveModel.open(bundle, executor="jax", warm_batches=(1, 4)) as model:
        model.wait(timeout=SECONDS)
        jax.monitoring.register_event_duration_secs_listener(count)
        try:
            for rung in reversed(tiny.RUNGS):
                model.demote(rung, timeout=SECONDS)
                assert model.predict(IMAGES).rung == rung
                assert model.predict(IMAGES[:1]).rung == rung
            model.promote()
            model.wait("TTT@exact", timeout=SECONDS)
            model.predict(IMAGES[:3])
        finally:
            jax.monitoring.unregister_event_duration_listener(count)
        assert not compiled
        # Each program that a rung of the ladder runs, for both batch sizes, once.
        compositions = {Rung.parse(name).composition for name in tiny.RUNGS}
        programs = {tiny.program(unit) for made in compositions for unit in made.units()}
        assert model.executor.compiles == 2 * len(programs)


def test_sizes_seen_are_compiled_before_the_swap(bundle):
    with LiveModel.open(bundle, executor="jax", rung="SSS@4", climb=True) as model:
        model.predict(IMAGES[:2])
        model.wait(timeout=SECONDS)
        compiles = model.executor.compiles
        model.predict(IMAGES[:2])
        assert model.executor.compiles == compiles


def test_large_requests_are_cut_and_small_ones_padded(bundle, executor):
    many = np.concatenate([IMAGES] * 3)[:11]
    with LiveModel.open(
        bundle, executor=executor, rung="TTS@4", climb=False, largest_batch=4
    ) as model:
        pieces = model.predict(many).logits
        four = model.predict(IMAGES).logits
        np.testing.assert_array_equal(pieces[:4], four)
        np.testing.assert_array_equal(model.predict(IMAGES[:3]).logits, four[:3])
    assert pieces.shape == (11, tiny.CLASSES)


def test_uint8_and_images_are_prepared_as_the_manifest_says(bundle, tmp_path, executor):
    pixels = np.random.default_rng(2).integers(0, 256, (2, *tiny.INPUT_SHAPE), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(tmp_path / "image.png")
    normalised = (pixels.astype(np.float32) / 255 - tiny.MEAN) / tiny.STD
    with LiveModel.open(bundle, executor=executor, climb=False) as model:
        expected = model.predict(normalised.astype(np.float32)).logits
        np.testing.assert_allclose(model.predict(pixels).logits, expected, rtol=0, atol=1e-5)
        one = model.predict(pixels[:1]).logits
        np.testing.assert_array_equal(model.predict(pixels[0]).logits, one)
        np.testing.assert_array_equal(model.predict(tmp_path / "image.png").logits, one)
        np.testing.assert_array_equal(model.predict(Image.fromarray(pixels[0])).logits, one)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 9, 9, 3), np.float32),
        np.zeros((1, 8, 8, 3), np.float64),
        "no/such/file.png",
        np.zeros((0, 8, 8, 3), np.float32),
    ],
)
def test_wrong_inputs_are_refused(bundle, wrong, executor):
    with (
        LiveModel.open(bundle, executor=executor, climb=False, rung="SSS@4") as model,
        pytest.raises(UserError),
    ):
        model.predict(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rung": "TT@4"}, "has 2 blocks; this bundle's network has 3"),
        ({"rung": "TSS@5"}, "needs teacher/0 at 5; this bundle holds 4, exact of it"),
        ({"rung": "XYZ@4"}, "'XYZ' is no composition"),
        ({"stop_at": "STS@4"}, "no rung 'STS@4' to climb to; the plan is SSS@4, TSS@4"),
        ({"executor": "fpga"}, "unknown executor 'fpga'"),
        ({"memory_budget": -1}, "memory_budget must be a positive number, not -1"),
        ({"byte_budget": 0}, "byte_budget must be a positive number, not 0"),
        ({"deadline": float("nan")}, "deadline must be a positive number, not nan"),
        ({"order": "best"}, "unknown order 'best'; expected exported, depth, precision, greedy"),
        ({"quality_floor": 0.99}, "no rung reaches quality_floor 0.99; the best was measured at 0"),
        (
            {"rung": "TSS@4", "climb": False, "quality_floor": 0.6},
            "no rung reaches quality_floor 0.6; the best was measured at 0.5500",
        ),
        ({"byte_budget": 2000}, "no rung answers: .* of byte_budget 2000 are fetched"),
        ({"largest_batch": 0}, "batch sizes must be at least 1"),
    ],
)
def test_wrong_options_are_refused(bundle, options, message):
    with pytest.raises(UserError, match=message):
        LiveModel.open(bundle, **options)


def test_close_refuses_requests_and_ends_the_thread(bundle, executor):
    model = LiveModel.open(bundle, executor=executor)
    model.close()
    model.close()
    with pytest.raises(NotReadyError, match="closed"):
        model.predict(IMAGES)
    with pytest.raises(LiveModelError):
        model.wait()
    assert model.progress.state == "closed"
    assert not [t for t in threading.enumerate() if t.name == "pwl-climber" and t.is_alive()]


def test_a_failing_listener_does_not_stop_the_climb(bundle, caplog, executor):
    def listener(event):
        raise ValueError("listener is broken")

    with LiveModel.open(bundle, executor=executor, on_event=listener) as model:
        assert model.wait(timeout=SECONDS) == "TTT@exact"
    assert "listener is broken" in caplog.text


def test_reader_can_be_given(bundle):
    with LiveModel(BundleReader.open(bundle)) as model:
        assert model.wait("SSS@4", timeout=SECONDS) in tiny.RUNGS


def test_demote_in_the_middle_of_a_climb_frees_what_was_loaded_for_it(bundle):
    """The second block of the teacher does not come until the model was told to go back down."""
    inner, gate, waiting = create_executor("jax"), threading.Event(), threading.Event()

    class Gated:
        def __getattr__(self, name):
            return getattr(inner, name)

        def load(self, program, *arguments, **options):
            if str(program.unit) == "teacher/1":
                waiting.set()
                gate.wait(SECONDS)
            return inner.load(program, *arguments, **options)

    class Jump:
        def next_rung(self, state):
            top = len(state.rungs) - 1
            return Decision(None if state.current == top else 0 if state.current < 0 else top)

    rungs = [tiny.RUNGS[0], tiny.RUNGS[-1]]
    with LiveModel.open(bundle, executor=Gated(), policy=Jump()) as model:
        assert waiting.wait(SECONDS)
        assert model.live_bytes > bytes_of("SSS")
        model.demote(rungs[0])
        gate.set()
        model.wait(timeout=SECONDS)
        deadline = time.monotonic() + SECONDS
        while model.live_bytes > bytes_of("SSS") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (model.rung, model.live_bytes) == ("SSS@4", bytes_of("SSS"))
        model.promote()
        assert model.wait(rungs[1], SECONDS) == "TTT@exact"
