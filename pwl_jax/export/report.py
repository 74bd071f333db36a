"""A ladder as text."""

from pwl_jax.ladder import Ladder


def ladder_table(ladder: Ladder) -> str:
    """One line a rung: accuracies in %, new bytes, bytes in all with programs and manifest.

    Accuracy is top-1 or, of multi-label sets, mean average precision.
    """
    width = max(max((len(rung.name) for rung in ladder.rungs), default=0), 4)
    lines = [
        f"{'rung':<{width}} {'validation %':>13} {'test %':>8} {'new KB':>9} {'in all KB':>10}"
    ]
    lines += [
        f"{rung.name:<{width}} {_percent(rung.score):>13} {_percent(rung.score_test):>8} "
        f"{rung.shard_bytes / 1000:9.1f} {rung.cumulative_bytes / 1000:10.1f}"
        for rung in ladder.rungs
    ]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.2f}"
