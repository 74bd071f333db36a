"""What is reported on is never trained on, whatever splits a set comes with."""

import numpy as np
import pytest

from pwl_jax.data import sources
from tests.tfds_sets import png, write_set

tfds = pytest.importorskip("tensorflow_datasets")


def rows(labels, several, shade):
    names = "labels" if several else "label"
    image = np.full((8, 8), shade, np.uint8)
    return [{"image": png(image), names: [label] * (label >= 0) if several else label}
            for label in labels]  # fmt: skip


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("held", ["test", "validation"])
@pytest.mark.parametrize("public", [False, True])
def test_test_images_are_no_training_images(tmp_path, several, held, public):
    """A split without public labels cannot be the test split; a fixed fifth of the rest is then."""
    label = tfds.features.ClassLabel(names=["a", "b"])
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(8, 8, 1)),
            **({"labels": tfds.features.Sequence(label)} if several else {"label": label}),
        }
    )
    splits = {
        "train": rows([0, 1] * 20, several, 10),
        held: rows([1 if public else -1] * 5, several, 200),
    }
    write_set(tmp_path, "made", splits, features)
    found = {
        split: sources.load("made", split, tmp_path) for split in ("train", "validation", "test")
    }
    trained = set(found["train"].indices) | set(found["validation"].indices)
    assert not set(found["train"].indices) & set(found["validation"].indices)
    shades = {int(found["test"][place]["image"].max()) for place in range(len(found["test"]))}
    if public:
        assert (len(trained), len(found["test"]), shades) == (40, 5, {200})
    else:
        assert (len(trained), len(found["test"]), shades) == (32, 8, {10})
        assert not trained & set(found["test"].indices)
