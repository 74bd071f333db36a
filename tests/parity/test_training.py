"""Twenty steps of SGD, and what they leave in parameters and running statistics."""

import jax
import numpy as np
import pytest

pytest.importorskip("torch")

from pwl_jax.training.optimizer import OptimizerConfig, learning_rate_schedule
from tests.parity import ours, theirs, torch_networks
from tests.parity.pairs import FAMILIES
from tests.parity.results import relative_difference, trained_parameters
from tests.parity.settings import CROSS_MODES, STEPS, setting
from tests.parity.torch_objective import CONVERTER_RATE, make_optimizer

WITH_BATCH_NORM = ("vgg", "resnet")


@pytest.mark.slow
@pytest.mark.parametrize("cross", CROSS_MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_and_statistics_after_twenty_steps(reference, family, cross):
    given = setting(family)
    expected = theirs.trained(reference, given, cross)
    got = ours.trained(given, cross)
    before, after, found = map(trained_parameters, (given.variables, expected, got))
    assert relative_difference(after, found) <= 1e-4
    # Not a vacuous bound: the steps moved them by far more.
    assert relative_difference(before, after) > 0.05
    pairs = zip(
        jax.tree.leaves(expected["student"]["batch_stats"]),
        jax.tree.leaves(got["student"]["batch_stats"]),
        strict=True,
    )
    compared = [np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5) for a, b in pairs]
    assert bool(compared) == (family in WITH_BATCH_NORM)


@pytest.mark.slow
@pytest.mark.parametrize("family", WITH_BATCH_NORM)
def test_the_baselines_teacher_drifts_and_ours_keeps_its_bits(reference, family):
    """On purpose: the last rung is the teacher, to the bit (BUILD_NOTES)."""
    given = setting(family)
    module = theirs.module_of(reference, given)
    distiller = reference.distiller(module, "random").train()  # As the baseline's trainer does.
    distiller(*theirs.torch_batch(given, 0), given.drawn(0))
    drifted = theirs.tree_of(module.state_dict(), given.pair)["teacher"]
    start = given.variables["teacher"]
    assert relative_difference(start["params"], drifted["params"]) == 0
    assert relative_difference(start["batch_stats"], drifted["batch_stats"]) > 0.01
    kept = ours.trained(given, "random")["teacher"]
    for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(kept), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("learning_rate", [0.05, 1e-4])
def test_schedules_of_student_and_converters(learning_rate):
    module = torch_networks.hybrid(setting("lenet5").pair)
    optimizer, schedule = make_optimizer(module, learning_rate, STEPS)
    config = OptimizerConfig(learning_rate=learning_rate)
    assert config.converter_rate == CONVERTER_RATE
    student = learning_rate_schedule(config, STEPS)
    converters = learning_rate_schedule(config, STEPS, config.converter_rate)
    for step in range(STEPS):
        rates = [group["lr"] for group in optimizer.param_groups]
        ours_now = [float(student(step)), float(converters(step)), float(converters(step))]
        np.testing.assert_allclose(ours_now, rates, rtol=1e-5)
        optimizer.step()
        schedule.step()
