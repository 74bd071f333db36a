"""What the measurements of a comparison come to: means over seeds, and targets that are met."""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.comparison.comparison import Spread
from experiments.matrix.units import Unit
from pwl_jax.ladder import Composition

RECALIBRATED = "per_composition"
COLUMNS = ("student", "prefixes", "suffixes", "contiguous", "mixed", "worst mixed")
"""Of each run, in percent: the student alone; means of the inner prefixes, of the inner suffixes,
of runs of teacher blocks that touch neither end, of all 2^N - 2 compositions of both networks; and
the least of these."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One objective on one family, evaluated in one way, over seeds.

    Attributes:
      family, objective: which.
      checkpoint: `last` or `best`.
      statistics: of BatchNorm: `per_stream` or `shared`, as trained and exported, or
        `per_composition`, measured anew for each.
      top1: percent by seed and composition.
    """

    family: str
    objective: str
    checkpoint: str
    statistics: str
    top1: Mapping[int, Mapping[str, float]]

    @property
    def label(self) -> str:
        """Objective, and how it was evaluated where that is not the plain way."""
        extra = ", recalibrated" * (self.statistics == RECALIBRATED)
        return f"{self.objective}{extra}"

    def values(self, column: str) -> list[float]:
        """Of each seed, one of `COLUMNS`; empty where the hybrids were not measured."""
        chosen: Callable[[Sequence[float]], float] = min if column == "worst mixed" else _mean
        found = []
        for top1 in self.top1.values():
            values = [value for name, value in top1.items() if column in kinds(name)]
            found += [chosen(values)] if values else []
        return found

    def mean(self, column: str) -> float | None:
        """Of the seeds; None where nothing was measured."""
        values = self.values(column)
        return _mean(values) if values else None

    def prefixes(self, teacher: float) -> list[tuple[str, float]]:
        """Mean over seeds of every prefix, student first; the teacher's top-1 % is given."""
        blocks = len(next(iter(next(iter(self.top1.values())))))
        names = [str(c) for c in Composition.prefixes(blocks)[:-1]]
        if not all(name in top1 for top1 in self.top1.values() for name in names):
            return []
        means = [(name, _mean([top1[name] for top1 in self.top1.values()])) for name in names]
        return [*means, ("T" * blocks, teacher)]

    def drop(self, reference: float) -> float | None:
        """Mean points of suffix and contiguous orders below a student's top-1; rises count 0."""
        drops = [
            max(reference - value, 0.0)
            for top1 in self.top1.values()
            for name, value in top1.items()
            if {"suffixes", "contiguous"} & kinds(name)
        ]
        return _mean(drops) if drops else None


def kinds(name: str) -> set[str]:
    """The columns that a composition counts in."""
    blocks = len(name)
    if "T" not in name:
        return {"student"}
    if "S" not in name:
        return set()
    found = {"mixed", "worst mixed"}
    for column, order in (
        ("prefixes", Composition.prefixes),
        ("suffixes", Composition.suffixes),
    ):
        if name in map(str, order(blocks)):
            return found | {column}
    if name in map(str, Composition.contiguous(blocks)):
        found.add("contiguous")
    return found


def cases(found: Mapping[Unit, Mapping[str, Any]]) -> list[Case]:
    """All that was measured, seeds put together, in the order of the units."""
    grouped: dict[tuple[str, str, str, str], dict[int, dict[str, float]]] = {}
    for unit, measured in found.items():
        for result in measured["results"]:
            key = unit.family, unit.objective, result["checkpoint"], result["statistics"]
            percent = {name: 100 * value for name, value in result["top1"].items()}
            grouped.setdefault(key, {})[unit.seed] = percent
    return [Case(*key, top1) for key, top1 in grouped.items()]


def falls(prefixes: Sequence[tuple[str, float]], examples: int) -> list[str]:
    """The prefixes that are below the one before by more than the test set's standard error.

    Args:
      prefixes: name and percent, in order.
      examples: test images.
    """
    found = []
    for (_, before), (name, value) in itertools.pairwise(prefixes):
        error = 100 * (before / 100 * (1 - before / 100) / examples) ** 0.5
        if value < before - error:
            found.append(name)
    return found


@dataclasses.dataclass(frozen=True)
class Target:
    """One thing to reach: what was found, the bound, and whether it holds."""

    name: str
    value: float
    relation: str
    bound: float

    @property
    def met(self) -> bool:
        """Whether the value keeps the bound."""
        if self.relation == ">=":
            return self.value >= self.bound
        return self.value > self.bound if self.relation == ">" else self.value <= self.bound


def targets(family: str, given: Sequence[Case]) -> list[Target]:
    """The targets that the last checkpoints of a family can be held to so far."""
    last = {
        (case.objective, case.statistics == RECALIBRATED): case
        for case in given
        if case.family == family and case.checkpoint == "last"
    }

    def mean(objective: str, column: str, recalibrated: bool = False) -> float | None:
        case = _evaluated(last, objective, recalibrated)
        return case.mean(column) if case else None

    rows: list[tuple[str, float | None, str, float | None]] = []
    ours = {column: mean("ours", column) for column in COLUMNS}
    rivals = [mean(name, "student") for name in ("kd", "dkd")]
    known = [value for value in rivals if value is not None]
    if known and "ours" in {name for name, _ in last}:
        spread = _deviation(last["ours", False].values("student"))
        rows.append(("student, ours: KD or DKD", ours["student"], ">=", max(known) - spread))
    rows.append(("student, ours: alone", ours["student"], ">", mean("alone", "student")))
    for rival, recalibrated in (("random", True), ("stitched", False)):
        bound = mean(rival, "prefixes", recalibrated)
        rows.append((f"mean prefix, ours: {rival}", ours["prefixes"], ">", bound))
    bound = mean("all", "prefixes", True)
    if bound is not None:
        both = _evaluated(last, "all", True), last.get(("ours", False))
        bound += max(_deviation(case.values("prefixes")) for case in both if case)
    rows.append(("mean prefix, ours: all, recalibrated", ours["prefixes"], ">", bound))
    known = [value for value in (ours["student"], mean("kd", "student")) if value is not None]
    if known:
        for rival in ("random", "all"):
            theirs = _evaluated(last, rival, True)
            any_order = last.get(("any_order", False))
            rows.append(
                (
                    f"drop of suffixes and contiguous, any order: a tenth of {rival}, recalibrated",
                    any_order.drop(max(known)) if any_order else None,
                    "<=",
                    _tenth(theirs.drop(max(known)) if theirs else None),
                )
            )
    bound = mean("all", "mixed", True)
    rows += [
        ("all mixed, any order: all, recalibrated, and 5", mean("any_order", "mixed"), ">=",
         None if bound is None else bound + 5),
        ("worst mixed, any order: our student less 3", mean("any_order", "worst mixed"), ">=",
         None if ours["student"] is None else ours["student"] - 3),
    ]  # fmt: skip
    for column in ("student", "prefixes"):
        bound = ours[column]
        rows.append(
            (
                f"{column}, any order: ours less 0.5",
                mean("any_order", column),
                ">=",
                None if bound is None else bound - 0.5,
            )
        )
    return [
        Target(name, value, relation, bound)
        for name, value, relation, bound in rows
        if value is not None and bound is not None
    ]


def _evaluated(
    last: Mapping[tuple[str, bool], Case], objective: str, recalibrated: bool
) -> Case | None:
    """A case as asked for; where nothing could be recalibrated, as without BatchNorm, as it is."""
    return last.get((objective, recalibrated)) or last.get((objective, False))


def spread(values: Sequence[float]) -> str:
    """Mean and deviation over seeds, as text; a dash for nothing."""
    if not values:
        return "-"
    found = Spread.of(values)
    deviation = "" if found.deviation is None else f" ± {found.deviation:.2f}"
    return f"{found.mean:.2f}{deviation}"


def _tenth(value: float | None) -> float | None:
    return None if value is None else value / 10


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)
