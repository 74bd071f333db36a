"""A workdir around weights that were trained elsewhere."""

from collections.abc import Mapping

import jax
from etils import epath

from pwl_jax.hybrid import HybridNetwork
from pwl_jax.models.block_network import Variables
from pwl_jax.training.checkpoints import CheckpointError, Checkpoints, check_leaves
from pwl_jax.training.config import RunConfig
from pwl_jax.training.workdir import abstract_variables, write_config

UNFINISHED = "unfinished"
"""Marks a workdir that is being written; one that a killed process left is written anew."""


def write_result(
    workdir: epath.PathLike,
    config: RunConfig,
    variables: Variables,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Leaves a workdir as a run that ended with these variables would: its `last` result, step 0.

    What reads workdirs (`evaluate`, `export`, `predict`, `distill --teacher`) takes it like any
    other. The config comes last, so that a write that was killed leaves no run; the next one then
    begins anew. A write that fails leaves nothing.

    Args:
      workdir: a folder that does not exist yet, or is empty.
      config: what the variables are: `task` and `pair`, and in `data` the images they are for.
      variables: `{"teacher": {"params", "batch_stats"}}` for the task `teacher` (`"student"` for
        `student`), the hybrid's whole tree for `distill`; NumPy or JAX leaves.
      files: content by name below the workdir, of what is kept beside the weights.

    Raises:
      CheckpointError: the folder holds something already or cannot be written, or a leaf is not
        as the config's networks have it; names the first.
    """
    check_leaves(variables, _abstract(config), "what is imported")
    root = epath.Path(workdir)
    existed = root.exists()
    unfinished = root / UNFINISHED
    if unfinished.exists():
        _empty(root, keep=True)
    if existed and (not root.is_dir() or any(root.iterdir())):
        raise CheckpointError(f"'{workdir}' holds something already; expected a workdir of its own")
    try:
        root.mkdir(parents=True, exist_ok=True)
        unfinished.write_text("")
        for name, content in (files or {}).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        with Checkpoints(root) as checkpoints:
            checkpoints.save_result("last", 0, variables)
        write_config(root, config)
        unfinished.unlink()
    except BaseException as error:
        _empty(root, existed)
        if isinstance(error, OSError):
            raise CheckpointError(
                f"cannot write to workdir '{workdir}': {error.strerror or error}"
            ) from error
        raise


def _abstract(config: RunConfig) -> Variables:
    if config.task == "distill":
        return abstract_variables(HybridNetwork.from_pair(config.pair))
    name = str(config.task)
    network = getattr(config.pair, name).build()
    return {name: jax.eval_shape(network.init, jax.random.key(0))}


def _empty(root: epath.Path, keep: bool) -> None:
    if not root.exists():
        return
    if not keep:
        root.rmtree()
        return
    for path in root.iterdir():
        path.rmtree() if path.is_dir() else path.unlink()
