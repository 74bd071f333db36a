"""A short run of the fuzzer, and proof that it would tell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cryptography")
from experiments.faults.fuzzing import fuzzed, table
from experiments.faults.mutations import MUTATIONS
from pwl_jax.bundle import unit_files
from pwl_jax.precision import PrecisionError

ROOT = Path(__file__).parents[2]


def test_no_mutant_is_neither_refused_nor_exact(tmp_path):
    outcomes = list(fuzzed(len(MUTATIONS) * 5 * 3, 1, tmp_path))
    assert [each.problem for each in outcomes if each.outcome == "failed"] == []
    counts = {
        name: sum(each.outcome == name for each in outcomes) for name in ("refused", "original")
    }
    assert counts["refused"] > 300 and counts["original"] > 5
    # A title, each mutation, their sum.
    assert len(table(outcomes)) == len(MUTATIONS) + 2


def test_it_tells_what_an_unproven_tensor_would_do(tmp_path, monkeypatch):
    monkeypatch.setattr(unit_files, "is_exact", lambda header: False)
    monkeypatch.setattr(unit_files, "EXACT", None)
    outcomes = list(fuzzed(len(MUTATIONS) * 5, 0, tmp_path))
    problems = [each.problem for each in outcomes if each.outcome == "failed"]
    assert problems and all("--seed=0 --only=" in problem for problem in problems)


def test_it_tells_a_crash_and_repeats_it(tmp_path, monkeypatch):
    decode = unit_files.decode_tensor

    def fragile(payloads, **options):
        try:
            return decode(payloads, **options)
        except PrecisionError as error:
            raise IndexError("out of range") from error

    monkeypatch.setattr(unit_files, "decode_tensor", fragile)
    outcomes = list(fuzzed(len(MUTATIONS) * 5, 0, tmp_path / "all"))
    crashed = [each for each in outcomes if each.outcome == "failed"]
    assert crashed and "IndexError" in crashed[0].problem
    number = int(crashed[0].problem.partition("--only=")[2].partition(":")[0])
    (again,) = fuzzed(1, 0, tmp_path / "one", only=number)
    assert (again.mutation, again.sample) == (crashed[0].mutation, crashed[0].sample)
    assert "IndexError" in again.problem


def test_the_command_prints_a_table_and_keeps_the_figures(tmp_path):
    code = (
        "import sys, pathlib; from experiments import results_file; "
        "results_file.RESULTS = pathlib.Path(sys.argv.pop(1)); "
        "from experiments.faults import bundle_fuzz; bundle_fuzz.cli.run(bundle_fuzz.main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "--count=60"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "60 mutants in" in done.stdout
    (file,) = (tmp_path / "bundle_fuzz").iterdir()
    document = json.loads(file.read_text())
    assert document.keys() == {"command", "versions", "device", "date", "rows"}
    rows = {row["case"]: row for row in document["rows"]}
    assert rows["failed"] == {
        "case": "failed", "metric": "mutants", "unit": "count", "samples": [0], "median": 0,
        "target": "== 0", "met": True,
    }  # fmt: skip
    assert rows["process"]["target"] == f"<= {1 << 30}" and rows["process"]["met"]
