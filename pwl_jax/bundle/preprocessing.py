"""How an image becomes a network's input: the only evaluation preprocessing there is."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from pwl_jax.errors import UserError


class PreprocessingError(UserError):
    """An input that is no image, or not of the expected shape and type."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Colour conversion, resizing, normalisation.

    Attributes:
      input_shape: height, width and channels (1 or 3 for images) of the network's input.
      mean, std: of each channel, in 0..1.
      resize: filter; only `bilinear`.
    """

    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "bilinear"

    def prepare(self, image: Any) -> np.ndarray:
        """One image to uint8[height, width, channels]."""
        height, width, channels = self.input_shape
        if not isinstance(image, Image.Image):
            array = np.asarray(image)
            if array.dtype != np.uint8 or array.ndim not in (2, 3):
                raise PreprocessingError(
                    f"an image is {array.dtype}{list(array.shape)}; expected uint8 [height, width] "
                    "or [height, width, channels]"
                )
            if array.ndim == 3 and array.shape[-1] == 1:
                array = array[..., 0]
            image = Image.fromarray(array)
        image = image.convert("RGB" if channels == 3 else "L")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image, np.uint8).reshape(self.input_shape)

    def normalize(self, images: np.ndarray) -> np.ndarray:
        """uint8[..., height, width, channels] to float32, (x / 255 - mean) / std."""
        scaled = images.astype(np.float32) / np.float32(255)
        return (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Preprocessing":
        """What `to_dict` wrote."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})
