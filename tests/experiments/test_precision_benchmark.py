"""The benchmark counts what it says it counts, on tensors small enough to count again."""

import json
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from experiments import results_file
from experiments.benchmarks import precision_accuracy, precision_bases, precision_report
from experiments.benchmarks import precision_cases as cases
from experiments.benchmarks import precision_methods as methods
from experiments.benchmarks.json_worker import WorkerError
from experiments.benchmarks.rivals import rivals
from experiments.results_file import Row
from pwl_jax.ladder import EXACT, Composition, Unit
from pwl_jax.precision import Quantization, encode_tensor, expand
from pwl_jax.training import workdir
from tests.bundle.p2u import write_p2u
from tests.tiny_models import tiny_model, write_workdir

FAKE_ZIPNN = """
import zlib

class ZipNN:
    def __init__(self, **options):
        assert options["threads"] == 1 and options["bytearray_dtype"] in ("float32", "bfloat16")

    def compress(self, data):
        coded = zlib.compress(bytes(data))
        data[:] = bytes(len(data))
        return coded

    def decompress(self, coded):
        return zlib.decompress(coded)RUIN
"""


def tensors():
    rng = np.random.default_rng(0)
    return {
        "block0/kernel": rng.normal(size=(3, 3, 64, 32)).astype(np.float32),
        "block0/bias": rng.normal(size=32).astype(np.float32),
        "steps": np.arange(5),
    }


@pytest.fixture(scope="module")
def result():
    case = cases.in_memory("tiny", "drawn", tensors())
    return precision_report.run([case], None, 1, lambda line: None)


def value(rows, case, metric):
    (row,) = (row for row in rows if (row.case, row.metric) == (case, metric))
    return row.median


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bytes_are_those_of_the_shards_that_would_be_stored(result, dtype):
    case = f"tiny, {dtype}"
    arrays = {name: a.astype(dtype) for name, a in tensors().items() if a.ndim != 1 or a.size > 5}
    raw = sum(a.nbytes for a in arrays.values())
    assert value(result.rows, case, "original") == raw == 18464 * arrays["block0/bias"].itemsize
    for metric, stages, upto in (
        (methods.BASE, (4, EXACT), 1),
        (methods.TWO, (4, EXACT), 2),
        (methods.THREE, (4, 8, EXACT), 3),
        (methods.ALONE, (EXACT,), 1),
    ):
        shards: dict[object, dict] = {}
        for name, array in arrays.items():
            for payload in encode_tensor(array, stages)[:upto]:
                shards.setdefault(payload.stage, {})[name] = payload
        unit = Unit("teacher", 0)
        # All but the magic and the header's length.
        size = sum(len(write_p2u(unit, stage, here)) - 16 for stage, here in shards.items())
        assert value(result.rows, case, metric) * raw == pytest.approx(size)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sizes_are_in_the_order_that_they_must_be_in(result, dtype):
    def share(metric):
        return value(result.rows, f"tiny, {dtype}", metric)

    assert share(methods.BASE) < share(methods.DATA) < share(methods.TWO) < share(methods.NAIVE)
    assert share(methods.PLANES) < share(methods.EXPONENTS) < 1
    # No order-0 coder gets below the entropy, and these values repeat nothing.
    assert share(methods.PLANES) < share(methods.ZSTD) < 1
    assert share(f"{methods.TWO}: restored to the bit") == 1


def test_the_entropy_of_exponents_is_that_of_exponents_alone():
    rng = np.random.default_rng(0)
    # One exponent, both signs.
    values = rng.uniform(1, 2, (64, 64)) * rng.choice([-1, 1], (64, 64))
    case = cases.in_memory("tiny", "drawn", {"kernel": values.astype(np.float32)})
    rows = list(methods.rows(case, methods.measure(case, None), None))
    assert value(rows, "tiny, float32", methods.EXPONENTS) == 0.75


def test_every_row_has_the_form_of_the_file_and_targets_are_judged(result, tmp_path, capsys):
    path = precision_report.report(result, "tiny", tmp_path)
    printed = capsys.readouterr().out
    written = json.loads(path.read_text())
    assert path == tmp_path / "precision" / "tiny.json"
    assert set(written) >= {"command", "versions", "device", "date", "rows", "sources"}
    assert written["versions"]["numpy"] == np.__version__
    assert len(written["rows"]) == len(result.rows)
    for row in written["rows"]:
        required = {"case", "metric", "unit", "samples", "median", "target", "met"}
        assert required <= set(row) <= required | {"note"}
        assert row["samples"] and all(np.isfinite(row["samples"]))
        assert (row["met"] is None) == (row["target"] is None)
        assert row["case"] in printed and row["metric"] in printed
    targeted = {row["metric"] for row in written["rows"] if row["target"]}
    assert {methods.BASE, "ZipNN was run", "extra memory while restoring"} <= targeted
    assert sum("against zstd-19 planes" in metric for metric in targeted) == 3
    zipnn = [row for row in written["rows"] if row["metric"] == "ZipNN was run"]
    assert [row["met"] for row in zipnn] == [False, False]


def test_ratios_of_speeds_are_those_of_the_same_round(result):
    rows = [row for row in result.rows if row.case == "tiny, float32"]
    speed = {row.metric: row.samples[0] for row in rows if row.unit == "MB/s"}
    ratios = {row.metric: row.samples[0] for row in rows if ", against zstd-" in row.metric}
    for metric, ratio in ratios.items():
        ours, theirs = metric.split(", against ")
        if ours in speed:
            assert ratio == pytest.approx(speed[ours] / speed[theirs])
    assert len(speed) == 6


@pytest.mark.parametrize(
    ("target", "met"),
    [
        ("<= 2", True),
        ("< 2", False),
        (">= 2", True),
        ("== 2", True),
        ("<= 1.9", False),
        (None, None),
    ],
)
def test_a_target_bounds_the_median(target, met):
    assert Row("case", "metric", "x", (9.0, 2.0, 1.0), target).met is met


def test_the_command_in_the_file_names_no_folders_of_this_machine(monkeypatch):
    arguments = ["program", "--vit=/a/b/vit/", "--data_dir=data/x", "--quick", "/home/me/file"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert results_file.own_command().endswith(" --vit=vit --data_dir=data/x --quick file")


def test_drawn_tensors_have_the_shapes_of_vit_l_and_the_distributions_of_the_teacher():
    teacher = {
        name.replace("block0/layer1", "block3/layer0"): np.full((1,) * len(shape), 1, np.float32)
        for name, shape in cases.large_shapes().items()
        if "block0/layer1" in name or "/layer" not in name
    }
    rng = np.random.default_rng(0)
    query = next(name for name in teacher if name.endswith("query/kernel"))
    teacher[query] = (rng.laplace(size=(64, 64)) * rng.uniform(1, 3, 64)).astype(np.float32)
    case = cases.large(teacher, "a teacher", quick=False)
    assert sum(np.prod(shape) for shape in cases.large_shapes().values()) == 304_326_632
    drawn = next(array for name, array in case.tensors() if name.endswith("query/kernel"))
    again = next(array for name, array in case.tensors() if name.endswith("query/kernel"))
    assert drawn.shape == (1024, 1024) and drawn.dtype == np.float32
    assert np.array_equal(drawn, again)
    scales = np.sqrt(np.square(drawn, dtype=np.float64).mean(axis=0))
    theirs = np.sqrt(np.square(teacher[query], dtype=np.float64).mean(axis=0))
    # 1024 channels drawn from 64: the standard error of a quantile is about 3 %.
    assert np.quantile(scales, [0.1, 0.5, 0.9]) == pytest.approx(
        np.quantile(theirs, [0.1, 0.5, 0.9]), rel=0.15
    )
    normal = np.quantile(drawn / scales, [0.01, 0.25, 0.75, 0.99])
    expected = np.quantile(teacher[query] / theirs, [0.01, 0.25, 0.75, 0.99])
    assert normal == pytest.approx(expected, rel=0.05)


def test_a_teacher_that_lacks_a_kind_of_tensor_is_refused():
    with pytest.raises(cases.CaseError, match=r"a teacher has no tensors of kinds .*mlp_in/kernel"):
        cases.large({"params/head/dense/bias": np.ones(3, np.float32)}, "a teacher", quick=True)


def test_rounding_to_bfloat16_is_to_nearest_even():
    values = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    rounded = cases.typed(values, "bfloat16")
    assert rounded.dtype == ml_dtypes.bfloat16
    assert np.array_equal(rounded, values.astype(ml_dtypes.bfloat16))


def test_a_checkpoint_gives_its_floats_and_no_more_precision_than_it_has(tmp_path):
    wide = tmp_path / "wide.safetensors"
    save_file(tensors(), wide)
    case = cases.checkpoint(wide)
    assert case.dtypes == ("float32", "bfloat16")
    assert {name: array.shape for name, array in case.tensors()} == {
        "block0/kernel": (3, 3, 64, 32),
        "block0/bias": (32,),
    }
    narrow = tmp_path / "narrow.safetensors"
    save_file({"a": np.ones((4, 4), np.float16), "b": np.ones(3, np.float32)}, narrow)
    assert cases.checkpoint(narrow).dtypes == ("bfloat16",)
    (tmp_path / "none").write_bytes(b"nothing")
    with pytest.raises(cases.CaseError, match="is no safetensors file"):
        cases.checkpoint(tmp_path / "none")


def fake_zipnn(folder, monkeypatch, ruin=""):
    (folder / "zipnn.py").write_text(FAKE_ZIPNN.replace("RUIN", ruin))
    info = folder / "zipnn-9.8.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zipnn\nVersion: 9.8\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_zipnn_is_asked_in_the_other_interpreter_on_all_tensors(tmp_path, monkeypatch):
    fake_zipnn(tmp_path, monkeypatch)
    case = cases.in_memory("tiny", "drawn", tensors())
    with rivals(sys.executable) as others:
        assert others.versions["zipnn"] == "9.8"
        found = methods.measure(case, others)
        rows = list(methods.rows(case, found, others))
    for dtype in ("float32", "bfloat16"):
        sizes = found[dtype].totals
        assert sizes[methods.ZIPNN].raw == sizes[methods.RAW].raw
        ratio = value(rows, f"tiny, {dtype}", f"{methods.TWO}, against ZipNN")
        assert ratio == sizes[methods.TWO].coded / sizes[methods.ZIPNN].coded


def test_a_compressor_that_gives_back_other_bytes_is_an_error(tmp_path, monkeypatch):
    fake_zipnn(tmp_path, monkeypatch, ruin="[::-1]")
    case = cases.in_memory("tiny", "drawn", tensors())
    with rivals(sys.executable) as others, pytest.raises(WorkerError, match="did not give back"):
        methods.measure(case, others)


def test_an_interpreter_that_is_none_is_refused():
    with (
        pytest.raises(WorkerError, match="cannot start 'no-such-python'"),
        rivals("no-such-python"),
    ):
        pass


def test_the_base_is_compared_on_matrices_that_all_can_code():
    case = cases.in_memory("tiny", "drawn", tensors())
    rows = list(precision_bases.rows(case, None))
    ours = next(row for row in rows if row.metric == precision_bases.OURS)
    assert ours.note == f"{3 * 3 * 64 * 32:,} weights"
    kernel = tensors()["block0/kernel"]
    rule = Quantization(group_size=64)
    error = expand(kernel, 4, (4,), quantization=rule) - kernel
    relative = np.linalg.norm(error) / np.linalg.norm(kernel)
    found = value(rows, "tiny, float32", f"{precision_bases.OURS}, error")
    assert found == pytest.approx(relative, rel=1e-4)


@pytest.mark.slow
def test_accuracy_lost_is_that_of_the_decoded_networks(tmp_path):
    model = tiny_model("vgg")
    write_workdir(tmp_path / "pwl", model)
    rows = list(precision_accuracy.pair_rows(tmp_path / "pwl"))
    test = workdir.open_data(model.config, "test")
    prefixes = Composition.prefixes(model.hybrid.num_blocks)
    exact = workdir.measure(model, prefixes, test)
    case = rows[0].case
    for composition in prefixes:
        top1 = value(rows, case, f"{composition}: top1, original")
        assert top1 == pytest.approx(100 * exact[composition].top1)
    last = prefixes[-1]
    (teacher,) = (
        value(list(precision_accuracy.teacher_rows(tmp_path / "pwl")), name, "lost at 4 bits")
        for name in [f"accuracy of teacher {model.config.pair.name}, digits test"]
    )
    assert teacher == pytest.approx(value(rows, case, f"{last}: lost at 4 bits"))
    eight = next(row for row in rows if row.metric == f"{last}: lost at 8 bits")
    # 540 images: one of them is more than a tenth of a point.
    assert eight.target == f"<= {round(100 / 540, 9)}"
    assert results_file.table(rows)
