"""What a run may change where it resumes, and that a change which does not fit changes nothing."""

import pytest

from pwl_jax.training import loop
from pwl_jax.training.checkpoints import CheckpointError, resume_step
from pwl_jax.training.workdir import read_config
from tests import tiny_runs

pytestmark = pytest.mark.slow


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A workdir whose run stopped at step 3 of 8."""
    tiny_runs.stop_after(monkeypatch, 3)
    assert tiny_runs.train(tiny_runs.config("teacher"), tmp_path).steps == 3
    return tmp_path


def changed(run, where):
    return loop.train(run, where, progress=False, change_config=True)


def test_a_run_may_begin_to_clip_and_be_computed_in_another_way(stopped):
    run = tiny_runs.config(
        "teacher",
        optimizer={"learning_rate": 0.01, "clip_norm": 0.5},
        feeding="device",
        steps_per_dispatch=2,
        accumulate_steps=2,
        remat=True,
    )
    assert changed(run, stopped).finished
    assert read_config(stopped) == run
    assert read_config(stopped) != tiny_runs.config("teacher")
    assert (stopped / "config.until_step_3.json").exists()
    assert tiny_runs.trained_steps(stopped) == list(range(1, 9))


def test_a_change_that_the_checkpoint_does_not_fit_leaves_the_run_as_it_was(stopped):
    other = tiny_runs.config("teacher", optimizer={"name": "adamw", "learning_rate": 0.01})
    with pytest.raises(CheckpointError, match=r"step 3 to resume from is of another optimizer: '"):
        changed(other, stopped)
    assert read_config(stopped) == tiny_runs.config("teacher")
    assert not list(stopped.glob("config.until*"))
    assert resume_step(stopped) == 3
    assert tiny_runs.train(tiny_runs.config("teacher"), stopped).finished
