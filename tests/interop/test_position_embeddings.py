"""Resized position embeddings: what cubic convolution is known to keep."""

import numpy as np
import pytest

from pwl_jax.interop.position_embeddings import resampling_matrix, resized_positions


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("new", [2, 5, 9, 14, 31])
def test_constants_are_kept_and_the_filter_is_symmetric(new, antialias):
    matrix = resampling_matrix(9, new, antialias)
    np.testing.assert_allclose(matrix.sum(1), 1)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-12)


def test_a_ramp_stays_a_ramp_away_from_the_border():
    """True of Keys' constant -0.5 alone, which goes with antialiasing."""
    ramp = np.arange(20.0)
    found = resampling_matrix(20, 50, antialias=True) @ ramp
    expected = (np.arange(50) + 0.5) * 20 / 50 - 0.5
    np.testing.assert_allclose(found[8:-8], expected[8:-8])
    other = resampling_matrix(20, 50, antialias=False) @ ramp
    assert np.abs(other - expected)[8:-8].max() > 0.01


@pytest.mark.parametrize(
    ("antialias", "expected"),
    [
        (False, (0.09143502, 2.125, 8.33449173)),
        (True, (0.07551487, 2.35919523, 7.93592691)),
        (False, (-0.08680558, 0.21875, 1.43055499, 3.15277767, 6.78125, 9.43402863)),
        (True, (-0.06578932, 0.29411769, 1.36111081, 3.36111045, 6.82352972, 9.32894802)),
    ],
)
def test_samples_are_those_of_pytorch(antialias, expected):
    """Of 0, 1, 4, 9, by `torch.nn.functional.interpolate(..., mode="bicubic")` of torch 2.13."""
    matrix = resampling_matrix(4, len(expected), antialias)
    np.testing.assert_allclose(matrix @ np.array([0.0, 1, 4, 9]), expected, atol=2e-6)


def test_one_grid_is_resized_row_by_row_and_the_tokens_stay():
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(1, 2 + 12, 5)).astype(np.float32)
    found = resized_positions(positions, 2, (3, 4), (6, 2), antialias=False)
    assert found.shape == (1, 14, 5) and found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :2], positions[:, :2])
    rows, columns = resampling_matrix(3, 6, False), resampling_matrix(4, 2, False)
    for channel in range(5):
        grid = positions[0, 2:, channel].reshape(3, 4)
        expected = rows @ grid @ columns.T
        np.testing.assert_allclose(found[0, 2:, channel].reshape(6, 2), expected, atol=1e-6)


def test_the_same_grid_is_left_alone():
    positions = np.ones((1, 7, 2), np.float32)
    assert resized_positions(positions, 1, (2, 3), (2, 3), antialias=True) is positions
