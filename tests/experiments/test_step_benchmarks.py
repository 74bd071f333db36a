"""The training step's benchmarks: their pairs, their ratios and what they refuse."""

import json

import pytest

from experiments.benchmarks import step_cases
from pwl_jax.errors import UserError
from tests import commands


@pytest.mark.parametrize("family", step_cases.FAMILIES)
def test_small_pairs_have_the_blocks_asked_for(family):
    pair = step_cases.small_pair(family, 3)
    assert pair.num_blocks == 3
    assert [wide == narrow for wide, narrow in pair.boundary_widths] == [True, True]


def test_pairs_that_do_not_exist_are_refused():
    with pytest.raises(UserError, match="family 'mlp' is unknown; expected one of resnet, vgg"):
        step_cases.small_pair("mlp", 3)
    with pytest.raises(UserError, match="vgg of 6 blocks; expected 2 to 5"):
        step_cases.small_pair("vgg", 6)


def test_ratios_are_of_timings_taken_together():
    row = step_cases.ratio("case", "cost", [2.0, 9.0, 4.0], [1.0, 3.0, 2.0], "<= 3")
    assert row.samples == (2.0, 3.0, 2.0)
    assert row.met


def test_input_wait_is_what_steps_take_longer_than_with_inputs_ready():
    rows = {
        row.metric: row for row in step_cases.wait_rows("device", [(2.0, 0.5)], [1.5], 5, 10, None)
    }
    assert rows["input wait"].samples == (0.25,)
    assert rows["host takes inputs"].samples == (0.25,)
    assert rows["step"].samples == (400.0,)
    assert rows["images"].samples == (25.0,)


@pytest.mark.slow
def test_a_step_is_timed_in_pages_of_every_kind(tmp_path):
    flags = ["--batch=8", "--steps=1", "--rounds=1", f"--results={tmp_path}"]
    module = "experiments.benchmarks.large_pages"
    result = commands.launched(module, "--pairs=lenet5_digits", *flags)
    assert (result.returncode, result.stderr) == (0, "")
    rows = json.loads((tmp_path / "large_pages" / "large_pages.json").read_text())["rows"]
    kinds = ["small pages", "large pages", "large pages, kept"]
    ratios = [f"{kind}, over small" for kind in kinds[1:]]
    assert [row["metric"] for row in rows] == [*kinds, *ratios]
    assert all(row["median"] > 0 for row in rows)
    refused = commands.launched(module, "--pairs=none", *flags)
    assert refused.returncode == 1 and "the process of pair 'none' failed" in refused.stderr
