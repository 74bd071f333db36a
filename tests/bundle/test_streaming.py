"""Bundles are written and read tensor by tensor: memory does not grow with their number."""

import subprocess
import sys
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from pwl_jax.bundle import BundleError, BundleReader, BundleWriter, writer
from pwl_jax.precision import decode_tensor, encode_tensor
from tests.bundle import measure_memory
from tests.bundle.measure_memory import UNIT, Drawn

ROOT = Path(__file__).parents[2]


def peak_of(function, *arguments) -> int:
    tracemalloc.start()
    try:
        function(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_that_of_one_tensor(tmp_path):
    """What the coder takes for one tensor, one more tensor, and a few chunks of files."""
    many, values = Drawn(24, 1 << 18), 1 << 18
    size, constant = 4 * values, 6 << 20
    tensor = many["tensor0000"]
    encoding = peak_of(encode_tensor, tensor, (4, "exact"))
    decoding = peak_of(decode_tensor, encode_tensor(tensor, (4, "exact")))
    assert 24 * size > encoding + decoding + constant
    assert peak_of(measure_memory.write, tmp_path / "b", many) < encoding + 2 * size + constant
    # A shard of less than 4 MiB is held whole.
    shards = sorted(path.stat().st_size for path in (tmp_path / "b" / "shards").iterdir())
    limit = decoding + 2 * size + constant + shards[0]
    assert peak_of(measure_memory.verify, tmp_path / "b") < limit
    assert peak_of(measure_memory.restore, tmp_path / "b") < limit


@pytest.mark.slow
@pytest.mark.parametrize(("count", "values"), [(30, 1 << 21)])
def test_a_bundle_of_hundreds_of_megabytes(tmp_path, count, values):
    """Resident memory; 16 MiB are what libraries and the allocator keep for themselves."""
    for what in ("write", "verify", "restore"):
        command = [sys.executable, "-m", "tests.bundle.measure_memory", what]
        done = subprocess.run(
            [*command, str(tmp_path / "b"), str(count), str(values)],
            cwd=ROOT, capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
        assert int(done.stdout) < 5 * 4 * values + (16 << 20) < count * 4 * values / 3, what
    with (tmp_path / "b.safetensors").open("rb") as file:
        file.seek(-4 * values, 2)
        last = Drawn(count, values)[f"tensor{count - 1:04}"]
        assert file.read() == last.tobytes()


class Counted(Mapping):
    """Tells how often each tensor is asked for, and that none is held when the next one is."""

    def __init__(self, tensors):
        self.tensors, self.asked = tensors, []

    def __getitem__(self, name):
        self.asked.append(name)
        return self.tensors[name].copy()

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self):
        return len(self.tensors)


def test_a_lazy_mapping_is_asked_once_for_each_tensor_and_gives_the_same_bytes(tmp_path):
    tensors = {f"t{i}": np.full((16, 8), i, np.float32) for i in (2, 0, 1)}
    lazy = Counted(tensors)
    measure_memory.write(tmp_path / "lazy", lazy)
    measure_memory.write(tmp_path / "plain", tensors)
    assert lazy.asked == ["t0", "t1", "t2"]
    a, b = (BundleReader.open(tmp_path / name) for name in ("lazy", "plain"))
    assert a.manifest_sha256 == b.manifest_sha256
    assert [name for name, _ in a.each_tensor(UNIT, "exact")] == ["t0", "t1", "t2"]


def test_a_unit_that_fails_halfway_leaves_the_writer_as_it_was(tmp_path):
    good = {"a": np.ones((16, 8), np.float32)}
    with BundleWriter(tmp_path / "bundle") as unfinished:
        with pytest.raises(Exception, match="object"):
            unfinished.add_unit(UNIT, {**good, "b": np.array([object()])}, (4, "exact"))
        unfinished.add_unit(UNIT, good, (4, "exact"))
        staged = [path.name for path in next(tmp_path.glob(".bundle.partial-*")).iterdir()]
        assert sorted(staged) == ["lock", "programs", "shards"]


def test_options_of_the_coder_pass_through(tmp_path, monkeypatch):
    seen = []

    def encode(array, stages, **options):
        seen.append(options)
        return encode_tensor(array, stages)

    monkeypatch.setattr(writer, "encode_tensor", encode)
    tensors = {"a": np.ones((16, 8), np.float32), "b": np.ones((16, 8), np.float32)}
    with BundleWriter(tmp_path / "bundle") as unfinished:
        widths = {"b": (3, "exact"), "elsewhere": (2, "exact")}
        unfinished.add_unit(UNIT, tensors, (4, "exact"), widths=widths, quantization="how")
    assert seen == [{"quantization": "how"}, {"quantization": "how", "widths": (3, "exact")}]


def test_a_tensor_that_cannot_be_loaded_is_named(tmp_path):
    class Broken(Counted):
        def __getitem__(self, name):
            raise FileNotFoundError(2, "No such file or directory", "weights.safetensors")

    with (
        BundleWriter(tmp_path / "bundle") as unfinished,
        pytest.raises(BundleError, match=r"tensor 'a' cannot be loaded: .*weights.safetensors"),
    ):
        unfinished.add_unit(UNIT, Broken({"a": np.ones(3)}), ("exact",))


def test_a_disk_without_room_is_said_in_one_line(tmp_path, monkeypatch):
    def full(self, *_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer.P2uSpool, "add", full)
    with (
        pytest.raises(BundleError, match=r"bundle: No space left"),
        BundleWriter(tmp_path / "bundle") as unfinished,
    ):
        unfinished.add_unit(UNIT, {"a": np.ones(3)}, ("exact",))
    assert not list(tmp_path.iterdir())
