"""Results say what was measured, on what, and whether it is enough."""

import json

import pytest

from experiments.benchmarks.result_file import result_row, write_results


def test_a_row_has_the_median_of_its_samples():
    row = result_row("case", "time", "s", [3.0, 1.0, 2.0], 2.5, True)
    assert row == {
        "case": "case", "metric": "time", "unit": "s", "samples": [3.0, 1.0, 2.0], "median": 2.0,
        "target": 2.5, "met": True,
    }  # fmt: skip
    assert result_row("case", "time", "s", [4, 1, 2, 3])["median"] == 2.5
    with pytest.raises(ValueError, match="case, time: no samples"):
        result_row("case", "time", "s", [])


def test_a_file_says_what_it_was_measured_with(tmp_path):
    rows = [result_row("a", "size", "bytes", [1])]
    path = write_results("name", rows, folder=tmp_path, device="a phone", command="python -m x")
    assert path.parent == tmp_path / "name" and path.suffix == ".json"
    document = json.loads(path.read_text())
    assert (document["rows"], document["device"], document["command"]) == (
        rows, "a phone", "python -m x",
    )  # fmt: skip
    assert {"python", "numpy", "zstandard"} <= document["versions"].keys()
    assert document["date"].endswith("+00:00")
