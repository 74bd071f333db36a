"""PyTorch's side of a comparison: a worker process that gets our weights and images as files."""

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pwl_jax.errors import UserError
from pwl_jax.interop.baseline import tensors_of
from pwl_jax.interop.baseline_configs import config_of
from pwl_jax.models.block_network import Variables
from pwl_jax.models.registry import PairSpec

COLUMNS = ("baseline", "best")
"""The baseline's modules in a bare loop; the same loss in PyTorch at its best."""

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
"""PyTorch's idle threads sleep: on few cores, spinning would slow it and flatter us."""

_ROOT = Path(__file__).parents[2]


class TorchError(UserError):
    """PyTorch's process failed, or cannot be started."""


class TorchSide:
    """The worker; one request at a time.

    Attributes:
      machine: its versions, accelerator and threads.
    """

    def __init__(
        self, worker: subprocess.Popen[str], folder: Path, baseline_dir: Path, tf32: bool
    ) -> None:
        self._worker, self._folder, self._baseline_dir = worker, folder, baseline_dir
        self.machine = self._ask(method="start", tf32=tf32)

    def open(
        self,
        pair: PairSpec,
        variables: Variables,
        data: Mapping[str, np.ndarray],
        *,
        batch: int,
        dtypes: Sequence[str],
        learning_rate: float,
    ) -> dict[str, str]:
        """Builds every column of a pair, with its own copy of the weights.

        Args:
          pair: with shared statistics; its own type of computation does not count.
          variables: weights to start from.
          data: `images`, uint8[examples, height, width, channels], and `labels`, int[examples].
          batch: examples a step; the first ones lie ready.
          dtypes: `float32`, or `bfloat16` by autocast.
          learning_rate: of the student.

        Returns:
          What to know of each, by `<column> <dtype>`.
        """
        major = int(self.machine["versions"]["transformers"].split(".")[0])
        tensors = tensors_of(pair, variables, prefix="", naming="4" if major < 5 else "5")
        np.savez(self._folder / "weights.npz", allow_pickle=False, **tensors)
        np.savez(self._folder / "data.npz", allow_pickle=False, **data)
        answer = self._ask(
            method="open",
            baseline_dir=str(self._baseline_dir),
            teacher=config_of(pair.teacher),
            student=config_of(pair.student),
            input_shape=pair.teacher.input_shape,
            weights=str(self._folder / "weights.npz"),
            data=str(self._folder / "data.npz"),
            batch=batch,
            dtypes=list(dtypes),
            learning_rate=learning_rate,
        )
        return dict(answer["notes"])

    def losses(self, column: str, dtype: str, steps: int) -> list[float]:
        """Of a column's first steps on the ready batch."""
        answer = self._ask(method="losses", column=column, dtype=dtype, steps=steps)
        return list(answer["losses"])

    def seconds(self, column: str, dtype: str, steps: int, *, end_to_end: bool) -> float:
        """Of one step, the mean of some that follow each other.

        Args:
          column, dtype: whose.
          steps: how many.
          end_to_end: with feeding and augmentation, instead of the ready batch.
        """
        answer = self._ask(
            method="seconds", column=column, dtype=dtype, steps=steps, end_to_end=end_to_end
        )
        return float(answer["seconds"])

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._worker.stdin is not None and self._worker.stdout is not None
        try:
            self._worker.stdin.write(json.dumps(request) + "\n")
            self._worker.stdin.flush()
            line = self._worker.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            said = (self._folder / "stderr").read_text().strip().splitlines() or ["no message"]
            raise TorchError(f"PyTorch's process ended at '{request['method']}': {said[-1]}")
        answer = dict(json.loads(line))
        if "error" in answer:
            raise TorchError(f"PyTorch's side failed at '{request['method']}': {answer['error']}")
        return answer


@contextlib.contextmanager
def torch_side(python: str, baseline_dir: Path, tf32: bool) -> Iterator[TorchSide]:
    """Starts the worker in an interpreter with torch and transformers, and ends it.

    Args:
      python: the interpreter.
      baseline_dir: a clone of the PWL baseline.
      tf32: whether float32 products on a GPU may be rounded to TF32.

    Raises:
      TorchError: there is no clone, or the worker cannot be started.
    """
    if not (baseline_dir / "pwl_model" / "core").is_dir():
        raise TorchError(
            f"{baseline_dir} holds no pwl_model/core; expected a clone of the PWL baseline"
        )
    with tempfile.TemporaryDirectory(prefix="torch_side") as name:
        folder = Path(name)
        with (folder / "stderr").open("w") as stderr:
            try:
                worker = subprocess.Popen(
                    [python, "-m", "experiments.benchmarks.torch_worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                    cwd=_ROOT,
                    env={**os.environ, **PASSIVE},
                )
            except OSError as error:
                raise TorchError(f"cannot start '{python}': {error.strerror}") from error
            with worker:
                try:
                    yield TorchSide(worker, folder, baseline_dir.resolve(), tf32)
                finally:
                    worker.stdin.close() if worker.stdin else None
