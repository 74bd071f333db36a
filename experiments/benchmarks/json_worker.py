"""Processes that answer in JSON: another interpreter line by line, this one at its end."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pwl_jax.errors import UserError

_ENDING_SECONDS = 10.0


class WorkerError(UserError):
    """A worker that cannot be started, has ended, or says that it failed."""


def json_answer(
    name: str, code: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> Any:
    """The JSON on the last line that a process of this interpreter prints, run to its end.

    Args:
      name: of the process, in errors.
      code: what it runs, Python.
      arguments: its `sys.argv[1:]`.
      environment: all of its variables.

    Raises:
      WorkerError: it failed, with the last line of its stderr.
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise WorkerError(f"{name} failed: {lines[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


class JsonWorker:
    """The process; one request at a time.

    Attributes:
      folder: of the caller's files for it, removed when it ends.
    """

    def __init__(self, name: str, process: subprocess.Popen[str], folder: Path) -> None:
        self.folder = folder
        self._name, self._process = name, process

    def ask(self, *, method: str, **request: Any) -> dict[str, Any]:
        """The answer to a request, which may hold an `error`; raises WorkerError without one."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"method": method, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_ENDING_SECONDS)
            said = (self.folder / "stderr").read_text().strip().splitlines() or ["no message"]
            raise WorkerError(f"{self._name} ended at '{method}': {said[-1]}")
        return dict(json.loads(line))

    def result(self, *, method: str, **request: Any) -> dict[str, Any]:
        """As `ask`; raises WorkerError for an `error` too."""
        answer = self.ask(method=method, **request)
        if "error" in answer:
            raise WorkerError(f"{self._name} failed at '{method}': {answer['error']}")
        return answer


@contextlib.contextmanager
def json_worker(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Iterator[JsonWorker]:
    """Starts a worker, and ends it by closing its stdin.

    Args:
      name: how errors call it.
      command: its interpreter and arguments.
      environment: variables beside this process's own.
      directory: where it runs; None is where this process does.

    Raises:
      WorkerError: it cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="worker") as temporary:
        folder = Path(temporary)
        with (folder / "stderr").open("w") as stderr:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                    cwd=directory,
                    env={**os.environ, **(environment or {})},
                )
            except OSError as error:
                raise WorkerError(f"cannot start '{command[0]}': {error.strerror}") from error
            with process:
                try:
                    yield JsonWorker(name, process, folder)
                finally:
                    # One that has ended reads no more of what was to be sent.
                    with contextlib.suppress(BrokenPipeError):
                        process.stdin.close() if process.stdin else None
