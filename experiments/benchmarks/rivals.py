"""The other interpreter with ZipNN, constriction and torchao, as far as it has them."""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pwl_jax.errors import UserError

_WORKER = Path(__file__).with_name("rival_worker.py")


class RivalError(UserError):
    """A compressor that is there and failed, or an interpreter that cannot be started."""


class Rivals:
    """A worker process; one request at a time.

    Attributes:
      missing: why a package is not used, by its name.
      versions: of those that are.
    """

    def __init__(self, worker: subprocess.Popen[str], folder: Path) -> None:
        self._worker = worker
        self._folder = folder
        self.missing: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        for package in ("zipnn", "constriction", "torchao"):
            answer = self._ask(method="has", package=package)
            if "error" in answer:
                self.missing[package] = answer["error"]
            else:
                self.versions[package] = answer["version"]

    def zipnn(self, data: Sequence[memoryview], dtype: str) -> dict[str, Any] | None:
        """`bytes`, `encode_seconds`, `decode_seconds` on pieces joined; None where it is missing.

        Args:
          data: bytes of elements.
          dtype: `float32` or `bfloat16`.
        """
        if "zipnn" in self.missing:
            return None
        path = self._folder / "elements"
        with path.open("wb") as file:
            file.writelines(data)
        return self._result(method="zipnn", path=str(path), dtype=dtype)

    def arithmetic(self, groups: Sequence[np.ndarray]) -> dict[str, Any] | None:
        """As `zipnn`, of a range coder on u16 symbols, each group with a model of its own."""
        if "constriction" in self.missing:
            return None
        path = self._folder / "symbols.npz"
        np.savez(path, *groups)
        return self._result(method="arithmetic", path=str(path))

    def torchao(self, matrix: np.ndarray, group: int) -> dict[str, Any] | None:
        """`bytes` and `squared_error` of f32[in, out] in 4 bits, groups along the inputs."""
        if "torchao" in self.missing:
            return None
        path = self._folder / "matrix.npy"
        np.save(path, matrix)
        return self._result(method="torchao", path=str(path), group=group)

    def _result(self, **request: Any) -> dict[str, Any]:
        answer = self._ask(**request)
        if "error" in answer:
            raise RivalError(f"{request['method']} failed: {answer['error']}")
        return answer

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._worker.stdin is not None and self._worker.stdout is not None
        try:
            self._worker.stdin.write(json.dumps(request) + "\n")
            self._worker.stdin.flush()
            line = self._worker.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RivalError(f"the interpreter with the other compressors died: {request}")
        return dict(json.loads(line))


@contextlib.contextmanager
def rivals(python: str) -> Iterator[Rivals]:
    """Starts `python`, with nothing of this repository, and ends it.

    Raises:
      RivalError: it cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="rivals") as folder:
        try:
            worker = subprocess.Popen(
                [python, "-W", "ignore", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError as error:
            raise RivalError(f"cannot start '{python}': {error.strerror}") from error
        with worker:
            try:
                yield Rivals(worker, Path(folder))
            finally:
                worker.stdin.close() if worker.stdin else None
