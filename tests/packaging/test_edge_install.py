"""`pip install .[edge]` in a fresh environment: no JAX, and a bundle is climbed all the same."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from pwl_jax.runtime import LiveModel
from tests import tiny_bundle as tiny

ROOT = Path(__file__).parents[2]
LARGEST_INSTALL = 250
"""MiB; a trainer takes more than 1300."""

LARGEST_PEAK = 200
"""MiB of resident memory for a bundle of a few KiB: what the libraries themselves take."""

CLIMB = """
import json, sys
import numpy as np
from pwl_jax.runtime import LiveModel

with LiveModel.open(sys.argv[1]) as model:
    model.wait(timeout=60)
    answer = model.predict(np.load(sys.argv[2]))
lines = open("/proc/self/status").read().splitlines() if sys.platform == "linux" else []
peak = next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
heavy = {"jax", "flax", "orbax", "tensorflow", "tensorflow_datasets", "grain"}
print(json.dumps({
    "rung": answer.rung,
    "executor": answer.executor,
    "logits": answer.logits.tolist(),
    "rungs": [event.rung for event in model.events if event.kind == "rung"],
    "heavy": sorted(heavy & {name.partition(".")[0] for name in sys.modules}),
    "peak": peak,
}))
"""


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    """The Python of an environment that holds the wheel and what its extra `edge` asks for."""
    folder, source = tmp_path_factory.mktemp("edge"), tmp_path_factory.mktemp("source")
    # Building leaves a folder beside the source.
    for name in ("pwl_jax", "launch"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", f"--wheel-dir={folder}", str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run(
        [str(python), *pip[1:], "install", "--no-compile", f"{wheel}[edge]"],
        check=True,
        capture_output=True,
    )
    return python


def run(python, *arguments, cwd):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=120,
        check=True,
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "bundle"
    tiny.write_bundle(path)
    return path


@pytest.mark.slow
def test_a_bundle_is_climbed_without_jax(edge, bundle, tmp_path, record_property):
    images = np.random.default_rng(0).normal(size=(3, *tiny.INPUT_SHAPE)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    arguments = ("-c", CLIMB, str(bundle), str(tmp_path / "images.npy"))
    found = json.loads(run(edge, *arguments, cwd=tmp_path).stdout)
    assert (found["rung"], found["executor"]) == ("TTT@exact", "onnxruntime")
    assert tuple(found["rungs"]) == tiny.RUNGS and not found["heavy"]
    with LiveModel.open(bundle, rung="TTT@exact", climb=False, executor="jax") as model:
        expected = model.predict(images).logits
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(found["logits"], expected, rtol=0, atol=atol)

    site = next((edge.parents[1] / "lib").glob("python*/site-packages"))
    tools = ("pip", "setuptools")
    files = (file for file in site.rglob("*") if file.is_file())
    size = sum(f.stat().st_size for f in files if f.relative_to(site).parts[0] not in tools) / 2**20
    record_property("installed_mib", round(size))
    record_property("peak_mib", round(found["peak"]))
    print(f"installed {size:.0f} MiB, peak {found['peak']:.0f} MiB")
    assert size < LARGEST_INSTALL and found["peak"] < LARGEST_PEAK


@pytest.mark.slow
def test_the_console_command_works_there(edge, bundle, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((2, *tiny.INPUT_SHAPE), np.float32))
    pwl = edge.with_name("pwl")
    predicted = subprocess.run(
        [str(pwl), "predict", f"--bundle={bundle}", "--input=images.npy", "--output=logits.npy"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=True,
    )
    assert predicted.stdout.startswith("rung TTT@exact, executor onnxruntime")
    assert np.load(tmp_path / "logits.npy").shape == (2, tiny.CLASSES)
    for command in (["inspect", "--verify"], ["restore", "--output=x.safetensors"]):
        subprocess.run(
            [str(pwl), *command, f"--bundle={bundle}"], cwd=tmp_path, timeout=120, check=True
        )
    assert (tmp_path / "x.safetensors").stat().st_size > 0
    helped = subprocess.run(
        [str(pwl), "serve", "--help"], capture_output=True, text=True, timeout=120, check=True
    )
    assert "--port" in helped.stdout
