"""Preparing sets of TFDS: its own CIFAR-10 builder on made-up archives, and what goes wrong."""

import importlib.util
import shutil

import numpy as np
import pytest

from pwl_jax.data import prepare, sources
from pwl_jax.data.sources import DataError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PER_FILE = 6


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """What CIFAR-10's archive unpacks to, of six random images a file, and those images."""
    root = tmp_path_factory.mktemp("archive")
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n")
    rng = np.random.default_rng(0)
    examples = {"train": [], "test": []}
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        labels = rng.integers(0, 10, (PER_FILE, 1), dtype=np.uint8)
        planes = rng.integers(0, 256, (PER_FILE, 3, 32, 32), dtype=np.uint8)
        rows = np.concatenate([labels, planes.reshape(PER_FILE, -1)], axis=1)
        (folder / name).write_bytes(rows.tobytes())
        images = planes.transpose(0, 2, 3, 1)
        examples["test" if "test" in name else "train"] += zip(images, labels[:, 0], strict=True)
    return root, examples


@pytest.fixture
def downloads(monkeypatch):
    """Lets TFDS's downloads end in what is set here: a folder, or an exception."""
    import tensorflow_datasets as tfds

    outcome = {}

    def download(manager, url):
        outcome["url"] = url
        if isinstance(outcome["result"], Exception):
            raise outcome["result"]
        return outcome["result"]

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", download)
    return outcome


def content(source):
    """Images and labels, in an order of their own."""
    found = [(source[i]["image"].tobytes(), source[i]["label"]) for i in range(len(source))]
    return sorted(found)


def test_cifar10_is_prepared_and_read_to_the_bit(archive, downloads, tmp_path):
    root, examples = archive
    downloads["result"] = str(root)
    assert prepare.prepare("cifar10", tmp_path) == {"train": 5 * PER_FILE, "test": PER_FILE}
    assert downloads["url"].endswith("cifar-10-binary.tar.gz")
    for split, rows in examples.items():
        source = sources.load("cifar10", split, tmp_path, validation_fraction=0)
        assert source.classes == tuple(CLASSES)
        assert content(source) == sorted((image.tobytes(), int(label)) for image, label in rows)
    assert list((tmp_path / "cifar10").glob("*/*.array_record*"))
    # What is there is not fetched again.
    downloads["result"] = OSError("no network")
    assert prepare.prepare("cifar10", tmp_path) == {"train": 5 * PER_FILE, "test": PER_FILE}


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow itself is here"
)
def test_what_stands_in_for_tensorflow_goes_again(archive, downloads, tmp_path):
    from tensorflow_datasets.core.features import image_feature
    from tensorflow_datasets.image_classification import cifar

    before = cifar.tf, image_feature._ImageEncoder._encode_image
    downloads["result"] = str(archive[0])
    prepare.prepare("cifar10", tmp_path)
    assert (cifar.tf, image_feature._ImageEncoder._encode_image) == before


def test_a_download_that_fails_is_one_line_and_leaves_no_set(downloads, tmp_path):
    downloads["result"] = OSError("Failed to resolve 'www.cs.toronto.edu'\nand more")
    with pytest.raises(DataError) as caught:
        prepare.prepare("cifar10", tmp_path)
    assert str(caught.value) == (
        "'cifar10' cannot be prepared: Failed to resolve 'www.cs.toronto.edu'"
    )
    assert not (tmp_path / "cifar10").exists()
    with pytest.raises(DataError, match="is not prepared in"):
        sources.load("cifar10", "train", tmp_path)


def test_sets_that_cannot_be_trained_on_are_not_downloaded(downloads, tmp_path):
    with pytest.raises(DataError, match=r"no data set 'cifar11' in .*TFDS knows none"):
        prepare.prepare("cifar11", tmp_path)
    with pytest.raises(DataError, match=r"'coil100' has the features .*; expected a set of images"):
        prepare.prepare("coil100", tmp_path)
    assert "url" not in downloads and not list(tmp_path.iterdir())


def test_a_set_in_another_format_is_not_mistaken_for_a_prepared_one(tfds_dir, tmp_path):
    shutil.copytree(tfds_dir / "old_format", tmp_path / "old_format")
    with pytest.raises(DataError, match=r"stored as tfrecord; .*--data_dir=ANOTHER_FOLDER"):
        prepare.prepare("old_format", tmp_path)
    assert prepare.prepare("whole_set", tfds_dir) == {"train": 30, "test": 3}


@pytest.mark.parametrize(
    ("pixels", "format"),
    [
        (np.zeros((4, 4, 3), np.uint8), "jpeg"),
        (np.zeros((4, 4, 3), np.uint16), "png"),
    ],
)
def test_arrays_that_take_tensorflow_say_so(pixels, format):
    class Encoder:
        encoding_format = format

    with pytest.raises(ImportError, match="needs TensorFlow") as caught:
        prepare._png(Encoder(), pixels)
    assert "install it for this one command" in prepare._reason(caught.value)
