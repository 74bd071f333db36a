"""The ordered rungs of one bundle, and what was measured of them."""

import dataclasses

from pwl_jax.ladder.composition import CompositionError
from pwl_jax.ladder.rung import Rung


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Accuracy of one rung on one split.

    `top1` in 0..1, or `mean_average_precision` in 0..1 where images have any number of labels;
    the other is None. `loss` in nats.
    """

    rung: Rung
    split: str
    top1: float | None
    loss: float
    examples: int
    mean_average_precision: float | None = None

    @property
    def score(self) -> float | None:
        """Top-1 or mean average precision, whichever the data have."""
        return self.mean_average_precision if self.top1 is None else self.top1


@dataclasses.dataclass(frozen=True)
class LadderRung:
    """One rung of a ladder.

    `shards` are the ids of what this rung adds to the one before, in the order of fetching;
    `shard_bytes` their size, `cumulative_bytes` all that has been fetched when the rung is
    reached, programs included. `top1` is measured on the validation split that chose the order,
    `top1_test` on the test split; so is `mean_average_precision`, of multi-label sets. What was not
    measured is None.
    """

    rung: Rung
    top1: float | None
    top1_test: float | None
    shards: tuple[str, ...]
    shard_bytes: int
    cumulative_bytes: int
    mean_average_precision: float | None = None
    mean_average_precision_test: float | None = None

    @property
    def score(self) -> float | None:
        """What the rung is worth on the split that chose, 0..1: top-1 or mean average precision."""
        return self.mean_average_precision if self.top1 is None else self.top1

    @property
    def score_test(self) -> float | None:
        """The same on the test split."""
        return self.mean_average_precision_test if self.top1_test is None else self.top1_test

    @property
    def name(self) -> str:
        """The rung's name."""
        return self.rung.name


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Rungs in the order they are climbed; the last one is the exact teacher."""

    rungs: tuple[LadderRung, ...]

    def __len__(self) -> int:
        return len(self.rungs)

    def __getitem__(self, index: int) -> LadderRung:
        return self.rungs[index]

    def index_of(self, name: str) -> int:
        """The position of the rung `name`; raises CompositionError naming the rungs there are."""
        names = [rung.name for rung in self.rungs]
        if name not in names:
            raise CompositionError(f"no rung '{name}' in this ladder; it has {', '.join(names)}")
        return names.index(name)
