"""Small data sets: one in memory, some written by TFDS itself."""

import json
import shutil

import numpy as np
import pytest

from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.data.sources import Source
from tests.tfds_sets import png, write_set


@pytest.fixture
def numbered():
    """`numbered(n)`: n images of 2x3 pixels whose every pixel is the example's number."""

    def make(count):
        records = [
            {"image": np.full((2, 3, 1), number, np.uint8), "label": number % 5}
            for number in range(count)
        ]
        return Source("numbered", "train", tuple("abcde"), records, np.arange(count))

    return make


@pytest.fixture
def preprocessing():
    return Preprocessing(input_shape=(2, 3, 1), mean=(0.5,), std=(0.25,))


def _write(data_dir, name, splits, features):
    """A set of single labels, whose every image is 5x6 pixels of the example's number."""

    def rows(labels):
        for number, label in enumerate(labels):
            image = png(np.full((5, 6, 3), number, np.uint8))
            example = {"image": image, "label": label}
            yield {key: example[key] for key in features}

    write_set(data_dir, name, {split: rows(labels) for split, labels in splits.items()}, features)


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
    """A data_dir with sets prepared by TFDS, and one that only looks like TFRecord."""
    import tensorflow_datasets as tfds

    directory = tmp_path_factory.mktemp("tfds")
    labels = tfds.features.ClassLabel(names=["cat", "dog"])
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": labels})
    _write(directory, "whole_set", {"train": [0, 1] * 15, "test": [1, 0, 1]}, features)
    _write(directory, "one_split", {"train": [0, 1] * 15}, features)
    _write(
        directory, "secret_test", {"train": [0, 1], "validation": [1], "test": [-1, -1]}, features
    )
    only_images = tfds.features.FeaturesDict({"image": tfds.features.Image()})
    _write(directory, "no_labels", {"train": [0]}, only_images)
    _write(directory, "no_train", {"test": [0, 1]}, features)

    shutil.copytree(directory / "whole_set", directory / "old_format")
    info = directory / "old_format" / "1.0.0" / "dataset_info.json"
    content = json.loads(info.read_text())
    info.write_text(json.dumps({**content, "name": "old_format", "fileFormat": "tfrecord"}))

    shutil.copytree(directory / "whole_set", directory / "lost_shard")
    info = directory / "lost_shard" / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps({**content, "name": "lost_shard"}))
    for shard in (directory / "lost_shard" / "1.0.0").glob("*train.array_record*"):
        shard.unlink()
    return directory


@pytest.fixture(scope="session")
def known_sets(tmp_path_factory):
    """A data_dir with a few made-up examples of CIFAR-100 and PASCAL-VOC in TFDS's own layout.

    Every pixel of an image is the example's number; images of VOC differ in size.
    """
    import tensorflow_datasets as tfds

    directory = tmp_path_factory.mktemp("known")
    cifar = tfds.builder("cifar100", data_dir=directory)
    cifar.info.features["label"].names = [f"fine {number}" for number in range(100)]

    def tiny_images(count):
        for number in range(count):
            yield {
                "id": f"cifar_{number}",
                "image": png(np.full((32, 32, 3), number, np.uint8)),
                "label": 99 - number,
                "coarse_label": number % 20,
            }

    splits = {"train": tiny_images(20), "test": tiny_images(4)}
    write_set(directory, "cifar100", splits, cifar.info.features, str(cifar.version))

    def photographs(labels):
        for number, present in enumerate(labels):
            objects = [
                {
                    "label": label,
                    "bbox": tfds.features.BBox(ymin=0.1, xmin=0.1, ymax=0.9, xmax=0.9),
                    "pose": 0,
                    "is_truncated": False,
                    "is_difficult": False,
                }
                for label in present
            ]
            yield {
                "image": png(np.full((7 + number % 3, 9, 3), number, np.uint8)),
                "image/filename": f"{number}.jpg",
                "labels": present,
                "labels_no_difficult": present[:1],
                "objects": objects,
            }

    labels = {"train": [[0, 19], [3], [3, 4, 5], [19]] * 5, "validation": [[7], [8, 2]]}
    for config, test in (("2007", [[1], [19, 2]]), ("2012", [[], []])):
        voc = tfds.builder(f"voc/{config}", data_dir=directory)
        splits = {name: photographs(rows) for name, rows in {**labels, "test": test}.items()}
        write_set(directory, "voc", splits, voc.info.features, str(voc.version), config)
    return directory
