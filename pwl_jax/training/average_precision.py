"""Mean average precision: what a multi-label network is judged by."""

import numpy as np

from pwl_jax.data.sources import DataError


def average_precision(scores: np.ndarray, present: np.ndarray) -> float:
    """Area under precision over recall of one class, not interpolated: sum (R_n - R_{n-1}) P_n.

    Each distinct score is one threshold, so that the order of examples with equal scores does
    not matter (scikit-learn's `average_precision_score`).

    Args:
      scores: [n], larger where the class is believed in more.
      present: [n] of 0 and 1, at least one 1.

    Returns:
      0 to 1; 1 where every positive example is ranked before every negative one.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
    found = np.cumsum(present[order], dtype=np.float64)[last_of_tie]
    precision = found / (np.flatnonzero(last_of_tie) + 1)
    recall = found / found[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes of `average_precision`; what no example shows is left out.

    Args:
      scores: [n, classes], logits or anything that ranks as they do. Sigmoids saturate, and what
        they round to equal values they no longer rank.
      labels: [n, classes] of 0 and 1.

    Returns:
      0 to 1.

    Raises:
      DataError: no example has any label.
    """
    shown = np.flatnonzero(labels.any(axis=0))
    if not len(shown):
        raise DataError(
            f"none of {len(labels)} examples has a label; mean average precision needs a class "
            "that is present somewhere"
        )
    return float(np.mean([average_precision(scores[:, c], labels[:, c]) for c in shown]))
