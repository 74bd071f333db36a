"""Small bundles of every sort, to be damaged."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pwl_jax.bundle import BundleReader, BundleWriter, Preprocessing
from pwl_jax.bundle.signature import Key
from pwl_jax.bundle.tensor_bundle import METADATA_FIELD
from pwl_jax.ladder import Bits, Composition, Measurement, Rung, Unit
from pwl_jax.precision import numpy_dtype

STAGES: tuple[Bits, ...] = (4, 8, "exact")
_BLOCKS = 2


@dataclasses.dataclass(frozen=True)
class Sample:
    """A bundle in a folder, and how it is opened.

    Attributes:
      name: its sort.
      folder: where it lies.
      opened: what is opened if that is another bundle, told against this one.
      originals: little-endian bytes of every tensor.
      against: the bundle that it is told against, if it is a delta.
      public_key: whose signature it has, if it is signed.
    """

    name: str
    folder: Path
    originals: Mapping[str, bytes]
    against: tuple[Path, ...] = ()
    public_key: Key = None
    opened: Path | None = None

    def files(self) -> dict[str, bytes]:
        """All files of the bundle by their names."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }


def sample_bundles(folder: Path) -> list[Sample]:
    """Writes a ladder of three stages, a signed one, a delta, and a delta against that delta."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    first, second, third = (_network(version) for version in range(3))
    _write(folder / "ladder", first, STAGES)
    _write(folder / "signed", first, (4, "exact"), sign_key=key)
    old = BundleReader.open(folder / "ladder")
    _write(folder / "delta", second, ("exact",), against=old)
    newer = BundleReader.open(folder / "delta", against=[old])
    _write(folder / "chain", third, ("exact",), against=newer)
    ladder, delta = folder / "ladder", folder / "delta"
    return [
        Sample("ladder", ladder, _bytes(first)),
        Sample("signed", folder / "signed", _bytes(first), public_key=key.public_key()),
        Sample("delta", delta, _bytes(second), (ladder,)),
        Sample("chain", folder / "chain", _bytes(third), (delta, ladder)),
        Sample("base of a delta", ladder, _bytes(second), opened=delta),
    ]


def _network(version: int) -> dict[Unit, dict[str, np.ndarray]]:
    """Tensors of many types; each version changes some of them, some a little."""
    rng = np.random.default_rng(7)
    odd = rng.integers(0, 1 << 32, (12, 4), dtype=np.uint32).view(np.float32)
    odd[:2] = np.array([[np.nan, -np.inf, -0.0, 1e-42]], np.float32)
    units: dict[Unit, dict[str, np.ndarray]] = {}
    for kind in ("teacher", "student"):
        for index in range(_BLOCKS if kind == "teacher" else 1):
            stem = f"{kind}/{index}"
            units[Unit(kind, index)] = {
                f"{stem}/kernel": rng.normal(size=(3, 3, 4, 8)).astype(np.float32),
                f"{stem}/half": rng.normal(size=(16, 8)).astype(np.float16),
                f"{stem}/bias": rng.normal(size=8).astype(np.float32),
            }
    units[Unit("teacher", 0)] |= {
        "odd": odd,
        "double": rng.normal(size=(20, 2)),
        "brain": np.frombuffer(rng.bytes(160), numpy_dtype("bfloat16")).reshape(20, 4),
        "steps": np.arange(40),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(3, np.int32),
    }
    units[Unit("encoder", 0)] = {"encoder/kernel": np.eye(4, dtype=np.float32)}
    for tensors in units.values():
        for name in sorted(tensors)[: 2 * version]:
            tensors[name] = np.copy(tensors[name])
            patterns = tensors[name].reshape(-1).view(np.uint8)
            patterns[::7] ^= version
    return units


def _write(
    path: Path,
    network: Mapping[Unit, Mapping[str, np.ndarray]],
    stages: tuple[Bits, ...],
    *,
    sign_key: Key = None,
    against: BundleReader | None = None,
) -> None:
    rungs = [Rung.uniform(Composition.parse("TT"), stage) for stage in stages]
    with BundleWriter(path, sign_key=sign_key, against=against) as writer:
        for unit, tensors in network.items():
            converter = unit.kind == "encoder"
            writer.add_unit(unit, tensors, ("exact",) if converter else stages)
            if not converter:
                program = f"program of {unit}".encode()
                writer.add_programs(unit, {"stablehlo": program}, {"own": sorted(tensors)[:1]})
        writer.finish(
            pair={"name": "sample", METADATA_FIELD: {"format": "np"}},
            preprocessing=Preprocessing((8, 8, 3), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
            classes=("ant", "bee"),
            blocks=_BLOCKS,
            ladder=rungs,
            measurements=[Measurement(rungs[0], "validation", 0.5, 1.25, 100)],
            measured_on={"dataset": "none", "split": "validation"},
            created_with={"pwl_jax": "0"},
        )


def _bytes(network: Mapping[Unit, Mapping[str, np.ndarray]]) -> dict[str, bytes]:
    return {
        name: array.astype(array.dtype.newbyteorder("<")).tobytes()
        for tensors in network.values()
        for name, array in tensors.items()
    }
