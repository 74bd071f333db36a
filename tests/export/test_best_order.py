"""The best order: found on measurements, kept in a workdir, taken by an export."""

import json

import pytest

from pwl_jax.bundle import BundleReader
from pwl_jax.data import sources
from pwl_jax.export import best_order, export_bundle
from pwl_jax.export.best_order import OrderError, find_best_order, read_order, write_order
from pwl_jax.ladder import EXACT, Composition
from pwl_jax.training.checkpoints import CheckpointError
from pwl_jax.training.evaluation import Accuracy
from tests.tiny_models import few, tiny_model

MIDDLE_FIRST = ["SSS", "STS", "TTS", "TTT"]


def found(monkeypatch, top1):
    """The best order of a pair whose compositions are worth what `top1` says."""

    def measured(model, compositions, source, batch_size):
        return {c: Accuracy(top1(str(c)), 0.0, len(source)) for c in compositions}

    monkeypatch.setattr(best_order.workdir, "measure", measured)
    return find_best_order(tiny_model("vgg"), few(sources.load("digits", "validation"), 48))


def test_the_best_order_is_found_written_and_read(monkeypatch, tmp_path):
    order = found(monkeypatch, lambda c: 0.9 if c in MIDDLE_FIRST else 0.5)
    assert [str(c) for c in order.order] == MIDDLE_FIRST
    assert order.area > order.prefix_area and order.examples == 48
    assert len(order.top1) == 8 and order.split == "validation"
    write_order(tmp_path, order)
    step = tiny_model("vgg").step
    assert read_order(tmp_path, 3, step) == list(order.order)
    with pytest.raises(OrderError, match=f"order of step {step}, not of step 77; .*--best_order"):
        read_order(tmp_path, 3, 77)


def test_prefixes_where_nothing_is_better(monkeypatch):
    order = found(monkeypatch, lambda c: 0.5)
    assert list(order.order) == Composition.prefixes(3)
    assert order.area == order.prefix_area


def test_no_images_choose_no_order():
    with pytest.raises(OrderError, match="no validation split"):
        find_best_order(tiny_model("vgg"), few(sources.load("digits", "validation"), 0))


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"order": ["SSS", "TTT"]},
        {"order": ["SSS", "STS", "TSS", "TTT"]},
        {"order": ["TTT", "TTS", "TSS", "SSS"]},
        {"order": [1, 2]},
    ],
)
def test_what_is_no_order_is_refused(tmp_path, content):
    (tmp_path / "order.json").write_text(json.dumps(content))
    with pytest.raises(OrderError, match=r"order.json' (is no|holds no) order"):
        read_order(tmp_path, 3, 0)


def test_a_workdir_without_order_says_what_finds_one(tmp_path):
    with pytest.raises(CheckpointError, match="evaluate --best_order"):
        read_order(tmp_path, 3, 0)


@pytest.mark.slow
def test_an_export_climbs_in_the_order_it_is_given(tmp_path):
    order = [Composition.parse(name) for name in MIDDLE_FIRST]
    manifest = export_bundle(tiny_model("vgg"), tmp_path / "b", (EXACT,), None, None, order)
    ladder = BundleReader.open(tmp_path / "b").ladder
    assert [rung.name for rung in ladder] == [f"{name}@exact" for name in MIDDLE_FIRST]
    assert "order given" in manifest.measured_on["selection"]
