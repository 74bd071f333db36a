"""The comparison of our training step with PyTorch's: what is compared, refused and judged."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.benchmarks import compared_steps, step_comparison, torch_side
from experiments.benchmarks.step_comparison import (
    ALIGNED,
    OURS,
    STEP,
    WHOLE,
    Comparison,
    Timed,
    check_losses,
    rows_of,
)
from pwl_jax.errors import UserError
from pwl_jax.training.optimizer import params_of, with_params

ROOT = Path(__file__).parents[2]
BASELINE_DIR = os.environ.get("PWL_BASELINE_DIR", "")
TINY = ["--pairs=lenet5_quarter", "--batch=8", "--examples=24", "--rounds=2", "--steps=2"]


@pytest.mark.parametrize("name", [*compared_steps.SMALL, "resnet_quarter", "vit"])
def test_pairs_are_as_the_baseline_has_them(name):
    pair = compared_steps.comparable_pair(name, "bfloat16")
    assert pair.statistics == "shared"
    for spec in (pair.teacher, pair.student):
        assert spec.dtype == "bfloat16"
        assert spec.family != "vit" or not spec.final_norm


def test_pairs_that_cannot_be_compared_are_refused():
    with pytest.raises(UserError, match="pair 'mlp' is unknown; expected one of resnet_small,"):
        compared_steps.comparable_pair("mlp", "float32")
    with pytest.raises(UserError, match="'resnet_digits' takes grey images"):
        compared_steps.comparable_pair("resnet_digits", "float32")


def test_every_type_starts_from_the_same_weights_and_images():
    a, b = (compared_steps.drawn_work("lenet5", d, 4, 8) for d in ("float32", "bfloat16"))
    assert jax.tree.all(jax.tree.map(np.array_equal, a.variables, b.variables))
    assert np.array_equal(a.images, b.images)
    assert np.array_equal(a.labels, b.labels)


def test_losses_that_differ_are_an_error_that_names_the_column():
    losses = {"ours": [2.0, 1.0], "baseline": [2.0, 1.0], "best": [2.00001, 1.0009]}
    check_losses("case", losses, (1e-5, 1e-3))
    losses["best"] = [2.0, 1.002]
    with pytest.raises(UserError, match=r"case: the loss of step 1 is 1.002 in the column 'best'"):
        check_losses("case", losses, (1e-5, 1e-3))
    losses["best"] = [2.0001, 1.0]
    with pytest.raises(UserError, match=r"case: the loss of step 0 is 2.0001 in the column 'best'"):
        check_losses("case", losses, (1e-5, 1e-3))
    for side in ("ours", "best"):
        with pytest.raises(UserError, match="is nan in the column"):
            check_losses("case", {**losses, side: [math.nan, 1.0]}, (1.0, 1.0))


def test_timings_are_interleaved_and_every_other_round_backwards():
    called = []

    def timer(column):
        return lambda steps: called.append((column, steps)) or float(len(called))

    timers = {Timed(STEP, column, "float32"): timer(column) for column in "abc"}
    compared = Comparison("case", "resnet", 4, {}, timers, {}, None)
    found = compared.seconds(rounds=2, steps=7)
    assert [column for column, _ in called] == [*"abc", *"abc", *"cba"]
    assert [steps for _, steps in called] == [1] * 3 + [7] * 6
    assert found[Timed(STEP, "a", "float32")] == [4.0, 9.0]


def rows(family, backend, **seconds):
    """Rows of columns' seconds a step, `<column>_<type>`, or with `whole_` before it."""
    timed = {}
    for name, found in seconds.items():
        kind = WHOLE if name.startswith("whole_") else STEP
        column, dtype = name.removeprefix("whole_").split("_")
        timed[Timed(kind, column, dtype)] = found
    made = rows_of("case", family, 10, backend, timed, {})
    return {(row.case, row.metric): row for row in made}


def test_speeds_are_ratios_of_timings_of_one_round():
    found = rows(
        "vgg",
        "cpu",
        ours_float32=[2.0, 4.0, 1.0],
        baseline_float32=[2.0, 3.0, 0.9],
        whole_ours_float32=[1.0, 1.0, 1.0],
        whole_baseline_float32=[9.0, 9.0, 9.0],
    )
    case = "case, float32"
    assert found[case, "step, ours"].samples == (5.0, 2.5, 10.0)
    row = found[case, "step, ours over baseline"]
    assert row.samples == (1.0, 0.75, 0.9)
    assert row.target == ">= 0.9"
    assert row.met
    whole = found[case, "end to end, ours over baseline"]
    assert whole.samples == (9.0, 9.0, 9.0)
    assert whole.target is None


@pytest.mark.parametrize(("family", "target"), [("vit", ">= 1"), ("resnet", ">= 0.75")])
def test_targets_on_cpu_are_of_the_baseline_in_float32(family, target):
    columns = {
        f"{column}_{dtype}": [1.0]
        for column in (OURS, ALIGNED, "baseline", "best")
        for dtype in ("float32", "bfloat16")
    }
    found = rows(family, "cpu", **columns)
    judged = {key: row.target for key, row in found.items() if row.target}
    assert judged == {("case, float32", "step, ours over baseline"): target}


def test_targets_on_gpu_are_of_both_columns_and_of_bfloat16():
    columns = {
        f"{column}_{dtype}": [1.0]
        for column in (OURS, "baseline", "best")
        for dtype in ("float32", "bfloat16")
    }
    columns["ours_bfloat16"] = [0.5]
    found = rows("resnet", "gpu", **columns)
    judged = {key: (row.target, row.median) for key, row in found.items() if row.target}
    assert judged == {
        ("case, float32", "step, ours over baseline"): (">= 3", 1.0),
        ("case, float32", "step, ours over best"): (">= 1.1", 1.0),
        ("case, bfloat16", "step, ours over baseline"): (">= 3", 2.0),
        ("case, bfloat16", "step, ours over best"): (">= 1.1", 2.0),
        ("case, bfloat16", "step, ours over our float32"): (">= 1.3", 2.0),
    }


def test_a_missing_clone_or_interpreter_is_one_clear_line(tmp_path):
    with (
        pytest.raises(UserError, match="holds no pwl_model/core; expected a clone"),
        torch_side.torch_side(sys.executable, tmp_path, True),
    ):
        pass
    (tmp_path / "pwl_model" / "core").mkdir(parents=True)
    with (
        pytest.raises(UserError, match="cannot start '/no/python': No such file"),
        torch_side.torch_side("/no/python", tmp_path, True),
    ):
        pass
    with (
        pytest.raises(UserError, match="PyTorch's process ended at 'start': "),
        torch_side.torch_side("false", tmp_path, True),
    ):
        pass


_WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import experiments.benchmarks.training_step
"""


@pytest.mark.slow
def test_what_a_machine_with_a_gpu_often_lacks_is_not_imported():
    absent = "grain,ml_collections,tensorflow_datasets,tensorboardX,orbax,sklearn,torch"
    subprocess.run([sys.executable, "-c", _WITHOUT, absent], cwd=ROOT, check=True)


def measured(tmp_path, *arguments):
    """The command on a tiny pair; what it wrote and printed."""
    command = [sys.executable, "-m", "experiments.benchmarks.training_step", *TINY, *arguments]
    done = subprocess.run(
        [*command, f"--results_dir={tmp_path}", "--name=tiny"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "training_step" / "tiny.json").read_text()), done.stdout


@pytest.mark.long
def test_our_own_columns_without_a_clone(tmp_path):
    found, printed = measured(tmp_path)
    assert "no --baseline_dir" in printed
    assert found["pytorch"] is None
    assert found["tf32"] == "does not apply"
    by_metric = {row["metric"]: row for row in found["rows"]}
    assert set(by_metric) == {
        "step, ours",
        "step, ours, aligned",
        "end to end, ours",
        "step, ours over ours, aligned",
    }
    assert all(len(row["samples"]) == 2 and row["median"] > 0 for row in found["rows"])


@pytest.mark.slow
def test_all_columns_beside_a_clone(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    if not BASELINE_DIR:
        pytest.skip("PWL_BASELINE_DIR names no clone of the baseline")
    found, printed = measured(tmp_path, f"--baseline_dir={BASELINE_DIR}")
    assert found["pytorch"]["environment"] == torch_side.PASSIVE
    assert "losses of steps 0 and 2: ours" in printed
    by_metric = {row["metric"]: row for row in found["rows"]}
    for kind in (STEP, WHOLE):
        for column in torch_side.COLUMNS:
            assert by_metric[f"{kind}, {column}"]["median"] > 0
            assert len(by_metric[f"{kind}, ours over {column}"]["samples"]) == 2
    assert "torch.compile" in by_metric["step, best"]["note"]


@pytest.mark.slow
def test_other_weights_are_noticed_before_anything_is_timed(monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    if not BASELINE_DIR:
        pytest.skip("PWL_BASELINE_DIR names no clone of the baseline")
    work = compared_steps.drawn_work("lenet5_quarter", "float32", 8, 8)
    params = jax.tree.map(np.copy, params_of(work.variables))
    params["student"]["head"]["dense"]["bias"][0] += 0.05
    other = dataclasses.replace(work, variables=with_params(work.variables, params))
    monkeypatch.setattr(step_comparison, "step_only", lambda _, align: step_only(other, align))
    with torch_side.torch_side(sys.executable, Path(BASELINE_DIR), True) as side:
        compared = step_comparison.comparison(
            "tiny", {"float32": work}, side, end_to_end=False, steps_per_dispatch=1
        )
        with pytest.raises(UserError, match=r"step 0 .* in the column 'baseline'"):
            compared.check(tf32=False)


def step_only(work, align):
    """Our step; the module's own name for it is replaced."""
    return compared_steps.step_only(work, align=align)


@pytest.mark.slow
def test_augmentation_in_pytorch_that_draws_nothing_only_normalises(monkeypatch):
    torch = pytest.importorskip("torch")
    from experiments.benchmarks import torch_steps

    images = torch.arange(2 * 3 * 16 * 16, dtype=torch.int64).remainder(256).to(torch.uint8)
    images = images.reshape(2, 3, 16, 16)
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.5))
    monkeypatch.setattr(
        torch, "randint", lambda low, high, shape, **_: torch.full(shape, high // 2)
    )
    expected = (images.float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(torch_steps.augmented(images), expected, atol=1e-4, rtol=0)

    labels = np.arange(2)
    data = {"images": images.permute(0, 2, 3, 1).numpy(), "labels": labels}
    for i, (image, label) in enumerate(map(torch_steps.PillowAugmented(data).__getitem__, labels)):
        torch.testing.assert_close(image, expected[i])
        assert label == i
