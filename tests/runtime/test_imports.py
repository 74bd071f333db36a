"""Ground floor and live wing must start without the libraries that learning needs."""

import subprocess
import sys

HEAVY = ("jax", "jaxlib", "flax", "optax", "orbax", "tensorflow", "tensorflow_datasets", "grain")


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    return {name.partition(".")[0] for name in result.stdout.split()}


def test_runtime_and_serving_import_nothing_heavy():
    rooms = "pwl_jax.runtime, pwl_jax.serving, pwl_jax.bundle, pwl_jax.precision, pwl_jax.ladder"
    loaded = modules_after(f"import {rooms}")
    assert "pwl_jax" in loaded
    assert not loaded.intersection(HEAVY)


def test_runtime_imports_no_web_server():
    loaded = modules_after("import pwl_jax.runtime")
    assert not loaded.intersection({"starlette", "uvicorn", "prometheus_client", "absl"})
