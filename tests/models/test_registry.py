"""Pairs: exact sizes by name, overrides, and every way two networks may not fit."""

import dataclasses
import json
import subprocess
import sys

import pytest

from pwl_jax.errors import UserError
from pwl_jax.models.lenet5 import LeNet5Spec
from pwl_jax.models.registry import PAIRS, PairError, PairSpec, pair
from pwl_jax.models.spec import SpecError
from pwl_jax.models.vgg import VGGSpec
from pwl_jax.models.vit import ViTSpec


def vgg(widths=(4, 8), **config):
    depths = (1,) * len(widths)
    config = {"input_shape": (16, 16, 3), "classes": 10, **config}
    return VGGSpec(widths=widths, depths=depths, **config)


@pytest.mark.parametrize("name", PAIRS)
def test_every_name_is_a_pair_that_survives_json(name):
    spec = pair(name)
    assert spec.name == name
    assert spec.teacher.classes == spec.student.classes == 10
    assert PairSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("name", "blocks", "widths"),
    [
        ("lenet5", 4, ((6, 3), (16, 8), (120, 120))),
        ("vgg", 5, ((64, 64), (128, 128), (256, 256), (512, 512))),
        ("resnet_half", 4, ((32, 16), (64, 32), (128, 64))),
        ("vit", 6, ((192, 192),) * 5),
        ("vit_quarter", 6, ((192, 48),) * 5),
    ],
)
def test_blocks_and_widths(name, blocks, widths):
    spec = pair(name)
    assert spec.num_blocks == blocks
    assert spec.boundary_widths == widths


@pytest.mark.parametrize("name", [n for n in PAIRS if n.endswith("_digits")])
def test_digits_pairs_are_small_and_need_converters_everywhere(name):
    spec = pair(name)
    assert spec.num_blocks == 4
    assert spec.teacher.input_shape[2] == 1
    assert all(teacher > student for teacher, student in spec.boundary_widths)


def test_overrides_reach_the_pair_both_networks_or_one():
    spec = pair(
        "vit",
        classes=100,
        input_shape=[32, 32, 3],
        patch=4,
        dtype="bfloat16",
        converters="linear",
        statistics="shared",
        student={"mlp": 96},
    )
    for network in (spec.teacher, spec.student):
        assert isinstance(network, ViTSpec)
        assert network.input_shape == (32, 32, 3)
        assert (network.classes, network.patch, network.dtype) == (100, 4, "bfloat16")
    assert (spec.teacher.mlp, spec.student.mlp) == (768, 96)
    assert (spec.converters, spec.statistics) == ("linear", "shared")
    assert (spec.teacher.layers, spec.student.layers) == (12, 6)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"pair 'vgg19' is unknown; expected one of lenet5, .*vit"):
        pair("vgg19")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"width": 3}, "unknown key 'width' for VGGSpec"),
        ({"student": {"hidden": 3}}, "unknown key 'hidden' for VGGSpec"),
        ({"teacher": 3}, "teacher is 3; expected fields of the network by name"),
        ({"input_shape": (16, 16, 3)}, "at least 32x32"),
        ({"converters": "conv"}, "converters is 'conv'; expected one of identity, linear"),
        ({"statistics": "none"}, "statistics is 'none'; expected one of per_stream, shared"),
        ({"student": {"classes": 5}}, "teacher's classes is 10 and the student's 5"),
    ],
)
def test_wrong_overrides_are_refused(overrides, message):
    with pytest.raises(SpecError, match=message):
        pair("vgg", **overrides)


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        (vgg((4, 8)), vgg((4, 8, 8)), "teacher has 2 blocks and the student 3"),
        (vgg((4, 8)), vgg((5, 8)), "narrower than the student at boundary 0: 4 and 5"),
        (
            vgg((4, 8)),
            vgg((4, 8), input_shape=(32, 32, 3)),
            r"teacher's input_shape is \(16, 16, 3\)",
        ),
        (
            vgg((8, 16, 120, 84), input_shape=(32, 32, 3)),
            LeNet5Spec(input_shape=(32, 32, 3), classes=10),
            r"boundary 0 are \(16, 16, 8\) in the teacher and \(14, 14, 6\) in the student",
        ),
        (
            pair("vit").teacher,
            dataclasses.replace(pair("vit").student, patch=32),
            r"boundary 0 are \(197, 192\) in the teacher and \(50, 192\)",
        ),
    ],
)
def test_networks_that_do_not_fit_are_refused(teacher, student, message):
    with pytest.raises(PairError, match=message):
        PairSpec(name="mine", teacher=teacher, student=student)


def test_the_last_blocks_width_is_free():
    spec = PairSpec(name="mine", teacher=vgg((4, 8)), student=vgg((4, 32)))
    assert spec.boundary_widths == ((4, 4),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": "vgg"}, "teacher is 'vgg'; expected"),
        ({"version": 1}, "unknown key 'version' for PairSpec"),
        ({"student": {"family": "mlp"}}, "family 'mlp' is unknown"),
    ],
)
def test_wrong_data_is_refused(change, message):
    with pytest.raises(SpecError, match=message):
        PairSpec.from_dict({**pair("lenet5").to_dict(), **change})


@pytest.mark.parametrize("key", ["name", "teacher", "student"])
def test_a_missing_key_is_named(key):
    data = pair("lenet5").to_dict()
    del data[key]
    with pytest.raises(SpecError, match=f"missing key '{key}' for PairSpec"):
        PairSpec.from_dict(data)


def test_registry_alone_knows_every_family():
    code = "from pwl_jax.models.registry import NetworkSpec; print(*sorted(NetworkSpec.families))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["lenet5", "resnet", "vgg", "vit"]
