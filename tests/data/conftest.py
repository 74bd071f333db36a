"""Small data sets: one in memory, some written by TFDS itself."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.data.sources import Source


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
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = {}  # noqa: RUF012 - or TFDS looks for checksums beside this file

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            del manager
            return {split: self._generate_examples(labels) for split, labels in splits.items()}

        def _generate_examples(self, labels):
            for number, label in enumerate(labels):
                file = io.BytesIO()
                Image.fromarray(np.full((5, 6, 3), number, np.uint8)).save(file, "png")
                file.seek(0)
                example = {"image": file, "label": label}
                yield number, {key: example[key] for key in features}

    Builder.name = name
    Builder(data_dir=data_dir, file_format="array_record").download_and_prepare()


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
