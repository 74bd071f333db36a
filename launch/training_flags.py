"""The flags that both training commands have, and what they do with them."""

import os
from typing import Any

from absl import flags

from launch import import_flag
from pwl_jax.errors import UserError
from pwl_jax.training.config import RunConfig

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; created where missing.")
DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Print shapes, parameters, FLOPs and memory of a step, compiled; run nothing.",
)
_PROFILE = flags.DEFINE_string(
    "profile", None, "START,COUNT: trace these steps into WORKDIR/profile (TensorBoard, Perfetto)."
)
_CHANGE_CONFIG = flags.DEFINE_bool(
    "change_config",
    False,
    "Resume with other values than the run has had: of optimizer, objective, augmentation, feeding "
    "and all else but what decides the networks, the order of examples and the number of steps.",
)
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic", False, "On GPU, use only kernels that give the same bits every time."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, to train on several hosts; 'auto' on TPU pods."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes, with --coordinator.")
_PROCESS = flags.DEFINE_integer("process", None, "Index of this process, with --coordinator.")


def config(flag: flags.FlagHolder[Any]) -> Any:
    """The value of a config flag, whose file is only read here.

    Raises:
      UserError: the file is missing, does not load, or has no such variant.
    """
    import_flag.import_modules()
    try:
        value = flag.value
        # What could not be read is handed out as an object that raises when it is used.
        value.to_dict()
    except Exception as error:
        # A config file is a program: it may raise anything.
        cause: BaseException = error
        while cause.__cause__ or cause.__context__:
            cause = cause.__cause__ or cause.__context__ or cause
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        raise UserError(f"--config cannot be read: {lines[-1].strip()}") from None
    return value


def run(config: RunConfig, teacher: str | None = None) -> None:
    """Trains as the flags say, or shows what a step would cost."""
    if _DETERMINISTIC.value:
        # Read when JAX starts its backend.
        flag = "--xla_gpu_deterministic_ops=true"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    import jax

    from pwl_jax.training import loop, preparation
    from pwl_jax.training.profiling import ProfileSpan

    profile = None if _PROFILE.value is None else ProfileSpan.parse(_PROFILE.value)
    _join_processes()
    if DRY_RUN.value:
        print(dry_run_text(config, preparation.dry_run(config)))
        return
    if WORKDIR.value is None:
        raise UserError("--workdir is missing; expected the folder to write the run to")
    result = loop.train(
        config, WORKDIR.value, teacher, change_config=_CHANGE_CONFIG.value, profile=profile
    )
    if result.finished and jax.process_index() == 0:
        for name, value in result.values.items():
            print(f"{name}: {value:.4f}")


def _join_processes() -> None:
    """Makes this process one of several, where the flags say so; raises UserError if it cannot."""
    import jax

    coordinator, processes, process = _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
    given = f"--coordinator={coordinator} --processes={processes} --process={process}"
    if coordinator is None:
        if processes is not None or process is not None:
            raise UserError("--processes and --process need --coordinator=host:port")
        return
    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        elif coordinator.rpartition(":")[2].isdigit() and ":" in coordinator:
            jax.distributed.initialize(coordinator, processes, process)
        else:
            raise ValueError("expected host:port or auto")
    except (ValueError, RuntimeError) as error:
        raise UserError(f"cannot join the processes of {given}: {error}") from None


def dry_run_text(config: RunConfig, cost: dict[str, Any]) -> str:
    """What `preparation.dry_run` found, as lines."""
    from pwl_jax.training.cost import cost_lines

    lines = [
        f"{config.task} of pair '{config.pair.name}' on '{config.data.name}', steps of "
        f"{config.batch_size} examples on {cost['devices']} device(s)"
    ]
    if "no_data" in cost:
        lines.append(f"  number of steps unknown: {cost['no_data']}")
    else:
        lines.append(
            f"  {cost['steps']} steps, {config.epochs} epochs of {cost['examples']} training "
            f"images; {cost['validation_examples']} validation images"
        )
    for name, (shape, dtype) in cost["batch"].items():
        lines.append(f"  batch {name:<6} {dtype}{list(shape)}")
    for role, shapes in cost["boundaries"].items():
        features = ", ".join("x".join(map(str, shape)) for shape in shapes)
        lines.append(f"  {role} features at inner boundaries: {features}")
    lines.append(f"  metrics: {', '.join(cost['metrics'])}")
    lines += [f"  {line}" for line in cost_lines(cost)]
    return "\n".join(lines)
