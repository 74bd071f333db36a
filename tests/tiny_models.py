"""Distilled pairs that no training made: random weights, and statistics that differ by stream."""

import dataclasses
import functools

import jax
import numpy as np

from pwl_jax.data import sources
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.models.registry import PairSpec
from pwl_jax.training import workdir
from pwl_jax.training.checkpoints import Checkpoints
from pwl_jax.training.config import DataConfig, RunConfig
from tests.tiny_pairs import tiny_pair


def model_of(pair: PairSpec) -> workdir.TrainedModel:
    """A model with random weights, drawn by NumPy: nothing is compiled.

    Statistics differ so much from stream to stream that a wrong binding changes the logits.
    """
    hybrid = HybridNetwork.from_pair(pair)
    rng = np.random.default_rng(0)

    def drawn(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            deviation = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if name == "kernel" else 0.2
            values = rng.normal(0, deviation, leaf.shape)
        return values.astype(leaf.dtype)

    shapes = workdir.abstract_variables(hybrid)
    variables = jax.tree_util.tree_map_with_path(drawn, shapes)
    config = RunConfig(task="distill", pair=pair, data=DataConfig(name="digits"))
    return workdir.TrainedModel(config, hybrid, variables, step=3)


@functools.cache
def tiny_model(family: str, **fields: str) -> workdir.TrainedModel:
    """The model of a small pair; `fields` are those of PairSpec. Do not change its arrays."""
    return model_of(tiny_pair(family, **fields))


def write_workdir(path, model: workdir.TrainedModel) -> None:
    """The workdir that a training run with this result would have left."""
    workdir.write_config(path, model.config)
    with Checkpoints(path) as checkpoints:
        checkpoints.save_result("best", model.step, model.variables)


def images_of(model: workdir.TrainedModel, count: int, seed: int = 0) -> np.ndarray:
    """Normalised images, f32[count, height, width, channels]."""
    shape = (count, *model.hybrid.teacher.input_shape)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def few(source: sources.Source, count: int) -> sources.Source:
    """The first examples of a split."""
    return dataclasses.replace(source, indices=source.indices[:count])
