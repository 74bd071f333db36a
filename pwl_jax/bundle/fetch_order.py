"""What each rung of a ladder fetches on top of the rungs before it, and what that costs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pwl_jax.bundle.errors import BundleError
from pwl_jax.ladder import Bits, Rung


class Fetch(NamedTuple):
    """What one rung adds.

    Attributes:
      shards: ids of the shards that no earlier rung fetched, in the order of execution.
      shard_bytes: their size.
      cumulative_bytes: shards and programs of this rung and all before it.
    """

    shards: tuple[str, ...]
    shard_bytes: int
    cumulative_bytes: int


def fetch_order(
    rungs: Sequence[Rung],
    stages: Mapping[str, tuple[Bits, ...]],
    shard_bytes: Mapping[str, int],
    programs: Mapping[str, tuple[str, int]],
) -> list[Fetch]:
    """What each rung adds, in the order of the rungs.

    A unit is read from its first stage up to the rung's. Converters without stages are identities
    and fetch nothing.

    Args:
      rungs: in the order of climbing.
      stages: of each unit that the bundle holds.
      shard_bytes: size of each shard, by its id.
      programs: file and size of the program that stands for each unit's formats, of which one is
        fetched. A file counts once, however many units share it.

    Raises:
      BundleError: a rung needs a unit or a precision that the bundle lacks.
    """
    fetched: set[str] = set()
    total, order = 0, []
    for rung in rungs:
        new: list[str] = []
        for unit, stage in rung.stages().items():
            held = stages.get(str(unit), ())
            if stage in held:
                chain = [f"{unit}@{at}" for at in held[: held.index(stage) + 1]]
                new += [shard for shard in chain if shard not in fetched]
            elif held or unit.kind in ("teacher", "student"):
                raise BundleError(f"rung {rung.name} needs {unit}@{stage}, which is not there")
            file, size = programs.get(str(unit), ("", 0))
            total += 0 if file in fetched else size
            fetched.add(file)
        fetched.update(new)
        added = sum(shard_bytes[shard] for shard in new)
        total += added
        order.append(Fetch(tuple(new), added, total))
    return order
