"""A ladder as text."""

from pwl_jax.ladder.ladder import Ladder


def ladder_table(ladder: Ladder) -> str:
    """One line a rung: accuracies in %, new bytes, bytes in all with programs and manifest.

    Accuracy is top-1 or, of multi-label sets, mean average precision.
    """
    if not ladder.rungs:
        return "no ladder: this bundle only holds tensors"
    width = max(max(len(rung.name) for rung in ladder.rungs), 4)
    multi_label = any(
        found is not None
        for rung in ladder.rungs
        for found in (rung.mean_average_precision, rung.mean_average_precision_test)
    )
    metric = "mAP %" if multi_label else "top-1 %"
    lines = [
        f"{'rung':<{width}} {'validation ' + metric:>18} {'test ' + metric:>12} "
        f"{'new bytes':>13} {'bytes so far':>13}"
    ]
    lines += [
        f"{rung.name:<{width}} {_percent(rung.score):>18} {_percent(rung.score_test):>12} "
        f"{rung.shard_bytes:13,} {rung.cumulative_bytes:13,}"
        for rung in ladder.rungs
    ]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.2f}"
