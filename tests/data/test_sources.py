"""Splits that never move or overlap, and errors that say what to do."""

import hashlib
import shutil

import numpy as np
import pytest

from pwl_jax.data import sources
from pwl_jax.data.pipeline import in_memory
from pwl_jax.data.sources import DataError, Source, load

GOLDEN_DIGITS = {
    "train": (1131, "c40971d898c5ca3d"),
    "validation": (126, "61786333213855a7"),
    "test": (540, "b568c5ea2bbfd800"),
}


@pytest.mark.parametrize("split", GOLDEN_DIGITS)
def test_digits_splits_are_those_of_every_published_result(split):
    source = load("digits", split)
    digest = hashlib.sha256(source.indices.astype("<i8").tobytes()).hexdigest()[:16]
    assert (len(source), digest) == GOLDEN_DIGITS[split], (
        f"the {split} split of digits is not the one that results so far were chosen or reported "
        "on. Update the hash only if the split was meant to change, say so in CHANGELOG.md, and "
        "measure every result on digits anew."
    )


def test_digits_splits_are_disjoint_and_complete():
    parts = [load("digits", split).indices for split in ("train", "validation", "test")]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1797))
    assert len(parts[2]) >= 500


def test_digits_images():
    source = load("digits", "test")
    assert source.classes == tuple("0123456789")
    example = source[3]
    assert example["image"].shape == (8, 8, 1)
    assert example["image"].dtype == np.uint8
    pixels = np.concatenate([source[i]["image"].ravel() for i in range(50)])
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_cifar100_is_read_with_its_fine_labels(known_sets):
    test = load("cifar100", "test", known_sets)
    assert (len(test.classes), test.classes[0], test.multi_label) == (100, "fine 0", False)
    for example in (test[i] for i in range(len(test))):
        assert example["image"].shape == (32, 32, 3)
        assert example["label"] == 99 - example["image"][0, 0, 0]
    assert [len(load("cifar100", s, known_sets)) for s in ("train", "validation")] == [18, 2]


@pytest.mark.parametrize("fraction", [0, 0.1, 0.5])
def test_validation_is_a_part_of_the_training_examples(fraction):
    train, validation = (
        load("digits", split, validation_fraction=fraction) for split in ("train", "validation")
    )
    whole = load("digits", "train", validation_fraction=0)
    assert len(validation) == round(fraction * len(whole))
    both = np.concatenate([train.indices, validation.indices])
    assert np.array_equal(np.sort(both), whole.indices)
    test = load("digits", "test", validation_fraction=fraction)
    assert np.array_equal(test.indices, load("digits", "test").indices)


@pytest.mark.parametrize("name", ["digits", "multi_digits"])
def test_statistics_of_digits_are_those_of_the_training_images(name):
    source = load(name, "train", validation_fraction=0)
    pixels = np.stack([source[i]["image"] for i in range(len(source))]) / 255
    mean, deviation = sources.STATISTICS[name]
    assert mean[0] == pytest.approx(pixels.mean(), abs=1e-4)
    assert deviation[0] == pytest.approx(pixels.std(), abs=1e-4)


def test_preprocessing_fits_the_channels_of_the_model():
    assert sources.preprocessing("cifar10:3.0.2", (32, 32, 3)).std == (0.2470, 0.2435, 0.2616)
    grey = sources.preprocessing("cifar10", (28, 28, 1))
    assert grey.input_shape == (28, 28, 1)
    assert grey.mean == pytest.approx([(0.4914 + 0.4822 + 0.4465) / 3])
    assert sources.preprocessing("digits", (32, 32, 3)).mean == (0.3056,) * 3
    assert sources.preprocessing("unheard_of", (8, 8, 1)).mean == (0.5,)
    with pytest.raises(DataError, match=r"has 4 channels; images have 1 or 3"):
        sources.preprocessing("digits", (8, 8, 4))


def test_a_set_with_its_own_test_split(tfds_dir):
    test = load("whole_set", "test", tfds_dir)
    assert test.classes == ("cat", "dog")
    assert sorted(test[i]["label"] for i in range(3)) == [0, 1, 1]
    assert test[0]["image"].shape == (5, 6, 3)
    train, validation = (load("whole_set", split, tfds_dir) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (27, 3)
    assert not set(train.indices) & set(validation.indices)


def test_a_set_of_one_split_holds_out_a_fixed_fifth(tfds_dir):
    parts = [load("one_split", s, tfds_dir).indices for s in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [22, 2, 6]
    assert sorted(np.concatenate(parts)) == list(range(30))


def test_a_test_split_without_labels_is_passed_over(tfds_dir):
    test = load("secret_test", "test", tfds_dir)
    assert [test[i]["label"] for i in range(len(test))] == [1]


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("digits", "holdout", r"split 'holdout' is unknown; expected train, validation, test"),
        ("no_such_set", "train", r"no data set 'no_such_set' in .*which holds .*whole_set"),
        (
            "cifar100",
            "train",
            r"'cifar100' is not prepared in .*launch\.prepare_data --dataset=cifar100",
        ),
        ("cifar10:9.9.9", "train", r"cannot be loaded at version 9\.9\.9"),
        ("not a name", "train", r"Parsing builder name string not a name failed"),
        (
            "old_format",
            "train",
            r"is stored as tfrecord; .* array_record: .*prepare_data",
        ),
        ("no_labels", "train", r"has the features image; expected .*'image' and a class 'label'"),
        ("no_train", "train", r"has the splits test; none is train"),
        ("lost_shard", "train", r"train\.array_record-00000-of-00001 is missing; prepare"),
    ],
)
def test_errors_say_what_is_wrong_and_where(tfds_dir, name, split, message):
    with pytest.raises(DataError, match=message) as caught:
        load(name, split, tfds_dir)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere \(which holds nothing: there is no such folder"):
        load("cifar10", "train", tmp_path / "nowhere")


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0])
def test_validation_fraction_out_of_range(fraction):
    with pytest.raises(DataError, match=r"expected 0 to below 1"):
        load("digits", "train", validation_fraction=fraction)


def test_a_label_outside_the_classes_is_refused():
    records = [{"image": np.zeros((2, 2, 1), np.uint8), "label": 7}]
    source = Source("odd", "train", ("a", "b"), records, np.arange(1))
    with pytest.raises(DataError, match=r"example 0 of 'odd' \(train\) has label 7; expected 0"):
        source[0]


def test_a_damaged_shard_is_an_error_of_the_data(tfds_dir, tmp_path):
    directory = shutil.copytree(tfds_dir / "whole_set", tmp_path / "whole_set")
    (shard,) = (directory / "1.0.0").glob("*train.array_record*")
    shard.write_bytes(shard.read_bytes()[:200])
    source = load("whole_set", "train", tmp_path)
    with pytest.raises(DataError, match=r"example 0 of 'whole_set' \(train\) cannot be read"):
        source[0]


def test_a_damaged_test_shard_is_an_error_of_the_data(tfds_dir, tmp_path):
    directory = shutil.copytree(tfds_dir / "whole_set", tmp_path / "whole_set")
    (shard,) = (directory / "1.0.0").glob("*test.array_record*")
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(DataError, match=r"the test split of 'whole_set' cannot be read: "):
        load("whole_set", "test", tmp_path)


@pytest.mark.cifar10
def test_real_cifar10(cifar10_dir):
    train, validation, test = (
        load("cifar10", split, cifar10_dir) for split in ("train", "validation", "test")
    )
    assert (len(train), len(validation), len(test)) == (45_000, 5_000, 10_000)
    assert not set(train.indices) & set(validation.indices)
    assert train.classes[:3] == ("airplane", "automobile", "bird")
    digest = hashlib.sha256(validation.indices.astype("<i8").tobytes()).hexdigest()[:16]
    assert digest == "5ba02c3f18fc08b2", (
        "the validation split of CIFAR-10 moved: every choice so far was made on another one. "
        "Update the hash only if that was meant, and measure the results anew."
    )


@pytest.mark.cifar10
def test_statistics_of_real_cifar10(cifar10_dir):
    test = load("cifar10", "test", cifar10_dir)
    part = Source("cifar10", "test", test.classes, test.records, test.indices[:1000])
    images, labels = in_memory(part, sources.preprocessing("cifar10", (32, 32, 3)))
    mean, _ = sources.STATISTICS["cifar10"]
    # A thousand test images stand for fifty thousand training images to about a percent.
    assert np.allclose((images / 255).mean((0, 1, 2)), mean, atol=0.02)
    assert set(labels) == set(range(10))
