"""Teacher/student pairs: what a pair must fulfil, and names that abbreviate full specs."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from pwl_jax.models.lenet5 import LeNet5Spec
from pwl_jax.models.resnet import ResNetSpec
from pwl_jax.models.shallow import shallow
from pwl_jax.models.spec import NetworkSpec, SpecError, strict_dataclass
from pwl_jax.models.vgg import VGGSpec
from pwl_jax.models.vit import ViTSpec

CONVERTERS = ("identity", "linear")
STATISTICS = ("per_stream", "shared")


class PairError(SpecError):
    """A pair that is unknown, or whose teacher and student do not fit each other."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairSpec:
    """A teacher and a student whose blocks can replace each other.

    Raises PairError on construction unless both have the same images, classes and number of
    blocks, their features at every inner boundary agree in shape but for channels, and the teacher
    is nowhere narrower than the student.

    Attributes:
      name: what the pair is called in reports.
      teacher: the network that the last rung is.
      student: the network that answers first.
      converters: what stands at a boundary where both widths agree, "identity" or "linear";
        where they differ a converter is always linear.
      statistics: running averages of the student's BatchNorm: "per_stream" keeps one for each
        boundary a stream can enter at, "shared" one for all (the PyTorch baseline's rule).
    """

    name: str
    teacher: NetworkSpec
    student: NetworkSpec
    converters: str = "identity"
    statistics: str = "per_stream"

    def __post_init__(self) -> None:
        for what, value, known in (
            ("converters", self.converters, CONVERTERS),
            ("statistics", self.statistics, STATISTICS),
        ):
            if value not in known:
                raise PairError(f"{what} is {value!r}; expected one of {', '.join(known)}")
        for what in ("input_shape", "classes"):
            teacher, student = getattr(self.teacher, what), getattr(self.student, what)
            if teacher != student:
                raise PairError(
                    f"the teacher's {what} is {teacher} and the student's {student}; "
                    "expected the same"
                )
        if self.num_blocks != self.student.build().num_blocks:
            raise PairError(
                f"the teacher has {self.num_blocks} blocks and the student "
                f"{self.student.build().num_blocks}; expected the same number"
            )
        shapes = zip(_boundary_shapes(self.teacher), _boundary_shapes(self.student), strict=True)
        for boundary, (teacher, student) in enumerate(shapes):
            if teacher[:-1] != student[:-1]:
                raise PairError(
                    f"features at boundary {boundary} are {teacher} in the teacher and {student} "
                    "in the student; expected shapes that agree but for channels (the last axis)"
                )
            if teacher[-1] < student[-1]:
                raise PairError(
                    f"the teacher is narrower than the student at boundary {boundary}: "
                    f"{teacher[-1]} and {student[-1]} channels; expected it to be at least as wide"
                )

    @property
    def num_blocks(self) -> int:
        """N, the number of blocks of either network."""
        return self.teacher.build().num_blocks

    @property
    def boundary_widths(self) -> tuple[tuple[int, int], ...]:
        """Channels of teacher and student at each of the N-1 inner boundaries."""
        shapes = zip(_boundary_shapes(self.teacher), _boundary_shapes(self.student), strict=True)
        return tuple((teacher[-1], student[-1]) for teacher, student in shapes)

    def to_dict(self) -> dict[str, Any]:
        """The complete pair as JSON-able data."""
        return {
            "name": self.name,
            "teacher": self.teacher.to_dict(),
            "student": self.student.to_dict(),
            "converters": self.converters,
            "statistics": self.statistics,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "PairSpec":
        """The pair that `to_dict` wrote; raises SpecError on an unknown, missing or wrong key."""
        fields = dict(data)
        for role in ("teacher", "student"):
            if role in fields:
                if not isinstance(fields[role], Mapping):
                    raise PairError(f"{role} is {fields[role]!r}; expected a network's spec")
                fields[role] = NetworkSpec.from_dict(dict(fields[role]))
        return strict_dataclass(PairSpec, fields)


@functools.lru_cache(maxsize=64)
def _boundary_shapes(spec: NetworkSpec) -> tuple[tuple[int, ...], ...]:
    return spec.build().boundary_shapes()


def pair(name: str, classes: int = 10, **overrides: Any) -> PairSpec:
    """The pair called `name`.

    Args:
      name: one of `PAIRS`.
      classes: number of logits.
      **overrides: `converters` or `statistics` of the pair; `teacher` or `student`, a mapping of
        fields of that network alone; anything else is a field of both networks, such as
        `input_shape`, `dtype`, `final_norm`.

    Raises:
      SpecError: an unknown name or field, or networks that do not fit each other.
    """
    if name not in PAIRS:
        raise PairError(f"pair '{name}' is unknown; expected one of {', '.join(PAIRS)}")
    of_pair = {k: overrides.pop(k) for k in ("converters", "statistics") if k in overrides}
    of_role = {k: overrides.pop(k, {}) for k in ("teacher", "student")}
    for role, fields in of_role.items():
        if not hasattr(fields, "items"):
            raise PairError(f"{role} is {fields!r}; expected fields of the network by name")
    teacher, student = (
        _replaced(network, {"classes": classes, **overrides, **dict(of_role[role])})
        for role, network in zip(("teacher", "student"), PAIRS[name], strict=True)
    )
    return PairSpec(name=name, teacher=teacher, student=student, **of_pair)


def _replaced(network: NetworkSpec, fields: dict[str, Any]) -> NetworkSpec:
    return NetworkSpec.from_dict({**network.to_dict(), **fields})


def _lenet5(
    size: int, channels: int, student: tuple[tuple[int, int], tuple[int, int]]
) -> tuple[NetworkSpec, NetworkSpec]:
    teacher = LeNet5Spec(input_shape=(size, size, channels), classes=10)
    return teacher, dataclasses.replace(teacher, channels=student[0], features=student[1])


def _vgg(divisor: int) -> tuple[NetworkSpec, NetworkSpec]:
    teacher = VGGSpec(input_shape=(32, 32, 3), classes=10)
    widths = tuple(width // divisor for width in teacher.widths)
    return teacher, dataclasses.replace(teacher, widths=widths, depths=(1,) * 5)


def _resnet(divisor: int) -> tuple[NetworkSpec, NetworkSpec]:
    teacher = ResNetSpec(input_shape=(32, 32, 3), classes=10)
    widths = tuple(width // divisor for width in teacher.widths)
    stem = teacher.stem_width // divisor
    return teacher, dataclasses.replace(teacher, widths=widths, depths=(1,) * 4, stem_width=stem)


def _vit(divisor: int) -> tuple[NetworkSpec, NetworkSpec]:
    teacher = ViTSpec(input_shape=(224, 224, 3), classes=10)
    return teacher, dataclasses.replace(
        teacher,
        hidden=teacher.hidden // divisor,
        mlp=teacher.mlp // divisor,
        layers=6,
        layers_per_block=1,
    )


def _vit_16(
    hidden: int, layers: int, heads: int, student: tuple[int, int]
) -> tuple[NetworkSpec, NetworkSpec]:
    """A ViT/16 in six blocks, its MLP four times as wide; the student's are (hidden, heads)."""
    teacher = ViTSpec(
        input_shape=(224, 224, 3),
        classes=10,
        hidden=hidden,
        heads=heads,
        mlp=4 * hidden,
        layers=layers,
        layers_per_block=layers // 6,
    )
    width, student_heads = student
    return teacher, dataclasses.replace(
        shallow(teacher), hidden=width, heads=student_heads, mlp=4 * width
    )


_CIFAR: dict[str, Any] = {"input_shape": (32, 32, 3), "classes": 10}
_DIGITS: dict[str, Any] = {"input_shape": (16, 16, 1), "classes": 10}

PAIRS: dict[str, tuple[NetworkSpec, NetworkSpec]] = {
    "lenet5": _lenet5(32, 3, ((3, 8), (120, 84))),
    "lenet5_half": _lenet5(32, 3, ((3, 8), (60, 42))),
    "lenet5_quarter": _lenet5(32, 3, ((2, 4), (30, 21))),
    "lenet5_digits": _lenet5(32, 1, ((2, 3), (16, 12))),
    "vgg": _vgg(1),
    "vgg_half": _vgg(2),
    "vgg_quarter": _vgg(4),
    "vgg_small": (
        VGGSpec(**_CIFAR, widths=(16, 32, 64, 128, 128), depths=(2, 2, 3, 3, 3)),
        VGGSpec(**_CIFAR, widths=(8, 16, 32, 64, 64), depths=(1,) * 5),
    ),
    "vgg_digits": (
        VGGSpec(**_DIGITS, widths=(16, 32, 48, 64), depths=(2, 2, 2, 2)),
        VGGSpec(**_DIGITS, widths=(4, 4, 4, 4), depths=(1, 1, 1, 1)),
    ),
    "resnet": _resnet(1),
    "resnet_half": _resnet(2),
    "resnet_quarter": _resnet(4),
    "resnet_small": (
        ResNetSpec(
            **_CIFAR,
            stem_width=16,
            widths=(16, 32, 64, 128),
            depths=(2, 2, 2, 2),
            downsample_first=True,
        ),
        ResNetSpec(
            **_CIFAR,
            stem_width=8,
            widths=(8, 16, 32, 64),
            depths=(1, 1, 1, 1),
            downsample_first=True,
        ),
    ),
    "resnet_digits": (
        ResNetSpec(**_DIGITS, stem_width=8, widths=(8, 16, 24, 32), depths=(2, 2, 2, 2)),
        ResNetSpec(**_DIGITS, stem_width=3, widths=(3, 4, 8, 12), depths=(1, 1, 1, 1)),
    ),
    "vit": _vit(1),
    "vit_half": _vit(2),
    "vit_quarter": _vit(4),
    "vit_b16": _vit_16(768, 12, 12, (768, 12)),
    "vit_b16_narrow": _vit_16(768, 12, 12, (192, 3)),
    "vit_l16": _vit_16(1024, 24, 16, (1024, 16)),
    "vit_l16_narrow": _vit_16(1024, 24, 16, (384, 6)),
    "vit_small": (
        ViTSpec(**_CIFAR, patch=4, hidden=64, heads=2, mlp=256, layers=8, layers_per_block=2),
        ViTSpec(**_CIFAR, patch=4, hidden=32, heads=2, mlp=128, layers=4, layers_per_block=1),
    ),
    "vit_digits": (
        ViTSpec(**_DIGITS, patch=4, hidden=32, heads=2, mlp=64, layers=8, layers_per_block=2),
        ViTSpec(**_DIGITS, patch=4, hidden=8, heads=2, mlp=16, layers=4, layers_per_block=1),
    ),
}
"""Teacher and student by the pair's name, for ten classes: the PyTorch baseline's pairs
(`scripts/save_model_config.py` there), the same with students of half and a quarter of the
teacher's width, small pairs of 32x32 images for minutes on two CPU cores (VGG and ResNet: students
of a quarter of the baseline's teachers' width or less, ResNet's first stage halves the map; ViT:
patches of 4x4), ViT-B/16 and ViT-L/16 (arXiv 2010.11929), whose weights are imported, with students
of the same and of a smaller width, and small pairs that train in seconds on scikit-learn's
digits."""
