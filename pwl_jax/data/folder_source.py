"""A folder of images with a table of their labels, such as the chest X-rays of the NIH."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from pwl_jax.data.source import (
    HELD_OUT_FRACTION,
    DataError,
    Source,
    Split,
    first_line,
    without_own_test,
)

FOLDER = "folder:"
"""How the name of such a set begins; the rest is what reports call it."""

COLUMNS = (("Image Index", "Finding Labels"), ("image", "labels"))
"""The columns of file names and of labels: those of NIH ChestX-ray14, or plain ones."""

PATIENTS = ("Patient ID", "patient")
"""An optional column: images of equal entries, empty ones too, stay in one split."""

NO_LABEL = "No Finding"
"""The entry of an image without any label; an empty one says the same."""

_TABLES = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv", "labels.csv")
_LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}


def folder_source(name: str, split: Split, data_dir: epath.PathLike | None) -> Source:
    """A split of the multi-label images of a folder.

    The table is `Data_Entry_2017.csv`, `labels.csv` or the only CSV file there, with a header. It
    has the columns `Image Index` and `Finding Labels`, or `image` and `labels`; labels are
    separated by `|`, and the classes are all that occur, sorted. The images lie in the folder, in
    `images`, or in folders `images_*` or `images_*/images`. `train_val_list.txt` and
    `test_list.txt`, a file name a line, say what is for training and for test; with one of them
    the other part is the rest; without them a fixed fifth is the test split. Where the table has
    a column `Patient ID` (or `patient`), no two splits share a patient.

    Args:
      name: `folder:` and what the set is called.
      split: which part.
      data_dir: the folder.

    Raises:
      DataError: no such folder, a table, column or image that is missing, lists that name an
        image unknown to the table or share one or its patient.
    """
    if data_dir is None:
        raise DataError(f"data_dir is missing; expected the folder that holds '{name}'")
    root = epath.Path(data_dir)
    table = _read_table(root)
    files = _image_files(root)
    missing = [image for image in table.images if image not in files]
    if missing:
        raise DataError(
            f"image '{missing[0]}' of {table.path} is not in {root}, its folder images or folders "
            f"images_* ({len(missing)} of {len(table.images)} are missing)"
        )
    classes = tuple(sorted({label for labels in table.labels for label in labels}))
    if not classes:
        raise DataError(f"{table.path} has no label; expected names separated by '|'")
    number = {label: place for place, label in enumerate(classes)}
    records = _Images(
        [files[image] for image in table.images],
        [sorted(number[label] for label in set(labels)) for labels in table.labels],
    )
    groups = None
    if table.patients is not None:
        groups = np.unique(np.array(table.patients), return_inverse=True)[1]
    whole = Source(
        name, split, classes, records, np.arange(len(records)), multi_label=True, groups=groups
    )
    parts = _listed(root, table, groups)
    if parts is None:
        return without_own_test(whole, round(HELD_OUT_FRACTION * len(records)))
    return dataclasses.replace(whole, indices=parts["test" if split == "test" else "train"])


@dataclasses.dataclass(frozen=True)
class _Table:
    """The columns of a table of labels, a row an image."""

    path: epath.Path
    images: list[str]
    labels: list[list[str]]
    patients: list[str] | None


class _Images(Sequence[Mapping[str, Any]]):
    """Records of image files, read one at a time."""

    def __init__(self, files: Sequence[epath.Path], labels: Sequence[Sequence[int]]) -> None:
        self._files = files
        self._labels = labels

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, place: Any) -> Any:
        return {"image": _pixels(self._files[place]), "labels": self._labels[place]}


def _pixels(path: epath.Path) -> np.ndarray:
    """uint8[height, width, 1 or 3]: grey stays grey.

    Raises:
      ValueError: no readable image of 8 bits a channel.
    """
    try:
        with path.open("rb") as file, Image.open(file) as picture:
            if picture.mode.startswith(("I", "F")):
                raise ValueError(f"{path} has more than 8 bits a channel; expected 8")
            grey = picture.mode in ("1", "L", "LA")
            pixels = np.array(picture.convert("L" if grey else "RGB"))
    # Pillow's plugins raise SyntaxError for a broken header.
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no readable image: {error}") from error
    return pixels[..., None] if grey else pixels


def _table_path(root: epath.Path) -> epath.Path:
    """The folder's table of labels; other tables may lie beside one of a known name."""
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; expected one with images and a CSV file")
    known = [root / name for name in _TABLES if (root / name).exists()]
    if known:
        return known[0]
    tables = sorted(path for path in root.iterdir() if path.suffix.lower() == ".csv")
    if not tables:
        raise DataError(f"{root} holds no CSV file; expected {_TABLES[0]} or another with labels")
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise DataError(f"{root} holds several CSV files ({names}); name the right one labels.csv")
    return tables[0]


def _read_table(root: epath.Path) -> _Table:
    path = _table_path(root)
    try:
        reader = csv.DictReader(io.StringIO(path.read_text().removeprefix("\ufeff"), newline=""))
        header, rows = list(reader.fieldnames or []), list(reader)
    except (ValueError, OSError, csv.Error) as error:
        raise DataError(f"{path} is no readable CSV file in UTF-8: {first_line(error)}") from error
    columns = next((pair for pair in COLUMNS if pair[0] in header), COLUMNS[0])
    absent = [column for column in columns if column not in header]
    if absent:
        expected = " or ".join(f"'{image}' and '{labels}'" for image, labels in COLUMNS)
        raise DataError(
            f"{path} has no column '{absent[0]}'; it has {', '.join(header)}; expected {expected}"
        )
    for number, row in enumerate(rows, 2):
        if any(row[column] is None for column in columns):
            raise DataError(f"{path}, row {number}, has fewer entries than the header")
    images = [row[columns[0]].strip() for row in rows]
    _check_unique(images, path)
    patient = next((column for column in PATIENTS if column in header), None)
    patients = None if patient is None else [(row[patient] or "").strip() for row in rows]
    return _Table(path, images, [_labels(row[columns[1]]) for row in rows], patients)


def _labels(entry: str) -> list[str]:
    """The names in `A|B`; none in an empty entry or `No Finding`."""
    names = (part.strip() for part in entry.split("|"))
    return [name for name in names if name not in ("", NO_LABEL)]


def _check_unique(images: list[str], path: epath.Path) -> None:
    seen: set[str] = set()
    for image in images:
        if image in seen:
            raise DataError(f"{path} names image '{image}' twice")
        seen.add(image)


def _image_files(root: epath.Path) -> dict[str, epath.Path]:
    """Every file where images may lie, by its name; each folder is listed once."""
    parts = sorted(path for path in root.glob("images_*") if path.is_dir())
    folders = [root, root / "images", *parts, *(part / "images" for part in parts)]
    return {path.name: path for folder in folders if folder.is_dir() for path in folder.iterdir()}


def _listed(
    root: epath.Path, table: _Table, groups: np.ndarray | None
) -> dict[str, np.ndarray] | None:
    """Places of the train and test images that list files name; None without such files."""
    place = {image: number for number, image in enumerate(table.images)}
    found: dict[str, np.ndarray] = {}
    for part, file in _LISTS.items():
        if (root / file).exists():
            names = [
                line.strip() for line in (root / file).read_text().splitlines() if line.strip()
            ]
            unknown = [name for name in names if name not in place]
            if unknown:
                raise DataError(f"{root / file} names '{unknown[0]}', which {table.path} does not")
            found[part] = np.unique(np.array([place[name] for name in names], np.int64))
    if not found:
        return None
    everything = np.arange(len(place))
    parts = {
        part: found[part] if part in found else np.setdiff1d(everything, found[other])
        for part, other in (("train", "test"), ("test", "train"))
    }
    shared = np.intersect1d(parts["train"], parts["test"])
    if len(shared):
        raise DataError(
            f"image '{table.images[shared[0]]}' is in both {' and '.join(_LISTS.values())}"
        )
    if groups is not None and table.patients is not None:
        of_both = np.isin(groups[parts["test"]], groups[parts["train"]])
        if of_both.any():
            patient = table.patients[parts["test"][of_both.argmax()]]
            raise DataError(
                f"patient '{patient}' has images in the train and in the test part that "
                f"{' and '.join(_LISTS[part] for part in found)} of {root} make; expected one part"
            )
    return parts
