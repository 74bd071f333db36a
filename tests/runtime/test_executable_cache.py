import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from pwl_jax.runtime.executable_cache import ExecutableCache
from pwl_jax.runtime.jax_executor import JaxExecutor
from tests import tiny_bundle as tiny

ROOT = Path(__file__).parents[2]
IMAGES = np.random.default_rng(1).normal(size=(4, *tiny.INPUT_SHAPE)).astype(np.float32)
PROGRAM = """
import sys
import numpy as np
from pwl_jax.runtime import LiveModel

with LiveModel.open(sys.argv[1], executor="jax", climb=False, rung="TSS@exact") as model:
    logits = model.predict(np.load(sys.argv[2])).logits
    np.save(sys.argv[3], logits)
    print(model.executor.compiles)
"""


@pytest.fixture
def without_jaxs_cache():
    """What JAX's own cache gives cannot be serialised again."""
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    reset_cache()


def test_what_is_stored_comes_back_and_nothing_else(tmp_path):
    cache = ExecutableCache(tmp_path / "a" / "b")
    assert cache.load("x") is None
    cache.store(b"one", "x", "y")
    cache.store(b"two", "xy")
    assert (cache.load("x", "y"), cache.load("xy"), cache.load("x")) == (b"one", b"two", None)
    cache.store(b"three", "xy")
    assert cache.load("xy") == b"three"
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "a/b").iterdir()} == {0o600}


def test_damaged_files_are_no_hits(tmp_path):
    cache = ExecutableCache(tmp_path / "cache")
    cache.store(b"executable", "x")
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole[:20], whole[:-1] + b"x", whole + b"x"):
        file.write_bytes(damaged)
        assert cache.load("x") is None
    file.write_bytes(whole)
    assert cache.load("x") == b"executable"


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_others_may_write_is_not_read(tmp_path, mode):
    cache = ExecutableCache(tmp_path / "cache")
    cache.store(b"executable", "x")
    (file,) = (tmp_path / "cache").iterdir()
    file.chmod(mode)
    assert cache.load("x") is None
    file.chmod(0o600)
    (tmp_path / "cache").chmod(mode | 0o100)
    assert cache.load("x") is None
    cache.store(b"more", "y")
    (tmp_path / "cache").chmod(0o700)
    assert cache.load("x") == b"executable" and cache.load("y") is None


def test_links_are_not_followed(tmp_path):
    cache = ExecutableCache(tmp_path / "cache")
    cache.store(b"executable", "x")
    (file,) = (tmp_path / "cache").iterdir()
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert cache.load("x") is None
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    file.unlink()
    (tmp_path / "elsewhere").rename(file)
    assert cache.load("x") == b"executable"
    assert ExecutableCache(tmp_path / "link").load("x") is None


def test_a_folder_of_someone_else_is_not_used(tmp_path, monkeypatch):
    cache = ExecutableCache(tmp_path / "cache")
    cache.store(b"executable", "x")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert cache.load("x") is None


def test_a_folder_that_cannot_be_made_keeps_nothing(tmp_path):
    (tmp_path / "file").write_text("no folder")
    cache = ExecutableCache(tmp_path / "file" / "cache")
    cache.store(b"executable", "x")
    assert cache.load("x") is None


def test_the_oldest_go_first(tmp_path):
    cache = ExecutableCache(tmp_path / "cache", largest=200)
    for number, name in enumerate("abc"):
        cache.store(bytes(60), name)
        newest = max((tmp_path / "cache").iterdir(), key=lambda file: file.stat().st_mtime_ns)
        os.utime(newest, (number, number))
        if name == "b":
            assert cache.load("a") is not None  # used, so b is the oldest now
    assert [name for name in "abc" if cache.load(name)] == ["a", "c"]


def test_the_environment_names_the_folder_or_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PWL_EXECUTABLE_CACHE", "")
    assert ExecutableCache.default() is None
    monkeypatch.setenv("PWL_EXECUTABLE_CACHE", str(tmp_path / "named"))
    assert ExecutableCache.default().folder == tmp_path / "named"
    monkeypatch.delenv("PWL_EXECUTABLE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ExecutableCache.default().folder == tmp_path / "pwl_jax" / "executables"


@pytest.mark.usefixtures("without_jaxs_cache")
def test_a_second_executor_compiles_nothing_and_answers_the_same(tmp_path):
    cache = ExecutableCache(tmp_path / "cache")
    first, second = JaxExecutor(cache=cache), JaxExecutor(cache=cache)
    logits = first.run(tiny.chain_of(first, "TST"), IMAGES)
    again = second.run(tiny.chain_of(second, "TST"), IMAGES)
    units = len(tiny.steps_of(first, "TST"))
    assert (first.compiles, second.compiles) == (units, 0)
    np.testing.assert_array_equal(logits, again)
    second.run(tiny.chain_of(second, "TST"), IMAGES[:3])
    assert second.compiles == units


@pytest.mark.usefixtures("without_jaxs_cache")
def test_executables_of_another_device_are_not_taken(tmp_path):
    cache = ExecutableCache(tmp_path / "cache")
    devices = jax.local_devices()[:2]
    executors = [JaxExecutor(device, cache) for device in devices]
    answers = [executor.run(tiny.chain_of(executor, "SSS"), IMAGES) for executor in executors]
    np.testing.assert_array_equal(*answers)
    assert [executor.compiles for executor in executors] == [tiny.BLOCKS] * 2


def test_where_jaxs_own_cache_is_on_it_serves_alone(tmp_path, monkeypatch):
    """Else an executable from there would be kept here, and fail in every later process."""
    monkeypatch.setenv("PWL_EXECUTABLE_CACHE", str(tmp_path / "cache"))
    assert jax.config.jax_compilation_cache_dir
    executor = JaxExecutor()
    executor.run(tiny.chain_of(executor, "SSS"), IMAGES)
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("without_jaxs_cache")
def test_by_default_the_named_folder_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("PWL_EXECUTABLE_CACHE", str(tmp_path / "cache"))
    executor = JaxExecutor()
    executor.run(tiny.chain_of(executor, "SSS"), IMAGES)
    assert len(list((tmp_path / "cache").iterdir())) >= tiny.BLOCKS


@pytest.mark.usefixtures("without_jaxs_cache")
def test_whatever_the_cache_holds_the_answer_is_right(tmp_path):
    cache = ExecutableCache(tmp_path / "cache")
    executor = JaxExecutor(cache=cache)
    logits = executor.run(tiny.chain_of(executor, "SSS"), IMAGES)
    # Whole and this user's own, yet no executable.
    for data in (b"", b"nonsense", pickle.dumps(("a", "b", "c")), pickle.dumps(7)):
        monkey = ExecutableCache(tmp_path / "cache")
        monkey.load = lambda *key, data=data: data  # type: ignore[method-assign]
        other = JaxExecutor(cache=monkey)
        np.testing.assert_array_equal(other.run(tiny.chain_of(other, "SSS"), IMAGES), logits)
        assert other.compiles == tiny.BLOCKS


@pytest.mark.slow
def test_the_next_process_compiles_nothing(bundle, tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    environment = {**os.environ, "PWL_EXECUTABLE_CACHE": str(tmp_path / "cache")}
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "0"
    compiles = []
    for name in ("one.npy", "two.npy"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(bundle), str(tmp_path / "images.npy"), name],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(ROOT)},
            check=True,
        )
        compiles.append(int(done.stdout))
    # At opening for one image, then for these four.
    assert compiles == [8, 0]
    np.testing.assert_array_equal(np.load(tmp_path / "one.npy"), np.load(tmp_path / "two.npy"))
