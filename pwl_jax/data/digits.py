"""Real digits of scikit-learn: one a picture, or several in one picture."""

from typing import Any

import numpy as np

from pwl_jax.data.source import SPLIT_SEED, Source, Split, without_own_test

DIGITS_TEST = 540
"""Digits held out for the test split, of 1797."""

PICTURES = {"train": 4000, "test": 1000}
"""Pictures of several digits, by the split whose digits they are composed of."""

PICTURES_A_POOL = 100
"""Pictures that are composed of one pool of training digits; validation takes whole pools."""

_CELLS = 4
"""Places for a digit in a picture: two rows of two."""


def digits(split: Split) -> Source:
    """scikit-learn's 1797 real digits, uint8[8, 8, 1], made from their 17 levels of grey."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = np.round(raw.images * (255 / 16)).astype(np.uint8)[..., None]
    records = [
        {"image": image, "label": label} for image, label in zip(images, raw.target, strict=True)
    ]
    classes = tuple(str(digit) for digit in raw.target_names)
    whole = Source("digits", split, classes, records, np.arange(len(records)))
    return without_own_test(whole, DIGITS_TEST)


def multi_digits(split: Split) -> Source:
    """Pictures uint8[16, 16, 1] of one to four real digits, labelled with those present.

    A picture has two rows of two cells, each empty or one digit of `digits` as it is. Pictures of
    the test split show test digits only. The training digits are dealt into pools, each of which
    makes `PICTURES_A_POOL` pictures, the source's groups: as validation takes whole pools, it
    shares no digit's image with training either. Everything is fixed by raw random bits.
    """
    sources = [digits("train"), digits("test")]
    records: list[dict[str, Any]] = []
    pool_of: list[int] = []
    for number, (source, count) in enumerate(zip(sources, PICTURES.values(), strict=True)):
        bits = np.random.Philox(key=SPLIT_SEED + 100 + number)
        order = np.argsort(bits.random_raw(len(source)), kind="stable")
        pools = 1 if source.split == "test" else count // PICTURES_A_POOL
        for pool in np.array_split(order, pools):
            pool_of += [max(pool_of, default=-1) + 1] * (count // pools)
            records += _pictures([source[int(place)] for place in pool], count // pools, bits)
    trained = PICTURES["train"]
    indices = np.arange(trained, len(records)) if split == "test" else np.arange(trained)
    return Source(
        "multi_digits",
        split,
        sources[0].classes,
        records,
        indices,
        multi_label=True,
        groups=np.array(pool_of),
    )


def _pictures(
    examples: list[dict[str, Any]], count: int, bits: np.random.Philox
) -> list[dict[str, Any]]:
    """Records of pictures composed of some digits: how many, which cells, which digit in each."""
    raw = bits.random_raw(count * (1 + 2 * _CELLS)).reshape(count, 1 + 2 * _CELLS)
    present = 1 + (raw[:, 0] % _CELLS).astype(int)
    cells = np.argsort(raw[:, 1 : 1 + _CELLS], axis=1, kind="stable")
    drawn = (raw[:, 1 + _CELLS :] % len(examples)).astype(int)
    records = []
    for shown, places, choices in zip(present, cells, drawn, strict=True):
        grid = np.zeros((2, 2, 8, 8, 1), np.uint8)
        chosen = [examples[choice] for choice in choices[:shown]]
        for place, example in zip(places[:shown], chosen, strict=True):
            grid[divmod(int(place), 2)] = example["image"]
        image = grid.transpose(0, 2, 1, 3, 4).reshape(16, 16, 1)
        records.append({"image": image, "labels": [example["label"] for example in chosen]})
    return records
