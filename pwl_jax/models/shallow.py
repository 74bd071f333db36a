"""The shallow student of a teacher: its blocks and widths, one layer where the teacher has many."""

import dataclasses
from typing import TypeVar

from pwl_jax.models.lenet5 import LeNet5Spec
from pwl_jax.models.resnet import ResNetSpec
from pwl_jax.models.spec import NetworkSpec, SpecError
from pwl_jax.models.vgg import VGGSpec
from pwl_jax.models.vit import ViTSpec

Spec = TypeVar("Spec", bound=NetworkSpec)


def shallow(teacher: Spec) -> Spec:
    """A network with the teacher's boundaries and one layer a block.

    A ResNet's block has a layer for each stage that it reaches into, as stages change width and
    size; LeNet-5 has one layer a block as it is.

    Raises:
      SpecError: a family that is not the library's.
    """
    if isinstance(teacher, ViTSpec):
        blocks = len(teacher.block_layers)
        return dataclasses.replace(teacher, layers=blocks, layers_per_block=1)
    if isinstance(teacher, ResNetSpec):
        stages = [stage for stage, depth in enumerate(teacher.depths) for _ in range(depth)]
        reached: list[list[int]] = []
        for count in teacher.block_layers or teacher.depths:
            reached.append(sorted(set(stages[:count])))
            stages = stages[count:]
        layers = [stage for block in reached for stage in block]
        return dataclasses.replace(
            teacher,
            depths=tuple(layers.count(stage) for stage in range(len(teacher.depths))),
            block_layers=tuple(map(len, reached)),
        )
    if isinstance(teacher, VGGSpec):
        return dataclasses.replace(teacher, depths=(1,) * len(teacher.depths))
    if isinstance(teacher, LeNet5Spec):
        return teacher
    raise SpecError(f"a shallow student of family '{teacher.family}' is not defined")
