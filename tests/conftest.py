"""What holds for every test: eight fake CPU devices, strict shapes, and where real data lie."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports JAX, and by the environment, so that commands run by tests inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# What an earlier run compiled must not answer for this one.
os.environ["PWL_EXECUTABLE_CACHE"] = ""
_DEVICES = "--xla_force_host_platform_device_count=8"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()

# What one process of this run has compiled, all others read: workers, and commands run by tests.
_CONTROLLER = "PYTEST_XDIST_WORKER" not in os.environ
if _CONTROLLER:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="pwl_jax_executables")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

# How long an example takes says nothing about the code on a shared machine.
settings.register_profile("default", deadline=None)
settings.load_profile("default")

_ROOT = Path(__file__).parents[1]
_DATA_DIR = Path(
    os.environ.get("PWL_DATA_DIR", _ROOT.parent / "shared" / "data" / "tensorflow_datasets")
)


def pytest_unconfigure() -> None:
    """Removes what was compiled: it must not answer for another run."""
    if _CONTROLLER:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Counts long tests as slow ones, and skips what needs the real CIFAR-10 where it is absent."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.slow)
    if (_DATA_DIR / "cifar10").is_dir():
        return
    skip = pytest.mark.skip(reason=f"no cifar10 in {_DATA_DIR}; set PWL_DATA_DIR")
    for item in items:
        if item.get_closest_marker("cifar10"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def cifar10_dir() -> str:
    """The `data_dir` that holds CIFAR-10; only for tests marked `cifar10`."""
    return str(_DATA_DIR)
