"""Block programs: what the bundle holds is what `hybrid.run` computes."""

import dataclasses
import functools

import jax
import jax.export
import numpy as np
import pytest

from pwl_jax.export.programs import export_program, tensor_names, units_of
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.hybrid.masks import leaf_names
from pwl_jax.ladder import Unit
from pwl_jax.models.registry import PairSpec
from tests.tiny_models import images_of, model_of, tiny_model
from tests.tiny_pairs import NETWORKS


@functools.cache
def compiled(hybrid):
    return jax.jit(hybrid.run, static_argnums=0)


def leaves_by_name(variables):
    return dict(zip(leaf_names(variables), jax.tree.leaves(variables), strict=True))


def inputs_of(model, batch):
    """What each unit takes: the features of the networks run alone, in their own types."""
    images = images_of(model, batch)
    inputs = {}
    for kind, converter in (("teacher", "encoder"), ("student", "decoder")):
        x = images
        for index in range(model.hybrid.num_blocks):
            unit = Unit(kind, index)
            inputs[unit] = x
            x = np.asarray(run(model, unit, None, x))
            inputs[Unit(converter, index)] = x
    return inputs


def run(model, unit, entry, x):
    variables = model.hybrid.unit_variables(model.variables, unit, entry)
    return compiled(model.hybrid)(unit, variables, x)


def bits(array):
    return np.asarray(array).tobytes()


def check_programs(model, batches):
    named = leaves_by_name(model.variables)
    seen = set()
    inputs = [inputs_of(model, batch) for batch in batches]
    for unit in units_of(model.hybrid):
        program = export_program(model.hybrid, model.variables, unit)
        function = jax.jit(jax.export.deserialize(bytearray(program)).call)
        student = unit.kind == "student"
        streams = ["own", *map(str, range(unit.index))] if student else ["own"]
        bindings = tensor_names(model.hybrid, model.variables, unit)
        assert list(bindings) == streams
        answers = set()
        for stream, names in bindings.items():
            seen.update(names)
            entry = None if stream == "own" else int(stream)
            tensors = [named[name] for name in names]
            for known in inputs:
                expected = run(model, unit, entry, known[unit])
                got = function(*tensors, known[unit])
                assert got.dtype == expected.dtype
                assert bits(got) == bits(expected), f"{unit} by stream {stream}"
            answers.add(bits(got))
        differ = student and model.hybrid.per_stream and any("batch_stats" in n for n in names)
        assert len(answers) == (len(streams) if differ else 1)
    # Nothing of the tree is left out, and nothing is bound that is not there.
    assert seen == set(named)


@pytest.mark.parametrize(
    "family",
    ["lenet5", "vgg", *(pytest.param(f, marks=pytest.mark.slow) for f in ("resnet", "vit"))],
)
def test_every_program_computes_what_its_unit_does_bit_for_bit(family):
    check_programs(tiny_model(family), batches=(1, 5) if family == "lenet5" else (3,))


def test_shared_statistics_bind_the_same_tensors_for_every_stream():
    check_programs(tiny_model("vgg", statistics="shared"), batches=(3,))


def with_types(teacher, student):
    """The VGG pair, as wide as each other at boundary 0, computing in these types."""
    teacher_spec, student_spec = NETWORKS["vgg"]
    return PairSpec(
        name="types",
        teacher=dataclasses.replace(teacher_spec, depths=(1, 1, 1), dtype=teacher),
        student=dataclasses.replace(student_spec, widths=(6, 4, 6), dtype=student),
    )


def test_programs_take_features_in_the_type_the_unit_before_gives():
    check_programs(model_of(with_types("bfloat16", "float32")), batches=(2,))


def test_identity_stands_only_between_equal_types():
    """An identity has no program that could convert."""
    between = {Unit("encoder", 0), Unit("decoder", 0)}
    for student, linear in (("bfloat16", set()), ("float32", between)):
        units = units_of(HybridNetwork.from_pair(with_types("bfloat16", student)))
        converters = {unit for unit in units if unit.kind in ("encoder", "decoder")}
        assert converters == {Unit("encoder", 1), Unit("decoder", 1)} | linear


def test_programs_hold_nothing_of_the_machine_that_exported_them():
    model, unit = tiny_model("resnet"), Unit("teacher", 1)

    def called_from_elsewhere():
        return export_program(model.hybrid, model.variables, unit)

    limit = jax.config.jax_traceback_in_locations_limit
    data = export_program(model.hybrid, model.variables, unit)
    assert called_from_elsewhere() == data
    for word in (b".py", b"pwl_jax", b"test_programs"):
        assert word not in data
    assert jax.config.jax_traceback_in_locations_limit == limit


def test_programs_are_for_every_platform_and_any_batch():
    model = tiny_model("lenet5")
    program = export_program(model.hybrid, model.variables, Unit("student", 0))
    exported = jax.export.deserialize(bytearray(program))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert exported.in_avals[-1].shape[1:] == (16, 16, 1)
    assert not isinstance(exported.in_avals[-1].shape[0], int)


def test_names_alone_need_no_arrays():
    model = tiny_model("vgg")
    shapes = jax.eval_shape(lambda: model.variables)
    unit = Unit("student", 2)
    assert tensor_names(model.hybrid, shapes, unit) == (
        tensor_names(model.hybrid, model.variables, unit)
    )
