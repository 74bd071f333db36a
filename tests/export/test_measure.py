"""The order of swaps, chosen by accuracies that are made up."""

import jax
import numpy as np
import pytest

from pwl_jax.export.measure import (
    MOST_BLOCKS_FOR_ALL,
    arriving_bytes,
    chosen_order,
    expanded,
)
from pwl_jax.ladder import EXACT
from pwl_jax.precision import expand, quantizable
from pwl_jax.training.evaluation import Accuracy, fitting_batch
from pwl_jax.training.step import device_mesh
from tests.tiny_models import tiny_model


class MadeUp:
    """Stands for a Measurer: accuracy is what `top1` says of a composition."""

    examples = 10_000

    def __init__(self, top1):
        self.top1 = top1
        self.asked = []

    def measure(self, rungs):
        self.asked += [rung for rung in rungs if rung not in self.asked]
        return {rung: Accuracy(self.top1(str(rung.composition)), 0.0, 1) for rung in rungs}


def order(blocks, top1, unit_bytes=lambda unit: 1000.0):
    measurer = MadeUp(top1)
    return [str(c) for c in chosen_order(blocks, 4, measurer, unit_bytes)], measurer


PREFIXES = ["SSS", "TSS", "TTS", "TTT"]


def test_prefixes_unless_another_order_is_measurably_better():
    assert order(3, lambda c: 0.9)[0] == PREFIXES
    # The last block first is worth 0.3 at once: far more than the standard error of 0.005.
    assert order(3, lambda c: 0.9 if c[-1] == "T" else 0.6)[0] in (
        ["SSS", "SST", "STT", "TTT"],
        ["SSS", "SST", "TST", "TTT"],
    )
    # By less than that error it is not.
    assert order(3, lambda c: 0.902 if c[-1] == "T" else 0.9)[0] == PREFIXES


def test_the_middle_block_first_is_found_by_greed_alone():
    found, _ = order(3, lambda c: 0.95 if c[1] == "T" else 0.5)
    assert found[:2] == ["SSS", "STS"] and found[-1] == "TTT"


def test_bytes_decide_between_equal_gains():
    def unit_bytes(unit):
        return 1e6 if unit == ("teacher", 0) else 10.0

    found, _ = order(3, lambda c: 0.3 + 0.2 * c.count("T"), unit_bytes)
    assert found[-2] == "STT"


def test_without_data_prefixes():
    assert [str(c) for c in chosen_order(3, 4, None, lambda unit: 1.0)] == PREFIXES


@pytest.mark.parametrize("blocks", [3, MOST_BLOCKS_FOR_ALL + 4])
def test_many_blocks_are_not_measured_in_all_compositions(blocks):
    found, measurer = order(blocks, lambda c: 0.1 + 0.5 * c.count("T") / blocks)
    assert len(found) == blocks + 1
    if blocks <= MOST_BLOCKS_FOR_ALL:
        assert len(measurer.asked) == 2**blocks
    else:
        assert len(measurer.asked) < blocks * (blocks + 5)
    assert {rung.bits for rung in measurer.asked} == {(4,) * blocks}


def test_expanded_codes_networks_and_leaves_converters():
    variables = tiny_model("vgg").variables
    found = expanded(variables, 4, (4, EXACT))
    assert expanded(variables, EXACT, (4, EXACT)) is variables
    changed = 0
    for network, tree in variables.items():
        pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(found[network]), strict=True)
        for original, coded in pairs:
            converter = network in ("encoders", "decoders")
            expected = original if converter else expand(original, 4, (4, EXACT))
            np.testing.assert_array_equal(coded, expected)
            changed += not np.array_equal(coded, original)
    assert changed > 5


def test_arriving_bytes():
    kernel, bias = np.zeros((3, 3, 8, 16), np.float32), np.zeros(16, np.float32)
    assert quantizable(kernel) and not quantizable(bias)
    assert arriving_bytes([kernel, bias], 4) == 3 * 3 * 8 * 16 / 2 + 64
    assert arriving_bytes([kernel, bias], EXACT) == kernel.nbytes + 64


def test_a_batch_divides_among_devices_and_is_little_larger_than_the_data():
    mesh = device_mesh()
    assert mesh.size == 8
    assert [fitting_batch(256, n, mesh) for n in (0, 1, 8, 9, 256, 10_000)] == [
        8,
        8,
        8,
        16,
        256,
        256,
    ]
