"""Sets that TFDS prepared as ArrayRecord, read without TensorFlow and without network."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from pwl_jax.data.source import (
    HELD_OUT_FRACTION,
    DataError,
    Source,
    Split,
    first_line,
    without_own_test,
)


def tfds_source(name: str, split: Split, data_dir: epath.PathLike | None) -> Source:
    """A split of a set with the features `image` and a class `label`, or a sequence `labels`.

    A set with both is one of single labels: PASCAL-VOC has `labels` alone, CIFAR-100 has `label`
    (its 100 fine classes).

    Raises:
      DataError: no such set, or not one of labelled images.
    """
    builder = _prepared_builder(name, data_dir)
    features = builder.info.features
    several = bool(_several_labels(features))
    classes = tuple(features["labels" if several else "label"].names)
    if "train" not in builder.info.splits:
        raise DataError(f"'{name}' has the splits {', '.join(builder.info.splits)}; none is train")

    def whole(stored: str) -> Source:
        records = _records(builder, stored)
        return Source(name, split, classes, records, np.arange(len(records)), several)

    found = whole("train")
    for stored in ("test", "validation"):
        if stored in builder.info.splits:
            apart = whole(stored)
            if _is_labelled(builder, stored, apart):
                return apart if split == "test" else found
    return without_own_test(found, round(HELD_OUT_FRACTION * len(found)))


def tfds_multi_label(name: str, data_dir: epath.PathLike | None) -> bool | None:
    """Whether a set's images have any number of labels; None where TFDS does not know the set.

    The set need not be prepared.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=_directory(data_dir))
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError, ImportError, OSError):
        return None
    return _several_labels(builder.info.features)


def _several_labels(features: Any) -> bool | None:
    """False for one `label` an image, True for `labels`, None where it is no such set."""
    if features is None or "image" not in features:
        return None
    for name, several in (("label", False), ("labels", True)):
        if name in features and hasattr(features[name], "names"):
            return several
    return None


def _is_labelled(builder: Any, stored: str, source: Source) -> bool:
    """Whether a split's labels are public.

    Competitions publish their test images with the label -1, or with no labels at all.
    """
    import tensorflow_datasets as tfds

    encoded_images = {"image": tfds.decode.SkipDecoding()}
    records = builder.as_data_source(split=stored, decoders=encoded_images)
    places = range(len(records))
    try:
        if source.multi_label:
            return any(len(records[place]["labels"]) for place in places)
        return len(places) > 0 and int(records[0]["label"]) >= 0
    except (ValueError, OSError, RuntimeError) as error:
        raise DataError(
            f"the {stored} split of '{source.name}' cannot be read: {first_line(error)}"
        ) from error


def _directory(data_dir: epath.PathLike | None) -> str:
    import tensorflow_datasets as tfds

    return str(epath.Path(tfds.core.constants.DATA_DIR if data_dir is None else data_dir))


def labelled_builder(
    name: str, data_dir: epath.PathLike | None, file_format: str | None = None
) -> Any:
    """The TFDS builder of a set of labelled images, prepared or not.

    Args:
      name, data_dir: as of `tfds_source`.
      file_format: in which it is to be prepared, where it is not.

    Raises:
      DataError: no such set, another kind of set, or one that is there in another format.
    """
    import tensorflow_datasets as tfds

    directory = _directory(data_dir)
    try:
        builder = tfds.builder(name, data_dir=directory)
        if file_format is not None and not builder.is_prepared():
            builder = tfds.builder(name, data_dir=directory, file_format=file_format)
    except tfds.core.DatasetNotFoundError:
        raise DataError(
            f"no data set '{name}' in {directory} (which holds {_contents(directory)}), and TFDS "
            "knows none of this name; 'digits' and 'multi_digits' need no files"
        ) from None
    # TFDS asserts on versions, and imports TensorFlow for sets that are no images.
    except (ValueError, AssertionError, ImportError, OSError) as error:
        raise DataError(
            f"data set '{name}' in {directory} cannot be read: {first_line(error)}"
        ) from None
    if builder.is_prepared() and builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise DataError(
            f"data set '{name}' in {directory} is stored as {builder.info.file_format.value}; "
            f"random access needs array_record: {_advice(name, 'ANOTHER_FOLDER')}"
        )
    features = builder.info.features
    if _several_labels(features) is None:
        raise DataError(
            f"'{name}' has the features {', '.join(features or ['none'])}; expected a set of "
            "images with 'image' and a class 'label' or a sequence of classes 'labels'"
        )
    return builder


def _prepared_builder(name: str, data_dir: epath.PathLike | None) -> Any:
    """The TFDS builder of a set that is on disk; raises DataError saying how to get it there."""
    builder = labelled_builder(name, data_dir)
    if not builder.is_prepared():
        directory = _directory(data_dir)
        raise DataError(
            f"data set '{name}' is not prepared in {directory} (which holds "
            f"{_contents(directory)}); {_advice(name, directory)}"
        )
    return builder


def _advice(name: str, directory: str) -> str:
    return (
        f"prepare it with `python -m launch.prepare_data --dataset={name} --data_dir={directory}`, "
        "or point data_dir to where it is prepared"
    )


def _records(builder: Any, split: str) -> Sequence[Mapping[str, Any]]:
    """The examples of one split as TFDS stores it, decoded one at a time."""
    # TFDS opens a shard when it is first read: one that is missing would show in mid-run.
    for shard in map(epath.Path, builder.info.splits[split].filepaths):
        if not shard.exists():
            raise DataError(f"{shard} is missing; prepare '{builder.name}' anew or copy it there")
    return builder.as_data_source(split=split)


def _contents(directory: str) -> str:
    """Names of what lies in a folder, for a message."""
    path = epath.Path(directory)
    if not path.is_dir():
        return "nothing: there is no such folder"
    names = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    return ", ".join(names) or "no data set"
