"""Folders of writers that were killed are removed; those of living writers are not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from pwl_jax.bundle import BundleWriter, Preprocessing
from pwl_jax.ladder import Unit

ROOT = Path(__file__).parents[2]
WRITER = """
import sys, time
import numpy as np
from pwl_jax.bundle import BundleWriter
from pwl_jax.ladder import Unit
writer = BundleWriter(sys.argv[1])
writer.add_unit(Unit("teacher", 0), {"a": np.ones(1000)}, ("exact",))
print("writing", flush=True)
time.sleep(60)
"""


def start_writer(path):
    command = [sys.executable, "-c", WRITER, str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    return process


def kill(process):
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()


def partial(folder):
    return sorted(path.name for path in folder.glob(".*partial-*"))


def write(path):
    with BundleWriter(path) as writer:
        writer.add_unit(Unit("teacher", 0), {"a": np.ones(3)}, ("exact",))
        writer.finish(
            pair={}, preprocessing=Preprocessing((1, 1, 1), (0.0,), (1.0,)), classes=(), blocks=1
        )


def test_only_folders_without_a_living_owner_are_removed(tmp_path):
    dead, living = start_writer(tmp_path / "bundle"), start_writer(tmp_path / "bundle")
    other = start_writer(tmp_path / "another")
    try:
        kill(dead)
        kill(other)
        assert len(partial(tmp_path)) == 3
        write(tmp_path / "bundle")
        left = partial(tmp_path)
        # The living one's, and that of another bundle.
        assert len(left) == 2 and left[0].startswith(".another.partial-")
        assert (tmp_path / left[1] / "shards").is_dir()
    finally:
        kill(living)
    write(tmp_path / "bundle")
    assert partial(tmp_path) == left[:1]


def test_a_writer_of_this_process_keeps_its_folder(tmp_path):
    with BundleWriter(tmp_path / "bundle") as first:
        write(tmp_path / "bundle")
        assert len(partial(tmp_path)) == 1
        first.add_unit(Unit("teacher", 0), {"a": np.ones(3)}, ("exact",))
    assert not partial(tmp_path)


def test_a_folder_without_a_lock_goes_when_it_is_old(tmp_path):
    young, old = tmp_path / ".bundle.partial-young", tmp_path / ".bundle.partial-old"
    for folder in (young, old):
        (folder / "shards").mkdir(parents=True)
    hours_ago = time.time() - 7200
    os.utime(old, (hours_ago, hours_ago))
    (tmp_path / ".bundle.partial-file").write_text("mine")
    write(tmp_path / "bundle")
    assert partial(tmp_path) == [".bundle.partial-file", young.name]


def test_the_finished_bundle_has_no_trace_of_the_lock(tmp_path):
    write(tmp_path / "bundle")
    names = sorted(path.name for path in (tmp_path / "bundle").iterdir())
    assert names == ["manifest.json", "programs", "shards"]
