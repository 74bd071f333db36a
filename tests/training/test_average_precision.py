"""Mean average precision against scikit-learn, and what it does without positive examples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from pwl_jax.data.sources import DataError
from pwl_jax.training.average_precision import average_precision, mean_average_precision


def test_by_hand():
    # Ranked: right, wrong, right. Precision 1 at recall 1/2, 2/3 at recall 1.
    scores, present = np.array([0.1, 0.9, 0.5]), np.array([1, 1, 0])
    assert average_precision(scores, present) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # All equal: one threshold, whatever the order.
    for order in ([0, 1, 2], [2, 0, 1]):
        assert average_precision(np.zeros(3), present[order]) == pytest.approx(2 / 3)


@given(
    st.integers(1, 60),
    st.integers(1, 6),
    st.sampled_from([1, 2, 5, 1000]),
    st.integers(0, 2**32 - 1),
)
def test_equals_scikit_learn_on_scores_with_ties(count, classes, levels, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (count, classes)).astype(np.float32) - levels / 2
    labels = rng.integers(0, 2, (count, classes), dtype=np.uint8)
    labels[rng.integers(0, count)] = 1
    # Both add the same terms in another order.
    assert mean_average_precision(scores, labels) == pytest.approx(
        average_precision_score(labels, scores), rel=1e-12
    )


def test_a_class_that_no_example_shows_is_left_out():
    scores = np.array([[0.9, 0.4], [0.1, 0.8], [0.2, 0.3]])
    labels = np.array([[1, 0], [0, 0], [1, 0]])
    assert mean_average_precision(scores, labels) == 1.0


def test_examples_without_any_label_have_no_average_precision():
    with pytest.raises(DataError, match="none of 3 examples has a label; mean average precision"):
        mean_average_precision(np.zeros((3, 2)), np.zeros((3, 2)))
