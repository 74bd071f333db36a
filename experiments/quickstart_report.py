"""What the quickstart writes for people: a table, a page and two charts."""

from pathlib import Path

from experiments.quickstart import Outcome
from pwl_jax.ladder import Composition


def table(outcome: Outcome) -> str:
    """The ladder, one line a rung."""
    width = max(len(rung.name) for rung in outcome.ladder.rungs)
    lines = [f"{'rung':<{width}}  {'top-1 %':>8}  {'KB so far':>9}  {'seconds':>8}"]
    for rung in outcome.ladder.rungs:
        seconds = outcome.climb.reached.get(rung.name)
        top1 = "" if rung.top1_test is None else f"{100 * rung.top1_test:.2f}"
        lines.append(
            f"{rung.name:<{width}}  {top1:>8}  {rung.cumulative_bytes / 1000:9.1f}  "
            f"{'' if seconds is None else format(seconds, '.2f'):>8}"
        )
    return "\n".join(lines)


def summary(outcome: Outcome) -> list[str]:
    """The promises of the demonstration, and whether they held."""
    climb = outcome.climb
    same = "yes" if outcome.last_rung_equals_teacher else "NO"
    falls = ", ".join(outcome.falls) or "none"
    return [
        f"last rung predicts exactly what the teacher predicts: {same} "
        f"(largest difference of a logit {outcome.last_rung_difference:.1e})",
        f"prefixes or rungs that fall by more than the standard error: {falls}",
        f"requests while climbing: {len(climb.answers) + len(climb.errors)} sent, "
        f"{len(climb.errors)} failed",
        "seconds: "
        + ", ".join(f"{name} {value:.1f}" for name, value in outcome.seconds.items())
        + f"; in all {sum(outcome.seconds.values()):.1f}",
        f"peak memory: {outcome.peak_bytes / 2**30:.2f} GiB",
    ]


def write(outcome: Outcome, output: Path) -> None:
    """Writes `report.md` and its charts."""
    compositions = "\n".join(
        f"| {row['composition']} | {100 * row['top1']:.2f} | {row['live_bytes']:,} |"
        for row in outcome.rows
    )
    facts = "\n".join(f"- {line}" for line in summary(outcome))
    (output / "report.md").write_text(
        f"""# Quickstart: {outcome.pair} on scikit-learn's digits

Measured on {outcome.examples} test images (8x8 greyscale, enlarged), one seed. Order and rungs were
chosen on the validation split. The link was limited to {outcome.climb.bytes_per_second / 1000:.1f}
KB/s.

```
{table(outcome)}
```

{facts}

![accuracy by rung and by bytes](accuracy.png)

![accuracy over time](climb.png)

## Every composition, exact weights

| composition | top-1 % | live bytes |
|---|---|---|
{compositions}
"""
    )
    _charts(outcome, output)


def _charts(outcome: Outcome, output: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rungs = outcome.ladder.rungs
    accuracy = [100 * (rung.top1_test or 0) for rung in rungs]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    left.bar([rung.name for rung in rungs], accuracy, color="#4477aa")
    left.axhline(100 * outcome.teacher_top1, color="#aa3377", linestyle="--", label="teacher")
    left.set_ylim(max(min(accuracy) - 5, 0), 101)
    left.tick_params(axis="x", rotation=60)
    left.set_ylabel("top-1 %, test")
    left.legend(loc="upper left")
    right.step([rung.cumulative_bytes / 1000 for rung in rungs], accuracy, where="post", marker="o")
    prefixes = [r for r in outcome.rows if Composition.parse(r["composition"]).is_prefix]
    right.plot(
        [r["live_bytes"] / 1000 for r in prefixes],
        [100 * r["top1"] for r in prefixes],
        "x",
        label="exact prefixes, by bytes of live weights",
    )
    right.set_xlabel("KB fetched (manifest and programs included)")
    right.set_ylabel("top-1 %, test")
    right.legend(loc="lower right")
    figure.savefig(output / "accuracy.png", dpi=110)
    pyplot.close(figure)

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    answers = outcome.climb.answers
    axes.plot([a.seconds for a in answers], [100 * a.top1 for a in answers], ".", markersize=3)
    for name, seconds in outcome.climb.reached.items():
        axes.axvline(seconds, color="grey", linewidth=0.5)
        axes.annotate(name, (seconds, axes.get_ylim()[0]), rotation=90, fontsize=7)
    axes.set_xlabel("seconds since opening")
    axes.set_ylabel("top-1 % of the answers")
    figure.savefig(output / "climb.png", dpi=110)
    pyplot.close(figure)
