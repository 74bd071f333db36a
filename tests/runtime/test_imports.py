"""Ground floor and live wing must start without the libraries that learning needs, and soon."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests import tiny_bundle as tiny

HEAVY = ("jax", "jaxlib", "flax", "optax", "orbax", "tensorflow", "tensorflow_datasets", "grain")
# What a bundle in a folder and an array to answer do not need.
UNNEEDED = [
    "PIL",
    "asyncio",
    "concurrent",
    "email",
    "http",
    "jsonschema",
    "logging",
    "multiprocessing",
    "shutil",
    "socket",
    "ssl",
    "tempfile",
    "unittest",
    "urllib.request",
    "absl",
    "etils",
]
MOST_MODULES = 80
FIRST_ANSWER = """
import json, sys, time
import numpy as np, onnxruntime
before = set(sys.modules)
began = time.perf_counter()
from pwl_jax.runtime import LiveModel
imported = time.perf_counter()
with LiveModel.open(sys.argv[1], executor="onnxruntime", climb=False, rung=sys.argv[2]) as model:
    model.predict(np.load(sys.argv[3]))
print(json.dumps({
    "modules": sorted(set(sys.modules) - before),
    "import_ms": 1e3 * (imported - began),
    "answer_ms": 1e3 * (time.perf_counter() - imported),
}))
"""


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


@pytest.mark.parametrize("rung", ["SSS@4", "TTT@exact"])
def test_a_first_answer_imports_no_more_than_it_needs(bundle, tmp_path, rung, record_property):
    """Beside NumPy and ONNX Runtime: each module is some tenths of a millisecond of every start."""
    pytest.importorskip("onnxruntime")
    np.save(tmp_path / "image.npy", np.zeros((1, *tiny.INPUT_SHAPE), np.float32))
    done = subprocess.run(
        [sys.executable, "-c", FIRST_ANSWER, str(bundle), rung, str(tmp_path / "image.npy")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = json.loads(done.stdout)
    modules = found["modules"]
    for name in ("import_ms", "answer_ms"):
        record_property(name, found[name])
    print({name: value for name, value in found.items() if name != "modules"})
    assert not set(UNNEEDED).intersection(modules)
    assert not set(HEAVY).intersection(modules)
    assert len(modules) <= MOST_MODULES, (
        f"{len(modules)} modules; expected at most {MOST_MODULES}. Raise the number only for what "
        f"every first answer needs; import the rest where it is used. {modules}"
    )


def test_names_that_are_imported_late_are_there():
    """Names under TYPE_CHECKING and those that are found late are the same."""
    import pwl_jax.bundle
    import pwl_jax.precision
    import pwl_jax.runtime

    for package in (pwl_jax.bundle, pwl_jax.precision, pwl_jax.runtime):
        for name in package.__all__:
            assert getattr(package, name).__name__ if callable(getattr(package, name)) else True
    with pytest.raises(AttributeError, match=r"pwl_jax\.bundle' has no attribute 'nothing'"):
        _ = pwl_jax.bundle.nothing
