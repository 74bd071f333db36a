"""The benchmark of model switching: its trace, its policies, its rows, and the whole of it."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks import control_group, switching_policies, switching_report
from experiments.benchmarks.switching_policies import FULL, INT8, OURS, POLICIES, STUDENTS, Model
from experiments.benchmarks.switching_report import Case, Outcome
from experiments.benchmarks.zipf_trace import zipf_trace
from tests import tiny_runs
from tests.commands import launched


def outcome(seconds, right, answered_by=("SSSS@4", "TTTT@exact"), peak=100):
    names = [answered_by[i % len(answered_by)] for i in range(len(seconds))]
    return Outcome(list(seconds), list(right), names, 10, 5, 50, peak, True)


def test_traces_are_zipfs_and_the_same_for_the_same_seed():
    trace = zipf_trace(6, 9000, 1.0, 3, seed=1)
    assert trace == zipf_trace(6, 9000, 1.0, 3, seed=1) != zipf_trace(6, 9000, 1.0, 3, seed=2)
    expected = 1 / np.arange(1, 7)
    ranks = []
    for phase in range(3):
        asked = [which for which, _ in trace[3000 * phase : 3000 * (phase + 1)]]
        counts = np.bincount(asked, minlength=6)
        ranks.append(tuple(np.argsort(-counts)))
        # Three standard deviations of the largest count.
        np.testing.assert_allclose(
            np.sort(counts)[::-1] / 3000, expected / expected.sum(), atol=0.027
        )
    assert len(set(ranks)) > 1


def test_a_control_group_is_made_and_removed_or_it_is_said_why_not(tmp_path):
    with control_group.memory_group("pwl_test", 1 << 30) as (folder, said):
        assert said
        if folder is None:
            pytest.skip(said)
    assert not Path(folder).exists()


class Sessions:
    """In place of ONNX Runtime: notes which files were loaded."""

    def __init__(self):
        self.loaded = []

    def InferenceSession(self, path, providers):
        self.loaded.append(path.parent.name)
        return self

    def run(self, outputs, inputs):
        return (np.eye(3)[None, 1],)


def test_lru_makes_room_by_what_was_not_used_for_longest(tmp_path, monkeypatch):
    runtime = Sessions()
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    shape = {"input_shape": [4, 4, 1], "mean": [0.5], "std": [0.5], "resize": "bilinear"}
    models = {}
    for name in "abc":
        (tmp_path / name).mkdir()
        models[name] = Model(name, str(tmp_path / name), 100, 25, shape)
        models[name].float32.touch()
    policy = switching_policies.policy(FULL, models, 200, "onnxruntime")
    image = np.zeros((4, 4, 1), np.uint8)
    for name in "ababcab":
        assert policy.answer(name, image) == (1, "teacher")
        policy.settle()
    assert "".join(runtime.loaded) == "abcab"
    runtime.loaded.clear()
    int8 = switching_policies.policy(INT8, models, 200, "onnxruntime")
    for name in "abcabc":
        assert int8.answer(name, image) == (1, "int8")
    assert "".join(runtime.loaded) == "abc"


def test_rows_compare_rounds_with_each_other():
    fast, slow = [1.0] * 100, [1.0] * 90 + [9.0] * 10
    right, half = [1] * 100, [1, 0] * 50
    outcomes = {
        FULL: [outcome(slow, right), outcome(slow, right)],
        INT8: [outcome(slow, right), outcome(slow, right)],
        STUDENTS: [outcome(fast, half, peak=100), outcome(fast, half, peak=100)],
        OURS: [outcome(fast, [1] * 75 + [0] * 25), outcome(fast, right)],
    }
    case = Case("case", (), 10, outcomes, "none")
    rows = {(row.case, row.metric): row for row in switching_report.rows_of(case)}
    against = "case: ours against the others"
    assert rows[against, f"p95 of ours / {STUDENTS}"].samples == (1.0, 1.0)
    assert rows[against, f"p95 of ours / {FULL}"].samples == pytest.approx((1 / 9, 1 / 9))
    assert rows[against, f"answered rightly, ours - {STUDENTS}"].samples == (25.0, 50.0)
    assert rows[against, f"answered rightly, ours - {STUDENTS}"].met
    assert rows[against, f"answered rightly, ours - {FULL}"].samples == (-25.0, 0.0)
    assert not rows[against, f"answered rightly, ours - {FULL}"].met
    in_time = rows[f"case: {FULL}", "rightly, within 1.1 x p95 of students only"]
    assert in_time.samples == (90.0, 90.0)
    unknown = Case("case", (), 10, {p: [outcome(fast, [-1] * 100)] for p in POLICIES}, "none")
    assert not [row for row in switching_report.rows_of(unknown) if "rightly" in row.metric]


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path):
    """A trained pair, twice, and two drawn ones, through every policy."""
    teacher, distilled = tmp_path / "teacher", tmp_path / "one" / "pwl"
    tiny_runs.train(tiny_runs.config("teacher"), teacher)
    tiny_runs.train(tiny_runs.config("distill"), distilled, teacher)
    shutil.copytree(distilled, tmp_path / "other" / "pwl")
    workdirs = [str(distilled), str(tmp_path / "other" / "pwl")]
    line = (
        "experiments.benchmarks.model_switching",
        f"--workdirs={','.join(workdirs)}",
        "--drawn=lenet5_digits",
        "--models=2",
        "--share=0.9",
        "--requests=60",
        "--drawn_requests=20",
        "--rounds=1",
        f"--workdir={tmp_path / 'models'}",
        f"--results_dir={tmp_path}",
        "--name=tiny",
    )
    done = launched(*line)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "model_switching" / "tiny.json").read_text())
    assert (tmp_path / "model_switching" / "tiny.png").stat().st_size > 10_000
    rows = {(row["case"], row["metric"]): row for row in found["rows"]}
    for policy in POLICIES:
        assert rows[f"2 workdirs: {policy}", "time to first answer, p95"]["median"] > 0
        assert 0 < rows[f"2 workdirs: {policy}", "requests answered rightly"]["median"] <= 100
        assert (f"lenet5_digits, drawn: {policy}", "requests answered rightly") not in rows
        asked = found["answered_by"]["2 workdirs"][policy]
        assert sum(asked.values()) == 60
    assert set(found["answered_by"]["2 workdirs"][FULL]) == {"teacher"}
    assert all(name.startswith("SS") for name in found["answered_by"]["2 workdirs"][STUDENTS])
    assert str(tmp_path) not in json.dumps(found)
    refused = launched(line[0], "--config=nowhere", f"--workdir={tmp_path / 'models'}")
    assert refused.returncode == 1 and "--config is 'nowhere'; expected one of" in refused.stderr
