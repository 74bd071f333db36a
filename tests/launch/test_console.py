import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def pwl(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.console", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )


def test_a_command_gets_its_flags(bundle):
    shown = pwl("inspect", f"--bundle={bundle}", "--verify")
    alone = subprocess.run(
        [sys.executable, "-m", "launch.inspect", f"--bundle={bundle}", "--verify"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=True,
    )
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, alone.stdout, "")
    assert "TTT@exact" in shown.stdout


def test_help_of_a_command_is_its_own():
    result = pwl("restore", "--help")
    assert result.returncode == 0
    assert "launch.restore" in result.stdout and "--stage" in result.stdout


def test_help_names_the_commands():
    for flag in ("--help", "help", "-h"):
        result = pwl(flag)
        assert result.returncode == 0
        for command in ("inspect", "predict", "restore", "serve"):
            assert f"pwl {command}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "pwl: no command; expected one of inspect, predict, restore, serve\n"),
        (["export"], 2, "pwl: unknown command 'export'; expected one of"),
        (["../cli"], 2, "pwl: unknown command '../cli'; expected one of"),
        (["inspect", "--bundle=/no/bundle"], 1, "launch.inspect: /no/bundle is no folder"),
        (["inspect", "--bundel=x"], 2, "launch.inspect: Unknown command line flag 'bundel'"),
    ],
)
def test_mistakes_end_in_one_line(arguments, status, message):
    result = pwl(*arguments)
    assert result.returncode == status
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1
