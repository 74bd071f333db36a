"""Rungs in few bits: what is measured of a pair, and what is written of it."""

import dataclasses
import json

import jax
import pytest

from experiments.matrix import precision
from pwl_jax.ladder import EXACT, Composition
from pwl_jax.training.evaluation import Accuracy
from tests.tiny_models import tiny_model

CLIMBS = {
    "PWL": [("SSS@exact", 1000, 0.5), ("TTT@exact", 9000, 0.9)],
    "P2U": [("TTT@4", 2000, 0.85), ("TTT@exact", 9000, 0.9)],
    "both": [("SSS@4", 400, 0.49), ("TTT@exact", 9000, 0.9)],
}


def found(lost_at_4):
    """Prefixes of 80 % exact, and so much less at 4 bits."""
    return {
        (way, bits, c): Accuracy(0.8 - (lost_at_4 if bits == 4 else 0.0), 0.0, 1000)
        for way in precision.WAYS
        for bits in (*precision.BITS, EXACT)
        for c in Composition.prefixes(3)
    }


@pytest.mark.parametrize(("lost", "met"), [(0.01, True), (0.011, False)])
def test_four_planned_bits_are_held_to_a_point(tmp_path, lost, met):
    text = precision.write(tiny_model("vgg"), found(lost), CLIMBS, "trial", tmp_path)
    written = json.loads((tmp_path / "trial" / "trial.json").read_text())
    held = [row for row in written["rows"] if row["target"]]
    assert len(held) == 4 and all(row["met"] is met for row in held)
    assert "vgg_tiny on digits" in written["title"] and "seed 0" in written["title"]
    assert text.startswith(f"# {written['title']}")
    assert "| SSS@4 | 0.4 | 49.00 |" in text
    assert (tmp_path / "trial" / "accuracy_over_bytes.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_measured_is_held_for_the_same_weights_alone(tmp_path):
    model, path = tiny_model("vgg"), tmp_path / "kept.json"
    assert precision.held(path, model) is None
    precision.keep(path, model, found(0.01), CLIMBS)
    assert precision.held(path, model) == (found(0.01), CLIMBS)
    changed = jax.tree.map(lambda leaf: leaf + 1, model.variables)
    assert precision.held(path, dataclasses.replace(model, variables=changed)) is None


@pytest.mark.long
def test_a_pair_is_measured_and_its_bundles_are_read(tmp_path):
    model = tiny_model("vgg")
    measured = precision.prefix_accuracies(model, None)
    teacher = Composition.parse("TTT")
    exact = {measured[way, EXACT, teacher] for way in precision.WAYS}
    assert len(exact) == 1 and exact.pop().examples == 540
    climbs = precision.ladders(model, tmp_path, None)
    assert {name: climb[-1][0] for name, climb in climbs.items()} == dict.fromkeys(
        precision.LADDERS, "TTT@exact"
    )
    assert climbs["PWL"][0][0] == "SSS@exact" and climbs["P2U"][0][0] == "TTT@4"
    assert climbs["both"][0][0] == "SSS@4"
    for climb in climbs.values():
        sizes = [size for _, size, _ in climb]
        assert sizes == sorted(sizes)
        assert climb[-1][2] == measured[precision.WAYS[0], EXACT, teacher].score
