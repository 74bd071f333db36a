import pytest

from pwl_jax.runtime import create_executor
from tests import tiny_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A bundle of seven rungs that loads in milliseconds. Do not change it: copy it."""
    path = tmp_path_factory.mktemp("tiny") / "bundle"
    tiny_bundle.write_bundle(path)
    return path


@pytest.fixture(scope="session")
def executor():
    """One executor for all live models, so that each program is compiled once."""
    return create_executor("jax")
