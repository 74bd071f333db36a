"""The other interpreter with ZipNN, constriction and torchao, as far as it has them."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.json_worker import JsonWorker, json_worker

_WORKER = Path(__file__).with_name("rival_worker.py")


class Rivals:
    """A worker process; one request at a time.

    Attributes:
      missing: why a package is not used, by its name.
      versions: of those that are.
    """

    def __init__(self, worker: JsonWorker) -> None:
        self._worker = worker
        self.missing: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        for package in ("zipnn", "constriction", "torchao"):
            answer = worker.ask(method="has", package=package)
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
        path = self._worker.folder / "elements"
        with path.open("wb") as file:
            file.writelines(data)
        return self._worker.result(method="zipnn", path=str(path), dtype=dtype)

    def arithmetic(self, groups: Sequence[np.ndarray]) -> dict[str, Any] | None:
        """As `zipnn`, of a range coder on u16 symbols, each group with a model of its own."""
        if "constriction" in self.missing:
            return None
        path = self._worker.folder / "symbols.npz"
        np.savez(path, *groups)
        return self._worker.result(method="arithmetic", path=str(path))

    def torchao(self, matrix: np.ndarray, group: int) -> dict[str, Any] | None:
        """`bytes` and `squared_error` of f32[in, out] in 4 bits, groups along the inputs."""
        if "torchao" in self.missing:
            return None
        path = self._worker.folder / "matrix.npy"
        np.save(path, matrix)
        return self._worker.result(method="torchao", path=str(path), group=group)


@contextlib.contextmanager
def rivals(python: str) -> Iterator[Rivals]:
    """Starts `python`, with nothing of this repository, and ends it.

    Raises:
      WorkerError: it cannot be started.
    """
    command = [python, "-W", "ignore", str(_WORKER)]
    with json_worker("the interpreter with the other compressors", command) as worker:
        yield Rivals(worker)
