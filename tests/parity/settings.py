"""The weights and inputs that both sides of a comparison get."""

import dataclasses
import functools
from typing import Literal

import jax
import numpy as np
import torch

from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.interop.baseline import variables_of
from pwl_jax.models.block_network import Variables
from pwl_jax.models.registry import PairSpec
from pwl_jax.training.drawing import draw_switch
from tests.parity import torch_networks
from tests.parity.pairs import small_pair

BATCH = 8
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of CIFAR-10."""

SEED, STEPS, LEARNING_RATE = 5, 20, 0.05
"""With this seed no activation comes so near to a kink of ReLU that rounding decides its side;
where one does, PyTorch in float32 leaves PyTorch in float64 by more than the bounds."""

LOSS_STEP = 0
"""A step whose draw goes from student to teacher blocks and back, whatever the number of blocks."""

CrossMode = Literal["random", "all"]
CROSS_MODES: tuple[CrossMode, ...] = ("random", "all")

StateDict = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """A pair with drawn weights and statistics; what is computed from it is kept by identity.

    Attributes:
      pair: its spec.
      network: our hybrid.
      state: the weights by the baseline's names.
      variables: the same as our tree.
    """

    pair: PairSpec
    network: HybridNetwork
    state: StateDict
    variables: Variables

    @property
    def preprocessing(self) -> Preprocessing:
        """Of the images that `batch` draws."""
        return Preprocessing(self.pair.teacher.input_shape, MEAN, STD)

    def images(self, count: int, step: int = 0) -> np.ndarray:
        """The first images of a step, normalised: f32[count, height, width, channels]."""
        return self.preprocessing.normalize(self.batch(step)["image"][:count])

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Random images, uint8, and labels, as a step takes them."""
        rng = np.random.default_rng(step)
        shape = (BATCH, *self.pair.teacher.input_shape)
        return {
            "image": rng.integers(0, 256, shape, dtype=np.uint8),
            "label": rng.integers(0, self.pair.teacher.classes, BATCH).astype(np.int32),
            "index": np.arange(BATCH, dtype=np.int32),
        }

    def drawn(self, step: int) -> list[bool]:
        """The composition that our step draws in mode `random`: for each block, the teacher's?"""
        (key,) = jax.random.split(loss_key(step), 1)
        return [bool(source) for source in draw_switch(key, self.network.num_blocks)]


def loss_key(step: int) -> jax.Array:
    """What the loss of a step draws from; the other half is augmentation's."""
    return jax.random.split(jax.random.fold_in(jax.random.key(SEED), step))[1]


def setting_of(pair: PairSpec) -> Setting:
    """A pair with drawn weights."""
    module = torch_networks.hybrid(pair)
    torch_networks.randomise(module)
    state = module.state_dict()
    return Setting(pair, HybridNetwork.from_pair(pair), state, tree_of(state, pair))


@functools.cache
def setting(family: str, widths: str = "unequal") -> Setting:
    """A small pair with drawn weights; do not change its arrays."""
    return setting_of(small_pair(family, widths))


def tree_of(state: StateDict, pair: PairSpec) -> Variables:
    """Tensors by the baseline's names as our tree, in memory of its own."""
    return variables_of(pair, {name: tensor.numpy().copy() for name, tensor in state.items()})
