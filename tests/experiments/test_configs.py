"""Every config file describes a teacher's run and a distillation, in full and run locally."""

import importlib.util

import pytest

from pwl_jax.data import sources
from pwl_jax.training import preparation
from pwl_jax.training.config import run_config
from pwl_jax.training.preparation import TrainingError
from tests.commands import ROOT

CONFIGS = sorted(
    path.stem
    for path in (ROOT / "experiments" / "configs").glob("*.py")
    if "def get_config(variant" in path.read_text()
)
TRACED = ("lenet5_digits", "resnet_voc", "vgg_digits", "resnet_digits", "vit_digits")
"""One of each family and kind of data; `make long` traces the steps of all others."""


def get_config(name):
    path = ROOT / "experiments" / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_describes_two_runs(name):
    for variant in ("", "runlocal"):
        for task in ("teacher", "distill"):
            assert run_config(get_config(name)(variant), task).task == task


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n if n in TRACED else pytest.param(n, marks=pytest.mark.long) for n in CONFIGS]
)
def test_its_steps_can_be_traced(name):
    config = get_config(name)("")
    run = run_config(config, "distill")
    if sources.is_multi_label(run.data.name):
        with pytest.raises(TrainingError, match="cannot be distilled"):
            preparation.dry_run(run)
        for alone in ("teacher", "student"):
            assert preparation.dry_run(run_config(config, alone), compiled=False)["flops"] > 0
        return
    cost = preparation.dry_run(run, compiled=False)
    assert cost["networks"]["teacher"][0] > cost["networks"]["student"][0]
    assert cost["flops"] > 0
