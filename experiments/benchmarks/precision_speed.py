"""How fast one core codes and restores, beside zstandard alone, and in how much memory.

Seconds are those that the core works for this thread, so that a machine which others use too gives
much the same figures.
"""

import contextlib
import functools
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import zstandard

from experiments.benchmarks.precision_cases import Case, typed
from experiments.benchmarks.precision_methods import STAGES, byte_planes
from experiments.results_file import Row
from pwl_jax.precision import decode_tensor, encode_tensor

LEVELS = (19, 3)
_DECODED, _ENCODED = 16 << 20, 4 << 20
"""Bytes of f32 tensors that speeds are taken on: the largest tensors first; to encode, the largest
that are no larger themselves."""
_MEASURED = 8
"""Of the largest tensors, so many are restored under a count of memory."""
_LEAST_SECONDS = 0.05
"""A timing lasts at least so long; small models are gone through several times."""


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """This thread stays on one core meanwhile, where the system allows it; NumPy's loops and
    zstandard run in the thread that calls them.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    # The first core gets most of a system's own work.
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def rows(case: Case, repeats: int) -> Iterator[Row]:
    """Speeds, their ratios and peak memory on a case's largest tensors, in all its types."""
    largest, smaller = _largest(case, _DECODED), _largest(case, _ENCODED, _ENCODED)
    for dtype in case.dtypes:
        arrays = [typed(array, dtype) for array in largest]
        fewer = [typed(array, dtype) for array in smaller]
        with one_core():
            yield from _speeds(f"{case.name}, {dtype}", arrays, fewer, repeats)
            yield _memory(f"{case.name}, {dtype}", arrays)


def _speeds(
    name: str, arrays: list[np.ndarray], fewer: list[np.ndarray], repeats: int
) -> Iterator[Row]:
    planes = [plane for array in arrays for plane in byte_planes(array)]
    coded = {level: _compressed(planes, level) for level in LEVELS}
    payloads = [encode_tensor(array, STAGES) for array in arrays]
    few_planes = [plane for array in fewer for plane in byte_planes(array)]
    exact, base = "restore to exact", "base to float"
    encode, strong = "encode 4 bit + exact", "zstd-19 planes, compression"
    jobs: dict[str, Callable[[], object]] = {
        exact: lambda: [decode_tensor(here) for here in payloads],
        base: lambda: [decode_tensor(here[:1]) for here in payloads],
        **{_unzip(level): functools.partial(_decompressed, coded[level]) for level in LEVELS},
    }
    size, few_size = sum(a.nbytes for a in arrays), sum(a.nbytes for a in fewer)
    speed = _interleaved(jobs, repeats, size)
    encoding: dict[str, Callable[[], object]] = {
        encode: lambda: [encode_tensor(array, STAGES) for array in fewer],
        strong: lambda: _compressed(few_planes, LEVELS[0]),
    }
    speed |= _interleaved(encoding, repeats, few_size)
    for what, values in speed.items():
        of = few_size if what in encoding else size
        yield Row(name, what, "MB/s", values, None, f"{of:,} bytes of original")
    for what, against, target in (
        (exact, _unzip(19), ">= 0.2"),
        (exact, _unzip(3), ">= 0.2"),
        (base, _unzip(19), ">= 0.5"),
        (base, _unzip(3), ">= 0.5"),
        (encode, strong, ">= 5"),
    ):
        pairs = zip(speed[what], speed[against], strict=True)
        ratios = tuple(ours / theirs for ours, theirs in pairs)
        yield Row(name, f"{what}, against {against}", "x", ratios, target)


def _unzip(level: int) -> str:
    return f"zstd-{level} planes, decompression"


def _interleaved(
    jobs: dict[str, Callable[[], object]], repeats: int, size: int
) -> dict[str, tuple[float, ...]]:
    """MB/s of each job, one sample a round; all jobs run in every round."""
    rounds = {}
    for what, job in jobs.items():
        start = time.thread_time()
        job()
        rounds[what] = max(1, round(_LEAST_SECONDS / (time.thread_time() - start)))
    speeds: dict[str, list[float]] = {what: [] for what in jobs}
    for _ in range(repeats):
        for what, job in jobs.items():
            start = time.thread_time()
            for _ in range(rounds[what]):
                job()
            speeds[what].append(rounds[what] * size / 1e6 / (time.thread_time() - start))
    return {what: tuple(values) for what, values in speeds.items()}


def _memory(name: str, arrays: list[np.ndarray]) -> Row:
    """Peak of what Python and NumPy allocate while a tensor is restored, without the tensor."""
    ratios = []
    for array in arrays[:_MEASURED]:
        payloads = encode_tensor(array, STAGES)
        tracemalloc.start()
        try:
            restored = decode_tensor(payloads)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        ratios.append((peak - restored.nbytes) / array.nbytes)
    sizes = " to ".join(
        f"{size:,}" for size in sorted({arrays[len(ratios) - 1].nbytes, arrays[0].nbytes})
    )
    note = f"tensors of {sizes} bytes; payloads not counted"
    return Row(name, "extra memory while restoring", "x tensor", tuple(ratios), "<= 3", note)


def _compressed(planes: list[bytes], level: int) -> list[bytes]:
    coder = zstandard.ZstdCompressor(level=level)
    return [coder.compress(plane) for plane in planes]


def _decompressed(frames: list[bytes]) -> list[bytes]:
    decoder = zstandard.ZstdDecompressor()
    return [decoder.decompress(frame) for frame in frames]


def _largest(case: Case, size: int, most: int | None = None) -> list[np.ndarray]:
    """The largest of the sampled tensors, until they hold `size` bytes.

    Of those above `most` bytes each, only the smallest, and only where there are no others.
    """
    kept: list[np.ndarray] = []
    larger: np.ndarray | None = None
    for _, array in case.sample():
        if most is None or array.nbytes <= most:
            kept = _upto(sorted([*kept, array], key=lambda a: -a.nbytes), size)
        elif larger is None or array.nbytes < larger.nbytes:
            larger = array
    return kept if kept or larger is None else [larger]


def _upto(arrays: list[np.ndarray], size: int) -> list[np.ndarray]:
    kept, total = [], 0
    for array in arrays:
        if total < size:
            kept.append(array)
            total += array.nbytes
    return kept
