import numpy as np
import pytest
from PIL import Image

from pwl_jax.runtime import LiveModel
from pwl_jax.serving import serve_folder
from tests import tiny_bundle as tiny
from tests.commands import failed, launched

IMAGES = np.random.default_rng(7).normal(size=(3, *tiny.INPUT_SHAPE)).astype(np.float32)


@pytest.fixture
def batch(tmp_path):
    np.save(tmp_path / "batch.npy", IMAGES)
    return tmp_path / "batch.npy"


def test_logits_of_a_batch_over_http(bundle, batch, tmp_path):
    with serve_folder(bundle) as url:
        result = launched(
            "launch.predict",
            f"--bundle={url}",
            f"--input={batch}",
            "--rung=TSS@4",
            f"--output={tmp_path}/logits.npy",
        )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("rung TSS@4, executor onnxruntime\n")
    logits = np.load(tmp_path / "logits.npy")
    with LiveModel.open(bundle, rung="TSS@4", climb=False, exact_batches=True) as model:
        np.testing.assert_array_equal(logits, model.predict(IMAGES).logits)
    assert logits.dtype == np.float32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["batch.npy", "logits.npy"]


def test_an_image_by_the_best_rung(bundle, tmp_path):
    pixels = np.random.default_rng(8).integers(0, 256, tiny.INPUT_SHAPE, dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    result = launched("launch.predict", f"--bundle={bundle}", f"--input={tmp_path}/image.png")
    assert (result.returncode, result.stderr) == (0, "")
    with LiveModel.open(bundle, climb=False) as model:
        label = model.predict(pixels).labels[0]
    assert result.stdout.startswith("rung TTT@exact, executor onnxruntime\n")
    assert label in result.stdout.splitlines()[1]


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"bundle": "/no/such/bundle"}, 1, "/no/such/bundle"),
        ({"bundle": "http://127.0.0.1:9"}, 1, "127.0.0.1:9"),
        ({"input": "/no/such/image.png"}, 1, "cannot read /no/such/image.png: No such file"),
        ({"input": __file__}, 1, "is no readable image"),
        ({"rung": "TTTT@4"}, 1, "rung TTTT@4 has 4 blocks; this bundle's network has 3"),
        ({"rung": "TTT@7"}, 1, "this bundle holds 4, exact of it"),
        ({"output": "/no/such/folder/logits.npy"}, 1, "cannot write /no/such/folder/logits.npy"),
        ({"speed": "9"}, 2, "Unknown command line flag 'speed'"),
        ({"workdir": "/tmp"}, 2, "must have a value other than None"),
    ],
)
def test_mistakes_end_in_one_line(bundle, batch, change, status, message):
    flags = {"bundle": bundle, "input": batch, **change}
    result = launched("launch.predict", *(f"--{name}={value}" for name, value in flags.items()))
    assert failed(result, message, status)
