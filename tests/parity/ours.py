"""Our side: what this project's own functions and its training step compute."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pwl_jax.data.augmentation import AugmentationConfig, augment
from pwl_jax.ladder import Composition
from pwl_jax.models.block_network import Variables
from pwl_jax.training.config import DataConfig, RunConfig
from pwl_jax.training.objective import Objective, distillation_loss, prefix_masks
from pwl_jax.training.optimizer import OptimizerConfig, params_of, with_params
from pwl_jax.training.step import device_mesh, mapped_step, replicate, shard_batch
from pwl_jax.training.tasks import distillation_task
from tests.parity.results import TERMS, Logits, Loss
from tests.parity.settings import (
    BATCH,
    LEARNING_RATE,
    LOSS_STEP,
    SEED,
    STEPS,
    CrossMode,
    Setting,
    loss_key,
)


@functools.cache
def logits(given: Setting, count: int) -> Logits:
    """Of every composition, in evaluation mode, for the first images of step 0."""
    images = jnp.asarray(given.images(count))
    apply = jax.jit(lambda variables, mask: given.network.apply(variables, images, mask).logits)
    return {
        c: np.asarray(apply(given.variables, given.network.mask_of(given.variables, c)))
        for c in Composition.all(given.network.num_blocks)
    }


def objective(cross: CrossMode) -> Objective:
    """The baseline's."""
    return Objective(cross=cross, align_streams=False)


@functools.cache
def loss(given: Setting, cross: CrossMode) -> Loss:
    """Of the batch of step `LOSS_STEP`."""
    images = jnp.asarray(given.images(BATCH, LOSS_STEP))
    labels = jnp.asarray(given.batch(LOSS_STEP)["label"])

    def evaluated(params: Any) -> Any:
        variables = with_params(given.variables, params)
        masks = prefix_masks(given.network, variables)
        return distillation_loss(
            given.network, objective(cross), variables, images, labels, masks, loss_key(LOSS_STEP)
        )

    differentiated = jax.jit(jax.value_and_grad(evaluated, has_aux=True))
    (_, outputs), gradients = differentiated(params_of(given.variables))
    gradients = jax.device_get({k: v for k, v in gradients.items() if k != "teacher"})
    return Loss({name: float(outputs.terms[name]) for name in TERMS}, gradients)


@functools.cache
def trained(given: Setting, cross: CrossMode) -> Variables:
    """After all steps of a schedule of as many: the step of `launch.distill` on one device."""
    config = RunConfig(
        task="distill",
        pair=given.pair,
        data=DataConfig(name="digits"),
        objective=objective(cross),
        optimizer=OptimizerConfig(learning_rate=LEARNING_RATE),
        batch_size=BATCH,
        seed=SEED,
    )
    mesh = device_mesh(jax.devices()[:1])
    augmented = functools.partial(
        augment, config=AugmentationConfig(), preprocessing=given.preprocessing
    )
    task = distillation_task(
        config, mesh, augmented, given.preprocessing.normalize, STEPS, lambda _: given.variables
    )
    step = mapped_step(task.program, mesh)
    state = replicate(task.program.init(given.variables), mesh)
    masks = replicate(task.masks(given.variables), mesh)
    for i in range(STEPS):
        state, _ = step(state, shard_batch(given.batch(i), mesh), masks)
    variables: Variables = jax.device_get(state.variables)
    return variables
