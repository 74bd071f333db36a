"""What is asked of a pre-trained teacher's import, and what it gives."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pwl_jax.interop.safetensors_weights import InteropError
from pwl_jax.interop.source_tensors import SourceTensors
from pwl_jax.models.block_network import Variables
from pwl_jax.models.spec import NetworkSpec


@dataclasses.dataclass(frozen=True)
class TeacherRequest:
    """How a checkpoint is to become a block network.

    Attributes:
      blocks: their number N, or the layers of each.
      classes: logits of a new head, drawn at random; None keeps the checkpoint's.
      image_size: height and width of another input; None keeps the checkpoint's.
      heads: attention heads, for a checkpoint that does not say it.
      seed: of the new head.
    """

    blocks: int | tuple[int, ...]
    classes: int | None = None
    image_size: tuple[int, int] | None = None
    heads: int | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Normalization:
    """What a checkpoint says of the images it was trained on.

    Attributes:
      mean, std: of each channel, in 0..1; None where it says nothing.
      image_size: height and width; None where it says nothing.
      notes: what it does to images that this package does not, a sentence each.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ImportedTeacher:
    """A pre-trained network as a block network.

    Attributes:
      spec: the network.
      variables: its `{"params", "batch_stats"}`, float32 NumPy leaves.
      normalization: of its images.
      unused: the checkpoint's tensors that the network does not need.
    """

    spec: NetworkSpec
    variables: Variables
    normalization: Normalization
    unused: tuple[str, ...]


def number_of_classes(
    tensors: SourceTensors, head: str, said: int | None, where: str, request: TeacherRequest
) -> int:
    """The number of logits: of the new head, or of the checkpoint's.

    Args:
      tensors: the checkpoint's.
      head: its linear head.
      said: the number that its config names, if any.
      where: the config's file.
      request: says whether the head is replaced.

    Raises:
      InteropError: there is no head, or the config contradicts it.
    """
    if request.classes is not None:
        return request.classes
    if f"{head}.weight" not in tensors:
        raise InteropError(
            f"{tensors.where} has no head ('{head}.weight'); expected one, or a number of classes "
            "for a new one"
        )
    found = tensors.shape(f"{head}.weight", axes=2)[0]
    if said not in (None, found):
        raise InteropError(f"{where} names {said} classes; the head in {tensors.where} has {found}")
    return found


def new_head(spec: NetworkSpec, features: tuple[int, ...], request: TeacherRequest) -> Any:
    """Parameters of a freshly drawn head, or None where the checkpoint's is kept.

    Args:
      spec: of the network.
      features: shape of one example's features before the head.
      request: says whether, and the seed.
    """
    if request.classes is None:
        return None
    head = spec.build().head
    drawn = head.init(jax.random.key(request.seed), jnp.zeros((1, *features)), False)["params"]
    return jax.tree.map(np.asarray, drawn)


def replaced(request: TeacherRequest, *heads: str) -> tuple[str, ...]:
    """Patterns of the tensors that a new head replaces."""
    if request.classes is None:
        return ()
    return tuple(re.escape(head) + r"\.(weight|bias)" for head in heads)
