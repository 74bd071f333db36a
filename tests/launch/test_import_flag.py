"""A family that is not the library's: without --import it is unknown, with it every command runs.

docs/bring_your_own_network.md is followed to the end by tests/experiments.
"""

import json

import numpy as np
import pytest

from tests import commands, tiny_runs
from tests.tiny_models import tiny_model, write_workdir

MODULE = """
import dataclasses
from pwl_jax.models.vgg import VGGSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class MineSpec(VGGSpec, family="mine"):
    pass
"""
COMMANDS = {
    "evaluate": ["--workdir={run}"],
    "export": ["--workdir={run}", "--bundle={out}/bundle", "--nomeasure"],
    "export_weights": ["--workdir={run}", "--composition=TSS", "--output={out}/x.safetensors"],
    "predict": ["--workdir={run}", "--input={run}/images.npy", "--rung=TSS"],
    "distill": ["--config={run}/config.py", "--dry_run"],
}


@pytest.fixture
def mine(tmp_path):
    """A workdir whose networks are of a family that only the module `mine_networks` defines."""
    run, code = tmp_path / "run", tmp_path / "code"
    write_workdir(run, tiny_model("vgg"))
    config = json.loads((run / "config.json").read_text())
    for role in ("teacher", "student"):
        config["pair"][role]["family"] = "mine"
    (run / "config.json").write_text(json.dumps(config))
    tiny_runs.config_file(run / "config.py", pair=config["pair"])
    np.save(run / "images.npy", np.zeros((2, 8, 8, 1), np.float32))
    code.mkdir()
    (code / "mine_networks.py").write_text(MODULE)
    (code / "broken_networks.py").write_text("import no_such_module\n")
    return tmp_path


def launched(mine, name, *more):
    (mine / "out").mkdir(exist_ok=True)
    flags = [flag.format(run=mine / "run", out=mine / "out") for flag in COMMANDS[name]]
    line, environment = commands.command(f"launch.{name}", *flags, *more)
    environment["PYTHONPATH"] += f":{mine / 'code'}"
    return commands.finished(line, environment)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_know_a_family_by_its_module(mine, name):
    result = launched(mine, name, "--import=mine_networks")
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["export", "distill"])
def test_without_it_the_family_is_unknown(mine, name):
    result = launched(mine, name)
    assert result.returncode == 1 and not result.stdout
    assert "family 'mine' is unknown" in result.stderr and "--import=my.module" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list((mine / "out").iterdir())


@pytest.mark.slow
def test_a_module_that_fails_is_one_line(mine):
    for module, message in (
        ("broken_networks", "--import=broken_networks fails: ModuleNotFoundError: No module named"),
        ("none.such", "--import=none.such fails: ModuleNotFoundError"),
    ):
        result = launched(mine, "evaluate", f"--import={module}")
        assert result.returncode == 1 and message in result.stderr
        assert result.stderr.count("\n") == 1
