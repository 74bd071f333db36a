"""The small pairs that parity is tested on: narrower students, and students as wide as teachers."""

import dataclasses
from typing import Any

from pwl_jax.models.lenet5 import LeNet5Spec
from pwl_jax.models.registry import PairSpec
from pwl_jax.models.resnet import ResNetSpec
from pwl_jax.models.vgg import VGGSpec
from pwl_jax.models.vit import ViTSpec

FAMILIES = ("lenet5", "vgg", "resnet", "vit")
"""Pairs to train; the ViT has three blocks, as compiling a step of more takes long."""

DEEPEST = ("lenet5", "vgg", "resnet", "vit_6_blocks")
"""Pairs with as many blocks as the baseline's: 4, 5, 4 and 6."""

WIDTHS = ("unequal", "equal")

_LENET5 = LeNet5Spec(input_shape=(32, 32, 3), classes=10, channels=(4, 6), features=(14, 12))
_VGG = VGGSpec(
    input_shape=(32, 32, 3), classes=10, widths=(6, 8, 10, 12, 12), depths=(2, 1, 2, 1, 1)
)
_RESNET = ResNetSpec(
    input_shape=(16, 16, 3), classes=10, stem_width=6, widths=(6, 8, 10, 12), depths=(2, 1, 2, 1)
)
_VIT = ViTSpec(
    input_shape=(16, 16, 3),
    classes=10,
    hidden=12,
    heads=3,
    mlp=24,
    layers=6,
    layers_per_block=2,
    patch=8,
    final_norm=False,
)
_NARROW_VIT = {"hidden": 8, "heads": 2, "mlp": 16}

_PAIRS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "lenet5": (_LENET5, {}, {"channels": (3, 4), "features": (14, 9)}),
    "vgg": (_VGG, {"depths": (1,) * 5}, {"widths": (4, 8, 6, 8, 10)}),
    "resnet": (_RESNET, {"depths": (1,) * 4}, {"stem_width": 4, "widths": (4, 6, 10, 8)}),
    "vit": (_VIT, {"layers": 3, "layers_per_block": 1}, _NARROW_VIT),
    "vit_6_blocks": (
        dataclasses.replace(_VIT, layers=12),
        {"layers": 6, "layers_per_block": 1},
        _NARROW_VIT,
    ),
}


def small_pair(family: str, widths: str = "unequal") -> PairSpec:
    """A pair of the baseline's kind with shared statistics, the student narrower or as wide.

    Narrower students are as wide as the teacher at some boundaries where the family allows it, so
    that one pair has linear converters and identities.
    """
    teacher, shorter, narrower = _PAIRS[family]
    changes = shorter if widths == "equal" else {**shorter, **narrower}
    student = dataclasses.replace(teacher, **changes)
    return PairSpec(
        name=f"{family}_{widths}", teacher=teacher, student=student, statistics="shared"
    )


def sized(pair: PairSpec, size: int) -> PairSpec:
    """The pair for other images; a ViT then has patches of 16x16 pixels."""
    changes: dict[str, Any] = {"input_shape": (size, size, 3)}
    if pair.teacher.family == "vit":
        changes["patch"] = 16
    return dataclasses.replace(
        pair,
        teacher=dataclasses.replace(pair.teacher, **changes),
        student=dataclasses.replace(pair.student, **changes),
    )
