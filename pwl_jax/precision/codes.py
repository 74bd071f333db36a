"""Codes of one slice of a tensor, and what follows from a code: value, edge of its cell, class."""

import dataclasses
from collections.abc import Iterator

import numpy as np


@dataclasses.dataclass(eq=False)
class SliceCodes:
    """Codes and the scale of each.

    Attributes:
      codes: i8 or i16, [n]: signed numbers of steps from zero.
      scales: f32[n].
      bits: width of a code; after refinement the width that the grid's step corresponds to.
    """

    codes: np.ndarray
    scales: np.ndarray
    bits: int

    def values(self) -> np.ndarray:
        """Code * scale, one IEEE multiplication each; f32. Offsets are the base's own."""
        values = self.codes.astype(np.float32)
        values *= self.scales
        return values

    def edges(self) -> np.ndarray:
        """Where the cells begin: half a step nearer to zero than the value, or below it for code 0.

        f32: half of an odd number, times the scale.
        """
        # Twice a code of six bits still fits in eight.
        codes = self.codes if self.bits <= 6 else self.codes.astype(np.int16)
        towards = codes >> (8 * codes.itemsize - 1)
        towards |= 1
        doubled = codes + codes
        doubled -= towards
        edges = doubled.astype(np.float32)
        edges *= np.float32(0.5)
        edges *= self.scales
        return edges

    def take_edges(self) -> np.ndarray:
        """The edges; the scales are used up, so that a slice takes less memory."""
        edges = self.edges()
        # No view: it would keep them.
        self.scales = np.empty(0, np.float32)
        return edges

    def classes(self) -> Iterator[np.ndarray]:
        """Which codes are of each class, `bits` arrays of bool, [n].

        A code's class is the number of binary digits of its magnitude, at most bits - 1: how wide
        a cell is, counted in floats.
        """
        unsigned = np.uint8 if self.codes.itemsize == 1 else np.uint16
        magnitudes = np.abs(self.codes).view(unsigned)
        yield magnitudes == 0
        for _ in range(self.bits - 2):
            yield magnitudes == 1
            magnitudes >>= 1
        yield magnitudes != 0

    def refined(self, steps: np.ndarray, bits: int) -> "SliceCodes":
        """The codes on a grid of so many bits, `steps` (i16) beside the ones here."""
        codes = self.codes.astype(np.int16)
        codes <<= bits - self.bits
        codes += steps
        return SliceCodes(codes, self.scales * np.float32(2.0 ** (self.bits - bits)), bits)
