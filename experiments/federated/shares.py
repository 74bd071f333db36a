"""How the training examples are dealt to the clients."""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from experiments.federated.messages import FederatedError
from pwl_jax.data.pipeline import epoch_order

Split = Literal["iid", "by_class"]


def shares(
    count: int, labels: Callable[[], np.ndarray], clients: int, split: str, seed: int
) -> list[np.ndarray]:
    """Positions of the examples of each client: disjoint, together all, sizes equal within one.

    Args:
      count: examples.
      labels: gives int[count]; called only where they decide.
      clients: how many.
      split: `iid`: drawn at random; `by_class`: sorted by label, so that a client sees few classes.
      seed: of the draw.

    Raises:
      FederatedError: an unknown split, or fewer examples than clients.
    """
    if split not in get_args(Split):
        raise FederatedError(f"split '{split}' is unknown; expected {', '.join(get_args(Split))}")
    if not 1 <= clients <= count:
        raise FederatedError(f"{clients} clients for {count} examples; expected 1 to {count}")
    order = epoch_order(count, seed, 0)
    if split == "by_class":
        order = order[np.argsort(labels()[order], kind="stable")]
    return [np.sort(share) for share in np.array_split(order, clients)]
