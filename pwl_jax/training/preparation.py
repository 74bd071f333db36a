"""What a run needs before its first step: data, programs, initial values; and what it will cost."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from pwl_jax.data import pipeline, sources
from pwl_jax.data.augmentation import augment
from pwl_jax.errors import UserError
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.models.block_network import Variables
from pwl_jax.models.initialisation import initial_variables
from pwl_jax.training import calibration, workdir
from pwl_jax.training.config import RunConfig
from pwl_jax.training.cost import step_cost
from pwl_jax.training.feeding import step_of
from pwl_jax.training.step import device_mesh
from pwl_jax.training.student_init import student_from_teacher
from pwl_jax.training.tasks import Task, distillation_task, network_task


class TrainingError(UserError):
    """A run that cannot go on."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run with its data opened and its programs defined; nothing computed yet."""

    config: RunConfig
    mesh: Mesh
    task: Task
    training: pipeline.PreparedSource
    validation: pipeline.PreparedSource
    total: int


def prepare(config: RunConfig, teacher_workdir: epath.PathLike | None = None) -> Run:
    """Opens the data and defines the programs of a run.

    Args:
      config: of the run.
      teacher_workdir: where `distill` finds its teacher, and a teacher by itself the weights it
        begins with (None for random ones).

    Raises:
      UserError: data or config that do not fit.
    """
    mesh = _mesh_for(config)
    training, validation = _open_data(config)
    total = len(training) // config.batch_size * config.epochs
    init = functools.partial(_initial_variables, config, training, mesh, teacher_workdir)
    first = None
    if teacher_workdir is not None and config.task != "distill":
        if config.task != "teacher":
            raise TrainingError("only a teacher can begin with weights of another run")
        first = functools.partial(workdir.load_teacher, teacher_workdir, config)
    task = _define_task(config, mesh, total, init, training.source.multi_label, first)
    return Run(config, mesh, task, training, validation, total)


def dry_run(config: RunConfig, *, compiled: bool = True) -> dict[str, Any]:
    """What one step of the run costs, without computing; needs neither teacher nor data.

    Args:
      config: of the run.
      compiled: whether to compile the step, as `step_cost` has it.

    Returns:
      `devices` and what `step_cost` finds; `steps`, `examples` and `validation_examples` where
      the data are at hand, else `no_data`, which says why not.
    """
    mesh = _mesh_for(config)
    facts: dict[str, Any] = {"devices": mesh.size}
    total, examples = config.epochs, None
    try:
        training, validation = _open_data(config)
    except sources.DataError as error:
        facts["no_data"] = str(error)
        multi_label = bool(sources.is_multi_label(config.data.name, config.data.data_dir))
    else:
        multi_label, examples = training.source.multi_label, len(training)
        total = len(training) // config.batch_size * config.epochs
        facts |= {
            "steps": total,
            "examples": len(training),
            "validation_examples": len(validation),
        }
    init = functools.partial(HybridNetwork.init, rng=jax.random.key(0))
    task = _define_task(config, mesh, total, init, multi_label)
    step = step_of(config, task.program, mesh)
    return {**facts, **step_cost(config, task, mesh, step, examples, compiled=compiled)}


def _mesh_for(config: RunConfig) -> Mesh:
    """All devices; raises TrainingError where a batch does not divide among them."""
    mesh = device_mesh()
    parts = config.accumulate_steps
    if config.batch_size % (mesh.size * parts):
        each = f" in {parts} parts each" if parts > 1 else ""
        raise TrainingError(
            f"batch_size {config.batch_size} does not divide among {mesh.size} devices{each}"
        )
    return mesh


def _open_data(
    config: RunConfig,
) -> tuple[pipeline.PreparedSource, pipeline.PreparedSource]:
    """Training and validation images; raises where they are missing, few or of other classes."""
    data = config.data
    load = functools.partial(
        sources.load,
        data.name,
        data_dir=data.data_dir,
        validation_fraction=data.validation_fraction,
    )
    source = load("train")
    if len(source.classes) != config.pair.teacher.classes:
        raise TrainingError(
            f"'{data.name}' has {len(source.classes)} classes and pair '{config.pair.name}' "
            f"{config.pair.teacher.classes}; set pair_overrides.classes={len(source.classes)}"
        )
    preprocessing = workdir.preprocessing_of(config)
    training = pipeline.PreparedSource(source, preprocessing)
    if len(training) < config.batch_size:
        raise TrainingError(
            f"batch_size {config.batch_size} is larger than the {len(training)} training images"
        )
    return training, pipeline.PreparedSource(load("validation"), preprocessing)


def _define_task(
    config: RunConfig,
    mesh: Mesh,
    total: int,
    init: Callable[[HybridNetwork], Variables],
    multi_label: bool,
    first: Callable[[], Variables] | None = None,
) -> Task:
    """The run's task; raises TrainingError where the set's labels do not fit it."""
    if multi_label and config.task == "distill":
        raise TrainingError(
            f"'{config.data.name}' is a multi-label set, which cannot be distilled: the soft loss "
            "compares softmaxes over classes that exclude each other; train its networks by "
            "themselves with launch.train_teacher"
        )
    preprocessing = workdir.preprocessing_of(config)
    transform = functools.partial(augment, config=config.augmentation, preprocessing=preprocessing)
    if config.task == "distill":
        return distillation_task(config, mesh, transform, preprocessing.normalize, total, init)
    return network_task(config, mesh, transform, preprocessing.normalize, total, multi_label, first)


def _initial_variables(
    config: RunConfig,
    training: pipeline.PreparedSource,
    mesh: Mesh,
    teacher_workdir: epath.PathLike | None,
    hybrid: HybridNetwork,
) -> Variables:
    if teacher_workdir is None:
        raise TrainingError("a distillation needs the workdir of its trained teacher")
    teacher = workdir.load_teacher(teacher_workdir, config)
    variables = initial_variables(hybrid.init, jax.random.key(config.seed), teacher)
    if config.student_init == "teacher_layers":
        variables = student_from_teacher(hybrid, variables, config.student_init_layer)
    if config.converter_init == "least_squares":
        preprocessing = workdir.preprocessing_of(config)
        batch = next(iter(calibration_batches(config, training, mesh)))
        images = jnp.asarray(preprocessing.normalize(batch["image"]))
        # Every host fits to the same images by itself: no axis to average moments over.
        alone = HybridNetwork.from_pair(config.pair)
        variables = calibration.initialised_converters(alone, variables, [images], train=True)
    return variables


def calibration_batches(
    config: RunConfig, training: pipeline.PreparedSource, mesh: Mesh
) -> Iterator[dict[str, Any]]:
    """Full batches of training images, about `calibration_examples` of them, drawn by the seed."""
    return pipeline.sampled_batches(
        training, config.calibration_examples, config.eval_batch_size, config.seed, mesh.size
    )
