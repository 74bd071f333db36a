"""Checkpoints of a run (Orbax): one line to resume from, and the weights of its results.

`checkpoints/resume` holds state, data iterator and bookkeeping; `checkpoints/last` and
`checkpoints/best` hold the variables alone, as evaluation and export take them.
"""

import contextlib
import json
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from pwl_jax.errors import UserError
from pwl_jax.models.block_network import Variables
from pwl_jax.training.step import TrainState

Which = Literal["best", "last"]


class CheckpointError(UserError):
    """A checkpoint that is missing, unreadable, or of another model."""


def _manager(
    path: epath.Path, keep: int, handlers: Any, *, writes: bool = False
) -> ocp.CheckpointManager:
    """Of one folder; `handlers` is that of its checkpoints, or those of their items by name.

    One that `writes` first removes what a killed process has left half-written.
    """
    return ocp.CheckpointManager(
        path,
        item_handlers=handlers,
        options=ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            enable_async_checkpointing=True,
            cleanup_tmp_directories=writes,
        ),
    )


def resume_step(workdir: epath.PathLike) -> int | None:
    """The step from which a run in this workdir goes on; None where none was saved."""
    root = epath.Path(workdir).absolute() / "checkpoints" / "resume"
    return max(ocp.utils.checkpoint_steps(root), default=None)


class Checkpoints:
    """The checkpoints below one workdir. A context manager: leaving waits for pending saves.

    Saving goes on behind the training, one save at a time: the last one is complete before the
    next one begins. So a run that resumes finds every result that was saved before, and several
    processes meet at the same barriers in the same order. A folder gets its name when all in it is
    written, and an older one goes only then: a run that dies while saving keeps what it had.
    """

    def __init__(self, workdir: epath.PathLike) -> None:
        root = epath.Path(workdir).absolute() / "checkpoints"
        items = {
            "state": ocp.StandardCheckpointHandler(),
            "data": ocp.JsonCheckpointHandler(),
            "notes": ocp.JsonCheckpointHandler(),
        }
        self._resume = _manager(root / "resume", 2, items, writes=True)
        self._results = {
            which: _manager(root / which, 1, ocp.StandardCheckpointHandler(), writes=True)
            for which in ("best", "last")
        }

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.ExitStack() as stack:
            for manager in (self._resume, *self._results.values()):
                stack.callback(manager.close)
            self._wait()

    def _wait(self) -> None:
        try:
            for manager in (self._resume, *self._results.values()):
                manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise CheckpointError(f"a checkpoint was not saved: {_first_line(error)}") from error

    def save(self, state: TrainState, iterator: Any, notes: dict[str, Any]) -> None:
        """Saves all that resuming needs, in the background; not twice at the same step.

        Nothing of it depends on how many processes there are: `iterator` counts batches.
        """
        if self._resume.latest_step() == int(state.step):
            return
        self._wait()
        self._resume.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state_tree(state)),
                data=ocp.args.JsonSave(iterator.get_state()),
                notes=ocp.args.JsonSave(notes),
            ),
        )

    def restore(self, like: TrainState, iterator: Any) -> tuple[TrainState, dict[str, Any]] | None:
        """The latest saved state and notes, the iterator set to match; None if nothing was saved.

        Args:
          like: a state of the right structure, shapes and placement, on any devices.
          iterator: of the same data, batch size and seed, on any number of processes.

        Raises:
          CheckpointError: if the checkpoint does not fit, naming the first leaf that differs.
        """
        step = self._resume.latest_step()
        if step is None:
            return None
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state_tree(like))
        where = f"the checkpoint of step {step} to resume from"
        try:
            check_leaves(self._resume.item_metadata(step)["state"], target, where)
            restored = self._resume.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(target),
                    data=ocp.args.JsonRestore(),
                    notes=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise CheckpointError(
                f"the checkpoint of step {step} cannot be resumed: {_first_line(error)}"
            ) from error
        iterator.set_state(restored["data"])
        # Only finite states are saved; `like` has this one's placement.
        finite = jax.make_array_from_callback((), like.finite.sharding, lambda _: np.ones((), bool))
        return TrainState(**restored["state"], finite=finite), restored["notes"]

    def save_result(self, which: Which, step: int, variables: Variables) -> None:
        """Saves the variables of a result, in the background.

        A run that went back to an earlier step comes by its later results again, perhaps with
        other values: what it held of this step or beyond goes first.
        """
        self._wait()
        manager = self._results[which]
        for held in manager.all_steps():
            if held >= step:
                manager.delete(held)
        manager.save(step, args=ocp.args.StandardSave(variables))


def held_result(workdir: epath.PathLike, which: Which = "best") -> Which:
    """The result that `restore_variables` reads: `last` where no best one was chosen.

    Raises:
      CheckpointError: if there is none.
    """
    root = epath.Path(workdir).absolute() / "checkpoints"
    if not root.exists():
        raise CheckpointError(f"no checkpoints in '{workdir}'; expected a training run's workdir")
    choices: tuple[Which, ...] = ("last",) if which == "last" else ("best", "last")
    for choice in choices:
        if (root / choice).exists() and any(p.name.isdigit() for p in (root / choice).iterdir()):
            return choice
    raise CheckpointError(
        f"'{workdir}' has no {which} checkpoint yet; let its training run reach an evaluation"
    )


def restore_variables(
    workdir: epath.PathLike, like: Variables, which: Which = "best"
) -> tuple[int, Variables]:
    """Step and variables of a result; `last` where no best one was chosen.

    Args:
      workdir: of a run.
      like: shapes and types of every leaf (`jax.eval_shape` of an init); restoring is strict.
      which: `best` on the validation split, or `last`.

    Raises:
      CheckpointError: if there is none, or its leaves are not exactly those of `like`.
    """
    choice = held_result(workdir, which)
    root = epath.Path(workdir).absolute() / "checkpoints"
    with _manager(root / choice, 1, ocp.StandardCheckpointHandler()) as manager:
        step = manager.latest_step()
        where = f"checkpoint {workdir} ({choice}, step {step})"
        try:
            check_leaves(manager.item_metadata(step), like, where)
            # As NumPy arrays: it may have been saved by other devices than are here now.
            target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
            restored = manager.restore(step, args=ocp.args.StandardRestore(target))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise CheckpointError(f"{where} cannot be read: {_first_line(error)}") from error
        return step, jax.tree.map(jnp.asarray, restored)


def check_leaves(found: Any, like: Any, where: str) -> None:
    """Raises CheckpointError, naming the first leaf whose shape or type is not that of `like`."""
    saved, wanted = _described(getattr(found, "tree", found)), _described(like)
    # An optimizer's leaves are its model's: where that differs, it is the cause.
    of_optimizer = {name: name.startswith("opt_state/") for name in saved | wanted}
    for name in sorted(of_optimizer, key=lambda name: (of_optimizer[name], name)):
        if saved.get(name) != wanted.get(name):
            what = "optimizer" if of_optimizer[name] else "model"
            raise CheckpointError(
                f"{where} is of another {what}: '{name}' is "
                f"{saved.get(name, 'missing')} there; expected {wanted.get(name, 'no such leaf')}"
            )


def _described(tree: Any) -> dict[str, str]:
    """Type and shape of every leaf by name; fields and places in tuples are names, as on disk."""
    return {
        name: f"{np.dtype(leaf.dtype)}{list(leaf.shape)}"
        for name, leaf in ocp.tree.to_flat_dict(tree, sep="/").items()
    }


def state_tree(state: TrainState) -> dict[str, Any]:
    """What is saved of a state."""
    return {"step": state.step, "variables": state.variables, "opt_state": state.opt_state}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def read_json(path: epath.Path, what: str) -> Any:
    """Parsed JSON of a file; raises CheckpointError where it is missing or no JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"no {what} at '{path}'") from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{what} '{path}' cannot be read: {_first_line(error)}") from None
