"""Results say what was measured, on what, and whether it is enough."""

import json

import numpy as np
import pytest

from experiments.results_file import Row, table, write_results


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (None, None),
        ("<= 2", True),
        ("< 2", False),
        (">= 2", True),
        (">= 2.5", False),
        ("== 2", True),
    ],
)
def test_the_median_is_held_against_the_target(target, met):
    row = Row("case", "time", "s", (3.0, 1.0, 2.0), target)
    assert row.to_dict() == {
        "case": "case", "metric": "time", "unit": "s", "samples": [3.0, 1.0, 2.0], "median": 2.0,
        "target": target, "met": met,
    }  # fmt: skip


def test_a_file_says_what_it_was_measured_with(tmp_path):
    rows = [Row("a", "size", "bytes", (1,)), Row("b", "size", "bytes", (1, 2), "< 1", "a note")]
    path = write_results("group", "name", rows, results=tmp_path, more={"zipnn": "0.5"})
    assert path == tmp_path / "group" / "name.json"
    document = json.loads(path.read_text())
    assert document["rows"] == [row.to_dict() for row in rows]
    assert document["zipnn"] == "0.5" and document["command"]
    assert {"python", "numpy", "zstandard"} <= document["versions"].keys()
    assert {"cpu", "cores"} == document["device"].keys()
    lines = table(rows)
    assert lines[0] == "a" and "MISSED" in lines[-1] and "a note" in lines[-1]


def test_samples_of_numpy_are_written_as_numbers(tmp_path):
    row = Row("case", "metric", "s", (np.float64(1.0), np.float32(3.0)), "<= 2")
    assert json.loads(json.dumps(row.to_dict()))["met"] is True
