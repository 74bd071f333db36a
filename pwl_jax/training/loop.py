"""The training loop: feeds the step, evaluates, saves, stops cleanly and resumes exactly."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from pwl_jax.data import pipeline, sources
from pwl_jax.data.augmentation import augment
from pwl_jax.errors import UserError
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.models.block_network import Variables
from pwl_jax.models.initialisation import initial_variables
from pwl_jax.training import calibration, workdir
from pwl_jax.training.checkpoints import Checkpoints, resume_step
from pwl_jax.training.config import RunConfig
from pwl_jax.training.evaluation import fitting_batch
from pwl_jax.training.feeding import make_feed
from pwl_jax.training.metrics import MetricsWriter, Progress
from pwl_jax.training.non_finite import NotFiniteError, save_scene
from pwl_jax.training.step import (
    device_mesh,
    mapped_step,
    placed_like,
    replicate,
    settled,
)
from pwl_jax.training.stopping import StopRequest
from pwl_jax.training.tasks import Task, distillation_task, network_task, step_cost


class TrainingError(UserError):
    """A run that cannot go on."""


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended: `steps` done of `total`; `values` of its last evaluation."""

    steps: int
    total: int
    values: dict[str, float]

    @property
    def finished(self) -> bool:
        """Whether all steps were done; otherwise the same command goes on from here."""
        return self.steps == self.total


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
      teacher_workdir: where `distill` finds its teacher.

    Raises:
      UserError: data or config that do not fit.
    """
    mesh = _mesh_for(config)
    training, validation = _open_data(config)
    total = len(training) // config.batch_size * config.epochs
    init = functools.partial(_initial_variables, config, training, mesh, teacher_workdir)
    task = _define_task(config, mesh, total, init, training.source.multi_label)
    return Run(config, mesh, task, training, validation, total)


def dry_run(config: RunConfig) -> dict[str, Any]:
    """What one step of the run costs, without computing; needs neither teacher nor data.

    Returns:
      `devices` and what `step_cost` finds; `steps`, `examples` and `validation_examples` where
      the data are at hand, else `no_data`, which says why not.
    """
    mesh = _mesh_for(config)
    facts: dict[str, Any] = {"devices": mesh.size}
    total = config.epochs
    try:
        training, validation = _open_data(config)
    except sources.DataError as error:
        facts["no_data"] = str(error)
        multi_label = bool(sources.is_multi_label(config.data.name, config.data.data_dir))
    else:
        multi_label = training.source.multi_label
        total = len(training) // config.batch_size * config.epochs
        facts |= {
            "steps": total,
            "examples": len(training),
            "validation_examples": len(validation),
        }
    init = functools.partial(HybridNetwork.init, rng=jax.random.key(0))
    task = _define_task(config, mesh, total, init, multi_label)
    return {**facts, **step_cost(config, task, mapped_step(task.program, mesh))}


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
    return network_task(config, mesh, transform, preprocessing.normalize, total, multi_label)


def train(
    config: RunConfig,
    run_dir: epath.PathLike,
    teacher_workdir: epath.PathLike | None = None,
    *,
    progress: bool = True,
    change_config: bool = False,
) -> RunResult:
    """Runs or resumes a training to its end, or to a signal.

    A run that was stopped or killed goes on from its last checkpoint and ends with the same
    parameters, bit for bit, as one that was not (same kind and number of devices). The checkpoint
    holds the teacher too: `teacher_workdir` is read only where there is nothing to resume.

    Args:
      config: of the run; must equal the one that the workdir holds, if it holds one.
      run_dir: the workdir; created where missing.
      teacher_workdir: of the teacher, for `distill`.
      progress: whether to draw a progress bar on stderr.
      change_config: whether the run may go on with other values of what `config.CHANGEABLE` names.

    Raises:
      UserError: anything that does not fit, or a step that is not finite; see `save_scene`.
    """
    run = prepare(config, teacher_workdir)
    workdir.check_config(run_dir, config, change=change_config)
    main_process = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        state = placed_like(jax.eval_shape(run.task.program.init, run.task.abstract), run.mesh)
        if resume_step(run_dir) is None:
            # Reads the teacher: until it is known to fit, nothing is written.
            state = replicate(run.task.program.init(_agreed(run.task.init())), run.mesh)
        feed = make_feed(config, run.task.program, run.training, run.mesh)
        stack.callback(feed.iterator.close)
        if main_process:
            workdir.write_config(run_dir, config, change=change_config)
        checkpoints = stack.enter_context(Checkpoints(run_dir))
        masks = replicate(run.task.masks(run.task.abstract), run.mesh)
        notes: dict[str, Any] = {"best": None, "values": {}}
        resumed = checkpoints.restore(state, feed.iterator)
        if resumed is not None:
            state, notes = resumed
        step = int(state.step)
        writer = stack.enter_context(MetricsWriter(run_dir, step, enabled=main_process))
        bar = stack.enter_context(
            Progress(
                config.task,
                run.total,
                step,
                config.batch_size,
                bar=progress and main_process,
                lines=main_process,
            )
        )
        if step and step < run.total:
            bar.say(f"resumed at step {step} of {run.total}")
        steps_per_epoch = run.total // config.epochs
        save_every = config.checkpoint_every_steps or steps_per_epoch
        assess_every = steps_per_epoch * config.eval_every_epochs
        pending: Pending | None = None
        try:
            while step < run.total and not stop.heard():
                # A dispatch ends where something is to be done with its state.
                count = min(feed.longest, run.total - step)
                for every in (save_every, assess_every):
                    count = min(count, every - step % every)
                inputs = feed.take(count)
                state, metrics = settled(feed.run(state, inputs, masks), run.mesh)
                step += count
                # Read one dispatch late: the device is at work on this one meanwhile.
                _report(writer, bar, pending)
                pending = Pending(step - count + 1, count, metrics)
                assess = step == run.total or step % assess_every == 0
                save = step == run.total or step % save_every == 0
                if assess or save:
                    # What is saved was seen to be finite, and its metrics are on disk before it is.
                    _report(writer, bar, pending)
                    pending = None
                if assess:
                    notes = _assess(run, checkpoints, writer, bar, step, state.variables, notes)
                if save:
                    checkpoints.save(state, feed.iterator, notes)
            _report(writer, bar, pending)
        except NotFiniteError as error:
            batch = pipeline.batch_of_step(run.training, config.batch_size, config.seed, error.step)
            raise _explained(error, save_scene(run_dir, error, state, batch), run_dir) from None
        if step < run.total:
            checkpoints.save(state, feed.iterator, notes)
            bar.say(f"stopped at step {step} of {run.total}; the same command goes on from here")
        return RunResult(step, run.total, notes["values"])


def _agreed(variables: Variables) -> Variables:
    """The first process's values on every process.

    Hosts may differ in the last bit of what they compute by themselves.
    """
    if jax.process_count() == 1:
        return variables
    return multihost_utils.broadcast_one_to_all(variables)


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
    if config.converter_init == "least_squares":
        preprocessing = workdir.preprocessing_of(config)
        batch = next(iter(_calibration_batches(config, training, mesh)))
        images = jnp.asarray(preprocessing.normalize(batch["image"]))
        variables = calibration.initialised_converters(hybrid, variables, images)
    return variables


def _calibration_batches(
    config: RunConfig, training: pipeline.PreparedSource, mesh: Mesh
) -> Iterator[dict[str, Any]]:
    """Full batches of training images, about `calibration_examples` of them, drawn by the seed."""
    size = min(config.eval_batch_size, len(training))
    size = max(size // mesh.size, 1) * mesh.size
    count = max(min(config.calibration_examples, len(training)) // size, 1)
    # A set may be stored class by class: its first images are no sample of it.
    order = np.resize(pipeline.epoch_order(len(training), config.seed, epoch=0), count * size)
    for positions in order.reshape(count, size):
        batch = training.batch(positions)
        yield {"image": batch["image"], "label": batch["label"]}


def _assess(
    run: Run,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    bar: Progress,
    step: int,
    variables: Variables,
    notes: dict[str, Any],
) -> dict[str, Any]:
    """Evaluates, saves the variables where they are the best or the last, and says so.

    Without a validation split nothing is chosen: training images are evaluated, and only the last
    result is saved.
    """
    split, images = (
        ("validation", run.validation) if len(run.validation) else ("training", run.training)
    )
    found = run.task.assess(
        variables,
        lambda: pipeline.eval_batches(
            images, fitting_batch(run.config.eval_batch_size, len(images), run.mesh)
        ),
        lambda: _calibration_batches(run.config, run.training, run.mesh),
    )
    values = {f"{split}/{name}": value for name, value in found.values.items()}
    writer.write(step, values)
    shown = {name: value for name, value in found.values.items() if not name.endswith("/loss")}
    scores = [f"{name.removesuffix('/top1')} {100 * v:.1f}" for name, v in shown.items()]
    bar.say(f"step {step}: " + "  ".join(scores))
    best = notes["best"]
    if split == "validation" and (best is None or found.score > best["score"]):
        checkpoints.save_result("best", step, found.variables)
        notes = {**notes, "best": {"step": step, "score": found.score}}
    if step == run.total:
        checkpoints.save_result("last", step, found.variables)
    return {**notes, "values": values}


class Pending(NamedTuple):
    """Metrics that are still on the device: of so many `steps`, from `first` on."""

    first: int
    steps: int
    metrics: dict[str, jax.Array]


def _report(writer: MetricsWriter, bar: Progress, pending: Pending | None) -> None:
    """Writes the metrics of finished steps; raises NotFiniteError where one is not finite."""
    if pending is None:
        return
    found = {name: np.atleast_1d(m) for name, m in jax.device_get(pending.metrics).items()}
    for row in range(pending.steps):
        step = pending.first + row
        values = {name: float(column[row]) for name, column in found.items()}
        if not values.pop("finite"):
            raise NotFiniteError(step, values)
        writer.write(step, {f"train/{name}": value for name, value in values.items()})
        bar.advance(values["loss"])


def _explained(error: NotFiniteError, scene: epath.Path, run_dir: epath.PathLike) -> TrainingError:
    """One line that says what happened, where to look, and how to go on."""
    saved = resume_step(run_dir)
    start = "from the start" if saved is None else f"from the checkpoint of step {saved}"
    return TrainingError(
        f"{error} and changed nothing; the state before it and its batch lie in '{scene}'. Lower "
        f"the learning rate: with --change_config the run goes on {start}"
    )
