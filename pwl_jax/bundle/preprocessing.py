"""How an image becomes a network's input: the only evaluation preprocessing there is.

Training data, export and the runtime all call it. NumPy and Pillow.
"""

import dataclasses
import math
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pwl_jax.bundle import strict_json
from pwl_jax.bundle.errors import BundleError
from pwl_jax.errors import UserError

if TYPE_CHECKING:
    from PIL import Image


class PreprocessingError(UserError):
    """An input that is no image, or not of the expected shape and type."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Colour conversion, resizing, normalisation.

    Attributes:
      input_shape: height, width and channels (1 or 3 for images) of the network's input.
      mean, std: of each channel, in 0..1.
      resize: filter; only `bilinear`, which is Pillow's (it widens when an image shrinks).
    """

    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "bilinear"

    def __post_init__(self) -> None:
        shape, channels = self.input_shape, self.input_shape[-1] if self.input_shape else 0
        if len(shape) != 3 or min(shape) < 1 or channels not in (1, 3):
            raise PreprocessingError(
                f"input_shape {list(shape)}; expected height, width, and 1 or 3 channels"
            )
        if not len(self.mean) == len(self.std) == channels:
            raise PreprocessingError(
                f"{len(self.mean)} means and {len(self.std)} deviations for {channels} channels"
            )
        if not all(math.isfinite(mean) for mean in self.mean):
            raise PreprocessingError(f"means {list(self.mean)}; expected finite numbers")
        if not all(0 < std < math.inf for std in self.std):
            raise PreprocessingError(f"deviations {list(self.std)}; expected positive numbers")
        if self.resize != "bilinear":
            raise PreprocessingError(f"unknown filter '{self.resize}'; expected bilinear")

    def prepare(self, image: Any) -> np.ndarray:
        """One image to uint8[height, width, channels].

        Grey becomes RGB by repetition, RGB becomes grey by its luma (Pillow's ITU-R 601-2), alpha
        is dropped. An image that has the size already is not resampled.

        Args:
          image: a PIL image, the path of an image file, or uint8 [height, width] or
            [height, width, 1, 3 or 4 channels].

        Raises:
          PreprocessingError: anything else, or a file that cannot be read.
        """
        # Only those who give images wait for Pillow.
        from PIL import Image

        height, width, channels = self.input_shape
        picture = _picture(image).convert("RGB" if channels == 3 else "L")
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        return np.array(picture, np.uint8).reshape(self.input_shape)

    def normalize(self, images: np.ndarray) -> np.ndarray:
        """uint8[..., height, width, channels] to f32, (x / 255 - mean) / std, each step in f32."""
        scaled = images.astype(np.float32)
        scaled /= np.float32(255)
        scaled -= np.asarray(self.mean, np.float32)
        scaled /= np.asarray(self.std, np.float32)
        return scaled

    def __call__(self, inputs: Any) -> np.ndarray:
        """One image, or a list or batch of them, to f32[batch, height, width, channels].

        Floats of 32 bits, [batch, height, width, channels] or a single [height, width, channels],
        are taken as normalised and pass as they are.

        Raises:
          PreprocessingError: another shape or type; the message says what is expected.
        """
        if isinstance(inputs, (str, os.PathLike)) or _is_picture(inputs):
            return self.normalize(self.prepare(inputs)[None])
        if isinstance(inputs, (list, tuple)):
            if not inputs:
                return np.zeros((0, *self.input_shape), np.float32)
            return np.concatenate([self._single(image) for image in inputs])
        array = np.asarray(inputs)
        if array.dtype == np.uint8 and array.ndim in (2, 3):
            return self.normalize(self.prepare(array)[None])
        if array.dtype == np.uint8 and array.ndim == 4:
            prepared = [self.prepare(image) for image in array]
            return self.normalize(np.array(prepared, np.uint8).reshape(-1, *self.input_shape))
        if array.dtype == np.float32 and array.shape == self.input_shape:
            return array[None]
        if array.dtype == np.float32 and array.ndim == 4 and array.shape[1:] == self.input_shape:
            return array
        raise PreprocessingError(
            f"the input is {array.dtype}{list(array.shape)}; expected images as uint8, or "
            f"normalised float32 of shape [batch, {', '.join(map(str, self.input_shape))}]"
        )

    def _single(self, image: Any) -> np.ndarray:
        prepared = self(image)
        if len(prepared) != 1:
            raise PreprocessingError(
                f"a list's entry holds {len(prepared)} images; expected one image an entry"
            )
        return prepared

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data."""
        return {
            "input_shape": list(self.input_shape),
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": self.resize,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Preprocessing":
        """What `to_dict` wrote.

        Raises:
          UserError: a field is missing, unknown or of the wrong type.
        """
        where = "preprocessing"
        record = strict_json.fields(data, where, ["input_shape", "mean", "std", "resize"])
        shape = strict_json.array(record["input_shape"], f"{where}.input_shape")
        if len(shape) != 3:
            raise BundleError(f"{where}.input_shape has {len(shape)} sizes; expected 3")
        height, width, channels = (
            strict_json.size(n, f"{where}.input_shape", least=1) for n in shape
        )
        return cls(
            (height, width, channels),
            _numbers(record["mean"], f"{where}.mean"),
            _numbers(record["std"], f"{where}.std"),
            strict_json.typed(record["resize"], str, f"{where}.resize"),
        )


def _numbers(value: Any, where: str) -> tuple[float, ...]:
    numbers = (strict_json.number(item, where) for item in strict_json.array(value, where))
    return tuple(number for number in numbers if number is not None)


def _is_picture(value: Any) -> bool:
    """Whether it is Pillow's, which is not imported to find out that it is not."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def _of_bytes(picture: "Image.Image", where: Any) -> "Image.Image":
    """The picture itself, unless Pillow would clip its values to 8 bits instead of scaling them."""
    if picture.mode.startswith(("I", "F")):
        raise PreprocessingError(
            f"{where} has more than 8 bits a channel (mode {picture.mode}); expected 8"
        )
    return picture


def _picture(image: Any) -> "Image.Image":
    from PIL import Image

    if isinstance(image, Image.Image):
        return _of_bytes(image, "the image")
    if isinstance(image, (str, os.PathLike)):
        try:
            with Image.open(image) as file:
                file.load()
                return _of_bytes(file, os.fspath(image))
        # The warning is raised where warnings are errors.
        except (
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:
            raise PreprocessingError(f"{os.fspath(image)} is no readable image: {error}") from error
    array = np.asarray(image)
    wrong_shape = array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4))
    if array.dtype != np.uint8 or wrong_shape or 0 in array.shape:
        raise PreprocessingError(
            f"an image is {array.dtype}{list(array.shape)}; expected uint8 [height, width] or "
            "[height, width, channels] with 1, 3 or 4 channels"
        )
    if array.ndim == 3:
        array = array[..., 0] if array.shape[-1] == 1 else array[..., :3]
    return Image.fromarray(np.ascontiguousarray(array))
