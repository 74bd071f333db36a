"""Prepares sets of TFDS as ArrayRecord, with or without TensorFlow."""

import contextlib
import importlib.util
import io
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from pwl_jax.data.source import DataError, first_line
from pwl_jax.data.tfds_source import labelled_builder, tfds_source


def prepare(
    name: str, data_dir: epath.PathLike, manual_dir: epath.PathLike | None = None
) -> dict[str, int]:
    """Downloads a set and writes it as ArrayRecord, as `sources.load` reads it.

    TFDS writes into a folder of another name and renames it when all is there. Downloaded archives
    stay in `data_dir/downloads`, so that the next attempt need not fetch them again.

    Args:
      name: of a set of labelled images that TFDS knows, as `cifar10` or `voc/2007`.
      data_dir: where to write it.
      manual_dir: where archives lie that TFDS may not download by itself.

    Returns:
      Examples of every split. A set that is there already is only checked.

    Raises:
      DataError: no such set, one that has no labelled images, that is there in another format,
        or that cannot be downloaded or written.
    """
    import tensorflow_datasets as tfds

    builder = labelled_builder(name, data_dir, file_format="array_record")
    if not builder.is_prepared():
        settings = tfds.download.DownloadConfig(
            manual_dir=None if manual_dir is None else epath.Path(manual_dir)
        )
        try:
            with _tensorflow_spared(builder), contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare(download_config=settings)
        except Exception as error:
            # A builder is a program: it may raise anything.
            with contextlib.suppress(OSError):
                builder.data_path.parent.rmdir()
            raise DataError(f"'{name}' cannot be prepared: {_reason(error)}") from error
    tfds_source(name, "train", data_dir)
    return {split: info.num_examples for split, info in builder.info.splits.items()}


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError) and "tensorflow" in str(error).lower():
        return "its builder needs TensorFlow; install it for this one command"
    return first_line(error)


@contextlib.contextmanager
def _tensorflow_spared(builder: Any) -> Iterator[None]:
    """Lets a builder do without TensorFlow what does not need it, where it is not installed.

    TFDS encodes arrays as images by TensorFlow, and builders read files by its file system. PNG is
    lossless, so that Pillow writes the same images; `epath` reads the same files.
    """
    if importlib.util.find_spec("tensorflow") is not None:
        yield
        return
    from tensorflow_datasets.core.features import image_feature

    module = sys.modules[type(builder).__module__]
    replaced: list[tuple[Any, str, Any]] = [(image_feature._ImageEncoder, "_encode_image", _png)]
    if hasattr(module, "tf"):
        replaced.append((module, "tf", _file_system()))
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    try:
        for owner, name, value in replaced:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


def _png(encoder: Any, image: np.ndarray) -> bytes:
    """An array as PNG, in place of TFDS's `_ImageEncoder._encode_image`."""
    if encoder.encoding_format != "png" or image.dtype != np.uint8 or image.ndim != 3:
        raise ImportError(
            f"writing {image.dtype} arrays as {encoder.encoding_format} needs TensorFlow"
        )
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "png")
    return file.getvalue()


def _file_system() -> types.SimpleNamespace:
    """What builders of images use of `tf`: its files."""
    gfile = types.SimpleNamespace(
        GFile=lambda path, mode="r": epath.Path(path).open(mode),
        Open=lambda path, mode="r": epath.Path(path).open(mode),
        exists=lambda path: epath.Path(path).exists(),
        isdir=lambda path: epath.Path(path).is_dir(),
        listdir=lambda path: [entry.name for entry in epath.Path(path).iterdir()],
    )
    return types.SimpleNamespace(io=types.SimpleNamespace(gfile=gfile))
