"""The demonstration keeps what it promises: the real command, once, on its default pair."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.quickstart import falls
from pwl_jax.ladder import Rung

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    # As a user runs it: one device.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-m", "launch.quickstart", f"--output={folder}"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


@pytest.mark.slow
def test_the_ladder_climbs_to_exactly_the_teacher_and_no_request_fails(output):
    ladder = json.loads((output / "ladder.json").read_text())
    rungs = ladder["rungs"]
    blocks = len(rungs[0]["composition"])
    assert rungs[0]["composition"] == "S" * blocks
    assert rungs[-1]["name"] == f"{'T' * blocks}@exact"
    assert ladder["last_rung_equals_teacher"] is True
    assert ladder["requests"]["failed"] == 0 < ladder["requests"]["sent"]
    assert ladder["examples"] >= 500
    assert rungs[-1]["top1"] == ladder["teacher_top1"]
    # The gap that there is to climb.
    assert ladder["teacher_top1"] - rungs[0]["top1"] >= 0.03


@pytest.mark.slow
def test_no_rung_and_no_prefix_falls_by_more_than_the_standard_error(output):
    ladder = json.loads((output / "ladder.json").read_text())
    for before, after in zip(ladder["rungs"], ladder["rungs"][1:], strict=False):
        error = (before["top1"] * (1 - before["top1"]) / ladder["examples"]) ** 0.5
        assert after["top1"] >= before["top1"] - error, (before, after)
    rows = json.loads((output / "pwl" / "compositions.json").read_text())
    assert falls(rows, ladder["examples"]) == []
    assert len(rows) == 2 ** len(ladder["rungs"][0]["composition"])


@pytest.mark.slow
def test_bytes_seconds_and_names_are_consistent(output):
    ladder = json.loads((output / "ladder.json").read_text())
    bytes_so_far = seconds_so_far = 0
    for rung in ladder["rungs"]:
        assert Rung.parse(rung["name"]).name == rung["name"]
        assert list(Rung.parse(rung["name"]).bits) == rung["bits"]
        assert rung["cumulative_bytes"] >= bytes_so_far + rung["shard_bytes"]
        assert rung["seconds"] > seconds_so_far
        bytes_so_far, seconds_so_far = rung["cumulative_bytes"], rung["seconds"]
    # All that was fetched: every file of the bundle that the ladder needs, and the manifest.
    on_disk = sum(p.stat().st_size for p in (output / "bundle").rglob("*") if p.is_file())
    assert bytes_so_far <= on_disk
    assert ladder["job_seconds"] > 0


@pytest.mark.slow
def test_the_report_shows_every_rung(output):
    report = (output / "report.md").read_text()
    printed = (output / "stdout.txt").read_text()
    for rung in json.loads((output / "ladder.json").read_text())["rungs"]:
        assert rung["name"] in report and rung["name"] in printed
    for chart in ("accuracy.png", "climb.png"):
        assert chart in report
        assert (output / chart).read_bytes().startswith(b"\x89PNG")


def test_falls_are_measured_in_standard_errors():
    def row(composition, top1):
        return {"composition": composition, "top1": top1}

    # At 0.9 and 400 examples the standard error is 0.015.
    assert falls([row("SS", 0.9), row("TS", 0.886), row("TT", 0.95)], 400) == []
    assert falls([row("SS", 0.9), row("TS", 0.884), row("TT", 0.95)], 400) == ["SS to TS"]
    # Order of the rows and other compositions do not matter.
    assert falls([row("TT", 0.95), row("ST", 0.1), row("TS", 0.9), row("SS", 0.9)], 400) == []
