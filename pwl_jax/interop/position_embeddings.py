"""Position embeddings of one grid of patches for another: bicubic, as PyTorch resizes images."""

import math

import numpy as np

Grid = tuple[int, int]


def resized_positions(
    positions: np.ndarray, tokens: int, old: Grid, new: Grid, antialias: bool
) -> np.ndarray:
    """Position embeddings for another grid; those of the learned tokens stay as they are.

    Equals `transformers` (`interpolate_pos_encoding`, no antialiasing) and `timm`
    (`resample_abs_pos_embed`, with it) to rounding; tests hold it to both. A grid of the same size
    comes back unchanged.

    Args:
      positions: f32[1, tokens + rows * columns, hidden], patches row by row.
      tokens: learned tokens before the patches.
      old, new: rows and columns of patches.
      antialias: whether the filter widens where the grid shrinks. It goes with Keys' constant:
        -0.5 with it, -0.75 without (as in PyTorch).

    Returns:
      f32[1, tokens + new rows * new columns, hidden].
    """
    if old == new:
        return positions
    learned, patches = positions[:, :tokens], positions[0, tokens:]
    grid = patches.reshape(*old, -1).astype(np.float64)
    rows = resampling_matrix(old[0], new[0], antialias)
    columns = resampling_matrix(old[1], new[1], antialias)
    grid = np.einsum("ij,jkc->ikc", rows, grid)
    grid = np.einsum("ij,kjc->kic", columns, grid)
    resized = grid.reshape(1, new[0] * new[1], -1).astype(np.float32)
    return np.concatenate([learned, resized], axis=1)


def resampling_matrix(old: int, new: int, antialias: bool) -> np.ndarray:
    """What each of `new` samples takes of `old` ones, f64[new, old]; rows sum to 1.

    Keys 1981's cubic convolution at pixel centres. Beyond the border, without antialiasing the
    last sample is repeated; with it, samples there are left out.
    """
    scale = old / new
    constant = -0.5 if antialias else -0.75
    stretch = max(scale, 1.0) if antialias else 1.0
    matrix = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * scale - 0.5
        reach = math.ceil(2 * stretch)
        for j in range(math.floor(centre) - reach, math.floor(centre) + reach + 2):
            weight = _cubic((j - centre) / stretch, constant)
            if 0 <= j < old or not antialias:
                matrix[i, min(max(j, 0), old - 1)] += weight
    return matrix / matrix.sum(1, keepdims=True)


def _cubic(x: float, a: float) -> float:
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a if x < 2 else 0.0
