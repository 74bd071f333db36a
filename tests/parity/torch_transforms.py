"""What the baseline's evaluation takes from torchvision, by torchvision's own documentation.

On a Pillow image `Resize` is Pillow's bilinear resize, `ToTensor` gives channels, height and width
in 0..1, `Normalize` subtracts a mean and divides by a deviation of each channel. A torchvision that
imports is used instead: there is none for a CPU build of PyTorch.
"""

import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.parity.settings import MEAN, STD


def transforms() -> Any:
    """`torchvision.transforms`, or what stands in for it here."""
    try:
        import torchvision.transforms as found
    except (ImportError, RuntimeError):  # The latter where it was built for another PyTorch.
        return types.SimpleNamespace(
            Compose=Compose, Resize=Resize, ToTensor=ToTensor, Normalize=Normalize
        )
    return found


def evaluation_images(paths: list[Path], size: int) -> torch.Tensor:
    """Files of CIFAR-10's images as the evaluation's input, f32[images, 3, size, size]."""
    t = transforms()
    resize = [t.Resize((size, size))] if size != 32 else []
    transform = t.Compose([*resize, t.ToTensor(), t.Normalize(MEAN, STD)])
    return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])


class Compose:
    def __init__(self, steps: Sequence[Callable[[Any], Any]]) -> None:
        self.steps = steps

    def __call__(self, image: Any) -> Any:
        for step in self.steps:
            image = step(image)
        return image


class Resize:
    def __init__(self, size: tuple[int, int]) -> None:
        self.height, self.width = size

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.resize((self.width, self.height), Image.Resampling.BILINEAR)


class ToTensor:
    def __call__(self, image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)


class Normalize:
    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = (torch.tensor(x).view(-1, 1, 1) for x in (mean, std))

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return (image - self.mean) / self.std
