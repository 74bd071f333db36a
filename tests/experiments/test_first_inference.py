"""The benchmark of the first answer, on a pair of a few thousand weights."""

import json
import subprocess
import sys

import pytest

from experiments.benchmarks import first_rows
from tests.commands import ROOT

SECONDS = {
    "PyTorch, teacher": (8.0, 10.0),
    "JAX jit, teacher": (4.0, 2.5),
    "ours, jax, teacher": (2.0, 2.0),
    "ours, jax, student": (1.0, 0.5),
    "ours, jax, student in 4 bits": (0.5, 0.5),
}


def test_attribution_takes_one_thing_at_a_time():
    rows = first_rows.attribution_rows("resnet", SECONDS)
    # Nothing of ONNX Runtime was measured but what PyTorch and our first rung are compared by.
    assert [(row.metric.partition(":")[0], row.samples) for row in rows] == [
        ("framework", (2.0, 4.0)),
        ("a verified bundle with programs compiled ahead of time", (2.0, 1.25)),
        ("depth", (2.0, 4.0)),
        ("precision", (2.0, 1.0)),
        ("all of it", (16.0, 20.0)),
    ]


def test_targets_are_judged_where_both_columns_were_measured():
    rows = [row for row in first_rows.start_rows("resnet", SECONDS) if row.target is not None]
    (row,) = rows
    assert (row.metric, row.samples, row.target, row.met) == (
        "ours, jax, student / PyTorch, teacher",
        (0.125, 0.05),
        "<= 0.6",
        True,
    )


@pytest.mark.slow
def test_every_column_answers_and_is_written_down(tmp_path):
    """Exact columns of one network agree, else the benchmark fails."""
    pytest.importorskip("onnxruntime")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.benchmarks.first_inference"),
            *("--pairs=resnet_small", "--rounds=1", "--requests=1", "--name=tiny"),
            f"--results_dir={tmp_path}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "--baseline_dir" in done.stdout or "PyTorch's columns are left out" in done.stdout
    folder = tmp_path / "first_inference"
    rows = json.loads((folder / "tiny.json").read_text())["rows"]
    names = {row["metric"] for row in rows}
    for executor in ("onnxruntime", "jax"):
        for what in ("student", "student in 4 bits", "teacher"):
            assert f"ours, {executor}, {what}" in names
    assert {"ONNX Runtime, MobileNetV2, int8", "depth: the student first"} <= names
    judged = {row["metric"]: row["target"] for row in rows if row["target"]}
    assert judged["ours, onnxruntime, student / ONNX Runtime, student"] in ("<= 1.15", "<= 1.02")
    assert judged["ours, jax / ONNX Runtime"] == "<= 1.2"
    assert all(min(row["samples"]) > 0 for row in rows)
    assert (folder / "tiny_resnet_small.png").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--pairs=nothing", "pair 'nothing' is unknown"),
        ("--baseline_dir=/nowhere", "/nowhere holds no pwl_model"),
    ],
)
def test_mistakes_are_one_line(tmp_path, flag, message):
    if "baseline" in flag:
        pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.first_inference", flag],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode and message in done.stderr and "Traceback" not in done.stderr
