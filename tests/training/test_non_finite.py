"""A step that is not finite changes nothing, stops the run, and leaves all that explains it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from pwl_jax.data import pipeline
from pwl_jax.training import loop, non_finite, preparation
from pwl_jax.training.checkpoints import CheckpointError, resume_step
from pwl_jax.training.finite import all_finite, select
from pwl_jax.training.loop import TrainingError
from pwl_jax.training.optimizer import OptimizerConfig
from pwl_jax.training.step import (
    AXIS,
    device_mesh,
    mapped_step,
    mapped_steps,
    replicate,
    shard_batch,
)
from tests import tiny_runs

pytestmark = pytest.mark.slow
RATE = {"learning_rate": 0.02, "schedule": "constant"}
FAR_TOO_HIGH = {**RATE, "learning_rate": 1e9}


FEEDING = {"grain": {}, "device": {"feeding": "device", "steps_per_dispatch": 4}}


@pytest.fixture(scope="module", params=[pytest.param("grain", marks=pytest.mark.long), "device"])
def blown_up(request, tmp_path_factory):
    """A workdir that stopped at step 4, went on far too fast, that config, and what ended it."""
    where = tmp_path_factory.mktemp("blown_up")
    fields = {"checkpoint_every_steps": 4, **FEEDING[request.param]}
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny_runs.stop_after(monkeypatch, 1 if request.param == "device" else 4)
        assert (
            tiny_runs.train(tiny_runs.config("teacher", optimizer=RATE, **fields), where).steps == 4
        )
    fast = tiny_runs.config("teacher", optimizer=FAR_TOO_HIGH, **fields)
    with pytest.raises(TrainingError) as caught:
        loop.train(fast, where, progress=False, change_config=True)
    return where, fast, str(caught.value)


def scene_of(where):
    (folder,) = (where / "non_finite").iterdir()
    return folder, json.loads((folder / "report.json").read_text())


def test_it_is_one_line_that_names_step_term_place_and_remedy(blown_up):
    where, _, message = blown_up
    folder, report = scene_of(where)
    step = report["step"]
    assert folder.name == f"step_{step}" and step > 5
    assert message.startswith(f"step {step} is not finite (")
    for name, value in report["not_finite"].items():
        assert f"{name} is {value}" in message
    assert f"'{folder}'" in message and "\n" not in message
    assert message.endswith("with --change_config the run goes on from the checkpoint of step 4")
    # No step that was not finite is among the metrics.
    assert tiny_runs.trained_steps(where) == list(range(1, step))


def test_the_scene_holds_the_batch_that_the_step_read(blown_up):
    where, run, _ = blown_up
    folder, report = scene_of(where)
    training = preparation.prepare(run).training
    taken = pipeline.train_iterator(training, run.batch_size, run.seed)
    batches = [next(taken) for _ in range(report["step"])]
    with np.load(folder / "batch.npz") as saved:
        assert set(saved) == {"image", "label", "index"}
        for name, array in batches[-1].items():
            assert saved[name].dtype == array.dtype
            np.testing.assert_array_equal(saved[name], array)
    assert report["indices"] == batches[-1]["index"].tolist()
    assert report["labels"] == batches[-1]["label"].tolist()


def test_the_scene_holds_the_last_finite_state(blown_up):
    where, run, _ = blown_up
    folder, report = scene_of(where)
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(folder / "state")
    assert int(state["step"]) == report["state"]["step"] == report["step"] - 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    # Loaded again, its next step on that batch is the one that was not finite, and is refused.
    prepared = preparation.prepare(run)
    like = jax.eval_shape(prepared.task.program.init, prepared.task.abstract)
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(folder / "state", non_finite.state_tree(like))
    state = replicate(type(like)(**state, finite=jnp.ones((), bool)), prepared.mesh)
    before = jax.device_get(state)
    with np.load(folder / "batch.npz") as saved:
        batch = shard_batch(dict(saved), prepared.mesh, replicated_input=True)
    after, metrics = mapped_step(prepared.task.program, prepared.mesh)(state, batch, {})
    assert not metrics.pop("finite") and not after.finite
    if run.feeding == "grain":  # In a dispatch of several steps XLA may round otherwise.
        bad = [name for name, value in metrics.items() if not np.isfinite(value)]
        assert bad == list(report["not_finite"])
    for a, b in zip(
        jax.tree.leaves(non_finite.state_tree(before)),
        jax.tree.leaves(non_finite.state_tree(after)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_with_a_lower_rate_it_goes_on_from_the_last_checkpoint(blown_up, tmp_path):
    where, fast, _ = blown_up
    run = dataclasses.replace(fast, optimizer=OptimizerConfig(**RATE))
    assert resume_step(where) == 4
    with pytest.raises(CheckpointError, match=r"another config \(optimizer.learning_rate: 0.02, "):
        tiny_runs.train(run, where)
    assert tiny_runs.train(run, tmp_path).finished
    assert loop.train(run, where, progress=False, change_config=True).finished
    tiny_runs.assert_same_bits(tmp_path, where)
    assert tiny_runs.metric_lines(where) == tiny_runs.metric_lines(tmp_path)
    # The config of the steps that stayed is not forgotten.
    first = json.loads((where / "config.until_step_4.json").read_text())
    assert first["optimizer"]["learning_rate"] == RATE["learning_rate"]
    with pytest.raises(CheckpointError, match=r"seed: 1, there 0\), which no run changes"):
        other = dataclasses.replace(run, seed=1)
        loop.train(other, where, progress=False, change_config=True)


def metrics_and_states(feeding, factor):
    """Four steps of which only the third reads an image multiplied by `factor`.

    Returns the metrics of each step, and the states after 0, 1, .. steps, or the last alone where
    one dispatch does them all.
    """
    run = tiny_runs.config("teacher")
    prepared = preparation.prepare(run)
    mesh, source = prepared.mesh, prepared.training
    order = [pipeline.batch_of_step(source, run.batch_size, run.seed, n) for n in (1, 2, 3, 4)]
    # Of one epoch, so that no other step of it reads the image.
    victim = int(order[2]["index"][7])
    augment = prepared.task.program.augment

    def damaged(rng, images, index):
        hit = (index == victim)[:, None, None, None]
        return jnp.where(
            hit, factor * (1 + augment(rng, images, index)), augment(rng, images, index)
        )

    program = dataclasses.replace(prepared.task.program, augment=damaged)
    state = replicate(program.init(prepared.task.init()), mesh)
    if feeding == "device":
        places = np.stack([np.searchsorted(source.source.indices, b["index"]) for b in order])
        examples = replicate(source.batch(np.arange(len(source))), mesh)
        state, rows = mapped_steps(program, mesh)(
            state, examples, places.astype(np.int32), np.int32(4), {}
        )
        rows = jax.device_get(rows)
        return [{n: row[i] for n, row in rows.items()} for i in range(4)], [jax.device_get(state)]
    step, states, metrics = mapped_step(program, mesh), [jax.device_get(state)], []
    for batch in order:
        placed = shard_batch(batch, mesh, replicated_input=True)
        state, values = jax.block_until_ready(step(state, placed, {}))
        states.append(jax.device_get(state))
        metrics.append(jax.device_get(values))
    return metrics, states


def assert_same_state(a, b):
    for x, y in zip(
        jax.tree.leaves(non_finite.state_tree(a)),
        jax.tree.leaves(non_finite.state_tree(b)),
        strict=True,
    ):
        assert x.tobytes() == y.tobytes()


def test_one_image_that_is_not_finite_ends_all_that_follows():
    metrics, states = metrics_and_states("grain", np.nan)
    # The fourth batch is sound, and so is the state it reads.
    assert [bool(values["finite"]) for values in metrics] == [True, True, False, True]
    assert np.isnan(metrics[2]["hard"])
    assert [int(state.step) for state in states] == [0, 1, 2, 2, 2]
    assert [bool(state.finite) for state in states] == [True, True, True, False, False]
    for state in states[3:]:
        assert_same_state(state, states[2])


def test_in_a_dispatch_of_several_steps_too():
    metrics, (state,) = metrics_and_states("device", np.nan)
    assert [bool(values["finite"]) for values in metrics] == [True, True, False, True]
    assert int(state.step) == 2 and not state.finite
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(non_finite.state_tree(state)))


def test_statistics_that_overflow_are_seen_although_the_loss_is_finite():
    metrics, states = metrics_and_states("grain", 1e20)
    bad = metrics[2]
    assert not bad.pop("finite")
    assert all(np.isfinite(value) for value in bad.values()), bad
    assert_same_state(states[3], states[2])


def test_a_rate_that_overflows_at_once_saves_nothing_to_resume_from(tmp_path):
    run = tiny_runs.config("teacher", optimizer={**RATE, "learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"^step 1 is not .*update_norm is inf.*from the start"):
        tiny_runs.train(run, tmp_path)
    with pytest.raises(CheckpointError, match="has no last checkpoint yet"):
        tiny_runs.leaves(tmp_path)
    assert resume_step(tmp_path) is None


@pytest.mark.parametrize("devices", [1, 8])
def test_one_device_that_is_not_finite_is_enough_for_all(devices):
    mesh = device_mesh(jax.devices()[:devices])
    spec = jax.sharding.PartitionSpec(AXIS)
    agreed = jax.jit(
        jax.shard_map(
            lambda x: all_finite({"x": x}, AXIS)[None], mesh=mesh, in_specs=spec, out_specs=spec
        )
    )
    for value, finite in ((1.0, True), (np.nan, False), (np.inf, False), (-np.inf, False)):
        numbers = np.zeros(devices, np.float32)
        numbers[-1] = value
        assert agreed(numbers).tolist() == [finite] * devices


def test_what_both_sides_share_is_not_computed():
    shared, a, b = jnp.ones(3), jnp.zeros(3), jnp.full(3, 2.0)
    chosen = select(jnp.array(False), {"x": shared, "y": a}, {"x": shared, "y": b})
    assert chosen["x"] is shared
    np.testing.assert_array_equal(chosen["y"], b)


def test_the_terms_that_are_not_finite_are_named():
    error = non_finite.NotFiniteError(3, {"hard": float("nan"), "loss": float("inf"), "sync": 1.0})
    assert str(error) == "step 3 is not finite (hard is nan, loss is inf)"
    error = non_finite.NotFiniteError(3, {"loss": 1.0})
    assert str(error) == "step 3 is not finite (batch statistics are not)"
