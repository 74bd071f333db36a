"""Climbing stays within its budget, as the operating system counts."""

import pytest

from experiments.benchmarks.drawn_bundle import write_drawn_bundle
from experiments.benchmarks.memory_rows import SLACK, executor_rows
from pwl_jax.ladder import EXACT
from pwl_jax.models import registry
from pwl_jax.models.registry import PairSpec
from pwl_jax.models.vit import ViTSpec

_IMAGE = {"input_shape": (32, 32, 3), "classes": 10, "patch": 8}
SMALL = PairSpec(
    name="small",
    teacher=ViTSpec(**_IMAGE, hidden=384, heads=6, mlp=1536, layers=6, layers_per_block=1),
    student=ViTSpec(**_IMAGE, hidden=48, heads=3, mlp=192, layers=6, layers_per_block=1),
)


def check(rows, budgets):
    assert len(rows) == 1 + 2 * len(budgets)
    for row in rows:
        assert row.met in (True, None), row
    for row in rows[1:]:
        assert "T" in row.note or row.metric != "peak", "nothing of the teacher was loaded"


@pytest.mark.slow
@pytest.mark.parametrize(
    # JAX's own memory differs by more than the slack from process to process.
    "executor",
    ["onnxruntime", pytest.param("jax", marks=pytest.mark.long)],
)
def test_a_small_teacher_under_a_budget(tmp_path, executor):
    """With a slack that a second copy of the weights would not fit into."""
    bundle = write_drawn_bundle(tmp_path / "bundle", SMALL, (4, EXACT))
    assert bundle.teacher_bytes > 40e6 > 10 * bundle.student_bytes
    check(executor_rows(bundle, executor, [70], rounds=1, slack=20 << 20), [70])


@pytest.mark.long
def test_a_teacher_of_300_megabytes_under_every_budget(tmp_path):
    bundle = write_drawn_bundle(tmp_path / "b", registry.pair("vit_b16_narrow"), (4, EXACT))
    assert bundle.teacher_bytes > 300e6
    for executor in ("onnxruntime", "jax"):
        check(executor_rows(bundle, executor, [40, 70, 100], rounds=1, slack=SLACK), range(3))
