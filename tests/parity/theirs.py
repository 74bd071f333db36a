"""PyTorch's side, of either reference, in our layout."""

import numpy as np
import torch
from torch import nn

from pwl_jax.ladder import Composition
from pwl_jax.models.block_network import Variables
from tests.parity.references import Reference
from tests.parity.results import TERMS, Logits, Loss, trained_parameters
from tests.parity.settings import BATCH, LEARNING_RATE, LOSS_STEP, STEPS, Setting, tree_of
from tests.parity.torch_objective import make_optimizer, train_step


def module_of(reference: Reference, given: Setting) -> nn.Module:
    """The reference's hybrid with the setting's weights; the names must be the same."""
    module = reference.hybrid(given.pair)
    module.load_state_dict(given.state, strict=True)
    return module


def as_tensor(images: np.ndarray) -> torch.Tensor:
    """f32[batch, height, width, channels] with channels on axis 1."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def logits(reference: Reference, given: Setting, count: int) -> Logits:
    """Of every composition, in evaluation mode, for the first images of step 0."""
    module, images = module_of(reference, given).eval(), as_tensor(given.images(count))
    with torch.no_grad():
        return {
            c: module(images, [source == "T" for source in c.sources]).numpy()
            for c in Composition.all(given.network.num_blocks)
        }


def loss(reference: Reference, given: Setting, cross: str) -> Loss:
    """Of the batch of step `LOSS_STEP`."""
    module = module_of(reference, given)
    distiller = training_mode(reference.distiller(module, cross))
    terms = distiller(*torch_batch(given, LOSS_STEP), given.drawn(LOSS_STEP))
    torch.stack([terms[name] for name in TERMS]).sum().backward()
    gradients = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in module.named_parameters()
    }
    tree = tree_of({**module.state_dict(), **gradients}, given.pair)
    return Loss({name: float(terms[name].detach()) for name in TERMS}, trained_parameters(tree))


def trained(reference: Reference, given: Setting, cross: str) -> Variables:
    """After all steps of SGD over a schedule of as many, computed in float64.

    In float32 PyTorch does not agree with itself: with one thread or two, the parameters of the
    baseline's ResNet differ by 1.6e-3 of their norm after these steps, as soon as a sum near zero
    falls on the other side of a ReLU.
    """
    module = module_of(reference, given).double()
    distiller = training_mode(reference.distiller(module, cross)).double()
    optimizer, schedule = make_optimizer(module, LEARNING_RATE, STEPS)
    for i in range(STEPS):
        images, labels = torch_batch(given, i)
        train_step(distiller, images.double(), labels, given.drawn(i), optimizer, schedule)
    return tree_of(module.float().state_dict(), given.pair)


def training_mode(distiller: nn.Module) -> nn.Module:
    """Everything in train mode but the teacher, which we keep frozen with its statistics."""
    distiller.train()
    distiller.swapnet.teacher.eval()
    return distiller


def torch_batch(given: Setting, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images and labels of a step."""
    labels = torch.from_numpy(given.batch(step)["label"]).long()
    return as_tensor(given.images(BATCH, step)), labels
