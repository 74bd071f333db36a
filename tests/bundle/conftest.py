import numpy as np
import pytest

from pwl_jax.bundle import BundleWriter, Preprocessing
from pwl_jax.ladder import Composition, Measurement, Rung, Unit

BLOCKS = 2
COMPOSITIONS = ("SS", "TS", "TT")


def unit_tensors(unit: Unit, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, unit.index, len(unit.kind)])
    stem = f"{unit.kind}/params/block{unit.index}"
    if unit.kind in ("encoder", "decoder"):
        return {f"{unit.kind}s/params/boundary{unit.index}/kernel": np.eye(8, dtype=np.float32)}
    return {
        f"{stem}/kernel": rng.normal(size=(3, 3, 4, 8)).astype(np.float32),
        f"{stem}/half": rng.normal(size=(16, 8)).astype(np.float16),
        f"{stem}/bias": rng.normal(size=8).astype(np.float32),
        f"{stem}/count": np.arange(3),
        f"{stem}/empty": np.zeros((0, 4), np.float32),
    }


def write(path, seed: int = 0, stages=(4, "exact")):
    """A bundle of two blocks a network and one encoder, written to `path`; its manifest."""
    rungs = [Rung.uniform(Composition.parse(text), stages[0]) for text in COMPOSITIONS]
    rungs.append(Rung.uniform(Composition.parse("TT"), "exact"))
    with BundleWriter(path) as writer:
        for unit in (Unit(kind, i) for kind in ("teacher", "student") for i in range(BLOCKS)):
            tensors = unit_tensors(unit, seed)
            writer.add_unit(unit, tensors, stages)
            program = f"program of {unit}".encode()
            writer.add_programs(unit, {"stablehlo": program}, {"own": list(tensors)[:1]})
        encoder = Unit("encoder", 0)
        writer.add_unit(encoder, unit_tensors(encoder), ("exact",))
        return writer.finish(
            pair={"name": "tiny"},
            preprocessing=Preprocessing((8, 8, 3), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
            classes=("ant", "bee"),
            blocks=BLOCKS,
            ladder=list(dict.fromkeys(rungs)),
            measurements=[
                Measurement(rungs[0], "validation", 0.5, 1.25, 100),
                Measurement(rungs[0], "test", 0.25, 1.5, 200),
            ],
            measured_on={"dataset": "digits", "split": "validation", "examples": 100},
            created_with={"pwl_jax": "0.1.0"},
        )


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A bundle; do not change it: copy it."""
    path = tmp_path_factory.mktemp("bundles") / "bundle"
    write(path)
    return path
