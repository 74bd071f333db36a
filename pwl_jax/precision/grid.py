"""Which values of a tensor share a scale: channels, cut into groups."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

# Up to this many values, whole rows are spread at once.
_FEW = 1 << 12


@dataclasses.dataclass(frozen=True)
class Grid:
    """A tensor seen as a matrix in C order, whose channels are its columns or its rows.

    Each channel is cut into groups of `group` values along the other side; the last group of a
    channel may be shorter. One scale belongs to each group.

    Attributes:
      rows, columns: of the matrix; their product is the size of the tensor.
      group: values that share a scale, at least 1.
      channels_last: channels are columns (the last axis), else rows (the first).
    """

    rows: int
    columns: int
    group: int
    channels_last: bool

    @classmethod
    def of(cls, shape: Sequence[int], axis: int | None, group: int) -> "Grid":
        """The grid of a shape.

        Args:
          shape: of a tensor that is not empty.
          axis: of the channels, 0 or the last; None takes the whole tensor as one channel.
          group: values that share a scale, at least 1.
        """
        size = math.prod(shape)
        if axis is None:
            return cls(1, size, group, False)
        if axis == 0 and len(shape) > 1:
            return cls(shape[0], size // shape[0], group, False)
        return cls(size // shape[-1], shape[-1], group, True)

    @property
    def scales_shape(self) -> tuple[int, int]:
        """(groups, channels) where channels come last, else (channels, groups)."""
        if self.channels_last:
            return -(-self.rows // self.group), self.columns
        return self.rows, -(-self.columns // self.group)

    @property
    def channels(self) -> int:
        """How many there are."""
        return self.columns if self.channels_last else self.rows

    def spread_channels(self, numbers: np.ndarray, start: int, stop: int) -> np.ndarray:
        """A number of each channel, [channels], for each of the elements `start` to `stop`."""
        whole = dataclasses.replace(self, group=max(self.rows, self.columns))
        return whole.spread(numbers.reshape(whole.scales_shape), start, stop)

    def spread(self, scales: np.ndarray, start: int, stop: int) -> np.ndarray:
        """The scale of each of the elements `start` to `stop` in C order.

        Args:
          scales: [*scales_shape], of any type.
          start, stop: 0 <= start < stop <= size.

        Returns:
          Of the same type, [stop - start].
        """
        first, last = start // self.columns, -(-stop // self.columns)
        if self.columns > _FEW:
            return np.concatenate(
                [self._part_of_row(scales, row, start, stop) for row in range(first, last)]
            )
        if self.channels_last:
            rows = scales[np.arange(first, last) // self.group]
        else:
            rows = _repeated(scales[first:last], min(self.group, self.columns))[:, : self.columns]
        begin = first * self.columns
        return rows.reshape(-1)[start - begin : stop - begin]

    def _part_of_row(self, scales: np.ndarray, row: int, start: int, stop: int) -> np.ndarray:
        begin = max(start - row * self.columns, 0)
        end = min(stop - row * self.columns, self.columns)
        if self.channels_last:
            return scales[row // self.group, begin:end]
        first, last = begin // self.group, -(-end // self.group)
        if self.group <= _FEW:
            used = _repeated(scales[row : row + 1, first:last], self.group)[0]
            return used[begin - first * self.group : end - first * self.group]
        edges = np.clip(np.arange(first, last + 1) * self.group, begin, end)
        return np.repeat(scales[row, first:last], np.diff(edges))


def _repeated(scales: np.ndarray, times: int) -> np.ndarray:
    """[rows, groups] as [rows, groups * times], each one repeated."""
    wide = np.broadcast_to(scales[:, :, None], (*scales.shape, times))
    return wide.reshape(len(scales), -1)
