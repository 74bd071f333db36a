"""Folders of images with a table of labels: the layout of the NIH's X-rays, and plain ones."""

import itertools

import numpy as np
import pytest
from PIL import Image

from pwl_jax.data.sources import DataError, load

HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age"
FINDINGS = ["Cardiomegaly", "Cardiomegaly|Emphysema", "No Finding", "Hernia|Effusion|Hernia", ""]


def save(path, value, mode="L", size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0]), value, np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def chest(tmp_path):
    """60 images of 20 patients, in two of the archive's folders; every pixel is the number."""
    rows = [HEADER]
    for number in range(60):
        name = f"{number:08}_000.png"
        save(tmp_path / f"images_00{1 + number % 2}" / "images" / name, number)
        rows.append(f"{name},{FINDINGS[number % 5]},0,{100 + number // 3},57")
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "BBox_List_2017.csv").write_text("Image Index,Finding Label\n")
    return tmp_path


def numbers(source):
    """The pixel of every image of a split."""
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]


def lists(folder, **names):
    for name, chosen in names.items():
        lines = "".join(f"{number:08}_000.png\n" for number in chosen)
        (folder / f"{name}.txt").write_text(lines)


def test_labels_are_those_of_the_table(chest):
    source = load("folder:chest", "train", chest, validation_fraction=0)
    assert source.classes == ("Cardiomegaly", "Effusion", "Emphysema", "Hernia")
    assert (source.name, source.multi_label) == ("folder:chest", True)
    expected = [[0], [0, 2], [], [1, 3], []]
    for i in range(len(source)):
        example = source[i]
        assert (example["image"].shape, example["image"].dtype) == ((5, 6, 1), np.uint8)
        number = int(example["image"][0, 0, 0])
        assert list(np.flatnonzero(example["label"])) == expected[number % 5]
        assert example["index"] == number


@pytest.mark.parametrize("listed", [False, True])
def test_no_two_splits_share_a_patient(chest, listed):
    if listed:
        lists(chest, train_val_list=range(45), test_list=range(45, 60))
    parts = [
        numbers(load("folder:chest", split, chest, validation_fraction=0.2))
        for split in ("train", "validation", "test")
    ]
    assert [len(part) for part in parts] == ([36, 9, 15] if listed else [39, 9, 12])
    assert sorted(itertools.chain(*parts)) == list(range(60))
    patients = [{number // 3 for number in part} for part in parts]
    assert sum(map(len, patients)) == 20
    assert not listed or parts[2] == list(range(45, 60))


@pytest.mark.parametrize("given", ["train_val_list", "test_list"])
def test_one_list_leaves_the_rest_to_the_other_part(chest, given):
    lists(chest, **{given: range(30)})
    train, test = (
        numbers(load("folder:chest", split, chest, validation_fraction=0))
        for split in ("train", "test")
    )
    first, rest = list(range(30)), list(range(30, 60))
    assert (train, test) == ((first, rest) if given == "train_val_list" else (rest, first))


def test_what_neither_list_names_is_left_out(chest):
    lists(chest, train_val_list=range(30), test_list=range(45, 60))
    assert len(load("folder:chest", "train", chest, validation_fraction=0)) == 30


@pytest.mark.parametrize("folder", ["", "images", "images_7"])
def test_a_plain_folder_of_colour_images(tmp_path, folder):
    rows = ["labels,image"]
    for number in range(10):
        save(tmp_path / folder / f"{number}.png", number, "RGBA" if number else "LA")
        rows.append(f"{'cat | dog' if number % 2 else 'dog'},{number}.png")
    (tmp_path / "pets.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    source = load("folder:pets", "train", tmp_path, validation_fraction=0)
    assert source.classes == ("cat", "dog")
    for i in range(len(source)):
        example = source[i]
        number = int(example["image"][0, 0, 0])
        assert example["image"].shape[-1] == (3 if number else 1)
        assert list(example["label"]) == [number % 2, 1]
    test = load("folder:pets", "test", tmp_path)
    assert sorted(numbers(source) + numbers(test)) == list(range(10)) and len(test) == 2


def without_table(folder):
    for path in folder.glob("*.csv"):
        path.unlink()


def two_tables(folder):
    (folder / "Data_Entry_2017.csv").rename(folder / "other.csv")


def retitled(folder, old, new):
    table = folder / "Data_Entry_2017.csv"
    table.write_text(table.read_text().replace(old, new))


def not_utf8(folder):
    (folder / "Data_Entry_2017.csv").write_bytes("Image Index,Prüfung\n".encode("latin-1"))


def without_image(folder):
    (folder / "images_002" / "images" / "00000003_000.png").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_table, r"holds no CSV file; expected Data_Entry_2017.csv"),
        (two_tables, r"several CSV files \(BBox_List_2017.csv, other.csv\); .* labels.csv"),
        (lambda f: retitled(f, "Finding Labels", "Finding"), r"no column 'Finding Labels'; it has"),
        (lambda f: retitled(f, "Image Index", "File"), r"no column 'Image Index'; it has File, F"),
        (lambda f: retitled(f, "00000001_000.png,", "00000002_000.png,"), r"'00000002_000.png' tw"),
        (lambda f: retitled(f, ",57\n", "\nlast\n"), r"row 3, has fewer entries than the header"),
        (not_utf8, r"Data_Entry_2017.csv is no readable CSV file in UTF-8: "),
        (without_image, r"image '00000003_000.png' of .* is not in .*\(1 of 60 are missing\)"),
        (lambda f: lists(f, test_list=[99]), r"test_list.txt names '00000099_000.png', which .*17"),
        (
            lambda f: lists(f, train_val_list=range(6), test_list=range(5, 9)),
            r"image '00000005_000.png' is in both train_val_list.txt and test_list.txt",
        ),
        (lambda f: lists(f, test_list=range(58, 60)), r"patient '119' has images in the train and"),
    ],
)
def test_errors_say_what_is_wrong_and_where(chest, damage, message):
    damage(chest)
    with pytest.raises(DataError, match=message) as caught:
        load("folder:chest", "train", chest)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_given_or_not_there(tmp_path):
    with pytest.raises(DataError, match="data_dir is missing; expected the folder that holds 'fo"):
        load("folder:chest", "train")
    with pytest.raises(DataError, match=r"there is no folder .*nowhere; expected one with images"):
        load("folder:chest", "train", tmp_path / "nowhere")
    save(tmp_path / "a.png", 0)
    (tmp_path / "labels.csv").write_text("image,labels\na.png,No Finding\n")
    with pytest.raises(DataError, match=r"labels.csv has no label; expected names separated by"):
        load("folder:chest", "train", tmp_path)


def test_an_image_that_cannot_be_read_is_named(chest):
    place = chest / "images_001" / "images"
    (place / "00000000_000.png").write_bytes(b"no picture")
    deep = np.zeros((4, 4), np.uint16)
    Image.fromarray(deep).save(place / "00000002_000.png")
    lists(chest, train_val_list=range(3))
    source = load("folder:chest", "train", chest, validation_fraction=0)
    with pytest.raises(DataError, match=r"example 0 .*00000000_000.png is no readable image"):
        source[0]
    with pytest.raises(DataError, match=r"00000002_000.png has more than 8 bits a channel"):
        source[2]
