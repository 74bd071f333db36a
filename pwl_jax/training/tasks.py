"""The two things that are trained: one network by itself, and a student under its teacher."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.sharding import Mesh

from pwl_jax.hybrid import HybridNetwork
from pwl_jax.ladder import Composition
from pwl_jax.models.block_network import Variables
from pwl_jax.models.initialisation import initial_variables
from pwl_jax.models.normalization import blend_moments
from pwl_jax.training import losses
from pwl_jax.training.calibration import calibrated, make_moments
from pwl_jax.training.config import RunConfig
from pwl_jax.training.evaluation import Evaluator, accuracy, evaluate_compositions
from pwl_jax.training.objective import LossOutputs, distillation_loss, prefix_masks
from pwl_jax.training.optimizer import (
    STUDENT,
    distillation_labels,
    make_optimizer,
    params_of,
)
from pwl_jax.training.recalibration import calibrated_over_all
from pwl_jax.training.step import AXIS, Augment, Batch, StepProgram

Batches = Callable[[], Iterable[Batch]]
"""Makes a fresh pass over some images."""


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What an evaluation during training found.

    Attributes:
      score: what the best checkpoint is chosen by, larger is better.
      values: accuracies by name, for the log.
      variables: what was measured: the state's, with statistics calibrated.
    """

    score: float
    values: dict[str, float]
    variables: Variables


@dataclasses.dataclass(frozen=True)
class Task:
    """A run's static parts and its initial values.

    Attributes:
      program: of the step.
      init: makes the initial variables.
      abstract: their shapes and types.
      masks: stacked masks the loss takes, a function of the variables' structure.
      assess: variables to what they are worth on the validation split.
      multi_label: whether its labels are multi-hot.
    """

    program: StepProgram
    init: Callable[[], Variables]
    abstract: Variables
    masks: Callable[[Variables], Any]
    assess: Callable[[Variables, Batches, Batches], Assessment]
    multi_label: bool = False


def network_task(
    config: RunConfig,
    mesh: Mesh,
    augment: Augment,
    normalize: Callable[[Any], Any],
    steps: int,
    multi_label: bool = False,
    first: Callable[[], Variables] | None = None,
) -> Task:
    """Trains the pair's teacher, or its student alone, by cross-entropy.

    Args:
      config, mesh, augment, normalize: of the run.
      steps: length of the learning rate's schedule.
      multi_label: whether labels are multi-hot: each class has a sigmoid of its own then, the
        loss is `losses.binary_cross_entropy`, and the score mean average precision.
      first: gives the network's initial variables; None draws them at random.
    """
    name = str(config.task)
    spec = config.pair.teacher if name == "teacher" else config.pair.student
    built = spec.build(AXIS if config.sync_batch_norm else None)
    network = dataclasses.replace(built, remat=config.remat)
    hard_loss = losses.binary_cross_entropy if multi_label else losses.cross_entropy

    def init() -> Variables:
        if first is not None:
            return {name: first()}
        return {name: initial_variables(network.init, jax.random.key(config.seed))}

    def loss(
        variables: Variables,
        images: jax.Array,
        labels: jax.Array,
        masks: Any,
        rng: jax.Array,
        progress: jax.Array,
    ) -> tuple[jax.Array, LossOutputs]:
        del masks, rng, progress
        outputs = network.apply(variables[name], images, train=True)
        stats = blend_moments(variables[name]["batch_stats"], outputs.moments)
        hard = hard_loss(outputs.logits, labels)
        return hard, LossOutputs({"hard": hard}, stats)

    logits_of = jax.jit(lambda variables, images: network.apply(variables, images).logits)

    def assess(variables: Variables, validation: Batches, training: Batches) -> Assessment:
        del training
        found = accuracy(
            lambda images: {name: logits_of(variables[name], images)},
            validation(),
            normalize,
            mesh,
        )[name]
        values = {f"{name}/{found.metric}": found.score, f"{name}/loss": found.loss}
        return Assessment(found.score, values, variables)

    abstract = {name: jax.eval_shape(network.init, jax.random.key(0))}
    labels = jax.tree.map(lambda _: STUDENT, params_of(abstract))
    optimizer = make_optimizer(config.optimizer, steps, labels)
    program = StepProgram(
        loss, name, optimizer, labels, augment, config.seed, config.accumulate_steps, steps
    )
    return Task(program, init, abstract, lambda variables: {}, assess, multi_label)


def distillation_task(
    config: RunConfig,
    mesh: Mesh,
    augment: Augment,
    normalize: Callable[[Any], Any],
    steps: int,
    init: Callable[[HybridNetwork], Variables],
) -> Task:
    """Distils the pair's student with every prefix in every step, under its frozen teacher.

    Args:
      config, mesh, augment, normalize: of the run.
      steps: length of the learning rate's schedule.
      init: the hybrid's initial variables, the trained teacher among them.
    """
    axis_name = AXIS if config.sync_batch_norm else None
    hybrid = HybridNetwork.from_pair(config.pair, axis_name, remat=config.remat)
    abstract = jax.eval_shape(hybrid.init, jax.random.key(0))
    labels = distillation_labels(hybrid, abstract)
    # One that is compiled for the whole mesh, and so knows no axis of its devices.
    evaluator = Evaluator(HybridNetwork.from_pair(config.pair), mesh)
    moments_of = make_moments(hybrid, mesh)
    prefixes = Composition.prefixes(hybrid.num_blocks)[:-1]
    if not config.objective.trains_hybrids:
        prefixes = prefixes[:1]

    def assess(variables: Variables, validation: Batches, training: Batches) -> Assessment:
        if config.calibration_examples:
            if config.calibration_over == "all":
                variables = calibrated_over_all(evaluator, variables, training(), normalize)
            else:
                variables = calibrated(hybrid, variables, training(), normalize, moments_of, mesh)
        found = evaluate_compositions(evaluator, variables, prefixes, validation(), normalize)
        values = {f"{c}/top1": result.score for c, result in found.items()}
        score = sum(values.values()) / len(values)
        return Assessment(score, {"mean_prefix/top1": score, **values}, variables)

    optimizer = make_optimizer(config.optimizer, steps, labels)
    loss = functools.partial(distillation_loss, hybrid, config.objective)
    program = StepProgram(
        loss, "student", optimizer, labels, augment, config.seed, config.accumulate_steps, steps
    )
    masks = functools.partial(prefix_masks, hybrid)
    return Task(program, functools.partial(init, hybrid), abstract, masks, assess)
