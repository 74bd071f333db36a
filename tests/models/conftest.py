"""Layers in plain NumPy, float64, written from their definitions; the networks are held to them."""

import math
from types import SimpleNamespace

import numpy as np
import pytest


def conv(x, kernel, bias=None, stride=1, padding=None):
    """NHWC x HWIO convolution with symmetric zero padding, one output pixel at a time."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    size = kernel.shape[0]
    pad = size // 2 if padding is None else padding
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = (x.shape[1] - size) // stride + 1
    columns = (x.shape[2] - size) // stride + 1
    y = np.zeros((x.shape[0], rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
            y[:, i, j] = np.tensordot(window, kernel, axes=3)
    return y if bias is None else y + np.asarray(bias)


def batch_norm(x, params, stats, epsilon=1e-5):
    """BatchNorm at evaluation."""
    y = (x - np.asarray(stats["mean"])) / np.sqrt(np.asarray(stats["var"]) + epsilon)
    return y * np.asarray(params["scale"]) + np.asarray(params["bias"])


def layer_norm(x, params, epsilon=1e-12):
    """LayerNorm over the last axis."""
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return y * np.asarray(params["scale"]) + np.asarray(params["bias"])


def dense(x, params):
    """A linear layer."""
    return x @ np.asarray(params["kernel"], np.float64) + np.asarray(params["bias"])


def relu(x):
    return np.maximum(x, 0)


def gelu(x):
    """x times the normal distribution's cumulative function, through erf."""
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def pool(x, reduce):
    """`reduce` (np.max or np.mean) over 2x2 windows."""
    height, width = x.shape[1] // 2, x.shape[2] // 2
    return np.stack(
        [
            np.stack(
                [
                    reduce(x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], axis=(1, 2))
                    for j in range(width)
                ],
                axis=1,
            )
            for i in range(height)
        ],
        axis=1,
    )


@pytest.fixture(scope="session")
def reference():
    """The NumPy layers above, by name."""
    return SimpleNamespace(
        conv=conv,
        batch_norm=batch_norm,
        layer_norm=layer_norm,
        dense=dense,
        relu=relu,
        gelu=gelu,
        pool=pool,
    )


@pytest.fixture
def randomized():
    """A tree with every float leaf replaced by positive noise, so that no term hides at 0 or 1."""

    def replaced(tree, seed=0):
        rng = np.random.default_rng(seed)
        if isinstance(tree, dict):
            return {k: replaced(v, seed + 1 + i) for i, (k, v) in enumerate(sorted(tree.items()))}
        shape = np.shape(tree)
        if len(shape) > 1:
            return rng.normal(0, 1 / math.sqrt(np.prod(shape[:-1])), shape).astype(np.float32)
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)

    return replaced
