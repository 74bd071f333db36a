"""Bodies of POST /predict: which inputs they hold, and how an answer is written."""

import base64
import binascii
import io
import json
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from pwl_jax.runtime import Prediction

NPY = "application/x-npy"
JSON = "application/json"
IMAGES = ("image/png", "image/jpeg")
TAKEN = (*IMAGES, NPY, JSON)
TOP = 5


class RequestError(Exception):
    """A request that cannot be answered; `status` is the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def decode_inputs(content_type: str, body: bytes, max_pixels: int) -> Any:
    """What `LiveModel.predict` is to be given.

    Args:
      content_type: the header, parameters such as a charset included.
      body: image bytes; a `.npy` array; or JSON `{"instances": [...], "dtype": "float32"}` with
        nested lists (float32 is taken as normalised, uint8 as an image) or, for an image file,
        `{"b64": "<base64>"}` an instance.
      max_pixels: images that decode to more are refused.

    Raises:
      RequestError: 415 for another type, 400 for a body that does not parse.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media in IMAGES:
        return decode_image(body, max_pixels)
    if media == NPY:
        return decode_npy(body)
    if media == JSON:
        return _decode_instances(parse_json(body), max_pixels)
    raise RequestError(415, f"content type '{media}' is not taken; send {', '.join(TAKEN)}")


def decode_image(data: bytes, max_pixels: int) -> Image.Image:
    """A decoded PNG or JPEG; its size is checked before its pixels are."""
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        if image.width * image.height > max_pixels:
            raise RequestError(
                413, f"an image of {image.width}x{image.height} has more than {max_pixels} pixels"
            )
        image.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise RequestError(400, f"the body is no readable PNG or JPEG image: {error}") from error
    except Image.DecompressionBombError as error:
        raise RequestError(413, str(error)) from error
    return image


def decode_npy(data: bytes) -> np.ndarray:
    """The array of a `.npy` file; object arrays are refused, nothing is unpickled."""
    try:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, TypeError, SyntaxError, MemoryError) as error:
        raise RequestError(400, f"the body is no readable .npy array: {error}") from error


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise RequestError(400, f"expected a JSON object, got {type(document).__name__}")
    return document


def _decode_instances(document: dict[str, Any], max_pixels: int) -> Any:
    instances = document.get("instances")
    if not isinstance(instances, list) or not instances:
        raise RequestError(400, 'expected {"instances": [...]} with at least one instance')
    if isinstance(instances[0], dict):
        return [_decode_base64(instance, max_pixels) for instance in instances]
    dtype = document.get("dtype", "float32")
    if dtype not in ("float32", "uint8"):
        raise RequestError(400, f"dtype '{dtype}' is not taken; expected float32 or uint8")
    return numeric_array(instances, dtype)


def numeric_array(values: Any, dtype: str) -> np.ndarray:
    """Nested lists of numbers as an array; ragged lists, text and values out of range are refused.

    Raises:
      RequestError: 400.
    """
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "iuf":
            raise ValueError(f"they are {array.dtype}")
        if dtype == "uint8" and (
            array.dtype.kind == "f" or array.min(initial=0) < 0 or array.max(initial=0) > 255
        ):
            raise ValueError("uint8 takes whole numbers from 0 to 255")
        with np.errstate(over="ignore"):
            array = array.astype(dtype)
    except (ValueError, OverflowError, TypeError) as error:
        raise RequestError(400, f"the values are no array of {dtype}: {error}") from error
    if not np.isfinite(array).all():
        raise RequestError(400, f"the values do not fit in {dtype}, or are not finite")
    return array


def _decode_base64(instance: Any, max_pixels: int) -> Image.Image:
    text = instance.get("b64") if isinstance(instance, dict) else None
    if not isinstance(text, str):
        raise RequestError(400, 'an instance that is an object must be {"b64": "<base64>"}')
    try:
        return decode_image(base64.b64decode(text, validate=True), max_pixels)
    except binascii.Error as error:
        raise RequestError(400, f"an instance holds no base64: {error}") from error


def prediction_document(prediction: Prediction) -> dict[str, Any]:
    """An answer as JSON: its rung and executor, and class, probabilities and logits an image."""
    probabilities = prediction.probabilities
    answers = []
    for row, index in enumerate(prediction.classes):
        top = np.argsort(-prediction.logits[row], kind="stable")[:TOP]
        answers.append(
            {
                "class": int(index),
                "label": prediction.label(int(index)),
                "probability": float(probabilities[row, index]),
                "top": [
                    {"label": prediction.label(int(i)), "probability": float(probabilities[row, i])}
                    for i in top
                ],
                "logits": [float(value) for value in prediction.logits[row]],
            }
        )
    return {"rung": prediction.rung, "executor": prediction.executor, "predictions": answers}


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as the bytes of a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
