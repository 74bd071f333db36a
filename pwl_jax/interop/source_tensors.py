"""The tensors of a foreign checkpoint: found, opened without PyTorch, and handed out strictly."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pwl_jax.bundle import BundleError, strict_json
from pwl_jax.bundle.lazy_safetensors import SafetensorsFile
from pwl_jax.interop.safetensors_weights import InteropError
from pwl_jax.precision import dtype_name

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".tar")
_EXACT = ("float32", "float16", "bfloat16")


class SourceTensors:
    """A checkpoint's tensors; each is taken at most once, and none is left unnoticed.

    Attributes:
      where: the file or folder, for messages.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], where: str) -> None:
        self.where = where
        self._tensors = tensors
        self._left = set(tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> Iterable[str]:
        """All names, in order."""
        return sorted(self._tensors)

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        """A tensor's shape; raises InteropError where it is missing, empty, or of other axes."""
        shape = self._found(name).shape
        if len(shape) != axes or 0 in shape:
            raise InteropError(
                f"{self.where}: tensor '{name}' is {list(shape)}; expected {axes} axes, none empty"
            )
        return shape

    def places(self, pattern: str) -> tuple[tuple[int, ...], ...]:
        """The different numbers that the groups of a pattern match at the beginning of names."""
        matches = (re.match(pattern, name) for name in self._tensors)
        return tuple(sorted({tuple(map(int, match.groups())) for match in matches if match}))

    def take(self, name: str, *shape: int) -> np.ndarray:
        """One tensor as float32, exactly as stored.

        Raises:
          InteropError: it is missing, of another shape, of a type whose values float32 does not
            hold, or not finite.
        """
        array = self._found(name)
        if array.shape != shape:
            raise InteropError(
                f"{self.where}: tensor '{name}' is {list(array.shape)}; expected {list(shape)}"
            )
        if dtype_name(array) not in _EXACT:
            raise InteropError(
                f"{self.where}: tensor '{name}' is {dtype_name(array)}; expected one of "
                f"{', '.join(_EXACT)}"
            )
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise InteropError(f"{self.where}: tensor '{name}' holds values that are not finite")
        self._left.discard(name)
        return array

    def refuse(self, meanings: Mapping[str, str]) -> None:
        """Raises InteropError for the first name that a pattern matches, saying what it is."""
        for pattern, meaning in meanings.items():
            for name in self.names():
                if re.search(pattern, name):
                    raise InteropError(
                        f"{self.where} holds the tensor '{name}', {meaning}, which is not supported"
                    )

    def unused(self, *patterns: str) -> tuple[str, ...]:
        """The names that were not taken.

        Args:
          *patterns: of names that may be left, matched from their beginning to their end.

        Raises:
          InteropError: another one is left.
        """
        for name in sorted(self._left):
            if not any(re.fullmatch(pattern, name) for pattern in patterns):
                raise InteropError(
                    f"{self.where} holds the tensor '{name}', which its network does not read"
                )
        return tuple(sorted(self._left))

    def _found(self, name: str) -> np.ndarray:
        if name not in self._tensors:
            raise InteropError(f"{self.where} lacks the tensor '{name}'")
        try:
            return self._tensors[name]
        except BundleError as error:
            raise InteropError(str(error)) from error


def open_tensors(path: Path) -> SourceTensors:
    """The tensors of a .safetensors file, or of a folder that holds one or an index of several.

    Raises:
      InteropError: there is none, it is a pickle, damaged, or the index does not fit its files.
    """
    if path.is_file():
        _refuse_pickle(path)
        return SourceTensors(_opened(path), str(path))
    if not path.is_dir():
        raise InteropError(f"{path} is neither a file nor a folder")
    if (path / WEIGHTS).is_file():
        return SourceTensors(_opened(path / WEIGHTS), str(path / WEIGHTS))
    if (path / INDEX).is_file():
        return SourceTensors(_of_shards(path / INDEX), str(path / INDEX))
    for file in sorted(path.iterdir()):
        _refuse_pickle(file)
    raise InteropError(f"{path} holds neither {WEIGHTS} nor {INDEX}")


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object; raises InteropError where it is missing or none."""
    try:
        return strict_json.items(strict_json.parse(path.read_bytes(), str(path)), str(path))
    except OSError as error:
        raise InteropError(f"cannot read {path}: {error.strerror or error}") from error
    except BundleError as error:
        raise InteropError(str(error)) from error


def _refuse_pickle(path: Path) -> None:
    if path.suffix in _PICKLES:
        raise InteropError(
            f"{path} is a pickle, which is never read; convert it where it is trusted, with "
            "save_pretrained (transformers) or safetensors.torch.save_file(state_dict, ...)"
        )


def _opened(path: Path) -> SafetensorsFile:
    try:
        return SafetensorsFile(path)
    except BundleError as error:
        raise InteropError(str(error)) from error


def _of_shards(index: Path) -> Mapping[str, np.ndarray]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InteropError(f"{index} has no 'weight_map'; expected each tensor's file by its name")
    for file in places.values():
        if not isinstance(file, str) or file in ("", "..") or Path(file).name != file:
            raise InteropError(f"{index} names the file {file!r}; expected one beside it")
    shards = {file: _opened(index.parent / file) for file in sorted(set(places.values()))}
    for file, shard in shards.items():
        for name in shard:
            if places.get(name) != file:
                raise InteropError(f"{index.parent / file} holds '{name}', unknown to {index.name}")
    for name, file in places.items():
        if name not in shards[file]:
            raise InteropError(f"{index.parent / file} lacks '{name}', which {index.name} names")
    return _Joined(places, shards)


class _Joined(Mapping[str, np.ndarray]):
    """Tensors of several files as one mapping, still read when asked for."""

    def __init__(self, places: Mapping[str, str], shards: Mapping[str, SafetensorsFile]) -> None:
        self._places, self._shards = places, shards

    def __getitem__(self, name: str) -> np.ndarray:
        return self._shards[self._places[name]][name]

    def __iter__(self) -> Any:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
