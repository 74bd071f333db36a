"""Labelled images of one split, and the fixed orders by which sets are split."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from pwl_jax.errors import UserError

Split = Literal["train", "validation", "test"]

SPLIT_SEED = 20250922
"""Of every fixed split. Changing it changes what all results were chosen and reported on."""

HELD_OUT_FRACTION = 0.2
"""Share of the examples that is the test split of a set which comes without one."""


class DataError(UserError):
    """A data set that is missing, not prepared, or not a set of labelled images."""


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Labelled images of one split, with random access.

    Attributes:
      name: of the data set.
      split: `train`, `validation` or `test`.
      classes: names of the labels.
      records: what holds the examples of this split and maybe others: `image`, and `label`, the
        number of a class, or `labels`, the numbers of all classes that an image has.
      indices: int64[len], which of `records` belong to this split, ascending.
      multi_label: whether an image has any number of labels instead of exactly one.
      groups: int64[records], examples that belong together (the images of one patient) have
        equal numbers, and no two splits share one; None where every example stands alone.
    """

    name: str
    split: Split
    classes: tuple[str, ...]
    records: Sequence[Mapping[str, Any]]
    indices: np.ndarray
    multi_label: bool = False
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`{"image": uint8[height, width, channels], "label": .., "index": int}`.

        `label` is an int, or multi-hot uint8[classes] where the set is multi-label. `index` is
        the example's place in `records`: train and validation never share one.

        Raises:
          DataError: if the example cannot be read, or has a label that is not of this set.
        """
        place = int(self.indices[index])
        where = f"example {place} of '{self.name}' ({self.split})"
        try:
            record = self.records[place]
        except (ValueError, OSError, RuntimeError) as error:
            raise DataError(f"{where} cannot be read: {first_line(error)}") from error
        found = (
            [int(label) for label in record["labels"]] if self.multi_label else [record["label"]]
        )
        for label in map(int, found):
            if not 0 <= label < len(self.classes):
                raise DataError(f"{where} has label {label}; expected 0 to {len(self.classes) - 1}")
        if not self.multi_label:
            return {"image": record["image"], "label": int(found[0]), "index": place}
        present = np.zeros(len(self.classes), np.uint8)
        present[found] = 1
        return {"image": record["image"], "label": present, "index": place}


def fixed_order(count: int, purpose: Literal["test", "validation"]) -> np.ndarray:
    """A permutation of 0..count-1 that no version of NumPy changes: raw random bits, sorted."""
    key = SPLIT_SEED + get_args(Split).index(purpose)
    return np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")


def held_out(
    members: np.ndarray, count: int, purpose: Literal["test", "validation"], groups: Any = None
) -> np.ndarray:
    """Which of some examples a fixed split holds out.

    Args:
      members: int64[n], the examples to choose from, by their place in the records.
      count: how many to choose.
      purpose: two splits of one set are drawn apart.
      groups: see `Source`; whole groups are chosen then, so many that `count` is met as nearly as
        they allow.

    Returns:
      bool[n], True for what is held out.
    """
    chosen = np.zeros(len(members), bool)
    if groups is None:
        chosen[fixed_order(len(members), purpose)[:count]] = True
        return chosen
    names, group_of, sizes = np.unique(groups[members], return_inverse=True, return_counts=True)
    order = fixed_order(len(names), purpose)
    reached = np.concatenate([[0], np.cumsum(sizes[order])])
    taken = order[: int(np.abs(reached - count).argmin())]
    return np.isin(group_of, taken)


def without_own_test(whole: Source, count: int) -> Source:
    """A split of a set that comes as one: about `count` fixed examples for test, the rest train.

    Args:
      whole: all examples; its `split` says which part is wanted.
      count: examples held out for test; with groups, as nearly as whole ones allow.
    """
    for_test = held_out(whole.indices, count, "test", whole.groups)
    chosen = for_test if whole.split == "test" else ~for_test
    return dataclasses.replace(whole, indices=whole.indices[chosen])


def first_line(error: Exception) -> str:
    """What an error says, or its type where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
