"""What sorting residuals by their codes is worth: entropies, by how finely codes are told apart.

  python -m experiments.benchmarks.residual_classes

Weights are drawn: normal or Student's t of 4 degrees of freedom, times log-normal scales (0.3) of
rows and columns, 4608 x 256, in bfloat16, whose base has 4 bits. Printed, and written to
experiments/results/residual_classes/: bits a weight of base and update together, by order-0
entropies, over those of the exponent plus the raw rest, which is what ZipNN approaches.
"""

import ml_dtypes
import numpy as np

from experiments.results_file import Row, table, write_results
from launch import cli
from pwl_jax.precision.base_code import slice_codes
from pwl_jax.precision.dtypes import patterns_of
from pwl_jax.precision.quantizer import Quantization, quantize
from pwl_jax.precision.residual import top_words

_ROWS, _COLUMNS = 4608, 256


def main() -> None:
    """Runs the command."""
    rows = []
    for name, weights in drawn().items():
        for group in (64, 128, _ROWS):
            case = f"{name}, a scale for {'a channel' if group == _ROWS else group}"
            for classes, ratio in ratios(weights, group).items():
                rows.append(Row(case, classes, "of the floor", (ratio,)))
    print("\n".join(table(rows)))
    print(f"results: {write_results('residual_classes', 'drawn', rows)}")


def drawn() -> dict[str, np.ndarray]:
    """Weights as bfloat16, [4608, 256], by distribution."""
    rng = np.random.default_rng(0)
    shape = (_ROWS, _COLUMNS)
    scales = np.exp(rng.normal(0, 0.3, (1, _COLUMNS)) + rng.normal(0, 0.3, (_ROWS, 1)))
    values = {"normal": rng.standard_normal(shape), "Student's t": rng.standard_t(4, shape)}
    return {name: (0.02 * v * scales).astype(ml_dtypes.bfloat16) for name, v in values.items()}


def ratios(weights: np.ndarray, group: int) -> dict[str, float]:
    """Bits of base and update over the floor, by the classes that share statistics."""
    coded = quantize(weights, 4, Quantization(group_size=group))
    codes = slice_codes(coded, slice(0, weights.size))
    patterns = patterns_of(weights)
    differences = patterns - top_words(codes.edges(), "bfloat16")
    magnitudes = np.abs(codes.codes)
    digits = np.frexp(magnitudes.astype(np.float32))[1]
    told_apart = {
        "all codes alike": np.zeros_like(digits),
        "zero and others": np.minimum(digits, 1),
        "binary digits, 0 to 2 or more": np.minimum(digits, 2),
        "binary digits, 0 to 3 or more": np.minimum(digits, 3),
        "every magnitude (used)": magnitudes,
    }
    base = entropy(codes.codes) + entropy(coded.scales) * coded.scales.size / weights.size
    floor = entropy(patterns >> 7 & 0xFF) + 8
    return {name: (base + within(differences, by)) / floor for name, by in told_apart.items()}


def within(values: np.ndarray, classes: np.ndarray) -> float:
    """Order-0 entropy of the low byte by class, and of the high one, in bits a value."""
    bits = 0.0
    for index in np.unique(classes):
        members = values[classes == index]
        share = members.size / values.size
        bits += share * (entropy(members & 0xFF) + entropy(members >> 8))
    return bits


def entropy(values: np.ndarray) -> float:
    """Order-0 entropy in bits a value."""
    counts = np.unique(values, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


if __name__ == "__main__":
    cli.run(main)
