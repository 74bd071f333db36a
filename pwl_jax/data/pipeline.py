"""Batches for training (Grain: seeded, sharded by process, resumable) and for evaluation."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np
from grain.experimental import ThreadPrefetchIterDataset

from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.data.source import DataError, Source

CACHE_BYTES = 1 << 30
"""Prepared images are kept in memory where the whole split takes no more than this."""

_READ_OPTIONS = grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)
"""Whole batches are read ahead: few are enough, and more would only take memory."""

PLACED_AHEAD = 2
"""Batches on the device that the step has not taken yet."""

Batch = dict[str, np.ndarray]


class PreparedSource:
    """A source whose images have the network's input size, each decoded at most once.

    Labels are int32, a class each, or multi-hot uint8[classes] where the source is multi-label.
    Where the whole split fits in `cache_bytes`, prepared images stay in one uint8 array.
    """

    def __init__(
        self, source: Source, preprocessing: Preprocessing, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.source = source
        self.preprocessing = preprocessing
        shape = (len(source), *preprocessing.input_shape)
        self._images = np.zeros(shape, np.uint8) if math.prod(shape) <= cache_bytes else None
        self._labels = self._empty_labels(len(source))
        self._ready = np.zeros(len(source), bool)

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, positions: np.ndarray) -> Batch:
        """The examples at some positions of this split, in that order. May run in many threads.

        Args:
          positions: int[b], each 0 to len - 1.

        Returns:
          `{"image": uint8[b, height, width, channels], "label": int32[b], "index": int32[b]}`,
          `label` being uint8[b, classes] where the source is multi-label, and `index` the
          example's place in the data set (see `Source`).
        """
        positions = np.asarray(positions, np.int64)
        index = self.source.indices[positions].astype(np.int32)
        images = self._images
        if images is None:
            shape = (len(positions), *self.preprocessing.input_shape)
            stacked, labels = np.zeros(shape, np.uint8), self._empty_labels(len(positions))
            for row, position in enumerate(positions):
                stacked[row], labels[row] = self._read(position)
            return {"image": stacked, "label": labels, "index": index}
        # Two threads may both prepare an example: they write the same bytes, then mark it ready.
        for position in positions[~self._ready[positions]]:
            images[position], self._labels[position] = self._read(position)
            self._ready[position] = True
        return {"image": images[positions], "label": self._labels[positions], "index": index}

    def _empty_labels(self, count: int) -> np.ndarray:
        if self.source.multi_label:
            return np.zeros((count, len(self.source.classes)), np.uint8)
        return np.zeros(count, np.int32)

    def _read(self, position: int) -> tuple[np.ndarray, Any]:
        example = self.source[position]
        return self.preprocessing.prepare(example["image"]), example["label"]


def in_memory(source: Source, preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """All prepared images uint8[n, height, width, channels] and their labels, in order.

    Labels are int32[n], or uint8[n, classes] where the source is multi-label.
    """
    batch = PreparedSource(source, preprocessing, cache_bytes=0).batch(np.arange(len(source)))
    return batch["image"], batch["label"]


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch: int64[count], a permutation that no version of NumPy changes.

    Args:
      count: examples.
      seed: of the run, not negative.
      epoch: from 0.
    """
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(count)
    return np.argsort(bits, kind="stable")


class _TrainBatches:
    """Random access to the batches of a training run: what `read` makes of batch k's positions."""

    def __init__(
        self,
        read: Callable[[np.ndarray], Batch],
        count: int,
        size: int,
        seed: int,
        epochs: int | None,
        share: slice,
    ) -> None:
        self._read = read
        self._count = count
        self._size = size
        self._share = share
        # Endless is as many batches as 64 bits can count without overflow of a position.
        total = (1 << 62) if epochs is None else count * epochs
        self._length = total // size
        self._order = functools.lru_cache(maxsize=4)(functools.partial(epoch_order, count, seed))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, step: int) -> Batch:
        place = np.arange(step * self._size, (step + 1) * self._size)[self._share]
        epoch, within = np.divmod(place, self._count)
        chosen = np.empty_like(place)
        for number in np.unique(epoch):
            of_epoch = epoch == number
            chosen[of_epoch] = self._order(int(number))[within[of_epoch]]
        return self._read(chosen)

    def __repr__(self) -> str:
        return f"_TrainBatches({self._count}, {self._size}, {self._share})"


def train_iterator(
    source: PreparedSource,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    epochs: int | None = None,
    place: Callable[[Batch], Any] | None = None,
) -> grain.DatasetIterator:
    """Batches of this process's share, in an order that only the seed decides.

    Examples are shuffled anew each epoch, and epochs follow each other without a gap: a batch may
    end one and begin the next, and every epoch shows every example once. Process p of P takes the
    p-th of P equal runs of a batch's rows, so that the global batch is the same, row by row, for
    any P. The iterator's state (`get_state`, `set_state`) is the number of batches taken, whatever
    was read ahead: exact, and the same for any P.

    Args:
      source: prepared images.
      batch_size: examples a batch, over all processes.
      seed: of the order; 0 or more.
      process_index, process_count: which share.
      epochs: how many; None for no end. What does not fill a last batch is left out.
      place: puts a batch on the devices; a thread of its own does so `PLACED_AHEAD` batches
        ahead. None hands out NumPy arrays.

    Returns:
      Iterator of `{"image": uint8[b, height, width, channels], "label": int32[b],
      "index": int32[b]}` with b = batch_size / process_count; `label` and `index` as in
      `PreparedSource.batch`. Its `close` ends the threads.

    Raises:
      DataError: no images, a bad number, or a batch that does not divide among the processes.
    """
    batches = _train_batches(
        source.batch, len(source), batch_size, seed, process_index, process_count, epochs
    )
    return _read_ahead(batches, place)


def position_iterator(
    count: int,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    epochs: int | None = None,
) -> grain.DatasetIterator:
    """The same order as `train_iterator`, as places in the split instead of examples.

    Args:
      count: examples of the split.
      batch_size, seed, process_index, process_count, epochs: as of `train_iterator`.

    Returns:
      Iterator of `{"position": int32[batch_size / process_count]}`, each 0 to count - 1; its
      states are those of `train_iterator`.

    Raises:
      DataError: as of `train_iterator`.
    """
    return _read_ahead(
        _train_batches(_as_positions, count, batch_size, seed, process_index, process_count, epochs)
    )


def _as_positions(positions: np.ndarray) -> Batch:
    return {"position": positions.astype(np.int32)}


def _train_batches(
    read: Callable[[np.ndarray], Batch],
    count: int,
    batch_size: int,
    seed: int,
    process_index: int,
    process_count: int,
    epochs: int | None,
) -> _TrainBatches:
    """Checked batches of one process's share."""
    if not count:
        raise DataError("there are no training images; lower validation_fraction")
    if batch_size < 1 or batch_size % process_count:
        raise DataError(f"batch_size {batch_size} does not divide among {process_count} processes")
    if not 0 <= process_index < process_count:
        raise DataError(f"process_index is {process_index}; expected 0 to {process_count - 1}")
    if seed < 0:
        raise DataError(f"seed is {seed}; expected 0 or more")
    if epochs is not None and count * epochs < batch_size:
        raise DataError(f"{epochs} epochs of {count} images do not fill one batch of {batch_size}")
    rows = batch_size // process_count
    share = slice(process_index * rows, (process_index + 1) * rows)
    return _TrainBatches(read, count, batch_size, seed, epochs, share)


def batch_of_step(source: PreparedSource, batch_size: int, seed: int, step: int) -> Batch:
    """What the processes of a run together read at a step, counted from 1; see `train_iterator`."""
    batches = _train_batches(source.batch, len(source), batch_size, seed, 0, 1, None)
    return batches[step - 1]


class _EvalBatches:
    """Random access to the batches of an evaluation, all of one shape."""

    def __init__(self, source: PreparedSource, size: int) -> None:
        self._source = source
        self._size = size

    def __len__(self) -> int:
        return math.ceil(len(self._source) / self._size)

    def __getitem__(self, step: int) -> Batch:
        position = np.arange(step * self._size, (step + 1) * self._size)
        real = position < len(self._source)
        batch = self._source.batch(np.where(real, position, 0))
        return {**batch, "weight": real.astype(np.float32)}

    def __repr__(self) -> str:
        return f"_EvalBatches({self._source.source.name}, {self._size})"


def eval_batches(source: PreparedSource, batch_size: int) -> Iterator[Batch]:
    """Every image once, in order, in batches of one shape.

    Yields `{"image": uint8[b, height, width, channels], "label": int32[b], "index": int32[b],
    "weight": f32[b]}` with b = batch_size and `label` as in `PreparedSource.batch`; the last batch
    is filled up with examples of weight 0, so that weighted sums over all batches are exact.

    Raises:
      DataError: a batch_size below 1.
    """
    if batch_size < 1:
        raise DataError(f"batch_size is {batch_size}; expected at least 1")
    if not len(source):
        return iter(())
    return _read_ahead(_EvalBatches(source, batch_size))


def sampled_batches(
    source: PreparedSource, examples: int, batch_size: int, seed: int, multiple: int = 1
) -> Iterator[Batch]:
    """Full batches of about so many images, at least one, drawn by the seed without repeating any.

    Args:
      source: prepared images; a set may be stored class by class, so its first are no sample.
      examples: how many.
      batch_size: examples a batch; fewer where there are not as many.
      seed: of the draw.
      multiple: what a batch's size must divide by; images repeat where there are not as many.
    """
    size = max(min(batch_size, len(source)) // multiple, 1) * multiple
    count = max(min(examples, len(source)) // size, 1)
    order = np.resize(epoch_order(len(source), seed, epoch=0), count * size)
    return (source.batch(positions) for positions in order.reshape(count, size))


def _read_ahead(batches: Any, place: Callable[[Batch], Any] | None = None) -> grain.DatasetIterator:
    """Grain's iterator over random-access batches, read ahead by threads, and placed by one."""
    read = grain.MapDataset.source(batches).to_iter_dataset(_READ_OPTIONS)
    if place is None:
        return iter(read)
    return iter(ThreadPrefetchIterDataset(read.map(place), prefetch_buffer_size=PLACED_AHEAD))
