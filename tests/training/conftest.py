import jax
import pytest


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory):
    """Keeps executables on disk, so that runs and processes of the same program share them."""
    folder = str(tmp_path_factory.mktemp("executables"))
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (folder, 0.2), strict=True):
        jax.config.update(name, value)
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)
