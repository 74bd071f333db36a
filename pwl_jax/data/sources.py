"""Where labelled images come from: digits, whatever TFDS has prepared, folders with a table."""

import dataclasses
from typing import get_args

from etils import epath

from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.data.digits import DIGITS_TEST, digits, multi_digits
from pwl_jax.data.folder_source import FOLDER, folder_source
from pwl_jax.data.source import HELD_OUT_FRACTION, SPLIT_SEED, DataError, Source, Split, held_out
from pwl_jax.data.tfds_source import tfds_multi_label, tfds_source

__all__ = [
    "DIGITS_TEST",
    "HELD_OUT_FRACTION",
    "SPLIT_SEED",
    "STATISTICS",
    "DataError",
    "Source",
    "Split",
    "is_multi_label",
    "load",
    "preprocessing",
]

STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "digits": ((0.3056,), (0.3757,)),
    "multi_digits": ((0.1890,), (0.3308,)),
}
"""Mean and deviation of each channel of the training images, in 0..1 (CIFAR: the baseline's
values; digits: measured, a test holds them to the data)."""

_CENTERED = ((0.5,), (0.5,))
"""For any other set: maps 0..1 to -1..1."""

_DIGITS = {"digits": digits, "multi_digits": multi_digits}


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
    Where examples come in groups (patients), no two splits share one.

    Args:
      name: `digits`; `multi_digits`; `folder:<any name>` for a folder of images with a table of
        labels (see `folder_source`); or a TFDS name such as `cifar10`, `voc/2007` or
        `my_set:1.0.0`.
      split: which part.
      data_dir: where TFDS prepared it, None for TFDS's own default; or the folder.
      validation_fraction: 0 to below 1.

    Raises:
      DataError: an unknown split, a set that is not there, or not one of labelled images.
    """
    if split not in get_args(Split):
        raise DataError(f"split '{split}' is unknown; expected {', '.join(get_args(Split))}")
    if not 0 <= validation_fraction < 1:
        raise DataError(f"validation_fraction is {validation_fraction}; expected 0 to below 1")
    if name in _DIGITS:
        found = _DIGITS[name](split)
    elif name.startswith(FOLDER):
        found = folder_source(name, split, data_dir)
    else:
        found = tfds_source(name, split, data_dir)
    if split == "test":
        return found
    count = round(validation_fraction * len(found))
    for_validation = held_out(found.indices, count, "validation", found.groups)
    chosen = for_validation if split == "validation" else ~for_validation
    return dataclasses.replace(found, indices=found.indices[chosen])


def is_multi_label(name: str, data_dir: epath.PathLike | None = None) -> bool | None:
    """Whether a set's images have any number of labels, told without its images.

    Args:
      name, data_dir: as in `load`.

    Returns:
      None where the set is neither here nor known to TFDS.
    """
    if name in _DIGITS:
        return name == "multi_digits"
    return True if name.startswith(FOLDER) else tfds_multi_label(name, data_dir)


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
