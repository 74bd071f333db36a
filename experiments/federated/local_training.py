"""What a client computes: some steps of the library's training step on its own examples."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.federated.messages import FederatedError
from experiments.federated.shares import shares
from experiments.federated.weights import Tensors
from pwl_jax.data import pipeline, sources
from pwl_jax.data.augmentation import augment
from pwl_jax.training import workdir
from pwl_jax.training.config import RunConfig, from_fields
from pwl_jax.training.step import TrainState, device_mesh, mapped_step, replicate, shard_batch
from pwl_jax.training.tasks import Task, network_task


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """What a client must know before the first round.

    Attributes:
      config: of the network, its data and optimizer, as `RunConfig.to_dict` gives it.
      client: from 0.
      clients: how many there are.
      split: see `shares`.
      local_epochs: passes over the client's examples in a round.
    """

    config: dict[str, Any]
    client: int
    clients: int
    split: str
    local_epochs: int

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> "LocalSettings":
        """The settings that `dataclasses.asdict` gave; raises ConfigError."""
        return from_fields(LocalSettings, fields, "settings")


def task_of(config: RunConfig, steps: int) -> Task:
    """The network's training on one device."""
    preprocessing = workdir.preprocessing_of(config)
    transform = functools.partial(augment, config=config.augmentation, preprocessing=preprocessing)
    mesh = device_mesh(jax.devices()[:1])
    return network_task(config, mesh, transform, preprocessing.normalize, steps)


def training_images(config: RunConfig) -> pipeline.PreparedSource:
    """All training examples; every client opens them and reads its own."""
    source = sources.load(config.data.name, "train", config.data.data_dir, 0.0)
    return pipeline.PreparedSource(source, workdir.preprocessing_of(config))


class LocalTrainer:
    """Trains on the examples of one client.

    The order of examples depends on seed, client and round alone, augmentation on seed, step and
    example, so that every variant of the experiment sees the same batches.

    Attributes:
      examples: of this client.
      steps: in a round.
    """

    def __init__(self, settings: LocalSettings) -> None:
        """Opens the data and compiles the step.

        Raises:
          UserError: data or settings that do not fit.
        """
        self._config = config = RunConfig.from_dict(settings.config)
        self._settings = settings
        self._images = training_images(config)
        count = len(self._images)
        dealt = shares(
            count,
            lambda: self._images.batch(np.arange(count))["label"],
            settings.clients,
            settings.split,
            config.seed,
        )
        self._positions = dealt[settings.client]
        self.examples = len(self._positions)
        if self.examples < config.batch_size:
            raise FederatedError(
                f"client {settings.client} has {self.examples} examples and batch_size is "
                f"{config.batch_size}; expected no more than a client has"
            )
        self.steps = self.examples * settings.local_epochs // config.batch_size
        self._mesh = device_mesh(jax.devices()[:1])
        self._task = task_of(config, self.steps)
        self._step = mapped_step(self._task.program, self._mesh)
        self._structure = jax.tree.structure(self._task.abstract)
        self.like = [
            np.zeros(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(self._task.abstract)
        ]
        self._order = np.zeros(0, np.int64)
        self._done = 0
        self._state: TrainState
        self.begin(self.like, 1)
        self.advance(1)
        self.tensors()

    def begin(self, tensors: Sequence[np.ndarray], number: int) -> None:
        """Starts round `number` (from 1) at some weights, with a fresh optimizer."""
        seed = self._config.seed * 1_000 + self._settings.client + 1
        epochs = range(
            (number - 1) * self._settings.local_epochs, number * self._settings.local_epochs
        )
        orders = [pipeline.epoch_order(self.examples, seed, epoch) for epoch in epochs]
        self._order = self._positions[np.concatenate(orders)]
        self._done = 0
        state = self._task.program.init(self._tree(tensors))
        step = jnp.asarray((number - 1) * self.steps, jnp.int32)
        self._state = replicate(dataclasses.replace(state, step=step), self._mesh)

    def advance(self, steps: int) -> None:
        """Does so many steps more of the round."""
        size = self._config.batch_size
        for _ in range(steps):
            chosen = self._order[self._done * size : (self._done + 1) * size]
            batch = shard_batch(self._images.batch(chosen), self._mesh)
            self._state, _ = self._step(self._state, batch, {})
            self._done += 1

    def finish(self) -> None:
        """Does the steps of the round that are left."""
        self.advance(self.steps - self._done)

    def tensors(self) -> Tensors:
        """The weights as they are now."""
        return [np.asarray(leaf) for leaf in jax.tree.leaves(self._state.variables)]

    def move(self, differences: Sequence[np.ndarray]) -> None:
        """Adds a difference to each tensor; the optimizer's state stays."""
        moved = [now + step for now, step in zip(self.tensors(), differences, strict=True)]
        variables = replicate(self._tree(moved), self._mesh)
        self._state = dataclasses.replace(self._state, variables=variables)

    def _tree(self, tensors: Sequence[np.ndarray]) -> Any:
        return jax.tree.unflatten(self._structure, tensors)
