"""The table of trainable parameters in the PyTorch baseline, counted there by instantiation."""

import jax
import pytest

from pwl_jax.models.registry import pair

# Pair, then parameters of teacher and student for 10 classes, and for 100 classes.
BASELINE = [
    ("vgg", (14_728_266, 3_918_858), (14_774_436, 3_965_028)),
    ("resnet", (5_338_762, 1_241_226), (5_361_892, 1_264_356)),
    ("vit", (5_526_346, 2_857_162), (5_543_716, 2_874_532)),
    ("lenet5", (62_006, 35_970), None),
]

CASES = [
    (name, classes, role, expected)
    for name, ten, hundred in BASELINE
    for classes, counts in ((10, ten), (100, hundred))
    if counts is not None
    for role, expected in zip(("teacher", "student"), counts, strict=True)
]


def count(network):
    params = jax.eval_shape(network.init, jax.random.key(0))["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(("name", "classes", "role", "expected"), CASES)
def test_counts_equal_the_baselines(name, classes, role, expected):
    spec = getattr(pair(name, classes=classes), role)
    assert count(spec.build()) == expected, (
        "this number was counted in the PyTorch baseline; it changes only if its architecture does"
    )


def test_without_the_final_norm_its_parameters_are_gone():
    with_norm = pair("vit").teacher
    without = pair("vit", final_norm=False).teacher
    assert count(with_norm.build()) - count(without.build()) == 2 * with_norm.hidden


@pytest.mark.parametrize("family", ["lenet5", "vgg", "resnet", "vit"])
def test_narrower_students_have_fewer_parameters(family):
    counts = [count(pair(family + suffix).student.build()) for suffix in ("", "_half", "_quarter")]
    teachers = {pair(family + suffix).teacher for suffix in ("", "_half", "_quarter")}
    assert counts[0] > counts[1] > counts[2]
    assert len(teachers) == 1


PUBLISHED = [("vit_b16", 86_567_656), ("vit_l16", 304_326_632)]
"""ViT-B/16 and ViT-L/16 for 1000 classes, as torchvision and timm count them."""


@pytest.mark.parametrize(("name", "expected"), PUBLISHED)
def test_large_teachers_have_their_published_size(name, expected):
    teacher = pair(name, classes=1000).teacher
    assert count(teacher.build()) == expected
    assert pair(f"{name}_narrow", classes=1000).teacher == teacher


@pytest.mark.parametrize(
    ("name", "hidden"),
    [("vit_b16", 768), ("vit_b16_narrow", 192), ("vit_l16", 1024), ("vit_l16_narrow", 384)],
)
def test_their_students_have_a_layer_a_block(name, hidden):
    spec = pair(name, classes=1000)
    student = spec.student
    assert (spec.num_blocks, student.layers, student.hidden) == (6, 6, hidden)
    assert student.hidden // student.heads == 64
    per_layer = 12 * hidden**2 + 13 * hidden
    rest = (768 + 1) * hidden + 198 * hidden + 2 * hidden + 1000 * (hidden + 1)
    assert count(student.build()) == 6 * per_layer + rest
