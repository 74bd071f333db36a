"""The training loop: feeds the step, evaluates, saves, stops cleanly and resumes exactly."""

import contextlib
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from pwl_jax.data import pipeline
from pwl_jax.models.block_network import Variables
from pwl_jax.training import workdir
from pwl_jax.training.checkpoints import Checkpoints, resume_step
from pwl_jax.training.config import RunConfig
from pwl_jax.training.cost import cost_lines, peak_flops, step_cost
from pwl_jax.training.evaluation import fitting_batch
from pwl_jax.training.feeding import make_feed
from pwl_jax.training.metrics import MetricsWriter, Progress
from pwl_jax.training.non_finite import NotFiniteError, save_scene
from pwl_jax.training.preparation import Run, TrainingError, calibration_batches, prepare
from pwl_jax.training.profiling import Profiler, ProfileSpan
from pwl_jax.training.speed import StepClock
from pwl_jax.training.step import placed_like, replicate, settled
from pwl_jax.training.stopping import StopRequest


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


def train(
    config: RunConfig,
    run_dir: epath.PathLike,
    teacher_workdir: epath.PathLike | None = None,
    *,
    progress: bool = True,
    change_config: bool = False,
    profile: ProfileSpan | None = None,
) -> RunResult:
    """Runs or resumes a training to its end, or to a signal.

    A run that was stopped or killed goes on from its last checkpoint and ends with the same
    parameters, bit for bit, as one that was not (same kind and number of devices). The checkpoint
    holds the teacher too: `teacher_workdir` is read only where there is nothing to resume.

    Args:
      config: of the run; must equal the one that the workdir holds, if it holds one.
      run_dir: the workdir; created where missing.
      teacher_workdir: of the teacher, for `distill`; of the weights a teacher begins with.
      progress: whether to draw a progress bar on stderr.
      profile: steps to trace into `profile/` below the workdir, on the first process.
      change_config: whether the run may go on with other values of what `config.CHANGEABLE` names.

    Raises:
      UserError: anything that does not fit, or a step that is not finite; see `save_scene`.
    """
    run = prepare(config, teacher_workdir)
    if profile is not None and profile.start > run.total:
        raise TrainingError(f"profile begins at step {profile.start}; the run has {run.total}")
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
        if main_process and resume_step(run_dir) is None:
            workdir.write_config(run_dir, config, change=change_config)
        checkpoints = stack.enter_context(Checkpoints(run_dir))
        masks = replicate(run.task.masks(run.task.abstract), run.mesh)
        notes: dict[str, Any] = {"best": None, "values": {}}
        resumed = checkpoints.restore(state, feed.iterator)
        if resumed is not None:
            state, notes = resumed
            if main_process:
                # Only now: what cannot go on under another config keeps its own.
                workdir.write_config(run_dir, config, change=change_config)
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
        profiler = stack.enter_context(Profiler(run_dir, profile if main_process else None))
        clock = _announced(run, feed.step, bar, step)
        bar.restart()
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
                profiler.before(step + 1, count, state)
                at_work = pending and pending.metrics
                inputs = clock.taken(functools.partial(feed.take, count), at_work)
                state, metrics = settled(feed.run(state, inputs, masks), run.mesh)
                step += count
                # Read one dispatch late: the device is at work on this one meanwhile.
                _report(writer, bar, clock, pending)
                pending = Pending(step - count + 1, count, metrics)
                assess = step == run.total or step % assess_every == 0
                save = step == run.total or step % save_every == 0
                if assess or save:
                    # What is saved was seen to be finite, and its metrics are on disk before it is.
                    _report(writer, bar, clock, pending)
                    pending = None
                if assess:
                    notes = _assess(run, checkpoints, writer, bar, step, state.variables, notes)
                if save:
                    checkpoints.save(state, feed.iterator, notes)
                if assess or save:
                    clock.restart()
            _report(writer, bar, clock, pending)
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
        lambda: calibration_batches(run.config, run.training, run.mesh),
    )
    values = {f"{split}/{name}": value for name, value in found.values.items()}
    writer.write(step, values)
    writer.flush()
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


def _announced(run: Run, step_program: Any, bar: Progress, done: int) -> StepClock:
    """Compiles the step, says what it costs, and returns the clock of its speed."""
    facts: dict[str, Any] = {"flops": float("nan")}
    if done < run.total:
        facts = step_cost(run.config, run.task, run.mesh, step_program, len(run.training))
        for line in cost_lines(facts):
            bar.say(line)
    peak = peak_flops(run.mesh.devices.flat[0])
    all_devices = None if peak is None else peak * run.mesh.size
    return StepClock(run.config.batch_size, facts["flops"], all_devices)


def _report(
    writer: MetricsWriter, bar: Progress, clock: StepClock, pending: Pending | None
) -> None:
    """Writes the metrics of finished steps; raises NotFiniteError where one is not finite.

    The speed stands with the last step of its dispatch.
    """
    if pending is None:
        return
    found = {name: np.atleast_1d(m) for name, m in jax.device_get(pending.metrics).items()}
    speed = clock.lap(pending.steps)
    for row in range(pending.steps):
        step = pending.first + row
        values = {name: float(column[row]) for name, column in found.items()}
        if not values.pop("finite"):
            raise NotFiniteError(step, values)
        line = {f"train/{name}": value for name, value in values.items()}
        writer.write(step, line | (speed if row == pending.steps - 1 else {}))
        bar.advance(values["loss"], speed)
    writer.flush()


def _explained(error: NotFiniteError, scene: epath.Path, run_dir: epath.PathLike) -> TrainingError:
    """One line that says what happened, where to look, and how to go on."""
    saved = resume_step(run_dir)
    start = "from the start" if saved is None else f"from the checkpoint of step {saved}"
    return TrainingError(
        f"{error} and changed nothing; the state before it and its batch lie in '{scene}'. Lower "
        f"the learning rate: with --change_config the run goes on {start}"
    )
