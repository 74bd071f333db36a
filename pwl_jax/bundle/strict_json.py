"""JSON read strictly: no repeated keys, no NaN; and objects with exactly the expected fields."""

import collections
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pwl_jax.bundle.errors import BundleError

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse(data: bytes | memoryview, where: str) -> Any:
    """The JSON value of UTF-8 bytes.

    Raises:
      BundleError: not JSON, a repeated key, NaN or infinity, half a character, or too deep; names
        `where`.
    """
    try:
        text = bytes(data).decode()
        value = json.loads(text, object_pairs_hook=_no_repeats, parse_constant=_no_constant)
        if _SURROGATE.search(text):
            # Halves of a character can be written as escapes but not as UTF-8, nor be printed.
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where} is no valid JSON: {error}") from error


def fields(
    value: Any, where: str, required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Any]:
    """The object itself, if it has all required fields and no unknown ones."""
    record = typed(value, dict, where)
    for name in required:
        if name not in record:
            raise BundleError(f"{where} lacks '{name}'")
    for name in record:
        if name not in required and name not in optional:
            raise BundleError(f"{where} has an unknown field '{name}'")
    return record


def typed(value: Any, expected: type, where: str) -> Any:
    """The value itself, if it is of exactly this type."""
    if type(value) is not expected:
        raise BundleError(f"{where} is {_shown(value)}, expected {_NAMES[expected]}")
    return value


def size(value: Any, where: str, least: int = 0) -> int:
    """A whole number of at least `least` that fits in 63 bits."""
    if type(value) is not int or not least <= value < 1 << 63:
        raise BundleError(f"{where} is {_shown(value)}, expected a whole number from {least} up")
    return value


def number(value: Any, where: str, optional: bool = False) -> float | None:
    """A finite number; None where `optional`."""
    if optional and value is None:
        return None
    if type(value) not in (int, float):
        raise BundleError(f"{where} is {_shown(value)}, expected a number")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    # JSON has no infinity, but 1e999 reads as one.
    if not math.isfinite(result):
        raise BundleError(f"{where} is too large a number")
    return result


def strings(value: Any, where: str) -> tuple[str, ...]:
    """A list of strings."""
    return tuple(typed(item, str, f"{where}[{i}]") for i, item in enumerate(array(value, where)))


def array(value: Any, where: str) -> list[Any]:
    """A list."""
    return typed(value, list, where)


def items(value: Any, where: str) -> Mapping[str, Any]:
    """An object with any keys."""
    return typed(value, dict, where)


_NAMES = {dict: "an object", list: "a list", str: "a string", int: "a whole number"}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        repeated = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"the key '{repeated[:80]}' is repeated")
    return record


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
