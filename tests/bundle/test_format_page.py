"""The format page is complete: a reader that knows nothing else decodes what the library wrote."""

import numpy as np
import pytest

from pwl_jax.bundle import BundleReader, BundleWriter, Preprocessing
from pwl_jax.ladder import EXACT, Unit, parse_bits
from tests.bundle.page_reader import read_unit

UNIT = Unit("teacher", 0)


def tensors() -> dict[str, np.ndarray]:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    odd = rng.integers(0, 1 << 32, (40, 6), dtype=np.uint32).view(np.float32)
    odd[:5] = np.array([[np.nan, -np.nan, np.inf, -np.inf, -0.0, 1e-42]], np.float32)
    normal = rng.normal(size=(3, 3, 5, 7))
    return {
        "odd": odd,
        "f32": normal.astype("f4"),
        "f64": normal,
        "f16": (1e5 * rng.normal(size=(20, 4))).astype("f4").clip(-65504, 65504).astype("f2"),
        "bf16": normal.astype(ml_dtypes.bfloat16),
        "f8": normal.astype(ml_dtypes.float8_e4m3fn),
        "swapped": normal.astype(">f4"),
        "strided": normal.astype("f4")[::2, :, ::-1],
        "ints": np.arange(-5, 5),
        "flags": np.array([True, False]),
        "scalar": np.float32(-0.0).reshape(()),
        "empty": np.zeros((0, 3), "f4"),
        "ä\u2028": np.ones(2, "u1"),
    }


@pytest.mark.parametrize("stages", [("exact",), (3, "exact"), (4, 8, "exact"), (2, 5, 8, "exact")])
def test_a_reader_from_the_page_agrees_at_every_stage(tmp_path, stages):
    originals = tensors()
    with BundleWriter(tmp_path / "bundle") as writer:
        writer.add_unit(UNIT, originals, stages)
        writer.finish(
            pair={}, preprocessing=Preprocessing((1, 1, 1), (0.0,), (1.0,)), classes=(), blocks=1
        )
    reader = BundleReader.open(tmp_path / "bundle")
    for stage in map(str, stages):
        ours = reader.tensors(UNIT, parse_bits(stage))
        theirs = read_unit(tmp_path / "bundle", str(UNIT), stage)
        assert ours.keys() == theirs.keys() == originals.keys()
        for name, (dtype, data) in theirs.items():
            array = ours[name].astype(ours[name].dtype.newbyteorder("<"))
            assert (str(ours[name].dtype), array.tobytes()) == (dtype, data), name
    exact = reader.tensors(UNIT, EXACT)
    for name, original in originals.items():
        little = original.astype(original.dtype.newbyteorder("<"))
        assert exact[name].tobytes() == little.tobytes(), name
