"""Which rungs a live model climbs, and what its bundle can be run by."""

from collections.abc import Callable, Mapping, Sequence

from pwl_jax.bundle import Manifest
from pwl_jax.errors import UserError
from pwl_jax.ladder import ClimbOrder, Rung, climb_plan, parse_rung


class LiveModelError(UserError):
    """A live model cannot do what was asked; the message says why."""


def rungs_to_climb(
    manifest: Manifest,
    files: Callable[[Rung], Mapping[str, int] | None],
    *,
    rung: str | None,
    climb: bool,
    order: ClimbOrder,
    quality_floor: float | None,
) -> tuple[Rung, ...]:
    """The rungs of a climb, in order; see `LiveModel` for the options.

    Args:
      manifest: of the bundle.
      files: what a rung reads, by name with the bytes; None where the bundle does not hold it.
      rung, climb, order, quality_floor: as `LiveModel` takes them.

    Raises:
      UserError: there is nothing to climb, or nothing as good as the floor.
    """
    ladder = tuple(entry.rung for entry in manifest.ladder)
    if rung is not None:
        first = parse_rung(rung, ladder)
        above = ladder[ladder.index(first) + 1 :] if first in ladder else ()
        plan = (first, *(above if climb else ()))
    elif not ladder:
        raise LiveModelError("this bundle has no ladder; name a rung such as TTSS@exact")
    elif climb:
        plan = climb_plan(order, ladder, manifest.scores, files)
    else:
        plan = ladder[-1:]
    return plan if quality_floor is None else _above(quality_floor, plan, manifest.scores)


def planned_index(rungs: Sequence[Rung], name: str) -> int:
    """Where a rung stands in the plan; a bare composition is its most exact rung.

    Raises:
      UserError: there is none.
    """
    parsed = parse_rung(name, rungs)
    if parsed not in rungs:
        known = ", ".join(known.name for known in rungs)
        raise LiveModelError(f"no rung '{name}' to climb to; the plan is {known}")
    return rungs.index(parsed)


def program_formats(manifest: Manifest) -> tuple[str, ...]:
    """Formats in which the bundle holds a program of every unit."""
    held = [[entry.format for entry in entries] for entries in manifest.programs.values()]
    every = dict.fromkeys(format for formats in held for format in formats)
    return tuple(format for format in every if all(format in formats for formats in held))


def _above(floor: float, plan: Sequence[Rung], scores: Mapping[Rung, float]) -> tuple[Rung, ...]:
    """The rungs of a plan from `floor` on; raises LiveModelError where none is known to be."""
    if not any(scores.get(rung, 0.0) >= floor for rung in plan):
        best = max((scores[rung] for rung in plan if rung in scores), default=None)
        known = "none was measured" if best is None else f"the best was measured at {best:.4f}"
        raise LiveModelError(f"no rung reaches quality_floor {floor}; {known}")
    return tuple(rung for rung in plan if scores.get(rung, 0.0) >= floor)
