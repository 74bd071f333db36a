"""Writes or reads a bundle of many tensors and prints by how much memory grew at most, in bytes.

python -m tests.bundle.measure_memory write|verify|restore FOLDER COUNT VALUES
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.peak_memory import peak_bytes
from pwl_jax.bundle import BundleReader, BundleWriter, Preprocessing
from pwl_jax.bundle.safetensors_file import SafetensorsLayout
from pwl_jax.bundle.whole_file import written_whole
from pwl_jax.ladder import Unit

UNIT = Unit("teacher", 0)


class Drawn(Mapping):
    """Tensors that exist only while somebody holds them."""

    def __init__(self, count: int, values: int) -> None:
        self.names, self.values = [f"tensor{i:04}" for i in range(count)], values

    def __getitem__(self, name: str) -> np.ndarray:
        rng = np.random.default_rng(self.names.index(name))
        return rng.standard_normal((self.values // 256, 256), dtype=np.float32)

    def __iter__(self):
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def write(folder: Path, tensors: Mapping) -> None:
    with BundleWriter(folder) as writer:
        writer.add_unit(UNIT, tensors, (4, "exact"))
        writer.finish(
            pair={}, preprocessing=Preprocessing((1, 1, 1), (0.0,), (1.0,)), classes=(), blocks=1
        )


def verify(folder: Path) -> None:
    assert BundleReader.open(folder).verify().ok


def restore(folder: Path) -> None:
    reader = BundleReader.open(folder)
    layout = SafetensorsLayout({n: (t.dtype, t.shape) for n, t in reader.manifest.tensors.items()})
    with written_whole(f"{folder}.safetensors") as file:
        layout.write_header(file)
        for name, array in reader.each_tensor(UNIT, "exact"):
            layout.write_tensor(file, name, array)
            del array


if __name__ == "__main__":
    what, path, count, values = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    before = peak_bytes()
    if what == "write":
        write(path, Drawn(count, values))
    else:
        {"verify": verify, "restore": restore}[what](path)
    print(peak_bytes() - before)
