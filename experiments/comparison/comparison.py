"""Our compositions beside the published ones: lines, spreads, and whether prefixes rise."""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence

from experiments.comparison.published import Published, method_differences, work_differences
from experiments.comparison.runs import CHECKPOINTS, Run, samples
from pwl_jax.ladder import Composition

ORDERS = ("prefix", "suffix", "contiguous")


@dataclasses.dataclass(frozen=True)
class Line:
    """One composition in both works.

    Attributes:
      order: `prefix`, `suffix` and `contiguous` without what the orders before them hold, or
        `other`.
      composition: ours; None where only theirs has it.
      counterpart: theirs; None where nothing was published.
      published: theirs, in percent.
      ours: percent by checkpoint and seed, of the runs that measured it.
    """

    order: str
    composition: Composition | None
    counterpart: str | None
    published: float | None
    ours: Mapping[str, Mapping[int, float]]

    @property
    def label(self) -> str:
        """Ours, and theirs where its name differs."""
        if self.composition is None:
            return f"{self.counterpart} (theirs)"
        if self.counterpart in (None, str(self.composition)):
            return str(self.composition)
        return f"{self.composition} ({self.counterpart})"


@dataclasses.dataclass(frozen=True)
class Spread:
    """Of the values of several seeds; the deviation is the sample's, None for a single seed."""

    mean: float
    deviation: float | None
    least: float
    greatest: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one value."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, min(values), max(values), len(values))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs with different seeds beside one column of the published tables.

    Attributes:
      runs: the same work but for the seed, at least one.
      column: what was published.
      lines: every composition of either, in the order of the tables.
    """

    runs: Sequence[Run]
    column: Published
    lines: Sequence[Line]

    @property
    def checkpoints(self) -> list[str]:
        """Those that any run measured."""
        return [c for c in CHECKPOINTS if any(c in run.top1 for run in self.runs)]

    @property
    def work(self) -> list[str]:
        """Why ours is not the same work as the published one; empty where it is."""
        return work_differences(self.runs[0].config, self.column, self.runs[0].examples)

    @property
    def method(self) -> list[str]:
        """In what our distillation differs by method."""
        return method_differences(self.runs[0].config)

    @property
    def note(self) -> str:
        """What stands at our columns."""
        if self.work:
            return f"not the same work: {', '.join(self.work)}"
        return "same networks and recipe"

    def above_student(self, line: Line, checkpoint: str) -> Spread | None:
        """Points above the student of the same run, negative if below it."""
        student = samples(self.runs, checkpoint, _student(self.runs))
        values = line.ours.get(checkpoint, {})
        gains = [value - student[seed] for seed, value in values.items() if seed in student]
        return Spread.of(gains) if gains else None

    def published_above_student(self, line: Line) -> float | None:
        """The same of the published figures."""
        student = self.column.top1.get("S" * self.column.blocks)
        return None if line.published is None or student is None else line.published - student

    def rising(self) -> dict[str, str]:
        """Whether each prefix is at least as good as the one before, by whose figures.

        Falls of the mean over seeds are named, also such as are smaller than the spread.
        """
        theirs = map(str, Composition.prefixes(self.column.blocks))
        found = {"published": _falls([(name, self.column.top1.get(name)) for name in theirs])}
        ours = [line for line in self.lines if line.order == "prefix" and line.composition]
        seeds = [run.config.seed for run in self.runs]
        for checkpoint in self.checkpoints:
            values = [(str(line.composition), line.ours.get(checkpoint, {})) for line in ours]
            # A mean over other seeds than its neighbour's says nothing of a fall.
            whole = [
                (name, statistics.fmean(of.values()) if len(of) == len(seeds) else None)
                for name, of in values
            ]
            text = _falls(whole)
            if len(seeds) > 1:
                alone = [_falls([(name, of.get(seed)) for name, of in values]) for seed in seeds]
                kept = sum(answer == "yes" for answer in alone)
                text += f"; of {len(seeds)} seeds by themselves, {kept}"
            found[f"ours, {checkpoint}"] = text
        return found


def compare(runs: Sequence[Run], column: Published) -> Comparison:
    """The comparison; compositions that only one of both has keep a line with a gap."""
    measured = {c for run in runs for found in run.top1.values() for c in found}
    blocks = runs[0].config.pair.num_blocks
    tables = _tables(blocks)
    tables["other"] = [c for c in Composition.all(blocks) if c not in _flat(tables)]
    theirs = _tables(column.blocks)
    lines = []
    for order, compositions in tables.items():
        for composition in compositions:
            counterpart = _counterpart(composition, column)
            if composition in measured or counterpart:
                lines.append(_line(runs, column, order, composition, counterpart))
        lines += [
            Line(order, None, str(c), column.top1[str(c)], {})
            for c in theirs.get(order, [])
            if str(c) in column.top1 and not any(line.counterpart == str(c) for line in lines)
        ]
    return Comparison(runs, column, lines)


def _line(
    runs: Sequence[Run],
    column: Published,
    order: str,
    composition: Composition,
    counterpart: str | None,
) -> Line:
    ours = {c: found for c in CHECKPOINTS if (found := samples(runs, c, composition))}
    published = column.top1[counterpart] if counterpart else None
    return Line(order, composition, counterpart, published, ours)


def _tables(blocks: int) -> dict[str, list[Composition]]:
    """The compositions of each order, without those of the orders before."""
    orders = (Composition.prefixes, Composition.suffixes, Composition.contiguous)
    tables: dict[str, list[Composition]] = {}
    for name, order in zip(ORDERS, orders, strict=True):
        tables[name] = [c for c in order(blocks) if c not in _flat(tables)]
    return tables


def _flat(tables: Mapping[str, list[Composition]]) -> set[Composition]:
    return {c for compositions in tables.values() for c in compositions}


def _counterpart(composition: Composition, column: Published) -> str | None:
    """The published composition that ours can stand beside: with other blocks, only both ends."""
    name = str(composition)
    if composition.is_student or composition.is_teacher:
        name = name[0] * column.blocks
    return name if name in column.top1 else None


def _student(runs: Sequence[Run]) -> Composition:
    return Composition.prefix(runs[0].config.pair.num_blocks, 0)


def _falls(prefixes: Sequence[tuple[str, float | None]]) -> str:
    missing = [name for name, value in prefixes if value is None]
    if missing:
        return f"not known, for want of {', '.join(missing)}"
    values = [(name, value) for name, value in prefixes if value is not None]
    falls = [name for (_, a), (name, b) in itertools.pairwise(values) if b < a]
    return f"no, falls at {', '.join(falls)}" if falls else "yes"
