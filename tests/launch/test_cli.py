import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = '''
"""Says what it is told.

  python say.py --word=hello
"""
import pathlib
from absl import flags
from launch import cli
from pwl_jax.errors import UserError

_WORD = flags.DEFINE_string("word", None, "What to say.")
_KINDS = ["print", "user", "missing", "exists", "socket", "defect", "interrupt"]
_KIND = flags.DEFINE_enum("kind", "print", _KINDS, "How.")
flags.mark_flag_as_required("word")

def main() -> None:
    match _KIND.value:
        case "print": print(_WORD.value)
        case "user": raise UserError("the word\\n  is wrong")
        case "missing": pathlib.Path("/no/such/file").read_bytes()
        case "exists": pathlib.Path(__file__).mkdir()
        case "socket": raise ConnectionResetError("nobody there")
        case "defect": raise RuntimeError("broken")
        case "interrupt": raise KeyboardInterrupt

if __name__ == "__main__":
    cli.run(main)
'''


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("command") / "say.py"
    path.write_text(COMMAND.lstrip())
    return path


def run(script, *arguments, stdout=subprocess.PIPE):
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"},
        timeout=60,
        check=False,
    )


def test_success(script):
    result = run(script, "--word=hello")
    assert (result.returncode, result.stdout, result.stderr) == (0, "hello\n", "")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--wrod=x"], 2, "say.py: Unknown command line flag 'wrod'"),
        (["--word=x", "--kind=shout"], 2, "say.py: flag --kind=shout: value should be one of"),
        ([], 2, "say.py: flag --word=None: Flag --word must have a value other than None."),
        (["--word=x", "stray"], 2, "say.py: unexpected argument 'stray'"),
        (["--word=x", "--kind=user"], 1, "say.py: the word is wrong"),
        (["--word=x", "--kind=missing"], 1, "say.py: /no/such/file: No such file or directory"),
        (["--word=x", "--kind=exists"], 1, "say.py: {script}: File exists"),
        (["--word=x", "--kind=interrupt"], 130, "say.py: interrupted"),
    ],
)
def test_errors_are_one_line(script, arguments, status, message):
    result = run(script, *arguments)
    assert result.returncode == status
    assert result.stderr.startswith(message.format(script=script))
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("kind", "last"),
    [("defect", "RuntimeError: broken"), ("socket", "ConnectionResetError: nobody there")],
)
def test_a_defect_keeps_its_traceback(script, kind, last):
    result = run(script, "--word=x", f"--kind={kind}")
    assert result.returncode == 1
    assert "Traceback" in result.stderr and last in result.stderr


def test_help_begins_with_what_the_command_does(script):
    result = run(script, "--help")
    assert result.returncode == 0
    assert result.stdout.strip().startswith("Says what it is told.")
    assert "--word: What to say." in result.stdout
    assert "--logtostderr" not in result.stdout


@pytest.mark.parametrize("argument", ["--help", "--word=hello"])
def test_a_reader_that_left_is_no_defect(script, argument):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = run(script, argument, stdout=writer)
    finally:
        os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")
