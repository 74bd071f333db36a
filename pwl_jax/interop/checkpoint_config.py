"""The `config.json` beside a foreign checkpoint, read with checks that name the field."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pwl_jax.bundle import BundleError, strict_json
from pwl_jax.interop.safetensors_weights import InteropError
from pwl_jax.interop.source_tensors import read_json

T = TypeVar("T")


class CheckpointConfig:
    """Fields of a JSON object; each reading raises InteropError that names file and field.

    Attributes:
      where: the file, for messages.
    """

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self.where = where
        self._fields = fields

    @classmethod
    def read(cls, path: Path) -> "CheckpointConfig":
        """The file's object."""
        return cls(read_json(path), str(path))

    def __contains__(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def get(self, name: str, default: Any = None) -> Any:
        """A field as it is; `default` where it is missing or null."""
        value = self._fields.get(name)
        return default if value is None else value

    def section(self, name: str) -> "CheckpointConfig":
        """The object in a field; empty where it is missing."""
        value = self.get(name, {})
        if not isinstance(value, dict):
            raise InteropError(f"{self.where}: {name} is {value!r}; expected an object")
        return CheckpointConfig(value, f"{self.where}: {name}")

    def names(self) -> tuple[str, ...]:
        """Names of the fields that are not null."""
        return tuple(name for name in self._fields if name in self)

    def size(self, name: str, default: int | None = None) -> int:
        """A whole number from 1 up."""
        return _size(self.get(name, default), f"{self.where}: {name}")

    def sizes(self, name: str) -> tuple[int, ...]:
        """A list of such, or one of them."""
        value = self.get(name)
        each = value if isinstance(value, list) else [value]
        return tuple(_size(item, f"{self.where}: {name}") for item in each)

    def square(self, name: str) -> tuple[int, int]:
        """Height and width from `[height, width]` or one number for both."""
        found = self.sizes(name)
        if len(found) not in (1, 2):
            raise InteropError(f"{self.where}: {name} is {list(found)}; expected height and width")
        return found[0], found[-1]

    def number(self, name: str, default: float) -> float:
        """A finite number."""
        return _number(self.get(name, default), f"{self.where}: {name}")

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of finite numbers."""
        values = self.get(name)
        if not isinstance(values, list):
            raise InteropError(f"{self.where}: {name} is {values!r}; expected a list of numbers")
        return tuple(_number(value, f"{self.where}: {name}") for value in values)

    def choice(self, name: str, known: Mapping[Any, T], default: Any) -> T:
        """What a field's value stands for; the file must hold one of `known`."""
        value = self.get(name, default)
        # 1 and 1.0 equal True.
        matches = [
            found for key, found in known.items() if type(key) is type(value) and key == value
        ]
        if not matches:
            raise InteropError(
                f"{self.where}: {name} is {value!r}; supported: "
                f"{', '.join(repr(key) for key in known)}"
            )
        return matches[0]


def _number(value: Any, where: str) -> float:
    try:
        return float(strict_json.number(value, where) or 0.0)
    except BundleError as error:
        raise InteropError(str(error)) from error


def _size(value: Any, where: str) -> int:
    try:
        return strict_json.size(value, where, least=1)
    except BundleError as error:
        raise InteropError(str(error)) from error
