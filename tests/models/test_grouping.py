"""Layers in blocks, and the shallow students of teachers that are grouped so."""

import pytest

from experiments.examples.mobilenet_v2 import MobileNetV2Spec
from pwl_jax.models.grouping import even_groups, stage_groups
from pwl_jax.models.registry import PairSpec, pair
from pwl_jax.models.resnet import ResNetSpec
from pwl_jax.models.shallow import shallow
from pwl_jax.models.spec import SpecError
from pwl_jax.models.vit import ViTSpec


def test_even_groups_are_even():
    assert even_groups(12, 5) == (3, 3, 2, 2, 2)
    assert even_groups(12, 4) == (3,) * 4
    for layers in range(1, 14):
        for blocks in range(1, layers + 1):
            groups = even_groups(layers, blocks)
            assert (len(groups), sum(groups)) == (blocks, layers)
            assert max(groups) - min(groups) <= 1


@pytest.mark.parametrize(
    ("blocks", "groups"),
    [
        (1, (16,)),
        (2, (7, 9)),
        (3, (7, 6, 3)),
        (4, (3, 4, 6, 3)),
        (5, (3, 4, 3, 3, 3)),
        (6, (3, 2, 2, 3, 3, 3)),
        (16, (1,) * 16),
    ],
)
def test_stages_are_kept_split_or_merged(blocks, groups):
    assert stage_groups((3, 4, 6, 3), blocks) == groups


@pytest.mark.parametrize("group", [lambda n: even_groups(16, n), lambda n: stage_groups([16], n)])
@pytest.mark.parametrize("blocks", [0, -1, 17])
def test_numbers_of_blocks_that_cannot_be(group, blocks):
    with pytest.raises(SpecError, match=f"16 layers in {blocks} blocks; expected 1 to 16 blocks"):
        group(blocks)


@pytest.mark.parametrize("blocks", [2, 3, 4, 5, 8, 16])
def test_a_resnets_shallow_student_has_its_boundaries(blocks):
    teacher = ResNetSpec(
        input_shape=(32, 32, 3),
        classes=10,
        widths=(8, 8, 16, 16),
        depths=(3, 4, 6, 3),
        stem_width=8,
        bottleneck=4,
        block_layers=stage_groups((3, 4, 6, 3), blocks),
    )
    made = PairSpec(name="any", teacher=teacher, student=shallow(teacher))
    assert made.boundary_widths == tuple((a, a) for a, _ in made.boundary_widths)
    assert made.num_blocks == blocks
    assert sum(made.student.depths) == max(blocks, 4)


def test_a_vits_shallow_student_has_a_layer_a_block():
    teacher = ViTSpec(input_shape=(32, 32, 3), classes=10, layers=12, layers_per_block=(3, 5, 4))
    assert shallow(teacher).block_layers == (1, 1, 1)
    assert shallow(teacher).hidden == teacher.hidden


@pytest.mark.parametrize("family", ["vgg", "resnet"])
def test_the_baselines_students_are_shallow(family):
    assert shallow(pair(family).teacher) == pair(family).student


def test_a_lenet5_is_shallow_already():
    assert shallow(pair("lenet5").teacher) == pair("lenet5").teacher


def test_other_families_have_none():
    with pytest.raises(SpecError, match="a shallow student of family 'mobilenet_v2' is not"):
        shallow(MobileNetV2Spec(input_shape=(16, 16, 1), classes=10))
