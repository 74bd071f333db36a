"""Bundles of the registry's pairs with drawn weights: their bytes, memory and times are real."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from experiments.benchmarks.step_cases import drawn_variables
from pwl_jax.bundle import Manifest
from pwl_jax.export.exporter import export_bundle
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.ladder import Bits
from pwl_jax.models.registry import PairSpec
from pwl_jax.precision import byte_count
from pwl_jax.training import workdir
from pwl_jax.training.config import DataConfig, RunConfig


@dataclasses.dataclass(frozen=True)
class DrawnBundle:
    """Where a bundle lies, and what its networks take in memory."""

    folder: Path
    teacher_bytes: int
    student_bytes: int


def write_drawn_bundle(folder: Path, pair: PairSpec, bits: Sequence[Bits]) -> DrawnBundle:
    """Exports a pair with drawn weights in the given precisions, in prefix order."""
    hybrid = HybridNetwork.from_pair(pair)
    channels = pair.teacher.input_shape[-1]
    data = DataConfig(name="drawn", mean=(0.5,) * channels, std=(0.25,) * channels)
    config = RunConfig(task="distill", pair=pair, data=data)
    model = workdir.TrainedModel(config, hybrid, drawn_variables(hybrid), step=0)
    manifest = export_bundle(model, folder, bits, None, None)
    return DrawnBundle(folder, _bytes_of(manifest, "teacher"), _bytes_of(manifest, "student"))


def _bytes_of(manifest: Manifest, network: str) -> int:
    """Bytes of all tensors that the network's programs read."""
    names = {
        name
        for unit, streams in manifest.bindings.items()
        if unit.startswith(network)
        for name in (name for bound in streams.values() for name in bound)
    }
    tensors = [manifest.tensors[name] for name in names]
    return sum(byte_count(tensor.dtype, tensor.shape) for tensor in tensors)
