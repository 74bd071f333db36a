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
        "variant  round  start KB   down KB     up KB  base %   top-1 %  seconds",
        "-------  -----  --------  --------  --------  ------  --------  -------",
    ]
    for name, found in rounds.items():
        for one in found:
            base = "" if one.base_top1 is None else f"{100 * one.base_top1:.2f}"
            # Packed by ZipNN the exchange was not timed.
            seconds = "" if name == "zipnn" else f"{one.seconds:.1f}"
            lines.append(
                f"{name:<7}  {one.number:>5}  {one.start_bytes / 1000:8.1f}  "
                f"{one.down_bytes / 1000:8.1f}  {one.up_bytes / 1000:8.1f}  {base:>6}  "
                f"{100 * one.top1:8.2f}  {seconds:>7}"
            )
    return "\n".join(lines)


def summary(rounds: Rounds) -> list[str]:
    """What the comparison says, over all rounds."""
    lines = []
    p2u = rounds.get("p2u")
    if p2u:
        exact = "yes" if all(one.exact for one in p2u) else "NO"
        lines.append(f"every client had the server's weights to the bit after the update: {exact}")
        waited, asked = sum(one.waited for one in p2u), sum(one.clients for one in p2u)
        lines.append(f"updates awaited after the steps on the base: {waited} of {asked}")
        deltas = [one.delta_bytes for one in p2u if one.delta_bytes is not None]
        if deltas:
            lines.append(
                f"an exact delta from the round before: {sum(deltas) / len(deltas) / 1000:.1f} KB"
            )
    for name, found in rounds.items():
        if p2u and name != "p2u":
            parts = ", ".join(
                f"{what} {_total(p2u, field) / _total(found, field):.2f}x"
                for what, field in (
                    ("until the start", "start_bytes"),
                    ("down", "down_bytes"),
                    ("up", "up_bytes"),
                )
            )
            both = _both_ways(p2u) / _both_ways(found)
            gap = 100 * (p2u[-1].top1 - found[-1].top1)
            lines.append(
                f"bytes of p2u to {name}: {parts}, both ways {both:.2f}x; top-1 after the last "
                f"round {gap:+.2f} points"
            )
    return lines


def rows(rounds: Rounds) -> list[Row]:
    """Every metric of every variant, a sample a round, and what p2u must reach."""
    found = []
    for name, of_variant in rounds.items():
        for field, metric, unit in _METRICS:
            samples = [getattr(one, field) for one in of_variant]
            samples = [float(value) for value in samples if value is not None]
            if samples and not (name == "zipnn" and field == "seconds"):
                found.append(Row(name, metric, unit, samples))
    p2u, fp32 = rounds.get("p2u"), rounds.get("fp32")
    if p2u:
        share = sum(one.exact for one in p2u) / len(p2u)
        found.append(
            Row("p2u", "rounds exact to the bit at all clients", "share", [share], "1", share == 1)
        )
    if p2u and fp32:
        ratio = _both_ways(p2u) / _both_ways(fp32)
        found.append(Row("p2u to fp32", "bytes both ways", "ratio", [ratio], "< 1", ratio < 1))
        start = _total(p2u, "start_bytes") / _total(fp32, "start_bytes")
        found.append(
            Row("p2u to fp32", "bytes until start", "ratio", [start], "<= 0.2", start <= 0.2)
        )
        gap = 100 * (p2u[-1].top1 - fp32[-1].top1)
        found.append(
            Row("p2u to fp32", "top-1 after the last round", "points", [gap], ">= -2", gap >= -2)
        )
    return found


def _total(rounds: Sequence[Round], field: str) -> float:
    return sum(float(getattr(one, field)) for one in rounds)


def _both_ways(rounds: Sequence[Round]) -> float:
    return _total(rounds, "down_bytes") + _total(rounds, "up_bytes")
