"""The rounds as a table, as sentences, and as rows of a results file."""

from collections.abc import Mapping, Sequence

from experiments.federated.server import Round
from experiments.results_file import Row

Rounds = Mapping[str, Sequence[Round]]

_METRICS = (
    ("start_bytes", "down to a client until it can start", "bytes"),
    ("down_bytes", "down to a client", "bytes"),
    ("up_bytes", "up from a client", "bytes"),
    ("delta_bytes", "an exact delta from the round before instead", "bytes"),
    ("base_top1", "top-1 of the base, test split", "share"),
    ("top1", "top-1 of the average, test split", "share"),
    ("seconds", "exchange and local training", "seconds"),
)


def table(rounds: Rounds) -> str:
    """One line a round of each variant; bytes are the mean over its clients."""
    lines = [
        "variant    round  start KB   down KB     up KB  base %   top-1 %  seconds",
        "---------  -----  --------  --------  --------  ------  --------  -------",
    ]
    for name, found in rounds.items():
        for one in found:
            base = "" if one.base_top1 is None else f"{100 * one.base_top1:.2f}"
            # Packed by ZipNN the exchange was not timed.
            seconds = "" if name == "zipnn" else f"{one.seconds:.1f}"
            lines.append(
                f"{name:<9}  {one.number:>5}  {one.start_bytes / 1000:8.1f}  "
                f"{one.down_bytes / 1000:8.1f}  {one.up_bytes / 1000:8.1f}  {base:>6}  "
                f"{100 * one.top1:8.2f}  {seconds:>7}"
            )
    return "\n".join(lines)


def summary(rounds: Rounds) -> list[str]:
    """What the comparison says, over all rounds."""
    lines = []
    progressive = {name: found for name, found in rounds.items() if name.startswith("p2u")}
    every = [one for found in progressive.values() for one in found]
    if every:
        exact = "yes" if all(one.exact for one in every) else "NO"
        lines.append(f"every client had the server's weights to the bit after the update: {exact}")
        waited, asked = sum(one.waited for one in every), sum(one.clients for one in every)
        lines.append(f"updates awaited after the steps on the base: {waited} of {asked}")
        deltas = [one.delta_bytes for one in every if one.delta_bytes is not None]
        if deltas:
            mean = sum(deltas) / len(deltas) / 1000
            lines.append(f"an exact delta from the round before, with no base: {mean:.1f} KB")
    for name, low in progressive.items():
        for other in ("fp32", "zipnn"):
            if other in rounds:
                lines.append(f"{name} to {other}: {_compared(low, rounds[other])}")
    if every:
        lines.append("up, the variants of p2u are lossy and the others are not")
    return lines


def _compared(low: Sequence[Round], full: Sequence[Round]) -> str:
    parts = ", ".join(
        f"{what} {_total(low, field) / _total(full, field):.2f}x"
        for what, field in (
            ("until the start", "start_bytes"),
            ("down", "down_bytes"),
            ("up", "up_bytes"),
        )
    )
    both = _both_ways(low) / _both_ways(full)
    gap = 100 * (low[-1].top1 - full[-1].top1)
    return f"bytes {parts}, both ways {both:.2f}x; top-1 after the last round {gap:+.2f} points"


def rows(rounds: Rounds) -> list[Row]:
    """Every metric of every variant, a sample a round, and what p2u must reach."""
    found = []
    for name, of_variant in rounds.items():
        for field, metric, unit in _METRICS:
            samples = [getattr(one, field) for one in of_variant]
            samples = [float(value) for value in samples if value is not None]
            if samples and not (name == "zipnn" and field == "seconds"):
                found.append(Row(name, metric, unit, tuple(samples)))
    for name, low in rounds.items():
        if name.startswith("p2u"):
            share = sum(one.exact for one in low) / len(low)
            metric = "rounds exact to the bit at all clients"
            found.append(Row(name, metric, "share", (share,), "== 1"))
            if "fp32" in rounds:
                found += _judged(f"{name} to fp32", low, rounds["fp32"])
    return found


def _judged(case: str, low: Sequence[Round], full: Sequence[Round]) -> list[Row]:
    both = _both_ways(low) / _both_ways(full)
    start = _total(low, "start_bytes") / _total(full, "start_bytes")
    gap = 100 * (low[-1].top1 - full[-1].top1)
    return [
        Row(case, "bytes both ways", "ratio", (both,), "< 1"),
        Row(case, "bytes until start", "ratio", (start,), "<= 0.2"),
        Row(case, "top-1 after the last round", "points", (gap,), ">= -2"),
    ]


def _total(rounds: Sequence[Round], field: str) -> float:
    return sum(float(getattr(one, field)) for one in rounds)


def _both_ways(rounds: Sequence[Round]) -> float:
    return _total(rounds, "down_bytes") + _total(rounds, "up_bytes")
