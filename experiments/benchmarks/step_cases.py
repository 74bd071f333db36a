"""Training steps ready to be timed: small pairs by family and number of blocks, drawn weights."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.results_file import Row
from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.data.augmentation import AugmentationConfig, augment
from pwl_jax.errors import UserError
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.models.block_network import Variables
from pwl_jax.models.normalization import blend_moments
from pwl_jax.models.registry import PairSpec
from pwl_jax.models.resnet import ResNetSpec
from pwl_jax.models.vgg import VGGSpec
from pwl_jax.models.vit import ViTSpec
from pwl_jax.training import losses
from pwl_jax.training.objective import (
    LossOutputs,
    Objective,
    distillation_loss,
    prefix_masks,
)
from pwl_jax.training.optimizer import OptimizerConfig, distillation_labels, make_optimizer
from pwl_jax.training.step import (
    AXIS,
    Loss,
    StepProgram,
    TrainState,
    mapped_step,
    replicate,
    settled,
    shard_batch,
)

FAMILIES = ("resnet", "vgg", "vit")


def small_pair(family: str, blocks: int) -> PairSpec:
    """A pair of N blocks: the baseline's pair of the family at half its width, or less.

    Images are 32x32; ResNet and VGG halve them block by block, so that they have at most 5 blocks.
    The ViT has patches of 4x4 and twice as many layers in the teacher as blocks.
    """
    image: dict[str, Any] = {"input_shape": (32, 32, 3), "classes": 10}
    if family not in FAMILIES:
        raise UserError(f"family '{family}' is unknown; expected one of {', '.join(FAMILIES)}")
    if family == "vit":
        width: dict[str, Any] = {"patch": 4, "hidden": 96, "heads": 3, "mlp": 384}
        teacher: Any = ViTSpec(**image, **width, layers=2 * blocks, layers_per_block=2)
        student: Any = ViTSpec(**image, **width, layers=blocks, layers_per_block=1)
    else:
        if not 2 <= blocks <= 5:
            raise UserError(f"{family} of {blocks} blocks; expected 2 to 5")
        widths = (16, 32, 64, 128, 128)[:blocks]
        spec: Any = ResNetSpec if family == "resnet" else VGGSpec
        stem = {"stem_width": 32} if family == "resnet" else {}
        depths = ((3, 4, 6, 3, 3) if family == "resnet" else (2, 2, 3, 3, 3))[:blocks]
        teacher = spec(**image, **stem, widths=widths, depths=depths)
        student = spec(**image, **stem, widths=widths, depths=(1,) * blocks)
    return PairSpec(name=f"{family}_{blocks}_small", teacher=teacher, student=student)


def drawn_variables(hybrid: HybridNetwork, seed: int = 0) -> Variables:
    """Random weights without compiling an init: kernels by fan-in, norms at one and nought."""
    rng = np.random.default_rng(seed)

    def drawn(path: Any, leaf: Any) -> np.ndarray:
        if path[-1].key in ("scale", "var"):
            return np.ones(leaf.shape, leaf.dtype)
        if leaf.ndim < 2:
            return np.zeros(leaf.shape, leaf.dtype)
        deviation = np.prod(leaf.shape[:-1]) ** -0.5
        return rng.normal(0, deviation, leaf.shape).astype(leaf.dtype)

    shapes = jax.eval_shape(hybrid.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(drawn, shapes)


def all_prefix_loss(hybrid: HybridNetwork, **objective: Any) -> Loss:
    """The distillation loss over every prefix."""
    return functools.partial(distillation_loss, hybrid, Objective(**objective))


def plain_kd_loss(hybrid: HybridNetwork) -> Loss:
    """Distillation as everyone does it: the student's logits against labels and teacher."""

    def loss(
        variables: Variables,
        images: jax.Array,
        labels: jax.Array,
        masks: Any,
        rng: jax.Array,
        progress: jax.Array,
    ) -> tuple[jax.Array, LossOutputs]:
        del masks, rng, progress
        own = {**variables["student"], "batch_stats": variables["student"]["batch_stats"]["own"]}
        teacher = jax.lax.stop_gradient(hybrid.teacher.apply(variables["teacher"], images).logits)
        out = hybrid.student.apply(own, images, train=True)
        hard = losses.cross_entropy(out.logits, labels)
        value = 0.4 * hard + 0.6 * losses.soft_cross_entropy(teacher, out.logits, 2.0)
        stats = {
            **variables["student"]["batch_stats"],
            "own": blend_moments(own["batch_stats"], out.moments),
        }
        return value, LossOutputs({"kd": value}, stats)

    return loss


def program_of(hybrid: HybridNetwork, variables: Variables, loss: Loss) -> StepProgram:
    """The baseline's recipe around a loss, without clipping: SGD, rotation, flip and crop."""
    labels = distillation_labels(hybrid, variables)
    shape = hybrid.teacher.input_shape
    transform = functools.partial(
        augment,
        config=AugmentationConfig(rotation=15.0, flip=True, crop_padding=-1),
        preprocessing=Preprocessing(shape, (0.5,) * shape[-1], (0.25,) * shape[-1]),
    )
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.01), 1000, labels)
    return StepProgram(loss, "student", optimizer, labels, transform, seed=0)


@dataclasses.dataclass
class TimedStep:
    """A compiled step with its state, which it moves on at every call."""

    compiled: Any
    state: TrainState
    inputs: tuple[Any, Any]
    mesh: Mesh
    lower_seconds: float
    compile_seconds: float

    def seconds(self, steps: int) -> float:
        """Of one step, the mean of some that follow each other."""
        start = time.perf_counter()
        for _ in range(steps):
            self.state, _ = settled(self.compiled(self.state, *self.inputs), self.mesh)
        jax.block_until_ready(self.state)
        return (time.perf_counter() - start) / steps

    def metrics(self) -> dict[str, float]:
        """Loss and terms of one step."""
        self.state, metrics = settled(self.compiled(self.state, *self.inputs), self.mesh)
        return {name: float(value) for name, value in metrics.items()}

    def first_loss(self) -> float:
        """The loss of one step."""
        return self.metrics()["loss"]


def timed_step(
    pair: PairSpec, loss_of: Callable[[HybridNetwork], Loss], batch_size: int, mesh: Mesh
) -> TimedStep:
    """A pair's step over a mesh, lowered and compiled under a clock."""
    hybrid = HybridNetwork.from_pair(pair, AXIS)
    variables = drawn_variables(hybrid)
    program = program_of(hybrid, variables, loss_of(hybrid))
    masks = prefix_masks(hybrid, variables)
    return compiled_step(program, variables, masks, drawn_batch(pair, batch_size), mesh)


def compiled_step(
    program: StepProgram,
    variables: Variables,
    masks: Any,
    batch: Mapping[str, np.ndarray],
    mesh: Mesh,
) -> TimedStep:
    """A program's step on a batch that lies ready, lowered and compiled under a clock."""
    state = replicate(program.init(variables), mesh)
    masks, batch = replicate(masks, mesh), shard_batch(batch, mesh)
    step: Any = mapped_step(program, mesh)
    start = time.perf_counter()
    lowered = step.lower(state, batch, masks)
    middle = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    return TimedStep(compiled, state, (batch, masks), mesh, middle - start, end - middle)


def drawn_batch(pair: PairSpec, size: int) -> Mapping[str, np.ndarray]:
    """Random images and labels."""
    rng = np.random.default_rng(1)
    return {
        "image": rng.integers(0, 256, (size, *pair.teacher.input_shape), dtype=np.uint8),
        "label": rng.integers(0, pair.teacher.classes, size).astype(np.int32),
        "index": np.arange(size, dtype=np.int32),
    }


def ratio(
    case: str, metric: str, over: list[float], under: list[float], target: str | None = None
) -> Row:
    """Ratios of timings that were taken one after the other."""
    pairs = zip(over, under, strict=True)
    return Row(case, metric, "ratio", tuple(a / b for a, b in pairs), target)


def wait_rows(
    case: str,
    whole: list[tuple[float, float]],
    ready: list[float],
    steps: int,
    batch: int,
    target: str | None,
) -> list[Row]:
    """What feeding costs.

    Args:
      case: which feeding.
      whole: seconds of so many steps, and of these, of the host taking inputs.
      ready: seconds of as many steps whose inputs lay ready, each beside one of `whole`.
      steps, batch: of a timing; examples of a step.
      target: of the input wait, which is what steps take longer than with inputs ready.
    """
    totals = [total for total, _ in whole]
    waits = tuple(1 - r / total for total, r in zip(totals, ready, strict=True))
    return [
        Row(case, "step", "ms", tuple(1e3 * total / steps for total in totals)),
        Row(case, "images", "1/s", tuple(batch * steps / total for total in totals)),
        Row(case, "step, inputs ready", "ms", tuple(1e3 * r / steps for r in ready)),
        Row(case, "input wait", "of the step", waits, target),
        Row(case, "host takes inputs", "of the step", tuple(t / total for total, t in whole)),
    ]


def machine() -> dict[str, Any]:
    """What JAX computes on, for a result's file."""
    (device, *_) = jax.devices()
    return {"backend": jax.default_backend(), "accelerator": device.device_kind}
