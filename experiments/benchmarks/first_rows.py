"""Rows, attribution and charts of first_inference, from the seconds that were measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.benchmarks.first_case import BITS
from experiments.results_file import Row

Seconds = Mapping[str, Sequence[float]]
Target = tuple[str, str, str | None]
"""Two columns, and what the first may take of the second's time."""

ANSWERING_NOTE = "student exact, verification included"
_CODED = f"student in {BITS} bits"
ATTRIBUTION = {
    "onnxruntime": (
        ("framework: PyTorch to ONNX Runtime", "PyTorch, teacher", "ONNX Runtime, teacher"),
        (
            "a verified bundle of block programs instead of one model",
            "ONNX Runtime, teacher",
            "ours, onnxruntime, teacher",
        ),
        (
            "depth: the student first",
            "ours, onnxruntime, teacher",
            "ours, onnxruntime, student",
        ),
        (
            f"precision: {BITS} bits first",
            "ours, onnxruntime, student",
            f"ours, onnxruntime, {_CODED}",
        ),
    ),
    "jax": (
        ("framework: PyTorch to JAX with jit", "PyTorch, teacher", "JAX jit, teacher"),
        (
            "a verified bundle with programs compiled ahead of time",
            "JAX jit, teacher",
            "ours, jax, teacher",
        ),
        ("depth: the student first", "ours, jax, teacher", "ours, jax, student"),
        (f"precision: {BITS} bits first", "ours, jax, student", f"ours, jax, {_CODED}"),
    ),
}
"""One thing at a time, from PyTorch's teacher to our first rung: what changes, before, after."""


def ratios(seconds: Seconds, ours: str, other: str) -> tuple[float, ...]:
    """Ours by the other's, round by round; nothing where one was not measured."""
    if ours not in seconds or other not in seconds:
        return ()
    return tuple(a / b for a, b in zip(seconds[ours], seconds[other], strict=True))


def start_rows(pair: str, seconds: Seconds) -> list[Row]:
    """Start to first logits in a process of its own, and the issue's targets."""
    case = f"{pair}, start of the process to its first logits"
    rows = [Row(case, name, "s", tuple(samples)) for name, samples in seconds.items()]
    family = pair.partition("_")[0]
    edge, live = "ours, onnxruntime, student", "ours, jax, student"
    targets: list[Target] = [
        (edge, "ONNX Runtime, student", "<= 1.15" if family in ("resnet", "vit") else None),
        (edge, "baseline, teacher", "<= 0.06" if family in ("resnet", "vit") else None),
        (live, "PyTorch, teacher", "<= 0.6"),
        (edge, "ONNX Runtime, teacher", "<= 0.1667" if pair == "vit_l16_narrow" else None),
        (edge, "ONNX Runtime, student, optimized", None),
        (edge, "ONNX Runtime, student, int8", None),
        (edge, "ONNX Runtime, MobileNetV2, int8", None),
    ]
    return rows + _ratio_rows(case, seconds, targets, ANSWERING_NOTE)


def attribution_rows(pair: str, seconds: Seconds) -> list[Row]:
    """By how much each thing shortens the first answer, one at a time."""
    rows = []
    for executor, changes in ATTRIBUTION.items():
        case = f"{pair}, what makes the first answer of executor {executor} early"
        for change, before, after in changes:
            if factors := ratios(seconds, before, after):
                rows.append(Row(case, change, "times", factors))
        first = f"ours, {executor}, {_CODED}"
        last = first if first in seconds else f"ours, {executor}, student"
        if factors := ratios(seconds, "PyTorch, teacher", last):
            rows.append(Row(case, "all of it", "times", factors))
    return rows


def running_rows(pair: str, found: Mapping[str, Seconds]) -> list[Row]:
    """What `first_running` measured, and the issue's targets."""
    rows: list[Row] = []
    case = f"{pair}, a model switch in a running process, student"
    rows += [Row(case, name, "s", tuple(samples)) for name, samples in found["switch"].items()]
    bare = "ONNX Runtime"
    targets: list[Target] = [
        ("ours, jax", bare, "<= 1.2"),
        ("ours, jax, executables from disk", bare, None),
        ("ours, onnxruntime", bare, None),
    ]
    rows += _ratio_rows(case, found["switch"], targets, "")
    case = f"{pair}, from one rung's answer to the next one's"
    rows += [Row(case, f"ours, {k}", "s", tuple(v)) for k, v in found["swap"].items()]
    case = f"{pair}, a request of one image"
    rows += [Row(case, name, "s", tuple(samples)) for name, samples in found["request"].items()]
    judged = pair.partition("_")[0] in ("resnet", "vit")
    targets = [
        ("ours, onnxruntime, student", "ONNX Runtime, student", "<= 1.02"),
        ("ours, jax, student", "the executor jax, student", "<= 1.02"),
        ("ours, jax, student", "JAX jit, student", None),
        ("ours, jax, teacher", "JAX jit, teacher", "<= 1.10" if judged else None),
        ("ours, onnxruntime, teacher", "ONNX Runtime, teacher", None),
        ("ours, onnxruntime, student", "ONNX Runtime, student, default options", None),
    ]
    return rows + _ratio_rows(case, found["request"], targets, "")


def write_chart(path: Path, pair: str, seconds: Seconds) -> None:
    """Start to first logits by column, medians with the least and the greatest, on a log scale."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [Row(pair, name, "s", tuple(samples)) for name, samples in seconds.items()]
    rows.sort(key=lambda row: -row.median)
    figure, axes = pyplot.subplots(figsize=(9, 0.32 * len(rows) + 1.2), layout="constrained")
    low = [row.median - min(row.samples) for row in rows]
    high = [max(row.samples) - row.median for row in rows]
    axes.barh(
        [row.metric for row in rows],
        [row.median for row in rows],
        xerr=(low, high),
        color=["#4477aa" if row.metric.startswith("ours") else "#bbbbbb" for row in rows],
    )
    axes.set_xscale("log")
    axes.set_xlabel("seconds from the process's start to its first logits")
    axes.set_title(pair)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _ratio_rows(case: str, seconds: Seconds, targets: Sequence[Target], note: str) -> list[Row]:
    rows = []
    for ours, other, target in targets:
        if samples := ratios(seconds, ours, other):
            rows.append(Row(case, f"{ours} / {other}", "", samples, target, note))
    return rows
