"""How many bytes each way of sending a model takes, over all its tensors."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import zstandard

from experiments.benchmarks.precision_cases import Case, typed
from experiments.benchmarks.rivals import Rivals
from experiments.results_file import Row
from pwl_jax.ladder import EXACT, Bits
from pwl_jax.precision import (
    StagePayload,
    base_code,
    canonical_json,
    codec,
    decode_tensor,
    dtypes,
    encode_frame,
    encode_tensor,
    planes,
    quantizable,
    quantizer,
    residual,
)
from pwl_jax.precision.quantizer import Quantization

RAW = "raw"
ZSTD = "zstd-19 on byte planes"
ZIPNN = "ZipNN"
NAIVE = "4 bit + raw float update"
EXPONENTS = "entropy of exponents, rest raw"
PLANES = "entropy of all planes"
BASE = "ours: 4 bit"
TWO = "ours: 4 bit + exact"
DATA = "ours: 4 bit + exact, no headers"
THREE = "ours: 4 + 8 bit + exact"
ALONE = "ours: exact alone"
ARITHMETIC = "4 bit + exact, arithmetic coder"
METHODS = (
    RAW, ZSTD, ZIPNN, NAIVE, EXPONENTS, PLANES, BASE, TWO, DATA, THREE, ALONE, ARITHMETIC,
)  # fmt: skip

ARITHMETIC_DECODE = "symbols by arithmetic coder"
ZSTD_DECODE = "the same parts by zstd"

STAGES: tuple[Bits, ...] = (4, EXACT)
_JOINED = 32 << 20
"""ZipNN gets a model's tensors joined, so many bytes at a time."""


@dataclasses.dataclass
class Total:
    """Bytes a method took, beside those of the tensors it was run on."""

    coded: float = 0
    raw: int = 0

    def add(self, coded: float, raw: int) -> None:
        """Counts some more."""
        self.coded += coded
        self.raw += raw

    @property
    def share(self) -> float:
        """Of the original."""
        return self.coded / self.raw


@dataclasses.dataclass
class Sizes:
    """What the methods take for one case in one type.

    Attributes:
      dtype: the type.
      totals: by method; `sampled` ones are of fewer tensors.
      sampled: of the tensors that slow methods are run on, ours again.
      seconds: of decoding, by what was decoded, with the original's bytes.
      tensors, restored: how many there are, and how many came back to the bit.
      headers: by method and stage, those of the payloads counted so far.
    """

    dtype: str
    totals: dict[str, Total] = dataclasses.field(default_factory=dict)
    sampled: dict[str, Total] = dataclasses.field(default_factory=dict)
    seconds: dict[str, Total] = dataclasses.field(default_factory=dict)
    tensors: int = 0
    restored: int = 0
    headers: dict[tuple[str, Bits], list[dict[str, Any]]] = dataclasses.field(default_factory=dict)

    def add_payloads(
        self, method: str, name: str, payloads: Sequence[StagePayload], raw: int
    ) -> None:
        """Counts payloads without their headers, which `add_headers` counts together."""
        self.add(method, sum(len(payload.data) for payload in payloads), raw)
        for payload in payloads:
            kept = self.headers.setdefault((method, payload.stage), [])
            kept.append({"name": name, **payload.header})

    def add_headers(self) -> None:
        """Counts the headers of what was added, as those of one shard a stage."""
        for (method, stage), tensors in self.headers.items():
            ordered = sorted(tensors, key=lambda header: header["name"])
            header = {"unit": "teacher/0", "stage": str(stage), "tensors": ordered}
            self.add(method, len(encode_frame(canonical_json(header))), 0)
        self.headers.clear()

    def add(self, method: str, coded: float, raw: int) -> None:
        """Counts some bytes."""
        self.totals.setdefault(method, Total()).add(coded, raw)


def stored_bytes(name: str, payloads: Sequence[StagePayload]) -> int:
    """Bytes of payloads and of their headers, each compressed as the header of a shard is.

    A shard compresses those of all its tensors together, which takes fewer bytes.
    """
    return sum(
        len(encode_frame(canonical_json({"name": name, **payload.header}))) + len(payload.data)
        for payload in payloads
    )


def byte_planes(array: np.ndarray) -> list[bytes]:
    """The bytes of all elements, lowest first: one string each."""
    return [plane.tobytes() for plane in planes.columns(dtypes.patterns_of(array)).T]


def measure(case: Case, rivals: Rivals | None) -> dict[str, Sizes]:
    """All methods on all tensors of a case, by type; holds few tensors at a time."""
    found = {dtype: Sizes(dtype) for dtype in case.dtypes}
    waiting: dict[str, list[np.ndarray]] = {dtype: [] for dtype in case.dtypes}
    for name, array in case.tensors():
        slow = case.is_sampled(name)
        for dtype, sizes in found.items():
            here = typed(array, dtype)
            _measure_ours(name, here, sizes, slow)
            if slow:
                _measure_slow(name, here, sizes, rivals)
            waiting[dtype].append(here)
            if sum(part.nbytes for part in waiting[dtype]) >= _JOINED:
                _measure_zipnn(waiting[dtype], sizes, rivals)
    for dtype, sizes in found.items():
        _measure_zipnn(waiting[dtype], sizes, rivals)
        sizes.add_headers()
    return found


def _measure_ours(name: str, array: np.ndarray, sizes: Sizes, slow: bool) -> None:
    payloads = encode_tensor(array, STAGES)
    raw = array.nbytes
    sizes.add(RAW, raw, raw)
    sizes.add_payloads(BASE, name, payloads[:1], raw)
    sizes.add_payloads(TWO, name, payloads, raw)
    sizes.add(DATA, sum(len(payload.data) for payload in payloads), raw)
    sizes.add_payloads(NAIVE, name, payloads[:1], raw)
    sizes.add(NAIVE, raw if len(payloads) > 1 else 0, 0)
    if slow:
        sizes.sampled.setdefault(TWO, Total()).add(stored_bytes(name, payloads), raw)
    sizes.tensors += 1
    restored = decode_tensor(payloads)
    sizes.restored += bool(
        np.array_equal(dtypes.patterns_of(restored), dtypes.patterns_of(array))
        and restored.shape == array.shape
        and restored.dtype == array.dtype
    )


def _measure_slow(name: str, array: np.ndarray, sizes: Sizes, rivals: Rivals | None) -> None:
    raw = array.nbytes
    sizes.add_payloads(THREE, name, encode_tensor(array, (4, 8, EXACT)), raw)
    sizes.add_payloads(ALONE, name, encode_tensor(array, (EXACT,)), raw)
    coder = zstandard.ZstdCompressor(level=19)
    sizes.add(ZSTD, sum(len(coder.compress(plane)) for plane in byte_planes(array)), raw)
    turned = planes.columns(planes.exponent_first(dtypes.patterns_of(array))).T
    entropies = [_entropy_bytes(plane) for plane in turned]
    sizes.add(EXPONENTS, entropies[-1] + array.size * (array.itemsize - 1), raw)
    sizes.add(PLANES, sum(entropies), raw)
    if rivals is not None and quantizable(array):
        _measure_arithmetic(name, array, sizes, rivals)


def _entropy_bytes(plane: np.ndarray) -> float:
    """Order-0 entropy of all bytes of a plane, or other symbols, in bytes."""
    counts = np.bincount(plane)
    shares = counts[counts > 0] / plane.size
    return float(-plane.size * (shares * np.log2(shares)).sum() / 8)


def _measure_zipnn(arrays: list[np.ndarray], sizes: Sizes, rivals: Rivals | None) -> None:
    """Empties `arrays`."""
    if arrays and rivals is not None:
        data = [dtypes.patterns_of(array).view(np.uint8).data for array in arrays]
        answer = rivals.zipnn(data, sizes.dtype)
        if answer is not None:
            raw = sum(map(len, data))
            sizes.add(ZIPNN, answer["bytes"], raw)
    arrays.clear()


def _measure_arithmetic(name: str, array: np.ndarray, sizes: Sizes, rivals: Rivals) -> None:
    """The arithmetic coder on what zstd is given: codes, and residuals by class."""
    payloads = encode_tensor(array, STAGES)
    symbols, rest = _symbols(array)
    answer = rivals.arithmetic(symbols)
    if answer is None:
        return
    raw = array.nbytes
    # All but the symbols' own parts costs the same: headers, scales, and what is noise.
    scales = sum(size for _, size in payloads[0].header["parts"][:2])
    headers = stored_bytes(name, payloads) - sum(len(payload.data) for payload in payloads)
    coded = answer["bytes"] + rest + scales + headers
    sizes.add(ARITHMETIC, coded, raw)
    sizes.sampled.setdefault(ARITHMETIC, Total()).add(stored_bytes(name, payloads), raw)
    sizes.seconds.setdefault(ARITHMETIC_DECODE, Total()).add(answer["decode_seconds"], raw)
    spent = min(_decode_parts_seconds(payloads) for _ in range(3))
    sizes.seconds.setdefault(ZSTD_DECODE, Total()).add(spent, raw)


def _symbols(array: np.ndarray) -> tuple[list[np.ndarray], int]:
    """Groups of u16 symbols, and bytes of what is below the top words.

    Each slice gives the codes, the residuals' top words class by class, and low nibbles. A class
    is coded with all 16 bits together, or without their low nibbles, whichever its order-0
    entropy and the size of its model favour.
    """
    coded = quantizer.quantize(array, 4, Quantization())
    patterns = dtypes.patterns_of(array)
    groups: list[np.ndarray] = []
    for here in planes.slices(array.size):
        codes = base_code.slice_codes(coded, here)
        edges = residual.top_words(codes.edges(), dtypes.dtype_name(array))
        tops = (patterns[here] >> (8 * (patterns.itemsize - 2))).astype("<u2")
        differences = tops - edges
        groups.append(coded.stored[here].astype(np.uint16))
        classes = codes.classes()
        for index in np.unique(classes):
            whole = differences[classes == index]
            parts = [whole >> 4, whole & 15]
            groups += min([whole], parts, key=lambda ways: sum(map(_modelled_bytes, ways)))
    return groups, array.size * (array.itemsize - 2)


def _modelled_bytes(symbols: np.ndarray) -> float:
    """Order-0 entropy of symbols and a static model of four bytes a symbol that occurs."""
    counts = np.bincount(symbols)
    return _entropy_bytes(symbols) + 4 * np.count_nonzero(counts)


def _decode_parts_seconds(payloads: Sequence[StagePayload]) -> float:
    """Seconds of zstd alone on all parts of payloads."""
    parts: list[tuple[str, memoryview, int]] = []
    for payload in payloads:
        view, start = memoryview(payload.data), 0
        for name, stored in payload.header["parts"]:
            data = view[start : start + stored]
            size = stored if name == "raw" else zstandard.frame_content_size(data)
            parts.append((name, data, size))
            start += stored
    begin = time.perf_counter()
    for name, data, size in parts:
        codec.decode(name, data, size)
    return time.perf_counter() - begin


def rows(case: Case, found: dict[str, Sizes], rivals: Rivals | None) -> Iterator[Row]:
    """The sizes as rows, shares of the original in the same type."""
    for dtype, sizes in found.items():
        name = f"{case.name}, {dtype}"
        raw = sizes.totals[RAW].raw
        for method in METHODS:
            total = sizes.totals.get(method)
            if total is None:
                continue
            partly = f"on {total.raw:,} of {raw:,} bytes" if total.raw != raw else ""
            target = "<= 0.135" if method == BASE and dtype == "float32" else None
            if method == RAW:
                yield Row(name, "original", "bytes", (raw,))
                continue
            yield Row(name, method, "of original", (total.share,), target, partly)
        if ZIPNN in sizes.totals:
            ratio = sizes.totals[TWO].coded / sizes.totals[ZIPNN].coded
            yield Row(name, f"{TWO}, against ZipNN", "x", (ratio,), "<= 1.02")
            ratio = sizes.totals[DATA].coded / sizes.totals[ZIPNN].coded
            yield Row(name, f"{DATA}, against ZipNN", "x", (ratio,))
        else:
            why = "no interpreter for it given" if rivals is None else rivals.missing["zipnn"]
            yield Row(name, "ZipNN was run", "", (0,), "== 1", why)
        ratio = sizes.sampled[TWO].coded / sizes.totals[ZSTD].coded
        yield Row(name, f"{TWO}, against zstd-19", "x", (ratio,))
        if ARITHMETIC in sizes.totals:
            ratio = sizes.totals[ARITHMETIC].coded / sizes.sampled[ARITHMETIC].coded
            yield Row(
                name, "arithmetic coder against ours", "x", (ratio,), None, "quantized tensors"
            )
            for what, total in sizes.seconds.items():
                yield Row(
                    name,
                    what,
                    "MB/s decoded",
                    (total.raw / total.coded / 1e6,),
                    None,
                    "of original",
                )
        yield Row(
            name,
            f"{TWO}: restored to the bit",
            "of tensors",
            (sizes.restored / sizes.tensors,),
            "== 1",
        )
