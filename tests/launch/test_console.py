import functools

import pytest

from tests.commands import done, launched

pwl = functools.partial(launched, "launch.console")


def test_a_command_gets_its_flags(bundle):
    shown = pwl("inspect", f"--bundle={bundle}", "--verify")
    alone = done(launched("launch.inspect", f"--bundle={bundle}", "--verify"))
    assert done(shown) == alone and "TTT@exact" in alone


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
