"""PyTorch's side of a comparison: a worker process that gets our weights and images as files."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.benchmarks.json_worker import JsonWorker, json_worker
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


class TorchSide:
    """The worker; one request at a time.

    Attributes:
      machine: its versions, accelerator and threads.
    """

    def __init__(self, worker: JsonWorker, baseline_dir: Path, tf32: bool) -> None:
        self._worker, self._baseline_dir = worker, baseline_dir
        self.machine = worker.result(method="start", tf32=tf32)

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
        np.savez(self._worker.folder / "weights.npz", allow_pickle=False, **tensors)
        np.savez(self._worker.folder / "data.npz", allow_pickle=False, **data)
        answer = self._worker.result(
            method="open",
            baseline_dir=str(self._baseline_dir),
            teacher=config_of(pair.teacher),
            student=config_of(pair.student),
            input_shape=pair.teacher.input_shape,
            weights=str(self._worker.folder / "weights.npz"),
            data=str(self._worker.folder / "data.npz"),
            batch=batch,
            dtypes=list(dtypes),
            learning_rate=learning_rate,
        )
        return dict(answer["notes"])

    def losses(self, column: str, dtype: str, steps: int) -> list[float]:
        """Of a column's first steps on the ready batch."""
        answer = self._worker.result(method="losses", column=column, dtype=dtype, steps=steps)
        return list(answer["losses"])

    def seconds(self, column: str, dtype: str, steps: int, *, end_to_end: bool) -> float:
        """Of one step, the mean of some that follow each other.

        Args:
          column, dtype: whose.
          steps: how many.
          end_to_end: with feeding and augmentation, instead of the ready batch.
        """
        answer = self._worker.result(
            method="seconds", column=column, dtype=dtype, steps=steps, end_to_end=end_to_end
        )
        return float(answer["seconds"])


@contextlib.contextmanager
def torch_side(python: str, baseline_dir: Path, tf32: bool) -> Iterator[TorchSide]:
    """Starts the worker in an interpreter with torch and transformers, and ends it.

    Args:
      python: the interpreter.
      baseline_dir: a clone of the PWL baseline.
      tf32: whether float32 products on a GPU may be rounded to TF32.

    Raises:
      UserError: there is no clone, or the worker cannot be started.
    """
    if not (baseline_dir / "pwl_model" / "core").is_dir():
        raise UserError(
            f"{baseline_dir} holds no pwl_model/core; expected a clone of the PWL baseline"
        )
    command = [python, "-m", "experiments.benchmarks.torch_worker"]
    with json_worker("PyTorch's process", command, PASSIVE, _ROOT) as worker:
        yield TorchSide(worker, baseline_dir.resolve(), tf32)
