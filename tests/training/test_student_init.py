"""A student that begins as layers of its teacher: which values, and what does not fit."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from pwl_jax.hybrid.masks import leaf_names
from pwl_jax.models.lenet5 import LeNet5Spec
from pwl_jax.models.registry import PairSpec
from pwl_jax.models.resnet import ResNetSpec
from pwl_jax.models.vgg import VGGSpec
from pwl_jax.models.vit import ViTSpec
from pwl_jax.training import loop
from pwl_jax.training.config import ConfigError
from pwl_jax.training.student_init import StudentInitError, student_from_teacher
from tests import tiny_runs
from tests.tiny_models import model_of

IMAGE = {"input_shape": (16, 16, 1), "classes": 10}
RESNET = ResNetSpec(**IMAGE, stem_width=4, widths=(4, 6), depths=(3, 2))
VGG = VGGSpec(**IMAGE, widths=(4, 6), depths=(3, 2))
VIT = ViTSpec(**IMAGE, patch=8, hidden=4, heads=2, mlp=6, layers=8, layers_per_block=4)
LENET5 = LeNet5Spec(**IMAGE, channels=(2, 3), features=(4, 4))


def shallow(teacher, **fields):
    return PairSpec(name="any", teacher=teacher, student=dataclasses.replace(teacher, **fields))


ONE_LAYER = {"layers": 2, "layers_per_block": 1}
TWO_LAYERS = {"layers": 4, "layers_per_block": 2}


def began(pair, layer):
    """Every leaf of teacher and student by name, before and after."""
    model = model_of(pair)
    after = student_from_teacher(model.hybrid, model.variables, layer)
    assert jax.tree.structure(after) == jax.tree.structure(model.variables)
    return named(model.variables), named(after)


def named(variables):
    return dict(
        zip(leaf_names(variables), map(np.asarray, jax.tree.leaves(variables)), strict=True)
    )


def source_of(name, layers):
    """The teacher's leaf that a student's leaf was copied from; `layers` maps layer numbers."""
    network, collection, *path = name.split("/")
    if collection == "batch_stats":
        path = path[1:]
    if path[0].startswith("block"):
        stem, number = path[1].rstrip("0123456789"), path[1].lstrip("abcdefghijklmnopqrstuvwxyz")
        path[1] = f"{stem}{layers[int(number)]}" if number else stem
    assert network == "student"
    return "/".join(["teacher", collection, *path])


@pytest.mark.parametrize(
    ("pair", "layer", "layers"),
    [
        (shallow(VIT, **ONE_LAYER), "first", (0,)),
        (shallow(VIT, **ONE_LAYER), "last", (3,)),
        (shallow(VIT, **ONE_LAYER), "2", (2,)),
        (shallow(VIT, **TWO_LAYERS), "first", (0, 1)),
        (shallow(VIT, **TWO_LAYERS), "last", (2, 3)),
        (shallow(VIT, **TWO_LAYERS), "1", (1, 2)),
        (shallow(RESNET, depths=(1, 1)), "first", (0,)),
        (shallow(RESNET, depths=(2, 1)), "first", (0, 1)),
        (shallow(VGG, depths=(1, 1)), "first", (0,)),
        (shallow(LENET5), "last", ()),
    ],
)
def test_every_value_is_the_teachers(pair, layer, layers):
    before, after = began(pair, layer)
    students = [name for name in after if name.startswith("student/")]
    for name in students:
        expected = before[source_of(name, layers)]
        assert after[name].tobytes() == expected.tobytes(), name
    for name in after.keys() - students:
        assert after[name] is before[name] or (after[name] == before[name]).all(), name


def test_statistics_come_along_in_every_stream():
    _, after = began(shallow(RESNET, depths=(1, 1)), "first")
    for stream in ("own", "entry0"):
        name = f"student/batch_stats/{stream}/block1/layer0/first_norm/mean"
        np.testing.assert_array_equal(
            after[name], after["teacher/batch_stats/block1/layer0/first_norm/mean"]
        )


def test_an_embedder_of_another_shape_stays_random():
    teacher = dataclasses.replace(RESNET, depths=(1, 1))
    pair = shallow(teacher, stem_kernel=5)
    before, after = began(pair, "first")
    for name in before:
        if name.startswith("student/params/embedder"):
            assert (after[name] == before[name]).all()
    name = "params/head/dense/kernel"
    np.testing.assert_array_equal(after[f"student/{name}"], before[f"teacher/{name}"])


@pytest.mark.parametrize(
    ("pair", "layer", "message"),
    [
        (
            shallow(VIT, **ONE_LAYER, mlp=4),
            "first",
            r"block0/layer0/mlp_in/bias is \[4\] in the student and \[6\] in the teacher's layer",
        ),
        (shallow(VIT, **ONE_LAYER, hidden=2), "first", "expected equal widths and layers of equal"),
        (shallow(VIT, **ONE_LAYER), "4", "block0 of the student has 'layer0', .* no 'layer4'"),
        (shallow(VIT, **TWO_LAYERS), "3", "block0 of the student has 'layer1', .* no 'layer4'"),
        (
            shallow(RESNET, depths=(1, 1)),
            "last",
            r"block1/layer0/first_conv/kernel is \[3, 3, 4, 6\] in the student and "
            r"\[3, 3, 6, 6\]",
        ),
        (shallow(VGG, depths=(1, 1)), "last", r"block0/conv0/kernel is \[3, 3, 1, 4\]"),
        (shallow(LENET5, channels=(1, 3)), "first", r"block0/conv/bias is \[1\] in the student"),
    ],
)
def test_layers_that_do_not_fit(pair, layer, message):
    model = model_of(pair)
    with pytest.raises(StudentInitError, match=message) as error:
        student_from_teacher(model.hybrid, model.variables, layer)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"), [("student_init", "teacher"), ("student_init_layer", "-1")]
)
def test_wrong_options_are_refused(field, value):
    with pytest.raises(ConfigError, match=f"{field} is '{value}'; expected"):
        tiny_runs.config("distill", **{field: value})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A trained teacher that the student can begin from, and the fields of both runs."""
    folder = tmp_path_factory.mktemp("teacher")
    widths = {"widths": (4, 6), "input_shape": (8, 8, 1), "classes": 10}
    pair = PairSpec(
        name="any",
        teacher=VGGSpec(**widths, depths=(2, 2)),
        student=VGGSpec(**widths, depths=(1, 1)),
    )
    fields = {"pair": pair.to_dict(), "epochs": 1, "student_init": "teacher_layers"}
    tiny_runs.train(tiny_runs.config("teacher", **fields), folder)
    return folder, fields


@pytest.mark.long
def test_a_distillation_begins_there_and_resumes_as_if_it_had_not_stopped(teacher, tmp_path):
    folder, fields = teacher
    run = tiny_runs.config("distill", **fields)
    prepared = loop.prepare(run, folder)
    first = named(prepared.task.init())
    for leaf in ("kernel", "bias"):
        path = f"params/block1/conv0/{leaf}"
        np.testing.assert_array_equal(first[f"student/{path}"], first[f"teacher/{path}"])

    tiny_runs.train(run, tmp_path / "whole", folder)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    # As if it had been killed behind the checkpoint before the last.
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "resume" / str(prepared.total))
    tiny_runs.train(run, tmp_path / "stopped", tmp_path / "no such teacher")
    tiny_runs.assert_same_bits(tmp_path / "whole", tmp_path / "stopped")
