"""What a run leaves to look at when a step was not finite: the state before it, and its batch."""

import io
import json
import math
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from pwl_jax.errors import UserError
from pwl_jax.training.checkpoints import CheckpointError, state_tree
from pwl_jax.training.step import Batch, TrainState


class NotFiniteError(UserError):
    """A step that was not finite, and so changed nothing.

    Attributes:
      step: which, from 1.
      values: its metrics by name.
    """

    def __init__(self, step: int, values: dict[str, float]) -> None:
        self.step, self.values = step, values
        bad = [f"{name} is {value}" for name, value in self.bad.items()]
        super().__init__(
            f"step {step} is not finite ({', '.join(bad) or 'batch statistics are not'})"
        )

    @property
    def bad(self) -> dict[str, float]:
        """The metrics that are not finite; none where only batch statistics are not."""
        return {name: value for name, value in self.values.items() if not math.isfinite(value)}


def save_scene(
    workdir: epath.PathLike, error: NotFiniteError, state: TrainState, batch: Batch
) -> epath.Path:
    """Writes `non_finite/step_<n>/` below a workdir: `state/` (Orbax), `batch.npz`, `report.json`.

    Every process calls it; the first one writes what is not the state.

    Args:
      workdir: of the run.
      error: the step and its metrics.
      state: the last finite one.
      batch: what the step read, as stored, before augmentation; over all processes.

    Returns:
      The folder.

    Raises:
      CheckpointError: it cannot be written.
    """
    folder = epath.Path(workdir).absolute() / "non_finite" / f"step_{error.step}"
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / "state", state_tree(state), force=True)
        if jax.process_index() == 0:
            arrays = io.BytesIO()
            np.savez(arrays, **dict[str, Any](batch))
            (folder / "batch.npz").write_bytes(arrays.getvalue())
            text = json.dumps(_report(error, state, batch), indent=1)
            (folder / "report.json").write_text(text + "\n")
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"{error}; '{folder}' cannot be written: {problem}") from problem
    return folder


def _report(error: NotFiniteError, state: TrainState, batch: Batch) -> dict[str, Any]:
    return {
        "step": error.step,
        # JSON has neither NaN nor infinity.
        "not_finite": {n: str(v) for n, v in error.bad.items()} or {"batch_stats": "not finite"},
        "finite": {n: v for n, v in error.values.items() if n not in error.bad},
        "indices": batch["index"].tolist(),
        "labels": batch["label"].tolist(),
        "state": {"step": int(state.step), "folder": "state"},
        "batch": "batch.npz",
    }
