"""One truth about what is needed, though two files state it."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_requirements_are_the_dependencies_with_their_cpu_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    expected = [
        *project["dependencies"],
        *(
            line
            for name in ("edge", "train", "serve", "sign", "dev")
            for line in extras[name]
            if not line.startswith("pwl_jax[")
        ),
    ]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    found = [line for line in lines if line and not line.startswith("#")]
    assert sorted(found) == sorted(set(expected))


def test_the_wheel_needs_no_trainer():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {line.split(">=")[0] for line in project["dependencies"]}
    assert names == {"numpy", "pillow", "safetensors", "zstandard"}
