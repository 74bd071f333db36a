"""Kills fall where they are meant to, and what they leave is compared truly."""

import collections
import json
import os
import random
import signal
import sys

import pytest

from experiments.faults import killed_runs
from experiments.faults.differing_runs import differing_lines
from experiments.faults.killed_runs import Before, Command, look, moments
from pwl_jax.errors import UserError
from tests import commands


def test_twenty_kills_are_of_all_kinds():
    planned = moments(20, random.Random(0))
    assert [moment for moment, _ in planned[:2]] == ["before the first checkpoint"] * 2
    counts = collections.Counter(moment for moment, _ in planned)
    assert counts == {"before the first checkpoint": 2, "inside a save": 10, "any": 8}
    assert collections.Counter(n for _, n in planned) == {signal.SIGKILL: 14, signal.SIGTERM: 6}
    assert planned == moments(20, random.Random(0)) != moments(20, random.Random(1))


def test_what_a_process_does_is_read_off_its_files(tmp_path):
    nothing = Before(0, frozenset())
    assert look(tmp_path, nothing).doing == "starting"
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "a": 1}\n{"step": 4, "a"')
    sight = look(tmp_path, nothing)
    assert (sight.step, sight.saved, sight.doing) == (3, None, "training behind step 3")
    for name in ("resume/2", "resume/10", "resume/12.orbax-checkpoint-tmp", "best/9"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    sight = look(tmp_path, nothing)
    assert (sight.saved, sight.saving, sight.doing) == (10, ("resume/12",), "saving resume/12")
    # What an earlier process left half-written is not this one's save.
    before = Before(1, frozenset(killed_runs._partial(tmp_path)))
    assert look(tmp_path, before).doing == "starting"


SIGNS = "for n in ('config.json', 'metrics.jsonl'): open(n, 'w').close()"
ENDS = "import sys; sys.exit('broken')"
REFUSES = f"import signal, sys, time; signal.signal(15, lambda *_: sys.exit('no'))\n{SIGNS}"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (ENDS, "ended with 1 before it was to be killed: broken"),
        (f"{REFUSES}\ntime.sleep(60)", "after SIGTERM while starting the run ended with 1: no"),
    ],
)
def test_a_run_that_ends_by_itself_or_wrongly_is_an_error(tmp_path, monkeypatch, program, message):
    monkeypatch.chdir(tmp_path)
    command = Command([sys.executable, "-c", program], dict(os.environ), tmp_path, 4, 3)
    with pytest.raises(UserError, match=message):
        command.killed("before the first checkpoint", signal.SIGTERM, random.Random(0))


def test_lines_that_differ_are_counted(tmp_path):
    ours, theirs = tmp_path / "a", tmp_path / "b"
    for folder in (ours, theirs):
        folder.mkdir()
    lines = ['{"step": 1, "loss": 2.0, "speed/x": 1}', '{"step": 2, "loss": 1.0}', ""]
    (theirs / "metrics.jsonl").write_text("\n".join(lines))
    for changed, count in (
        (lines, 0),
        ([lines[0].replace("/x", "/y"), *lines[1:]], 0),
        ([lines[0].replace("2.0", "2.5"), *lines[1:]], 1),
        ([lines[0], lines[0], *lines[1:]], 2),
        (lines[1:], 2),
    ):
        (ours / "metrics.jsonl").write_text("\n".join(changed))
        assert differing_lines(ours, theirs) == count


@pytest.fixture(autouse=True)
def killed(monkeypatch):
    """What is started here inherits this."""
    for name, value in commands.READS_EXECUTABLES.items():
        monkeypatch.setenv(name, value)


def checked(result, tmp_path, name, kills):
    assert result.returncode == 0, result.stdout + result.stderr
    document = json.loads((tmp_path / "training_kills" / f"{name}.json").read_text())
    assert all(row["met"] in (True, None) for row in document["rows"])
    assert len(document["kills"]) == kills
    values = {row["metric"]: row["median"] for row in document["rows"]}
    assert values["leaves that differ"] == values["lines of metrics that differ"] == 0
    assert values["inside a save"] >= 1


@pytest.mark.slow
def test_two_kills_change_no_bit(tmp_path):
    flags = ["--kills=2", "--feeding=device", f"--results={tmp_path}"]
    result = commands.launched("experiments.faults.training_kills", *flags, timeout=900)
    checked(result, tmp_path, "device_kills2_seed0", 2)


@pytest.mark.long
@pytest.mark.parametrize("feeding", ["grain", "device"])
def test_twenty_kills_change_no_bit(feeding, tmp_path):
    flags = ["--kills=20", "--seed=1", f"--feeding={feeding}", f"--results={tmp_path}"]
    result = commands.launched("experiments.faults.training_kills", *flags, timeout=3000)
    checked(result, tmp_path, f"{feeding}_kills20_seed1", 20)
