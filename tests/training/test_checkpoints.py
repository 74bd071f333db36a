"""Results on disk are restored leaf by leaf or not at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pwl_jax.training.checkpoints import CheckpointError, Checkpoints, read_json, restore_variables

TREE = {
    "teacher": {"params": {"head": {"kernel": jnp.ones((2, 3)), "bias": jnp.arange(3.0)}}},
    "student": {"params": {}},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved")
    with Checkpoints(path) as checkpoints:
        checkpoints.save_result("last", 7, TREE)
    return path


def like(**head):
    tree = jax.eval_shape(lambda: TREE)
    leaves = {**tree["teacher"]["params"]["head"], **head}
    leaves = {name: leaf for name, leaf in leaves.items() if leaf is not None}
    return {"teacher": {"params": {"head": leaves}}, "student": {"params": {}}}


def test_what_was_saved_comes_back(saved):
    for which in ("last", "best"):
        step, variables = restore_variables(saved, like(), which)
        assert step == 7
        assert jax.tree.structure(variables) == jax.tree.structure(TREE)
        for a, b in zip(jax.tree.leaves(variables), jax.tree.leaves(TREE), strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": None}, r"head/bias' is float32\[3\] there; expected no such leaf"),
        (
            {"scale": jax.ShapeDtypeStruct((3,), jnp.float32)},
            r"head/scale' is missing there; expected float32\[3\]",
        ),
        (
            {"kernel": jax.ShapeDtypeStruct((2, 4), jnp.float32)},
            r"head/kernel' is float32\[2, 3\] there; expected float32\[2, 4\]",
        ),
        (
            {"bias": jax.ShapeDtypeStruct((3,), jnp.bfloat16)},
            r"head/bias' is float32\[3\] there; expected bfloat16\[3\]",
        ),
    ],
)
def test_a_leaf_that_does_not_fit_is_named(saved, changes, message):
    with pytest.raises(CheckpointError, match=message):
        restore_variables(saved, like(**changes))


def test_what_is_not_there_is_said(saved, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoints in"):
        restore_variables(tmp_path, like())
    Checkpoints(tmp_path).__exit__()
    with pytest.raises(CheckpointError, match="has no best checkpoint yet"):
        restore_variables(tmp_path, like())


def test_a_damaged_checkpoint_is_one_clear_error(saved, tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_result("last", 1, TREE)
    folder = tmp_path / "checkpoints" / "last" / "1"
    for file in folder.rglob("*"):
        if file.is_file() and file.name != "_CHECKPOINT_METADATA":
            file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(CheckpointError, match="cannot be read"):
        restore_variables(tmp_path, like())


@pytest.mark.parametrize("content", [None, "{", ""])
def test_a_config_that_is_no_json_is_named(tmp_path, content):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_json(path, "run's config")


def test_a_result_replaces_those_of_steps_that_are_to_come_again(tmp_path):
    first, second = TREE, jax.tree.map(lambda leaf: leaf + 1, TREE)
    # At the same step, and at an earlier one: a run went back, and on with another config.
    for step in (7, 4):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save_result("best", 7, first)
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save_result("best", step, second)
        found, variables = restore_variables(tmp_path, like(), "best")
        assert found == step
        for a, b in zip(jax.tree.leaves(variables), jax.tree.leaves(second), strict=True):
            np.testing.assert_array_equal(a, b)
