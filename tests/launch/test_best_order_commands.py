"""evaluate --best_order and --recalibrate, export --order=best, on a workdir no training made."""

import json

import pytest

from pwl_jax.bundle import BundleReader
from tests.commands import launched
from tests.export.networks import network_of, write_network
from tests.tiny_models import tiny_model, write_workdir


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir. Do not change it."""
    path = tmp_path_factory.mktemp("trained") / "workdir"
    write_workdir(path, tiny_model("vgg"))
    return path


def refused(result, message):
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert message in line


@pytest.mark.slow
def test_the_order_that_evaluate_found_is_climbed(trained, tmp_path):
    bundle = tmp_path / "b"
    export = ("launch.export", f"--workdir={trained}", f"--bundle={bundle}", "--order=best")
    refused(launched(*export), "launch.evaluate --best_order finds it")
    assert not bundle.exists()
    result = launched("launch.evaluate", f"--workdir={trained}", "--best_order")
    assert (result.returncode, result.stderr) == (0, "")
    order = json.loads((trained / "order.json").read_text())
    assert order["split"] == "validation" and len(order["top1"]) == 8
    assert f"best order: {', '.join(order['order'])}" in result.stdout
    result = launched(*export, "--bits=exact", "--measure=false", "--programs=stablehlo")
    assert (result.returncode, result.stderr) == (0, "")
    ladder = BundleReader.open(bundle).ladder
    assert [str(rung.rung.composition) for rung in ladder.rungs] == order["order"]
    assert "order given" in result.stdout


@pytest.mark.slow
def test_recalibrated_measurements_have_a_file_of_their_own(trained):
    result = launched(
        "launch.evaluate", f"--workdir={trained}", "--orders=all", "--recalibrate=256"
    )
    assert (result.returncode, result.stderr) == (0, "")
    rows = json.loads((trained / "compositions_recalibrated.json").read_text())
    assert len(rows) == 8 and all(row["examples"] == 540 for row in rows)


@pytest.mark.slow
def test_a_network_alone_has_no_orders(tmp_path):
    write_network(tmp_path / "w", network_of("teacher", "vgg"))
    result = launched("launch.evaluate", f"--workdir={tmp_path / 'w'}", "--best_order")
    refused(result, "--best_order is for pairs")
