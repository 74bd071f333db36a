import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pwl_jax.ladder import (
    EXACT,
    Composition,
    Rung,
    Unit,
    area,
    best_order,
    candidate_rungs,
    greedy_order,
    paying_rungs,
)


def parsed(*names):
    return [Composition.parse(name) for name in names]


def names(entries):
    return [str(entry) for entry in entries]


def test_candidates_swap_first_and_sharpen_then():
    found = candidate_rungs(Composition.prefixes(2), (4, 8, EXACT))
    assert names(found) == [
        "SS@4", "TS@4", "TT@4", "TT@8-4", "TT@8", "TT@x-8", "TT@exact",
    ]  # fmt: skip
    assert names(candidate_rungs(Composition.prefixes(2), (EXACT,))) == [
        "SS@exact", "TS@exact", "TT@exact",
    ]  # fmt: skip


@pytest.mark.parametrize("bits", [(), (4,), (8, 4, EXACT), (EXACT, 4), (4, 4, EXACT)])
def test_candidates_refuse_what_makes_no_climb(bits):
    with pytest.raises(ValueError, match=r"must ascend and end in 'exact'.*got \["):
        candidate_rungs(Composition.prefixes(2), bits)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=9))
def test_kept_rungs_rise_and_nothing_that_pays_is_dropped(gains):
    rungs = [Rung(Composition.parse("T" * 9), (4,) * i + (8,) * (9 - i)) for i in range(len(gains))]
    gain = dict(zip(rungs, gains, strict=True))
    kept = paying_rungs(rungs, gain)
    assert kept[0] == rungs[0] and kept[-1] == rungs[-1]
    assert kept == [rung for rung in rungs if rung in kept]
    inner = [gain[rung] for rung in (kept[:-1] or kept)]
    assert inner == sorted(set(inner))
    for i, rung in enumerate(rungs[1:-1], start=1):
        assert (rung in kept) == (gain[rung] > max(gains[:i]))


def test_area_counts_only_bytes_that_arrive():
    """One unit of bytes for a teacher's block, a quarter for a student's, none for converters."""
    sizes = {"teacher": 4.0, "student": 1.0}

    def unit_bytes(unit):
        return sizes.get(unit.kind, 0.0) * (1 + unit.index)

    order = parsed("SS", "TS", "TT")
    gain = dict(zip(order, (0.5, 0.7, 1.0), strict=True))
    # 4 bytes arrive under 0.5, 8 under 0.7; the student's own came before the first rung.
    assert area(order, gain, unit_bytes) == pytest.approx((4 * 0.5 + 8 * 0.7) / 12)
    assert area(order[:1], gain, unit_bytes) == 0.5


def test_a_converter_that_was_fetched_before_is_free():
    fetched = {Unit("encoder", 0): 100.0, Unit("decoder", 0): 10.0}

    def unit_bytes(unit):
        return fetched.get(unit, 1.0)

    order = parsed("SS", "TS", "ST", "TS", "TT")
    gain = dict(zip(order, (0.0, 0.2, 0.4, 0.2, 1.0), strict=True))
    # SS -> TS brings teacher/0 and encoder/0, TS -> ST teacher/1 and decoder/0, then nothing.
    assert area(order, gain, unit_bytes) == pytest.approx((101 * 0.0 + 11 * 0.2) / 112)


def test_greed_takes_the_best_gain_per_byte_and_asks_once_a_step():
    worth = {"SSS": 0.2, "TSS": 0.5, "STS": 0.6, "SST": 0.4, "TTS": 0.7, "TST": 0.3, "TTT": 0.9}
    asked = []

    def gains(compositions):
        asked.append(names(compositions))
        return {c: worth[str(c)] for c in compositions}

    def unit_bytes(unit):
        return {Unit("teacher", 1): 10.0}.get(unit, 2.0)

    order = greedy_order(Composition.parse("SSS"), gains, unit_bytes)
    # 0.3 for 4 bytes, 0.4 for 14 and 0.2 for 4; then 0.2 more for 12, or a loss.
    assert names(order) == ["SSS", "TSS", "TTS", "TTT"]
    assert asked[0] == ["SSS", "TSS", "STS", "SST"]


def test_greed_ends_at_the_teacher_one_block_a_step_and_ties_fall_to_the_earliest():
    def gains(compositions):
        return dict.fromkeys(compositions, 0.5)

    order = greedy_order(Composition.parse("SSSS"), gains, lambda unit: 1.0)
    assert order == Composition.prefixes(4)


@settings(max_examples=40)
@given(st.data(), st.integers(1, 4))
def test_the_best_order_is_the_best_of_all(data, blocks):
    numbers = st.integers(0, 1000)
    gain = {c: data.draw(numbers) / 1000 for c in Composition.all(blocks)}
    sizes = {}

    def unit_bytes(unit):
        # Encoder and decoder of a boundary differ: the total depends on the path.
        if unit not in sizes:
            sizes[unit] = float(data.draw(numbers))
        return sizes[unit]

    def climbed(swaps):
        order = [Composition.prefix(blocks, 0)]
        for block in swaps:
            sources = list(order[-1].sources)
            sources[block] = "T"
            order.append(Composition(tuple(sources)))
        return order

    every = [climbed(swaps) for swaps in itertools.permutations(range(blocks))]
    found = best_order(blocks, gain, unit_bytes)
    assert found in every
    best = max(area(order, gain, unit_bytes) for order in every)
    assert area(found, gain, unit_bytes) == pytest.approx(best, abs=1e-12)


def test_prefixes_where_no_order_is_better():
    gain = dict.fromkeys(Composition.all(4), 0.5)
    assert best_order(4, gain, lambda unit: 1.0) == Composition.prefixes(4)
