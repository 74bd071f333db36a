"""A rung: a composition with a precision for each of its blocks."""

import dataclasses
from collections.abc import Iterable
from typing import Literal

from pwl_jax.ladder.composition import Composition, CompositionError, Unit, shown

Bits = int | Literal["exact"]
EXACT: Literal["exact"] = "exact"
_WIDTHS = tuple("2345678")


def parse_bits(text: str) -> Bits:
    """Reads 2 to 8, `exact` or its abbreviation `x`."""
    if text in ("exact", "x"):
        return EXACT
    if text in _WIDTHS:
        return int(text)
    raise CompositionError(f"'{shown(text)}' is no precision; expected 2 to 8 bits, or exact")


def precision_rank(bits: Bits) -> int:
    """A number that grows with precision; `exact` is above every width."""
    return 9 if bits == EXACT else int(bits)


@dataclasses.dataclass(frozen=True)
class Rung:
    """A composition and the bits of each block. Converters are always exact."""

    composition: Composition
    bits: tuple[Bits, ...]

    def __post_init__(self) -> None:
        if len(self.bits) != len(self.composition):
            raise CompositionError(
                f"{len(self.bits)} precisions for the {len(self.composition)} blocks of "
                f"{self.composition}; expected one a block"
            )
        for bits in self.bits:
            parse_bits(str(bits))

    @classmethod
    def uniform(cls, composition: Composition, bits: Bits) -> "Rung":
        """The rung with the same precision in every block."""
        return cls(composition, (bits,) * len(composition))

    @classmethod
    def parse(cls, text: str) -> "Rung":
        """Reads `TTSS@4`, `TTSS@exact` or mixed `TTSS@4-8-4-x`."""
        name, at, precision = text.partition("@")
        composition = Composition.parse(name)
        if not at:
            raise CompositionError(f"rung '{text}' names no precision; expected {text}@exact, say")
        bits = tuple(parse_bits(part) for part in precision.split("-"))
        return cls.uniform(composition, bits[0]) if len(bits) == 1 else cls(composition, bits)

    @property
    def name(self) -> str:
        """`TTSS@4` where all blocks agree, else `TTSS@4-8-4-x`."""
        if len(set(self.bits)) == 1:
            return f"{self.composition}@{self.bits[0]}"
        return f"{self.composition}@" + "-".join("x" if b == EXACT else str(b) for b in self.bits)

    def __str__(self) -> str:
        return self.name

    def stages(self) -> dict[Unit, Bits]:
        """The precision at which each unit is read, in the order of execution."""
        return {
            unit: self.bits[unit.index] if unit.kind in ("teacher", "student") else EXACT
            for unit in self.composition.units()
        }


def parse_rung(text: str, known: Iterable[Rung]) -> Rung:
    """Reads a rung's name; a bare composition means its most exact rung among `known`.

    A bare composition that no known rung has is taken as exact.
    """
    if "@" in text:
        return Rung.parse(text)
    composition = Composition.parse(text)
    candidates = [rung for rung in known if rung.composition == composition]
    if not candidates:
        return Rung.uniform(composition, EXACT)
    return max(candidates, key=lambda rung: tuple(precision_rank(b) for b in rung.bits))
