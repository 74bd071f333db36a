"""Sets whose images have any number of labels: what they hold, and splits that share nothing."""

import hashlib

import numpy as np
import pytest

from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.data.digits import PICTURES
from pwl_jax.data.pipeline import PreparedSource, eval_batches, in_memory, train_iterator
from pwl_jax.data.source import held_out
from pwl_jax.data.sources import DataError, Source, is_multi_label, load

GOLDEN_PICTURES = {
    "train": (3600, "925f5fe762d8a6f6"),
    "validation": (400, "c603f177000e0b9b"),
    "test": (1000, "af91dd331eb05827"),
}


def cells(image):
    """The four cells of a picture that are not empty, as bytes."""
    parts = image.reshape(2, 8, 2, 8).transpose(0, 2, 1, 3).reshape(4, 8, 8)
    return [part.tobytes() for part in parts if part.any()]


def digits_by_pixels(split, fraction=0.0):
    source = load("digits", split, validation_fraction=fraction)
    return {source[i]["image"].tobytes(): source[i]["label"] for i in range(len(source))}


def shown_in(source):
    return {cell for i in range(len(source)) for cell in cells(source[i]["image"])}


@pytest.mark.parametrize("split", GOLDEN_PICTURES)
def test_pictures_are_those_of_every_published_result(split):
    source = load("multi_digits", split)
    digest = hashlib.sha256()
    for i in range(len(source)):
        digest.update(source[i]["image"].tobytes() + source[i]["label"].tobytes())
    assert (len(source), digest.hexdigest()[:16]) == GOLDEN_PICTURES[split], (
        f"the {split} pictures of multi_digits are not those that results so far were chosen or "
        "reported on. Update the hash only if that was meant, say so in CHANGELOG.md, and measure "
        "every result on multi_digits anew."
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_picture_shows_whole_digits_of_its_own_split_and_is_labelled_with_them(split):
    known = digits_by_pixels(split)
    source = load("multi_digits", split, validation_fraction=0)
    assert source.multi_label and source.classes == tuple("0123456789")
    assert len(source) == PICTURES[split]
    counts = np.zeros(5, int)
    for example in (source[i] for i in range(len(source))):
        assert (example["image"].shape, example["image"].dtype) == ((16, 16, 1), np.uint8)
        assert (example["label"].shape, example["label"].dtype) == ((10,), np.uint8)
        shown = [known[cell] for cell in cells(example["image"])]
        assert set(np.flatnonzero(example["label"])) == set(shown)
        counts[len(shown)] += 1
    assert counts[0] == 0 and (counts[1:] > 0.2 * len(source)).all()


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_no_digit_is_seen_in_two_splits(fraction):
    parts = [
        load("multi_digits", split, validation_fraction=fraction)
        for split in ("train", "validation", "test")
    ]
    assert [len(part) for part in parts] == [4000 - 4000 * fraction, 4000 * fraction, 1000]
    train, validation, test = map(shown_in, parts)
    assert not train & validation and not train & test and not validation & test
    assert len(train | validation) > 1200 and len(test) > 500


def test_groups_are_held_out_whole_and_as_near_to_the_count_as_they_allow():
    members, groups = np.arange(3, 15), np.array([9] * 3 + [0] * 5 + [1] * 4 + [2] * 3)
    for count in range(13):
        chosen = held_out(members, count, "validation", groups)
        by_group = [set(chosen[groups[members] == group]) for group in range(3)]
        assert all(len(found) == 1 for found in by_group)
        assert abs(chosen.sum() - count) <= 2
    assert not held_out(members, 0, "validation", groups).any()
    assert held_out(members, 12, "validation", groups).all()


def test_voc_has_the_labels_of_whole_images(known_sets):
    test = load("voc/2007", "test", known_sets)
    assert test.multi_label and len(test.classes) == 20 and test.classes[0] == "aeroplane"
    present = {int(e["image"][0, 0, 0]): e["label"] for e in (test[i] for i in range(len(test)))}
    assert {n: list(np.flatnonzero(label)) for n, label in present.items()} == {0: [1], 1: [2, 19]}
    train, validation = (load("voc/2007", split, known_sets) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (18, 2)
    assert not set(train.indices) & set(validation.indices)


def test_a_multi_label_test_split_without_labels_is_passed_over(known_sets):
    test = load("voc/2012", "test", known_sets)
    found = sorted(tuple(np.flatnonzero(test[i]["label"])) for i in range(len(test)))
    assert found == [(2, 8), (7,)]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_batches_of_images_of_all_sizes_have_multi_hot_labels(known_sets, cache_bytes):
    source = load("voc/2007", "train", known_sets)
    wanted = Preprocessing(input_shape=(8, 8, 3), mean=(0.5,) * 3, std=(0.5,) * 3)
    prepared = PreparedSource(source, wanted, cache_bytes)
    truth = {example["index"]: example for example in (source[i] for i in range(len(source)))}
    batches = [next(train_iterator(prepared, 6, seed=0)), *eval_batches(prepared, 7)]
    for batch in batches:
        assert (batch["label"].shape[1:], batch["label"].dtype) == ((20,), np.uint8)
        for index, image, label in zip(batch["index"], batch["image"], batch["label"], strict=True):
            assert np.array_equal(label, truth[index]["label"])
            assert np.array_equal(image, wanted.prepare(truth[index]["image"]))
    images, labels = in_memory(source, wanted)
    assert images.shape == (18, 8, 8, 3) and labels.shape == (18, 20)


def test_a_label_outside_the_classes_is_refused():
    records = [{"image": np.zeros((2, 2, 1), np.uint8), "labels": [0, 2]}]
    source = Source("odd", "train", ("a", "b"), records, np.arange(1), multi_label=True)
    with pytest.raises(DataError, match=r"example 0 of 'odd' \(train\) has label 2; expected 0"):
        source[0]


def test_what_a_set_is_can_be_told_without_its_images(tfds_dir, tmp_path):
    for name, directory, expected in (
        ("digits", None, False),
        ("multi_digits", None, True),
        ("folder:any", None, True),
        ("voc/2012", tmp_path, True),
        ("cifar100", tmp_path, False),
        ("whole_set", tfds_dir, False),
        ("no_labels", tfds_dir, None),
        ("no_such_set", tmp_path, None),
    ):
        assert is_multi_label(name, directory) is expected, name
