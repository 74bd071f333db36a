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
