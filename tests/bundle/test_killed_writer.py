"""A writer that is killed, not merely interrupted: no handler of its own gets to run."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pwl_jax.bundle import BundleReader
from pwl_jax.ladder import Unit
from tests.bundle.conftest import unit_tensors, write

# Kills itself at the n-th file that it writes or moves.
KILLED = """
import os, signal, sys
from pathlib import Path
from pwl_jax.bundle import BundleWriter
from tests.bundle.conftest import write

path, left = Path(sys.argv[1]), int(sys.argv[2])
def dying(method):
    def call(*arguments):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*arguments)
    return call
BundleWriter._write = dying(BundleWriter._write)
BundleWriter._move = dying(BundleWriter._move)
write(path, seed=1)
print("finished")
"""


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# 13 files are written, then moved one by one, the manifest last.
@pytest.mark.parametrize("steps", [0, 6, 12, 13, 20, 25, 26])
def test_the_old_bundle_is_whole_at_every_moment(tmp_path, bundle, steps):
    path = tmp_path / "bundle"
    write(path)
    command = [sys.executable, "-c", KILLED, str(path), str(steps)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    reader = BundleReader.open(path)
    assert reader.verify().ok
    unit = Unit("teacher", 0)
    for name, original in unit_tensors(unit).items():
        assert reader.tensors(unit, "exact")[name].tobytes() == original.tobytes()
    assert len(list(tmp_path.glob(".bundle.partial-*"))) == 1
    # The next writer is not hindered, and leaves only what belongs to the bundle.
    write(path)
    assert files(path) == files(bundle)
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
