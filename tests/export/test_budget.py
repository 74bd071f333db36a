"""Bits where they matter, measured, within a budget of bytes."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from pwl_jax.bundle import BundleReader
from pwl_jax.data import pipeline, sources
from pwl_jax.errors import UserError
from pwl_jax.export import BundleOptions, export_bundle, exporter, sensitivity
from pwl_jax.export.exporter import as_hybrid
from pwl_jax.export.measure import expanded
from pwl_jax.export.sensitivity import planned_widths
from pwl_jax.ladder import EXACT, Composition, Rung, Unit
from pwl_jax.precision import (
    Quantization,
    canonical_json,
    encode_frame,
    encode_tensor,
    quantizable,
)
from pwl_jax.training import workdir
from pwl_jax.training.evaluation import Evaluator
from pwl_jax.training.step import device_mesh
from tests.export.networks import live_logits, named, network_of
from tests.tiny_models import few, tiny_model

BITS = (4, 8, EXACT)
KERNELS = {
    "teacher": ("block0/conv0", "block0/conv1", "block1/conv0", "block2/conv0", "head/dense"),
    "student": ("block0/conv0", "block1/conv0", "block2/conv0"),
}


def prepared(model, count=32):
    source = few(sources.load("digits", "validation"), count)
    return pipeline.PreparedSource(source, workdir.preprocessing_of(model.config))


def planned(model, share, bits=BITS, quantization=Quantization()):
    hybrid, variables = as_hybrid(model)
    evaluator = Evaluator(hybrid, device_mesh())
    return planned_widths(evaluator, variables, bits, share, prepared(model), quantization)


def blind(model):
    """The network with a norm that passes on nothing of what comes before it."""
    params = jax.tree.map(np.array, model.variables["params"])
    params["block1"]["norm0"]["scale"][:] = 0
    params["block1"]["norm0"]["bias"][:] = np.linspace(0.1, 1, 8)
    return dataclasses.replace(model, variables={**model.variables, "params": params})


def first_bytes(array, stages, widths):
    payload = encode_tensor(np.asarray(array), stages, widths=widths)[0]
    return len(payload.data) + len(encode_frame(canonical_json(payload.header)))


@pytest.fixture(scope="module")
def teacher():
    return network_of("teacher")


@pytest.fixture(scope="module")
def plan(teacher):
    return planned(teacher, 1.0)


@pytest.fixture(scope="module", params=[0.9, 1.3])
def exported(request, teacher, tmp_path_factory):
    """A bundle within a budget: the share, its folder, its manifest."""
    path = tmp_path_factory.mktemp("budget") / "b"
    validation = few(sources.load("digits", "validation"), 32)
    options = BundleOptions(base_budget=request.param)
    return (
        request.param,
        path,
        export_bundle(teacher, path, BITS, validation, None, options=options),
    )


def test_bits_go_to_the_tensors_that_the_output_depends_on(teacher):
    """Nothing before the blind norm can change a logit."""
    found = planned(blind(teacher), 1.0)
    first = {name.split("params/")[1]: bits[0] for name, bits in found.items()}
    dead = [first[f"{kernel}/kernel"] for kernel in KERNELS["teacher"][:3]]
    alive = [first[f"{kernel}/kernel"] for kernel in KERNELS["teacher"][3:]]
    assert dead == [2, 2, 2]
    assert all(bits == EXACT or bits > 4 for bits in alive)


@pytest.mark.parametrize("share", [0.9, 1.0, 1.5, 9.0])
@pytest.mark.parametrize("bits", [BITS, (3, EXACT)])
def test_the_first_stage_keeps_to_the_budget_and_uses_it(teacher, share, bits):
    arrays, found = named(teacher), planned(teacher, share, bits)
    assert found.keys() == {n for n, array in arrays.items() if quantizable(np.asarray(array))}
    uniform = sum(first_bytes(arrays[name], bits, None) for name in found)
    spent = sum(first_bytes(arrays[name], bits, found[name]) for name in found)
    assert spent <= share * uniform + 0.5
    exact = all(widths == (EXACT,) * len(bits) for widths in found.values())
    assert exact == (share == 9.0)
    # No tensor is left that one more step would fit for, within a step of the largest.
    assert exact or spent > share * uniform - max(
        first_bytes(arrays[name], bits, (EXACT,) * len(bits)) for name in found
    )
    for widths in found.values():
        encode_tensor(np.ones((16, 4), np.float32), bits, widths=widths)
        for width, stage in zip(widths[1:-1], bits[1:-1], strict=True):
            assert widths[0] == EXACT or width == max(stage, widths[0])


def test_uniform_rules_are_planned_by_the_rule(teacher):
    rule = Quantization("affine", "channel", scale="minmax")
    found = planned(teacher, 1.0, quantization=rule)
    arrays = named(teacher)

    def spent(widths):
        return sum(
            payload.byte_count + len(encode_frame(canonical_json(payload.header)))
            for name in found
            for payload in encode_tensor(
                np.asarray(arrays[name]), BITS, quantization=rule, widths=widths(name)
            )[:1]
        )

    assert spent(found.get) <= spent(lambda _: None)


def test_teacher_and_student_are_planned_apart():
    pair = tiny_model("vgg")
    both = planned(pair, 0.9)
    alone = {task: planned(network_of(task), 0.9) for task in ("teacher", "student")}
    assert both == alone["teacher"] | alone["student"]
    for task, kernels in KERNELS.items():
        assert alone[task].keys() == {f"{task}/params/{kernel}/kernel" for kernel in kernels}


def test_what_is_measured_is_what_a_receiver_decodes(exported, teacher):
    share, path, manifest = exported
    hybrid, variables = as_hybrid(teacher)
    widths = planned(teacher, share)
    assert {bits[0] for bits in widths.values()} != {4}
    reader = BundleReader.open(path)
    assert reader.verify().ok
    trees = {bits: expanded(variables, bits, BITS, Quantization(), widths) for bits in BITS}
    for bits in BITS:
        model = dataclasses.replace(teacher, variables=trees[bits]["teacher"])
        expected, held = named(model), {}
        for index in range(3):
            held |= reader.tensors(Unit("teacher", index), bits)
        assert held.keys() == expected.keys()
        for name, array in held.items():
            assert array.tobytes() == np.asarray(expected[name]).tobytes(), (bits, name)
    images, labels = pipeline.in_memory(prepared(teacher).source, prepared(teacher).preprocessing)
    inputs = prepared(teacher).preprocessing.normalize(images)
    rungs = [Rung.uniform(teacher.composition, bits) for bits in BITS]
    logits = Evaluator(hybrid, device_mesh()).logits(rungs, trees.get, inputs)
    assert len({np.asarray(found).tobytes() for found in logits.values()}) == 3
    for entry in manifest.ladder:
        found = live_logits(path, entry.name, inputs)
        assert found.tobytes() == np.asarray(logits[entry.rung]).tobytes()
        assert entry.top1 == (found.argmax(-1) == labels).mean()
        chances = found - np.logaddexp.reduce(found, axis=-1, keepdims=True)
        loss = -np.take_along_axis(chances, labels[:, None], 1).mean()
        measured = next(m for m in manifest.measurements if m.rung == entry.rung)
        # Summed in float32; other bits of the same tensors move it a thousand times further.
        assert measured.loss == pytest.approx(loss, rel=1e-5)


def test_the_manifest_says_how_bits_were_chosen(exported):
    share, _, manifest = exported
    assert manifest.measured_on["selection"] == (
        "one network: every precision is a rung; each tensor's bits were chosen on the validation "
        f"split within {share:.0%} of the bytes of 4 bits"
    )


def test_a_tensor_planned_exact_or_at_eight_bits_brings_nothing_later(teacher, tmp_path):
    validation = few(sources.load("digits", "validation"), 32)
    model = blind(teacher)
    options = BundleOptions(base_budget=1.4)
    manifest = export_bundle(model, tmp_path / "b", BITS, validation, None, options=options)
    widths = planned(model, 1.4)
    assert {EXACT, 2} <= {bits[0] for bits in widths.values()}
    for name, bits in widths.items():
        unit = next(unit for unit in ("0", "1", "2") if f"block{unit}" in name or unit == "2")
        sent = [
            stage for stage in BITS if name in manifest.shards[f"teacher/{unit}@{stage}"].tensors
        ]
        assert sent == [
            stage
            for stage, width, before in zip(BITS, bits, (None, *bits), strict=False)
            if width != before
        ]
    assert BundleReader.open(tmp_path / "b").verify().ok


def test_all_exact_at_once_leaves_later_stages_empty(teacher, tmp_path):
    validation = few(sources.load("digits", "validation"), 32)
    options = BundleOptions(base_budget=9.0)
    manifest = export_bundle(teacher, tmp_path / "b", BITS, validation, None, options=options)
    for first, later in itertools.product(range(3), BITS[1:]):
        assert manifest.shards[f"teacher/{first}@{later}"].tensors == ()
    assert len({entry.top1 for entry in manifest.ladder}) == 1
    assert BundleReader.open(tmp_path / "b").verify().ok


@pytest.mark.parametrize(
    ("share", "bits", "count", "message"),
    [
        (1.0, BITS, None, "expected validation data"),
        (1.0, BITS, 0, "expected validation data"),
        (0.01, BITS, 16, "base_budget 0.01 of the .* bytes .* the fewest bits take"),
        (1.0, (EXACT,), 16, "stages begin with exact"),
        (0.0, BITS, 16, "base_budget is 0.0"),
        (-1.0, BITS, 16, "base_budget is -1.0"),
        (float("nan"), BITS, 16, "base_budget is nan"),
        (float("inf"), BITS, 16, "base_budget is inf"),
    ],
)
def test_what_is_no_budget_is_one_clear_error(teacher, tmp_path, share, bits, count, message):
    validation = None if count is None else few(sources.load("digits", "validation"), count)
    options = BundleOptions(base_budget=share)
    with pytest.raises(UserError, match=message) as caught:
        export_bundle(teacher, tmp_path / "b", bits, validation, None, options=options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_few_images_of_the_whole_split_are_looked_at(teacher, monkeypatch):
    """A split may be sorted by class, and too large for memory."""
    read = []
    source = sources.load("digits", "validation")

    class Recorded(list):
        def __getitem__(self, place):
            read.append(place)
            return super().__getitem__(place)

    monkeypatch.setattr(sensitivity, "MOST_EXAMPLES", 10)
    recorded = dataclasses.replace(source, records=Recorded(source.records))
    hybrid, variables = as_hybrid(teacher)
    split = pipeline.PreparedSource(recorded, prepared(teacher).preprocessing)
    planned_widths(Evaluator(hybrid, device_mesh()), variables, BITS, 1.0, split, Quantization())
    assert 5 <= len(read) <= 10
    assert min(read) <= source.indices[0] and max(read) >= source.indices[-1 - len(source) // 5]


def test_values_that_are_no_numbers_do_not_spoil_the_plan(teacher):
    """A diverged kernel has logits that are no numbers; the plan is still one."""
    params = jax.tree.map(np.array, teacher.variables["params"])
    params["block1"]["conv0"]["kernel"][0, 0, 0, 0] = np.nan
    params["block0"]["conv0"]["kernel"][0, 0, 0, 0] = np.inf
    broken = dataclasses.replace(teacher, variables={**teacher.variables, "params": params})
    found = planned(broken, 1.0)
    arrays = named(broken)
    uniform = sum(first_bytes(arrays[name], BITS, None) for name in found)
    assert len(found) == 5
    assert sum(first_bytes(arrays[name], BITS, found[name]) for name in found) <= uniform
    assert {bits[0] for bits in found.values()} != {2}


def test_the_order_of_swaps_counts_the_bytes_that_are_sent(monkeypatch, tmp_path):
    """A block whose tensors are planned exact costs as much when it is weighed."""
    asked = {}

    def order(blocks, lowest, measurer, unit_bytes):
        asked.update({Unit("teacher", i): unit_bytes(Unit("teacher", i)) for i in range(blocks)})
        return Composition.prefixes(blocks)

    monkeypatch.setattr(exporter, "chosen_order", order)
    validation = few(sources.load("digits", "validation"), 16)
    model, weighed = tiny_model("vgg"), []
    for share in (None, 9.0):
        options = BundleOptions(base_budget=share)
        export_bundle(model, tmp_path / str(share), BITS, validation, None, options=options)
        weighed.append(dict(asked))
    for index in range(3):
        unit = Unit("teacher", index)
        tensors = exporter.unit_tensors(model.hybrid, model.variables)[unit]
        exact = sum(array.nbytes for array in tensors.values())
        assert weighed[1][unit] == exact > weighed[0][unit]
