"""Where labelled images come from: scikit-learn's digits, and whatever TFDS has prepared."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from etils import epath

from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.errors import UserError

Split = Literal["train", "validation", "test"]

SPLIT_SEED = 20250922
"""Of every fixed split. Changing it changes what all results were chosen and reported on."""

DIGITS_TEST = 540
"""Digits held out for the test split, of 1797."""

HELD_OUT_FRACTION = 0.2
"""Share of the examples that is the test split of a TFDS set which comes without one."""

STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "digits": ((0.3056,), (0.3757,)),
}
"""Mean and deviation of each channel of the training images, in 0..1 (CIFAR: the baseline's
values; digits: measured, a test holds them to the data)."""

_CENTERED = ((0.5,), (0.5,))
"""For any other set: maps 0..1 to -1..1."""


class DataError(UserError):
    """A data set that is missing, not prepared, or not a set of labelled images."""


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Labelled images of one split, with random access.

    Attributes:
      name: of the data set.
      split: `train`, `validation` or `test`.
      classes: names of the labels.
      records: what holds the examples of this split and maybe others.
      indices: int64[len], which of `records` belong to this split, ascending.
    """

    name: str
    split: Split
    classes: tuple[str, ...]
    records: Sequence[Mapping[str, Any]]
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`{"image": uint8[height, width, channels], "label": int, "index": int}`.

        `index` is the example's place in `records`: train and validation never share one.

        Raises:
          DataError: if the example cannot be read, or has no label of this set.
        """
        place = int(self.indices[index])
        where = f"example {place} of '{self.name}' ({self.split})"
        try:
            record = self.records[place]
        except (ValueError, OSError, RuntimeError) as error:
            raise DataError(f"{where} cannot be read: {_first_line(error)}") from error
        label = int(record["label"])
        if not 0 <= label < len(self.classes):
            raise DataError(f"{where} has label {label}; expected 0 to {len(self.classes) - 1}")
        return {"image": record["image"], "label": label, "index": place}


def load(
    name: str,
    split: Split,
    data_dir: epath.PathLike | None = None,
    validation_fraction: float = 0.1,
) -> Source:
    """One split of a data set.

    `validation` is a fixed, seeded share of the training examples, and `train` is the rest of
    them; every choice that is made is made there. `test` is the set's own test split, or its
    validation split where the test labels are not public, or else a fixed share of its examples.

    Args:
      name: `digits`, or a TFDS name such as `cifar10`, `my_set:1.0.0` or `set/config`.
      split: which part.
      data_dir: where TFDS prepared it; None for TFDS's own default.
      validation_fraction: 0 to below 1.

    Raises:
      DataError: an unknown split, a set that is not there, or not one of labelled images.
    """
    if split not in get_args(Split):
        raise DataError(f"split '{split}' is unknown; expected {', '.join(get_args(Split))}")
    if not 0 <= validation_fraction < 1:
        raise DataError(f"validation_fraction is {validation_fraction}; expected 0 to below 1")
    found = _digits(split) if name == "digits" else _tfds(name, split, data_dir)
    if split == "test":
        return found
    order = _fixed_order(len(found), "validation")
    count = round(validation_fraction * len(found))
    chosen = order[:count] if split == "validation" else order[count:]
    return dataclasses.replace(found, indices=found.indices[np.sort(chosen)])


def preprocessing(name: str, input_shape: tuple[int, int, int]) -> Preprocessing:
    """How images of a data set become a network's input.

    Args:
      name: of the data set; one without known statistics is mapped to -1..1.
      input_shape: height, width and channels (1 or 3) of the input.

    Raises:
      DataError: another number of channels.
    """
    channels = input_shape[-1]
    if channels not in (1, 3):
        raise DataError(f"input_shape {input_shape} has {channels} channels; images have 1 or 3")
    mean, deviation = STATISTICS.get(name.partition(":")[0], _CENTERED)
    if len(mean) != channels:
        mean = (sum(mean) / len(mean),) * channels
        deviation = (sum(deviation) / len(deviation),) * channels
    return Preprocessing(input_shape=input_shape, mean=mean, std=deviation)


def _fixed_order(count: int, purpose: Literal["test", "validation"]) -> np.ndarray:
    """A permutation of 0..count-1 that no version of NumPy changes: raw random bits, sorted."""
    key = SPLIT_SEED + get_args(Split).index(purpose)
    return np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")


def _without_own_test(
    name: str,
    split: Split,
    classes: tuple[str, ...],
    records: Sequence[Mapping[str, Any]],
    held_out: int,
) -> Source:
    """A set of one split: `held_out` fixed examples for test, the rest for training."""
    order = _fixed_order(len(records), "test")
    chosen = order[:held_out] if split == "test" else order[held_out:]
    return Source(name, split, classes, records, np.sort(chosen))


def _digits(split: Split) -> Source:
    """scikit-learn's 1797 real digits, uint8[8, 8, 1], made from their 17 levels of grey."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = np.round(raw.images * (255 / 16)).astype(np.uint8)[..., None]
    records = [
        {"image": image, "label": label} for image, label in zip(images, raw.target, strict=True)
    ]
    classes = tuple(str(digit) for digit in raw.target_names)
    return _without_own_test("digits", split, classes, records, DIGITS_TEST)


def _tfds(name: str, split: Split, data_dir: epath.PathLike | None) -> Source:
    """A set that TFDS prepared as ArrayRecord, read without TensorFlow and without network."""
    builder = _prepared_builder(name, data_dir)
    features = builder.info.features
    if not {"image", "label"} <= set(features) or not hasattr(features["label"], "names"):
        raise DataError(
            f"'{name}' has the features {', '.join(features)}; expected a set of images with "
            "'image' and a class 'label'"
        )
    classes = tuple(features["label"].names)
    if "train" not in builder.info.splits:
        raise DataError(f"'{name}' has the splits {', '.join(builder.info.splits)}; none is train")
    if split == "test":
        for stored in ("test", "validation"):
            if stored in builder.info.splits:
                records = _records(builder, stored)
                # Competitions publish their test images with the label -1.
                if len(records) and int(records[0]["label"]) >= 0:
                    return Source(name, split, classes, records, np.arange(len(records)))
    records = _records(builder, "train")
    if {"test", "validation"} & set(builder.info.splits):
        return Source(name, split, classes, records, np.arange(len(records)))
    held_out = round(HELD_OUT_FRACTION * len(records))
    return _without_own_test(name, split, classes, records, held_out)


def _prepared_builder(name: str, data_dir: epath.PathLike | None) -> Any:
    """The TFDS builder of a set that is on disk; raises DataError saying how to get it there."""
    import tensorflow_datasets as tfds

    directory = str(epath.Path(tfds.core.constants.DATA_DIR if data_dir is None else data_dir))
    try:
        builder = tfds.builder(name, data_dir=directory)
        prepared = builder.is_prepared()
    except tfds.core.DatasetNotFoundError:
        raise DataError(
            f"no data set '{name}' in {directory} (which holds {_contents(directory)}), and TFDS "
            "knows none of this name; 'digits' needs no files"
        ) from None
    # TFDS asserts on versions, and imports TensorFlow for sets that are no images.
    except (ValueError, AssertionError, ImportError, OSError) as error:
        raise DataError(
            f"data set '{name}' in {directory} cannot be read: {_first_line(error)}"
        ) from None
    advice = (
        f"prepare it with `tfds build {name} --file_format=array_record --data_dir={directory}` "
        "(that needs TensorFlow), or point data_dir to where it is prepared"
    )
    if not prepared:
        raise DataError(
            f"data set '{name}' is not prepared in {directory} (which holds "
            f"{_contents(directory)}); {advice}"
        )
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise DataError(
            f"data set '{name}' in {directory} is stored as {builder.info.file_format.value}; "
            f"random access needs array_record: {advice}"
        )
    return builder


def _records(builder: Any, split: str) -> Sequence[Mapping[str, Any]]:
    """The examples of one split as TFDS stores it, decoded one at a time."""
    # TFDS opens a shard when it is first read: one that is missing would show in mid-run.
    for shard in map(epath.Path, builder.info.splits[split].filepaths):
        if not shard.exists():
            raise DataError(f"{shard} is missing; prepare '{builder.name}' anew or copy it there")
    return builder.as_data_source(split=split)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _contents(directory: str) -> str:
    """Names of what lies in a folder, for a message."""
    path = epath.Path(directory)
    if not path.is_dir():
        return "nothing: there is no such folder"
    names = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    return ", ".join(names) or "no data set"
