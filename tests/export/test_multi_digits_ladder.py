"""Accuracy against bytes on pictures of several real digits: 4 bits, 8 bits, exact."""

import json

import numpy as np
import pytest

from experiments.configs.resnet_multi_digits import get_config
from pwl_jax.bundle import BundleReader
from pwl_jax.data import pipeline
from pwl_jax.export import DEFAULT_BUDGET, BundleOptions, export_bundle
from pwl_jax.ladder import EXACT, ladder_table
from pwl_jax.training import loop, workdir
from pwl_jax.training.config import run_config
from tests.export.networks import live_logits
from tests.tiny_models import few

BITS = (4, 8, EXACT)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The config's own small network after a few steps."""
    path = tmp_path_factory.mktemp("digits") / "student"
    config = get_config("runlocal")
    config.epochs = 1
    result = loop.train(run_config(config, "student"), path, None, progress=False)
    assert result.finished
    return workdir.load_network(path)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [None, DEFAULT_BUDGET])
def test_the_ladder_of_a_trained_multi_label_network(trained, tmp_path, budget):
    validation, test = (
        few(workdir.open_data(trained.config, split), 240) for split in ("validation", "test")
    )
    options = BundleOptions(base_budget=budget)
    manifest = export_bundle(trained, tmp_path / "b", BITS, validation, test, options=options)
    letters = str(trained.composition)
    assert [entry.name for entry in manifest.ladder] == [f"{letters}@{bits}" for bits in BITS]
    four, eight, exact = manifest.ladder
    assert four.cumulative_bytes < eight.cumulative_bytes < exact.cumulative_bytes
    # A few steps beyond chance, which ranks a class by its share of the pictures: 0.23.
    assert exact.mean_average_precision_test > 0.25
    # What an exact network of one epoch gains is noisy; so much is far more than codes take.
    assert abs(four.mean_average_precision_test - exact.mean_average_precision_test) < 0.03
    assert abs(eight.mean_average_precision_test - exact.mean_average_precision_test) < 0.005
    (whole,) = workdir.measure_network(trained, test).values()
    assert exact.mean_average_precision_test == pytest.approx(
        # The network in one piece rounds otherwise, which may swap scores that nearly tie.
        whole.mean_average_precision,
        abs=1e-3,
    )
    table = ladder_table(BundleReader.open(tmp_path / "b").ladder).splitlines()
    assert "test mAP %" in table[0]
    for line, entry in zip(table[1:], manifest.ladder, strict=True):
        assert f"{100 * entry.mean_average_precision_test:.2f}" in line
    document = json.loads((tmp_path / "b" / "manifest.json").read_bytes())
    assert document["measured_on"]["dataset"] == "multi_digits"
    # A receiver's own answers at 4 bits are not those of the exact network.
    preprocessing = workdir.preprocessing_of(trained.config)
    images, _ = pipeline.in_memory(few(test, 16), preprocessing)
    inputs = preprocessing.normalize(images)
    logits = [live_logits(tmp_path / "b", entry.name, inputs) for entry in manifest.ladder]
    errors = [np.abs(found - logits[-1]).max() for found in logits]
    assert errors[0] > 4 * errors[1] > 0
