"""ONNX programs of a bundle: fed its tensors as the manifest binds them, they give our logits."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from pwl_jax.bundle import BundleReader
from pwl_jax.errors import UserError
from pwl_jax.export import BundleOptions, export_bundle
from pwl_jax.export.programs import export_program, tensor_names, units_of
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.hybrid.masks import leaf_names
from pwl_jax.ladder import EXACT, Composition, Unit, stream_name
from pwl_jax.models.registry import PairSpec
from tests.tiny_models import images_of, model_of, tiny_model
from tests.tiny_pairs import FAMILIES, NETWORKS

SHARE = 1e-5
"""Of the largest |logit|: what the promise allows between executors."""


def bundle_of(path, model, programs=("onnx",)):
    export_bundle(model, path, (EXACT,), None, None, options=BundleOptions(programs=programs))
    return BundleReader.open(path)


class EdgeReader:
    """What an edge executor does: no JAX, one session a program, tensors fed by their bindings."""

    def __init__(self, reader):
        self.reader = reader
        self.units = {Unit.parse(unit) for unit in reader.manifest.programs}
        self.sessions = {}
        self.tensors = {unit: reader.tensors(unit, EXACT) for unit in self.units}

    def run(self, composition, x):
        for unit in (unit for unit in composition.units() if unit in self.units):
            x = self.block(unit, composition.stream(unit), x)
        return x

    def block(self, unit, stream, x):
        data, bindings = self.reader.program(unit, "onnx")
        if data not in self.sessions:
            self.sessions[data] = onnxruntime.InferenceSession(data)
        session = self.sessions[data]
        arrays = [*(self.tensors[unit][name] for name in bindings[stream]), x]
        names = [entry.name for entry in session.get_inputs()]
        (y,) = session.run(None, dict(zip(names, arrays, strict=True)))
        return y


def reference(model, compositions, images):
    """Logits by the hybrid network, compiled once for all masks."""
    hybrid, variables = model.hybrid, model.variables
    apply = jax.jit(lambda variables, mask: hybrid.apply(variables, images, mask).logits)
    return {c: np.asarray(apply(variables, hybrid.mask_of(variables, c))) for c in compositions}


def assert_close(got, expected, share=SHARE):
    assert got.shape == expected.shape and got.dtype == np.float32
    assert np.abs(got - expected).max() <= share * np.abs(expected).max()


@pytest.mark.parametrize(
    "family", [f if f == "lenet5" else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES]
)
def test_every_composition_through_onnx_runtime(family, tmp_path):
    model = tiny_model(family)
    edge = EdgeReader(bundle_of(tmp_path / "b", model))
    images = images_of(model, 4)
    expected = reference(model, Composition.all(model.hybrid.num_blocks), images)
    for composition, logits in expected.items():
        for batch in (1, 4):
            assert_close(edge.run(composition, images[:batch]), logits[:batch])


def test_block_by_block_in_every_stream(tmp_path):
    """The statistics of each stream are what its binding names, none of them left out."""
    model = tiny_model("vgg")
    edge = EdgeReader(bundle_of(tmp_path / "b", model))
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 4)).astype(np.float32)
    unit, answers = Unit("student", 2), set()
    for entry in (None, 0, 1):
        variables = model.hybrid.unit_variables(model.variables, unit, entry)
        got = edge.block(unit, stream_name(entry), x)
        assert_close(got, np.asarray(model.hybrid.run(unit, variables, x)))
        answers.add(got.tobytes())
    assert len(answers) == 3
    bound = {
        n for b in edge.reader.manifest.bindings.values() for names in b.values() for n in names
    }
    assert bound == set(leaf_names(model.variables))


def with_type(family, teacher, student):
    networks = zip(NETWORKS[family], (teacher, student), strict=True)
    teacher, student = (dataclasses.replace(spec, dtype=dtype) for spec, dtype in networks)
    return PairSpec(name="types", teacher=teacher, student=student)


@pytest.mark.slow
def test_networks_that_compute_in_bfloat16_are_float32_in_onnx(tmp_path):
    """The ONNX program is the network in float32; its own logits are a rounding of bfloat16 off."""
    narrow = model_of(with_type("vgg", "bfloat16", "float32"))
    wide = model_of(with_type("vgg", "float32", "float32"))
    narrow = dataclasses.replace(narrow, variables=wide.variables)
    edge = EdgeReader(bundle_of(tmp_path / "b", narrow))
    images, compositions = images_of(wide, 3), [Composition.parse(c) for c in ("TTT", "TSS")]
    by_type = [reference(model, compositions, images) for model in (wide, narrow)]
    for composition in compositions:
        got = edge.run(composition, images)
        assert_close(got, by_type[0][composition])
        assert_close(got, by_type[1][composition], share=0.05)


def test_both_formats_lie_side_by_side(tmp_path):
    model = tiny_model("lenet5")
    reader = bundle_of(tmp_path / "both", model, ("stablehlo", "onnx"))
    only = bundle_of(tmp_path / "one", model, ("stablehlo",))
    for unit, entries in reader.manifest.programs.items():
        jax_entry, onnx_entry = entries
        assert (jax_entry.format, onnx_entry.format) == ("stablehlo", "onnx")
        assert onnx_entry.file == f"programs/{onnx_entry.sha256}.onnx"
        # "2 to 8 KB each" is the size of a program of large blocks; these are tiny ones.
        assert onnx_entry.bytes < 2000 and (jax_entry,) == only.manifest.programs[unit]
    # What a climber fetches is told for one format, the first: the ONNX files cost it nothing.
    ladders = [[r.cumulative_bytes for r in opened.manifest.ladder] for opened in (reader, only)]
    assert ladders[0] == ladders[1]
    assert reader.verify().ok


def test_the_jax_executor_never_fetches_onnx(tmp_path):
    from pwl_jax.runtime import LiveModel

    model = tiny_model("lenet5")
    bundle_of(tmp_path / "b", model, ("stablehlo", "onnx"))
    for file in (tmp_path / "b" / "programs").glob("*.onnx"):
        file.unlink()
    with LiveModel.open(tmp_path / "b", executor="jax", warm_batches=()) as live:
        live.wait()
        assert live.rung == "TTTT@exact"
        assert live.progress.bytes_fetched == live.progress.bytes_total


def test_a_ladder_of_onnx_alone_counts_onnx(tmp_path):
    reader = bundle_of(tmp_path / "b", tiny_model("lenet5"))
    programs = {e[0].file: e[0].bytes for e in reader.manifest.programs.values()}
    shards = sum(rung.shard_bytes for rung in reader.manifest.ladder)
    assert all(name.endswith(".onnx") for name in programs)
    last = reader.manifest.ladder[-1].cumulative_bytes
    assert shards < last <= shards + sum(programs.values())


def test_blocks_that_compute_the_same_are_one_file():
    model = tiny_model("vit")
    units = [Unit("encoder", k) for k in (0, 1)]
    first, second = (export_program(model.hybrid, model.variables, u, "onnx") for u in units)
    assert first == second
    first_names, second_names = (tensor_names(model.hybrid, model.variables, u) for u in units)
    assert first_names != second_names


def test_programs_say_nothing_of_weights_machine_or_time():
    model, unit = tiny_model("resnet"), Unit("teacher", 1)
    data = export_program(model.hybrid, model.variables, unit, "onnx")
    other = jax.tree.map(lambda leaf: leaf + 1, model.variables)
    assert export_program(model.hybrid, other, unit, "onnx") == data
    shapes = jax.eval_shape(lambda: model.variables)
    assert export_program(model.hybrid, shapes, unit, "onnx") == data
    for word in (b".py", b"block1", b"layer0", b"test_onnx", b"/"):
        assert word not in data
    assert not onnx.load_from_string(data).metadata_props


class Sorting(nn.Module):
    """A head that no ONNX rule is for."""

    @nn.compact
    def __call__(self, x, train):
        return jnp.sort(nn.Dense(10)(x.reshape(x.shape[0], -1)))


def sorting_model():
    model = tiny_model("lenet5")
    hybrid = dataclasses.replace(
        model.hybrid, teacher=dataclasses.replace(model.hybrid.teacher, head=Sorting())
    )
    variables = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(hybrid.init, jax.random.key(0)),
    )
    return dataclasses.replace(model, hybrid=hybrid, variables=variables)


def test_a_unit_that_onnx_cannot_say_is_named_and_may_be_left_out(tmp_path):
    model = sorting_model()
    assert isinstance(model.hybrid, HybridNetwork) and len(units_of(model.hybrid)) == 14
    with pytest.raises(UserError, match=r"of teacher/3: it computes 'sort'.*--programs=stablehlo"):
        bundle_of(tmp_path / "b", model, ("stablehlo", "onnx"))
    assert list(tmp_path.iterdir()) == []
    reader = bundle_of(tmp_path / "b", model, ("stablehlo",))
    assert {e.format for entries in reader.manifest.programs.values() for e in entries} == {
        "stablehlo"
    }


@pytest.mark.parametrize("programs", [(), ("onnx", "onnx"), ("tflite",)])
def test_formats_are_checked(tmp_path, programs):
    with pytest.raises(UserError, match=r"programs is '.*'; expected some of stablehlo,onnx"):
        bundle_of(tmp_path / "b", tiny_model("lenet5"), programs)
    assert list(tmp_path.iterdir()) == []
