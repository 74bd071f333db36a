import itertools

import pytest

from pwl_jax.ladder import CLIMB_ORDERS, CompositionError, Rung, climb_plan

EXPORTED = ["SS@4", "TS@4", "TT@4", "TT@x-4", "TT@exact"]
SIZES = {"student": 10, "teacher": 40, "encoder": 1, "decoder": 1}


def rungs(names):
    return tuple(Rung.parse(name) for name in names)


def files(rung):
    """A shard of a precision is read with those of all lower ones."""
    found = {}
    for unit, bits in rung.stages().items():
        stages = ["exact"] if unit.kind in ("encoder", "decoder") else [4, "exact"]
        if bits not in stages:
            return None
        for stage in stages[: stages.index(bits) + 1]:
            found[f"{unit}@{stage}"] = SIZES[unit.kind] * (1 if stage == 4 else 2)
    return found


def plan(order, scores=None, exported=EXPORTED, read=files):
    measured = {Rung.parse(name): score for name, score in (scores or {}).items()}
    return [rung.name for rung in climb_plan(order, rungs(exported), measured, read)]


def test_as_exported_is_the_ladder():
    assert plan("exported") == EXPORTED


def test_depth_first_swaps_before_it_refines():
    assert plan("depth") == ["SS@4", "TS@4", "TT@4", "TT@x-4", "TT@exact"]


def test_precision_first_refines_before_it_swaps():
    assert plan("precision") == ["SS@4", "SS@exact", "TS@exact", "TT@exact"]


def test_what_the_bundle_does_not_hold_is_no_rung():
    def read(rung):
        lacks = any(
            unit.kind == "student" and bits == "exact" for unit, bits in rung.stages().items()
        )
        return None if lacks else files(rung)

    assert plan("precision", read=read) == ["SS@4", "TT@exact"]


@pytest.mark.parametrize("order", ["depth", "precision"])
def test_rungs_known_to_gain_nothing_are_left_out(order):
    scores = {"SS@4": 0.7, "SS@exact": 0.7, "TS@4": 0.6, "TT@4": 0.9, "TS@exact": 0.6}
    names = plan(order, scores)
    assert names[0] == "SS@4" and names[-1] == "TT@exact"
    assert not {"SS@exact", "TS@4", "TS@exact"} & set(names)


def test_greedy_begins_with_the_fewest_bytes_and_takes_the_steepest_gain():
    scores = {"SS@4": 0.5, "ST@4": 0.8, "TS@4": 0.6, "TT@4": 0.85, "TT@exact": 0.9}
    # ST@4 gains 0.3 for 42 new bytes, TS@4 0.1 for as many; then TT@4 0.05 for 40, TT@exact 0.1
    # for 200.
    assert plan("greedy", scores) == ["SS@4", "ST@4", "TT@4", "TT@exact"]


def test_greedy_may_refine_the_student_where_that_is_cheapest():
    scores = {"SS@4": 0.5, "SS@exact": 0.7, "TS@4": 0.71, "TT@4": 0.8, "TT@exact": 0.9}
    assert plan("greedy", scores)[:2] == ["SS@4", "SS@exact"]


def test_greedy_ends_with_the_promise_even_where_it_gains_nothing():
    scores = {"SS@4": 0.5, "TT@4": 0.95, "TT@exact": 0.9}
    assert plan("greedy", scores) == ["SS@4", "TT@4", "TT@exact"]


def test_greedy_counts_what_was_fetched_before():
    # The teacher's first block is there after TS@4, so TT@4 costs 40 and not 80.
    scores = {"SS@4": 0.5, "TS@4": 0.6, "TT@4": 0.66, "ST@4": 0.64, "TT@exact": 0.7}
    assert plan("greedy", scores)[:3] == ["SS@4", "ST@4", "TT@4"]
    scores |= {"ST@4": 0.55}
    assert plan("greedy", scores)[:3] == ["SS@4", "TS@4", "TT@4"]


def test_accuracy_never_falls_along_a_greedy_climb():
    names = ["".join(c) for c in itertools.product("ST", repeat=3)]
    scores = {f"{name}@4": 0.1 * i for i, name in enumerate(names)} | {"TTT@exact": 0.95}
    climbed = plan("greedy", scores, ["SSS@4", "TTT@exact"])
    values = [scores[name] for name in climbed]
    assert values == sorted(values) and len(set(climbed)) == len(climbed)


def test_mistakes_say_what_there_is():
    with pytest.raises(CompositionError, match="unknown order 'best'; expected exported, depth"):
        plan("best")
    with pytest.raises(CompositionError, match="greedy order needs measured accuracies"):
        plan("greedy")
    assert CLIMB_ORDERS == ("exported", "depth", "precision", "greedy")
