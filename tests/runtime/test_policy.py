import dataclasses

import pytest

from pwl_jax.ladder import Rung
from pwl_jax.runtime import ClimbState, InOrder, Limits

RUNGS = tuple(Rung.parse(name) for name in ("SS@4", "TS@4", "TT@4", "TT@exact"))
TEACHER, STUDENT, CONVERTER = 100, 10, 1


def state(current: int) -> ClimbState:
    sizes = {"teacher": TEACHER, "student": STUDENT, "encoder": CONVERTER}
    block_bytes = {key: sizes[key[0].kind] for rung in RUNGS for key in rung.stages().items()}
    return ClimbState(RUNGS, current, block_bytes)


def test_climbs_in_order_to_the_top():
    policy = InOrder()
    assert [policy.next_rung(state(i)).rung for i in range(-1, 3)] == [0, 1, 2, 3]
    assert policy.next_rung(state(3)).reason == "top of the ladder"


def test_stops_where_told():
    policy = InOrder(stop_at="TS@4")
    assert policy.next_rung(state(0)).rung == 1
    decision = policy.next_rung(state(1))
    assert (decision.rung, decision.reason) == (None, "told to stop at TS@4")


@pytest.mark.parametrize(
    ("budget", "current", "expected"),
    [
        (19, -1, None),  # the student alone is 20
        (20, -1, 0),
        (120, 0, None),  # while TS loads, both student blocks are still held: 100 + 1 + 20
        (121, 0, 1),
        (219, 1, None),  # TT beside TS is 200 + 1 + 10; back to SS one day, 200 + 20
        (220, 1, 2),
        (399, 2, None),  # other precision, other weights: both held for a moment
        (400, 2, 3),
    ],
)
def test_budget_counts_both_rungs_of_a_swap(budget, current, expected):
    decision = InOrder(limits=Limits(memory_budget=budget)).next_rung(state(current))
    assert decision.rung == expected
    if expected is None:
        assert decision.reason.partition(" (and")[0].endswith(
            f"bytes of weights; memory_budget is {budget}"
        )


def test_a_rung_that_does_not_fit_is_passed_over():
    rungs = tuple(Rung.parse(name) for name in ("SS@4", "TT@4", "SS@exact"))
    sizes = {"teacher": TEACHER, "student": STUDENT}
    block_bytes = {key: sizes[key[0].kind] for rung in rungs for key in rung.stages().items()}
    decision = InOrder(limits=Limits(memory_budget=50)).next_rung(ClimbState(rungs, 0, block_bytes))
    assert decision.rung == 2


def climb(current: int, **fields) -> ClimbState:
    return dataclasses.replace(state(current), missing_bytes=(50, 30, 20, 200), **fields)


@pytest.mark.parametrize(
    ("budget", "current", "fetched", "expected"),
    [(19, -1, 0, None), (50, -1, 0, 0), (99, 1, 80, None), (100, 1, 80, 2)],
)
def test_byte_budget_counts_what_was_fetched(budget, current, fetched, expected):
    decision = InOrder(limits=Limits(byte_budget=budget)).next_rung(
        climb(current, bytes_fetched=fetched)
    )
    assert decision.rung == expected
    if expected is None:
        assert f"{fetched} of byte_budget {budget} are fetched" in decision.reason


@pytest.mark.parametrize(
    ("current", "seconds", "rate", "expected"),
    [
        (-1, 99.0, 1.0, 0),  # the first answer is always fetched
        (0, 4.9, None, 1),  # no speed is known yet
        (0, 5.1, None, None),
        (0, 2.0, 10.0, 1),  # 30 bytes in 3 s: up at 5
        (0, 2.1, 10.0, 2),  # up at 5.1; the one after it needs 2 s
        (1, 4.0, 10.0, None),
    ],
)
def test_deadline_passes_over_what_would_come_too_late(current, seconds, rate, expected):
    decision = InOrder(limits=Limits(deadline=5.0)).next_rung(
        climb(current, seconds=seconds, bytes_per_second=rate)
    )
    assert decision.rung == expected
    if expected is None:
        assert "the deadline is 5 s" in decision.reason
