"""The plan against every other plan there is."""

import itertools

import hypothesis
import hypothesis.strategies as st
import pytest

from pwl_jax.precision import Choice, PrecisionError, plan_bits


@st.composite
def tables(draw):
    """Up to four tensors whose widths cost more and, mostly, harm less."""
    table = {}
    for name in "abcd"[: draw(st.integers(1, 4))]:
        widths = draw(st.lists(st.integers(2, 8), min_size=1, max_size=4, unique=True))
        size, harm = draw(st.integers(1, 50)), draw(st.floats(0, 100))
        table[name] = [
            Choice(bits, size * bits, harm * draw(st.floats(0.5, 1)) * 4.0**-bits)
            for bits in widths
        ]
    return table


def cost(table, plan):
    chosen = [next(c for c in table[name] if c.bits == bits) for name, bits in plan.items()]
    return sum(c.bytes for c in chosen), sum(c.damage for c in chosen)


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(tables(), st.floats(0, 1))
def test_the_plan_fits_and_misses_the_best_by_at_most_one_step(table, share):
    least = sum(min(c.bytes for c in offered) for offered in table.values())
    most = sum(max(c.bytes for c in offered) for offered in table.values())
    budget = round(least + share * (most - least))
    plan = plan_bits(table, budget)
    spent, damage = cost(table, plan)
    assert plan.keys() == table.keys() and spent <= budget
    best = min(
        harm
        for offered in itertools.product(*table.values())
        for size, harm in [cost(table, dict(zip(table, (c.bits for c in offered), strict=True)))]
        if size <= budget
    )
    step = max(max(c.damage for c in o) - min(c.damage for c in o) for o in table.values())
    assert damage <= best + step + 1e-12


def test_bits_go_where_they_take_away_most():
    table = {
        "robust": [Choice(4, 400, 1.0), Choice(8, 800, 0.0)],
        "fragile": [Choice(4, 400, 9.0), Choice(8, 800, 0.1)],
        "small": [Choice(4, 4, 0.5), Choice("exact", 32, 0.0)],
    }
    assert plan_bits(table, 1232) == {"robust": 4, "fragile": 8, "small": "exact"}
    assert plan_bits(table, 804) == {"robust": 4, "fragile": 4, "small": 4}
    assert plan_bits(table, 10_000) == {"robust": 8, "fragile": 8, "small": "exact"}


def test_a_budget_that_nothing_fits_is_refused():
    with pytest.raises(PrecisionError, match="10 bytes is below the 400"):
        plan_bits({"a": [Choice(4, 400, 1.0)]}, 10)
