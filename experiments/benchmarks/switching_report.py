"""What policies did on one trace, as rows and as a chart."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.benchmarks.switching_policies import FULL, INT8, OURS, POLICIES, STUDENTS, Model
from experiments.results_file import Row

TAIL_TARGET = "<= 1.1"
ACCURACY_TARGET = "> 0"
MEMORY_ALLOWANCE = 64 << 20

_QUANTILES = (50, 95, 99)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one process saw; see `switching_worker.measured`."""

    seconds: list[float]
    right: list[int]
    answered_by: list[str]
    read_bytes: int | None
    stored_bytes: int | None
    base_bytes: int
    peak_bytes: int
    dropped: bool

    def percentile(self, quantile: float) -> float:
        """Of the time to first answer, in seconds."""
        return float(np.percentile(self.seconds, quantile))

    def quickest(self, by: str) -> float:
        """Seconds that an answer of one network takes if nothing is in its way: their p5."""
        own = [s for s, name in zip(self.seconds, self.answered_by, strict=True) if name == by]
        return float(np.percentile(own, 5))

    def waiting(self) -> float:
        """The p95 of what requests waited beyond that, for loading above all, in seconds."""
        quickest = {by: self.quickest(by) for by in set(self.answered_by)}
        waited = [s - quickest[by] for s, by in zip(self.seconds, self.answered_by, strict=True)]
        return float(np.percentile(waited, 95))

    @property
    def accuracy(self) -> float | None:
        """Share of requests that were answered rightly; None where that is not known."""
        return None if -1 in self.right else float(np.mean(self.right))

    def within(self, seconds: float) -> float | None:
        """Share of requests that were answered rightly and in time."""
        if self.accuracy is None:
            return None
        return float(np.mean((np.array(self.seconds) <= seconds) & (np.array(self.right) == 1)))


@dataclasses.dataclass(frozen=True)
class Case:
    """All policies on one trace.

    Attributes:
      name: what the models are.
      models: the models.
      budget: bytes of weights.
      outcomes: by policy, one a round; equal places are of the same round.
      group: how memory was limited, or why it was not.
    """

    name: str
    models: tuple[Model, ...]
    budget: int
    outcomes: Mapping[str, Sequence[Outcome]]
    group: str

    @property
    def dropped(self) -> bool:
        """Whether the page cache was dropped before every process."""
        return all(one.dropped for outcomes in self.outcomes.values() for one in outcomes)

    def answered_by(self) -> dict[str, dict[str, int]]:
        """Requests by what answered them, over all rounds, by policy."""
        return {
            policy: dict(Counter(by for one in outcomes for by in one.answered_by))
            for policy, outcomes in self.outcomes.items()
        }


def rows_of(case: Case) -> list[Row]:
    """Every policy by itself, then ours against the targets."""
    rows = []
    for policy, outcomes in case.outcomes.items():
        rows += _alone(f"{case.name}: {policy}", outcomes, case.outcomes[STUDENTS])
    return rows + _compared(case)


def _alone(name: str, outcomes: Sequence[Outcome], students: Sequence[Outcome]) -> list[Row]:
    rows = [
        Row(
            name,
            f"time to first answer, p{quantile}",
            "ms",
            tuple(1e3 * one.percentile(quantile) for one in outcomes),
        )
        for quantile in _QUANTILES
    ]
    waiting = tuple(1e3 * one.waiting() for one in outcomes)
    rows.append(Row(name, "of this waiting, p95", "ms", waiting, note="beyond p5 of its network"))
    accuracies = tuple(100 * one.accuracy for one in outcomes if one.accuracy is not None)
    if accuracies:
        rows.append(Row(name, "requests answered rightly", "%", accuracies))
        in_time = [one.within(1.1 * s.percentile(95)) for one, s in _rounds(outcomes, students)]
        rows.append(
            Row(
                name,
                "rightly, within 1.1 x p95 of students only",
                "%",
                tuple(100 * share for share in in_time if share is not None),
            )
        )
    read = tuple(one.read_bytes / 1e6 for one in outcomes if one.read_bytes is not None)
    stored = tuple(one.stored_bytes / 1e6 for one in outcomes if one.stored_bytes is not None)
    if read and stored:
        rows.append(Row(name, "bytes read", "MB", read))
        rows.append(Row(name, "of these from the disk", "MB", stored))
    peaks = tuple(one.peak_bytes / 1e6 for one in outcomes)
    beyond = tuple((one.peak_bytes - one.base_bytes) / 1e6 for one in outcomes)
    rows.append(Row(name, "peak memory", "MB", peaks))
    rows.append(Row(name, "peak beyond the process without a model", "MB", beyond))
    return rows


def _compared(case: Case) -> list[Row]:
    ours, name = case.outcomes[OURS], f"{case.name}: ours against the others"
    rows = [
        Row(
            name,
            f"p95 of ours / {other}",
            "ratio",
            tuple(a.percentile(95) / b.percentile(95) for a, b in _rounds(ours, found)),
            TAIL_TARGET if other == STUDENTS else None,
        )
        for other, found in case.outcomes.items()
        if other != OURS
    ]
    for other in (FULL, INT8, STUDENTS):
        gains = [(a.accuracy, b.accuracy) for a, b in _rounds(ours, case.outcomes[other])]
        points = tuple(100 * (a - b) for a, b in gains if a is not None and b is not None)
        if points:
            metric = f"answered rightly, ours - {other}"
            rows.append(Row(name, metric, "points", points, ACCURACY_TARGET))
    bound = case.budget + MEMORY_ALLOWANCE
    over = tuple(
        (a.peak_bytes - s.peak_bytes) / 1e6 for a, s in _rounds(ours, case.outcomes[STUDENTS])
    )
    note = f"weights: {case.budget / 1e6:.4g} MB budget"
    metric = "peak of ours - students only"
    rows.append(Row(name, metric, "MB", over, f"<= {bound / 1e6:.6g}", note))
    return rows


def _rounds(ours: Sequence[Outcome], others: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    return list(zip(ours, others, strict=True))


def write_chart(cases: Sequence[Case], path: Path) -> None:
    """Accuracy over the tail of the time to first answer; one point a policy and round.

    Where answers were not judged, the share of requests that the whole teacher answered instead.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(cases), 4), layout="constrained")
    for axes, case in zip(np.atleast_1d(figure.subplots(1, len(cases))), cases, strict=True):
        for policy in POLICIES:
            outcomes = case.outcomes[policy]
            judged = outcomes[0].accuracy is not None
            heights = [
                100 * (_by_teacher(one) if one.accuracy is None else one.accuracy)
                for one in outcomes
            ]
            tails = [1e3 * one.percentile(95) for one in outcomes]
            axes.plot(tails, heights, "o", label=policy, alpha=0.7)
        axes.set_xscale("log")
        axes.set_xlabel("p95 of the time to first answer, ms")
        axes.set_ylabel("answered rightly, %" if judged else "answered by the whole teacher, %")
        axes.set_title(case.name)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=120)


def _by_teacher(outcome: Outcome) -> float:
    whole = [
        by in ("teacher", "int8") or set(by.partition("@")[0]) == {"T"}
        for by in outcome.answered_by
    ]
    return float(np.mean(whole))
