"""What every entry point shares: parse flags, call the library, say errors in one line, exit."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging

from pwl_jax.errors import UserError

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_HELP = ("--help", "-help", "-h")


def run(main: Callable[[], object]) -> NoReturn:
    """Runs an entry point: `if __name__ == "__main__": cli.run(main)`.

    `main` reads its own flags. Exit status: 0; 1 after a `UserError` or a file that is missing or
    cannot be read or written; 2 after a wrong flag; 130 after Ctrl-C. An error the user can mend is
    one line on stderr, without a traceback; any other exception is a defect and keeps its
    traceback.
    """
    try:
        app.run(lambda arguments: _run_main(main, arguments), flags_parser=_parse)
    except BrokenPipeError:
        # The reader of our output (`| head`) left; keep Python's own flush at exit quiet too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_ERROR)
    raise AssertionError("app.run returned")


def _parse(argv: list[str]) -> list[str]:
    options = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    if any(option in _HELP for option in options):
        app.usage(shorthelp=True, writeto_stdout=True)
        print("\nTry --helpfull to get a list of all flags.", flush=True)
        sys.exit(0)
    try:
        return flags.FLAGS(argv)
    except KeyError as error:
        fail(f"the config has no field {_one_line(error)}", EXIT_USAGE)
    except Exception as error:
        # A config file that is named by a flag is a program, run here: it may raise anything.
        fail(f"{_flag_problem(error)} (--help lists the flags)", EXIT_USAGE)


def _run_main(main: Callable[[], object], arguments: Sequence[str]) -> int:
    if len(arguments) > 1:
        fail(f"unexpected argument '{arguments[1]}' (--help lists the flags)", EXIT_USAGE)
    if not flags.FLAGS["verbosity"].present:
        # Libraries warn of what this program then says better, in its one line.
        logging.set_verbosity(logging.ERROR)
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        fail(_one_line(error), EXIT_ERROR)
    except KeyboardInterrupt:
        fail("interrupted", EXIT_INTERRUPTED)
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}", EXIT_ERROR)
    return 0


def fail(message: str, status: int = EXIT_ERROR) -> NoReturn:
    """Prints `<command>: <message>` on stderr and exits with `status`."""
    print(f"{_command()}: {message}", file=sys.stderr)
    sys.exit(status)


def _command() -> str:
    """`launch.predict` when run by `python -m launch.predict`, else the script's name."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name if spec is not None else Path(sys.argv[0]).name


def _flag_problem(error: BaseException) -> str:
    """What a flag's parser says; of a config file that raised, the last line of its traceback."""
    # ml_collections quotes its own messages, escapes and all.
    text = str(error).replace("\\n", " ").replace("\\'", "'")
    head, traceback, _ = text.partition("Traceback")
    if not traceback:
        return " ".join(text.split())
    return f"{' '.join(head.split())} {text.strip().splitlines()[-1]}"


def _one_line(error: BaseException) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split()) or type(error).__name__
