"""Requests among models of unequal popularity."""

import numpy as np


def zipf_trace(
    models: int, requests: int, exponent: float, phases: int, seed: int
) -> tuple[tuple[int, int], ...]:
    """(index of the model, number of its image) of each request.

    Within a phase the r-th most popular model is asked for with a probability in proportion to
    1 / r ** exponent; each phase draws the models' ranks anew.
    """
    rng = np.random.default_rng(seed)
    popularity = 1.0 / np.arange(1, models + 1) ** exponent
    asked: list[int] = []
    for phase in np.array_split(np.arange(requests), phases):
        ranked = rng.permutation(models)
        asked += ranked[rng.choice(models, len(phase), p=popularity / popularity.sum())].tolist()
    numbers = rng.integers(0, 1 << 30, requests).tolist()
    return tuple(zip(asked, numbers, strict=True))
