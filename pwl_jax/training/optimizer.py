"""Optimizers and schedules; which leaf gets which is read off the masks."""

import dataclasses
import math
from typing import Any, Literal

import jax
import optax

from pwl_jax.errors import UserError
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.ladder import Composition
from pwl_jax.models.block_network import Variables

FROZEN, STUDENT, CONVERTER = "frozen", "student", "converter"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """SGD or AdamW with a cosine schedule (defaults: the PyTorch baseline's recipe).

    Attributes:
      name: `sgd` (weight decay joins the gradient) or `adamw` (decoupled).
      learning_rate: its peak.
      momentum: of SGD.
      weight_decay: on every trained leaf.
      decay_norms_and_biases: whether it falls on norms and biases too, which are the leaves of
        fewer than two axes.
      converter_rate: factor on the learning rate of encoders and decoders; the cosine ends at the
        same floor for all.
      converter_decay: factor on their weight decay.
      clip_norm: gradients are scaled down to this global norm, over all trained leaves and
        devices; 0 for never.
      schedule: `cosine` down to min(learning_rate / 20, 1e-5), or `constant`.
      warmup_steps: linear, from 0.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_norms_and_biases: bool = True
    converter_rate: float = 0.2
    converter_decay: float = 1.0
    clip_norm: float = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"learning_rate is {self.learning_rate}; expected more than 0")
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum is {self.momentum}; expected 0 to below 1")
        for name in (
            "weight_decay",
            "converter_rate",
            "converter_decay",
            "clip_norm",
            "warmup_steps",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}; expected 0 or more")


def learning_rate_schedule(
    config: OptimizerConfig, steps: int, factor: float = 1.0
) -> optax.Schedule:
    """Step to learning rate, over `steps` steps in all.

    `factor` scales the peak and not the cosine's floor, which the PyTorch baseline gives to all
    groups of parameters alike.
    """
    peak, warmup = factor * config.learning_rate, min(config.warmup_steps, steps)
    if config.schedule == "cosine":
        floor = min(config.learning_rate / 20, 1e-5, peak)
        alpha = floor / peak if peak else 0.0
        after = optax.cosine_decay_schedule(peak, max(steps - warmup, 1), alpha=alpha)
    elif config.schedule == "constant":
        after = optax.constant_schedule(peak)
    else:
        raise UserError(f"schedule '{config.schedule}' is unknown; expected cosine or constant")
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def _transform(
    config: OptimizerConfig, schedule: optax.Schedule, decay: float
) -> optax.GradientTransformation:
    decayed = None if config.decay_norms_and_biases else _matrices
    if config.name == "sgd":
        return optax.chain(
            optax.add_decayed_weights(decay, decayed),
            optax.sgd(schedule, momentum=config.momentum or None),
        )
    if config.name == "adamw":
        return optax.adamw(schedule, weight_decay=decay, mask=decayed)
    raise UserError(f"optimizer '{config.name}' is unknown; expected sgd or adamw")


def _matrices(params: Any) -> Any:
    """Which leaves are neither norms nor biases."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def params_of(variables: Variables) -> dict[str, Any]:
    """The parameters of every network of the tree, without statistics."""
    return {network: trees["params"] for network, trees in variables.items()}


def with_params(variables: Variables, params: dict[str, Any]) -> Variables:
    """The tree with other parameters."""
    return {network: {**trees, "params": params[network]} for network, trees in variables.items()}


def distillation_labels(hybrid: HybridNetwork, variables: Variables) -> dict[str, Any]:
    """`frozen`, `student` or `converter` for each parameter, by the masks that read it.

    What the all-teacher mask reads is frozen, what the all-student mask reads is the student;
    the rest lies between them.
    """
    blocks = hybrid.num_blocks
    teacher = hybrid.mask_of(variables, Composition.prefix(blocks, blocks))
    student = hybrid.mask_of(variables, Composition.prefix(blocks, 0))
    return jax.tree.map(
        lambda t, s: FROZEN if t else STUDENT if s else CONVERTER,
        params_of(teacher),
        params_of(student),
    )


def make_optimizer(
    config: OptimizerConfig, steps: int, labels: dict[str, Any]
) -> optax.GradientTransformation:
    """The optimizer of a labelled tree: student at the learning rate, converters at their share.

    Its gradients must be the mean over all devices already, and zero where a leaf is frozen: their
    norm is then the one to clip.

    Args:
      config: see `OptimizerConfig`.
      steps: length of the schedule.
      labels: tree of `frozen`, `student`, `converter`.
    """
    schedule = learning_rate_schedule(config, steps)
    converter_schedule = learning_rate_schedule(config, steps, config.converter_rate)

    by_label = optax.multi_transform(
        {
            FROZEN: optax.set_to_zero(),
            STUDENT: _transform(config, schedule, config.weight_decay),
            CONVERTER: _transform(
                config, converter_schedule, config.converter_decay * config.weight_decay
            ),
        },
        labels,
    )
    if not config.clip_norm:
        return by_label
    clip = optax.clip_by_global_norm(config.clip_norm)

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        clipped, _ = clip.update(gradients, optax.EmptyState())
        return by_label.update(clipped, state, params)

    # Clipping keeps nothing, so a run may begin or end it and resume the same state.
    return optax.GradientTransformation(by_label.init, update)
