"""Codes of one slice of a tensor, and what follows from a code: value, edge of its cell, class."""

import dataclasses
from collections.abc import Callable

import numpy as np

_LAST_CLASS = 15


@dataclasses.dataclass(eq=False)
class SliceCodes:
    """Codes and the scale of each.

    Attributes:
      codes: i8 or i16, [n]: signed numbers of steps from zero.
      scales: gives the scale of each, f32[n]. They take much memory, so nobody keeps them.
      bits: width of a code; after refinement the width that the grid's step corresponds to.
      shrunk: what the scales are multiplied by, a power of two that grows smaller with refinement.
    """

    codes: np.ndarray
    scales: Callable[[], np.ndarray]
    bits: int
    shrunk: float = 1.0

    def values(self) -> np.ndarray:
        """Code * scale, one IEEE multiplication each; f32. Offsets are the base's own."""
        return self._scaled(self.codes.astype(np.float32), self.shrunk)

    def edges(self) -> np.ndarray:
        """Where the cells begin: half a step nearer to zero than the value, or below it for code 0.

        f32: half of an odd number, times the scale.
        """
        return self._scaled(self._halves().astype(np.float32), self.shrunk / 2)

    def _halves(self) -> np.ndarray:
        """Edges in halves of a step: odd numbers."""
        # Twice a code of six bits still fits in eight.
        codes = self.codes if self.bits <= 6 else self.codes.astype(np.int16)
        towards = codes >> (8 * codes.itemsize - 1)
        towards |= 1
        doubled = codes + codes
        doubled -= towards
        return doubled

    def _scaled(self, numbers: np.ndarray, factor: float) -> np.ndarray:
        if factor != 1:
            numbers *= np.float32(factor)
        numbers *= self.scales()
        return numbers

    def refined(self, steps: np.ndarray, bits: int) -> "SliceCodes":
        """The codes on a grid of so many bits, `steps` (i16) beside the ones here."""
        codes = self.codes.astype(np.int16)
        codes <<= bits - self.bits
        codes += steps
        return SliceCodes(codes, self.scales, bits, self.shrunk * 2.0 ** (self.bits - bits))

    def classes(self) -> np.ndarray:
        """Magnitudes of the codes, but at most 15; u8[n]. How wide a cell is, counted in floats,
        follows from it.
        """
        magnitudes = np.abs(self.codes).view(f"u{self.codes.itemsize}")
        # NumPy takes long for it, and codes of few bits do not come that far.
        if self.bits > 4 or self.codes.itemsize > 1:
            np.minimum(magnitudes, _LAST_CLASS, out=magnitudes)
        return magnitudes.astype(np.uint8, copy=False)
