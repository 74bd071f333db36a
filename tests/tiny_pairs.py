"""One pair of every family, as small as its parts allow, so that compiling takes little."""

from pwl_jax.models.lenet5 import LeNet5Spec
from pwl_jax.models.registry import PairSpec
from pwl_jax.models.resnet import ResNetSpec
from pwl_jax.models.vgg import VGGSpec
from pwl_jax.models.vit import ViTSpec

_IMAGE = {"input_shape": (8, 8, 1), "classes": 10}

NETWORKS = {
    "lenet5": (
        LeNet5Spec(input_shape=(16, 16, 1), classes=10, channels=(4, 6), features=(12, 10)),
        LeNet5Spec(input_shape=(16, 16, 1), classes=10, channels=(2, 3), features=(6, 5)),
    ),
    "vgg": (
        VGGSpec(**_IMAGE, widths=(6, 8, 8), depths=(2, 1, 1)),
        VGGSpec(**_IMAGE, widths=(4, 4, 6), depths=(1, 1, 1)),
    ),
    "resnet": (
        ResNetSpec(**_IMAGE, stem_width=6, widths=(6, 8, 10), depths=(2, 1, 1)),
        ResNetSpec(**_IMAGE, stem_width=4, widths=(4, 6, 6), depths=(1, 1, 1)),
    ),
    "vit": (
        ViTSpec(**_IMAGE, patch=4, hidden=8, heads=2, mlp=16, layers=6, layers_per_block=2),
        ViTSpec(**_IMAGE, patch=4, hidden=4, heads=2, mlp=8, layers=3, layers_per_block=1),
    ),
}
FAMILIES = tuple(NETWORKS)


def tiny_pair(family: str, **fields: str) -> PairSpec:
    """The small pair of a family; `fields` are those of PairSpec."""
    teacher, student = NETWORKS[family]
    return PairSpec(name=f"{family}_tiny", teacher=teacher, student=student, **fields)
