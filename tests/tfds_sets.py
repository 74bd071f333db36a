"""Small data sets written by TFDS itself, as ArrayRecord."""

import io

from PIL import Image


def png(pixels):
    """A uint8 image as a file object: TFDS writes arrays only with TensorFlow."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    file.seek(0)
    return file


def write_set(data_dir, name, splits, features, version="1.0.0", config=None):
    """Writes a set. `splits`: examples by the name of their split, each a dict of `features`."""
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []
        url_infos = {}  # noqa: RUF012 - or TFDS looks for checksums beside this file

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            del manager
            return {split: self._generate_examples(rows) for split, rows in splits.items()}

        def _generate_examples(self, rows):
            yield from enumerate(rows)

    Builder.name = name
    Builder(data_dir=data_dir, file_format="array_record").download_and_prepare()
