"""Bytes and error of our 4-bit base beside those of qwix and torchao, where they are at hand."""

import warnings
from collections.abc import Iterator

import numpy as np

from experiments.benchmarks.precision_cases import Case
from experiments.benchmarks.rivals import Rivals
from experiments.results_file import Row
from pwl_jax.precision import Quantization, decode_tensor, encode_tensor, quantizable

_GROUP = 64
OURS, QWIX, TORCHAO = "4-bit base: ours", "4-bit base: qwix", "4-bit base: torchao"


class _Sum:
    """Bytes, squared error and squared values of some matrices."""

    def __init__(self) -> None:
        self.bytes = self.values = 0
        self.error = self.square = 0.0

    def add(self, size: int, error: float, matrix: np.ndarray) -> None:
        self.bytes += size
        self.values += matrix.size
        self.error += error
        self.square += float(np.square(matrix, dtype=np.float64).sum())


def rows(case: Case, rivals: Rivals | None) -> Iterator[Row]:
    """Bits a weight and relative error (root of squared error over squared values), f32.

    All on the sampled matrices whose rows are a multiple of 64, which torchao needs; groups of 64
    along the rows for all three (ours has 128 by default). The others' codes count four bits each.
    """
    sums: dict[str, _Sum] = {}
    missing = {}
    for _, array in case.sample():
        rows_ = array.size // array.shape[-1] if array.ndim >= 2 else 0
        if not quantizable(array) or not rows_ or rows_ % _GROUP:
            continue
        matrix = np.ascontiguousarray(array.reshape(-1, array.shape[-1]))
        payloads = encode_tensor(matrix, (4,), quantization=Quantization(group_size=_GROUP))
        size = sum(len(payload.data) for payload in payloads)
        error = _squared_error(decode_tensor(payloads), matrix)
        sums.setdefault(OURS, _Sum()).add(size, error, matrix)
        try:
            sums.setdefault(QWIX, _Sum()).add(*_qwix(matrix), matrix)
        except ImportError as failure:
            sums.pop(QWIX)
            missing[QWIX] = str(failure)
        answer = rivals.torchao(matrix, _GROUP) if rivals else None
        if answer is not None:
            found = sums.setdefault(TORCHAO, _Sum())
            found.add(answer["bytes"], answer["squared_error"], matrix)
    if not sums:
        return
    if TORCHAO not in sums:
        missing[TORCHAO] = rivals.missing["torchao"] if rivals else "no interpreter for it given"
    name = f"{case.name}, float32"
    for method, total in sums.items():
        note = f"{total.values:,} weights"
        yield Row(name, method, "bits a weight", (8 * total.bytes / total.values,), None, note)
        error = (total.error / total.square) ** 0.5 if total.square else 0.0
        yield Row(name, f"{method}, error", "of the weights", (error,))
    for method, why in missing.items():
        yield Row(name, f"{method}, run", "", (0,), None, why)


def _qwix(matrix: np.ndarray) -> tuple[int, float]:
    """Bytes and squared error of qwix's int4 weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import qwix

        coded = qwix.quantize(
            matrix,
            "int4",
            channelwise_axes=(1,),
            tiled_axes={0: _GROUP},
            calibration_method="absmax",
        )
        values = np.asarray(qwix.dequantize(coded))
    return matrix.size // 2 + coded.scale.nbytes, _squared_error(values, matrix)


def _squared_error(values: np.ndarray, matrix: np.ndarray) -> float:
    return float(np.square(values - matrix, dtype=np.float64).sum())
