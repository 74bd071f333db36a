"""Our side of the comparison with PyTorch: pairs, drawn work, and steps on a device."""

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmarks import step_cases
from pwl_jax.errors import UserError
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.models.block_network import Variables
from pwl_jax.models.registry import PAIRS, PairSpec
from pwl_jax.models.registry import pair as registry_pair
from pwl_jax.models.spec import NetworkSpec
from pwl_jax.models.vit import ViTSpec
from pwl_jax.training.objective import prefix_masks
from pwl_jax.training.step import (
    AXIS,
    StepProgram,
    TrainState,
    device_mesh,
    mapped_steps,
    replicate,
)

LEARNING_RATE = 0.01
"""Of `step_cases.program_of`."""

SMALL = {"resnet_small": ("resnet", 4), "vgg_small": ("vgg", 5), "vit_small": ("vit", 4)}
"""Pairs of `step_cases` by family and blocks: of ResNet and VGG all widths are smaller than in the
baseline's pair, VGG's to a quarter."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What every side computes on.

    Attributes:
      pair: of float32 or bfloat16 computation, as the baseline has it.
      variables: weights to start from, f32.
      images: uint8[examples, height, width, channels].
      labels: int32[examples].
      batch: examples a step; the first ones lie ready.
    """

    pair: PairSpec
    variables: Variables
    images: np.ndarray
    labels: np.ndarray
    batch: int


def comparable_pair(name: str, dtype: str) -> PairSpec:
    """A pair of `SMALL` or of the registry as the baseline computes it.

    Statistics are shared and ViTs have no final norm.

    Raises:
      UserError: no such pair, or one of a family or image that the comparison has no work for.
    """
    if name in SMALL:
        found = step_cases.small_pair(*SMALL[name])
    elif name in PAIRS:
        found = registry_pair(name)
    else:
        raise UserError(f"pair '{name}' is unknown; expected one of {', '.join([*SMALL, *PAIRS])}")
    if found.teacher.input_shape[-1] != 3:
        raise UserError(f"pair '{name}' takes grey images; the comparison has coloured ones alone")

    def as_there(spec: NetworkSpec) -> NetworkSpec:
        changes: dict[str, Any] = {"final_norm": False} if isinstance(spec, ViTSpec) else {}
        return dataclasses.replace(spec, dtype=dtype, **changes)

    teacher, student = as_there(found.teacher), as_there(found.student)
    return dataclasses.replace(found, teacher=teacher, student=student, statistics="shared")


def drawn_work(name: str, dtype: str, batch: int, examples: int) -> Work:
    """A pair with drawn weights and images, the same for every type.

    Raises:
      UserError: no such pair.
    """
    pair = comparable_pair(name, dtype)
    rng = np.random.default_rng(2)
    examples = max(examples, batch)
    images = rng.integers(0, 256, (examples, *pair.teacher.input_shape), dtype=np.uint8)
    labels = rng.integers(0, pair.teacher.classes, examples).astype(np.int32)
    variables = step_cases.drawn_variables(HybridNetwork.from_pair(pair))
    return Work(pair, variables, images, labels, batch)


def step_only(work: Work, *, align: bool) -> step_cases.TimedStep:
    """The step on a normalised batch that lies on the device, without augmentation.

    Args:
      work: see there.
      align: whether every stream's features are aligned too, which the baseline does not do.
    """
    program, masks = _program(work, align)
    images = (work.images[: work.batch].astype(np.float32) / 255 - 0.5) / 0.25
    batch = {
        "image": images,
        "label": work.labels[: work.batch],
        "index": np.arange(work.batch, dtype=np.int32),
    }
    program = dataclasses.replace(program, augment=lambda rng, images, indices: images)
    return step_cases.compiled_step(program, work.variables, masks, batch, _mesh())


class ResidentSteps:
    """Steps end to end, as with `feeding=device`: the set and its augmentation on the device."""

    def __init__(self, work: Work, steps_per_dispatch: int) -> None:
        self._mesh = _mesh()
        program, masks = _program(work, align=False)
        self._run = mapped_steps(program, self._mesh)
        self._masks = replicate(masks, self._mesh)
        examples: Mapping[str, np.ndarray] = {
            "image": work.images,
            "label": work.labels,
            "index": np.arange(len(work.labels), dtype=np.int32),
        }
        self._examples = replicate(examples, self._mesh)
        self._state: TrainState = replicate(program.init(work.variables), self._mesh)
        self._rng, self._batch, self._longest = (
            np.random.default_rng(3),
            work.batch,
            steps_per_dispatch,
        )

    def seconds(self, steps: int) -> float:
        """Of one step, the mean of some that follow each other; the host draws their order."""
        start = time.perf_counter()
        for done in range(0, steps, self._longest):
            count = jnp.asarray(min(self._longest, steps - done), jnp.int32)
            self._state, _ = self._run(
                self._state, self._examples, self._positions(), count, self._masks
            )
        jax.block_until_ready(self._state)
        return (time.perf_counter() - start) / steps

    def _positions(self) -> jax.Array:
        """Rows of a dispatch: int32[steps, batch]."""
        size = len(self._examples["label"])
        rows = [self._rng.permutation(size)[: self._batch] for _ in range(self._longest)]
        sharding = NamedSharding(self._mesh, PartitionSpec(None, AXIS))
        return jax.device_put(np.stack(rows).astype(np.int32), sharding)


def _program(work: Work, align: bool) -> tuple[StepProgram, Variables]:
    hybrid = HybridNetwork.from_pair(work.pair, AXIS)
    loss = step_cases.all_prefix_loss(hybrid, align_streams=align)
    program = step_cases.program_of(hybrid, work.variables, loss)
    return program, prefix_masks(hybrid, work.variables)


@functools.cache
def _mesh() -> Mesh:
    return device_mesh(jax.devices()[:1])
