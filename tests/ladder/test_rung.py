import pytest
from hypothesis import given
from hypothesis import strategies as st

from pwl_jax.ladder import (
    EXACT,
    Composition,
    CompositionError,
    Ladder,
    LadderRung,
    Rung,
    Unit,
    parse_bits,
    parse_rung,
    precision_rank,
)

precisions = st.one_of(st.integers(2, 8), st.just(EXACT))
rungs = st.lists(st.tuples(st.sampled_from("TS"), precisions), min_size=1, max_size=8).map(
    lambda blocks: Rung(Composition(tuple(b[0] for b in blocks)), tuple(b[1] for b in blocks))
)


@given(rungs)
def test_names_parse_back(rung):
    assert Rung.parse(rung.name) == rung == parse_rung(rung.name, [])
    assert str(rung) == rung.name


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("TTSS@4", (4, 4, 4, 4)),
        ("TTSS@exact", (EXACT,) * 4),
        ("TTSS@x", (EXACT,) * 4),
        ("TTSS@4-8-4-x", (4, 8, 4, EXACT)),
    ],
)
def test_names_by_hand(name, bits):
    assert Rung.parse(name).bits == bits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TTSS", "names no precision; expected TTSS@exact"),
        ("TTSS@", "'' is no precision"),
        ("TTSS@9", "'9' is no precision; expected 2 to 8 bits, or exact"),
        ("TTSS@1", "'1' is no precision"),
        ("TTSS@04", "'04' is no precision"),
        ("TTSS@four", "'four' is no precision"),
        ("TTSS@4-8", "2 precisions for the 4 blocks of TTSS"),
        ("TTSS@4@8", "'4@8' is no precision"),
        ("@4", "'' is no composition"),
        ("TTYS@4", "'TTYS' is no composition"),
    ],
)
def test_what_is_no_rung(text, message):
    with pytest.raises(CompositionError, match=message):
        Rung.parse(text)


def test_a_bare_composition_is_its_most_exact_known_rung():
    known = [Rung.parse(name) for name in ("TS@4", "TT@4", "TT@x-4", "TT@8", "TT@4-x")]
    assert parse_rung("TT", known).name == "TT@x-4"
    assert parse_rung("TS", known).name == "TS@4"
    assert parse_rung("ST", known).name == "ST@exact"
    assert parse_rung("TT@2", known).name == "TT@2"


def test_precisions_rank():
    assert sorted([EXACT, 8, 2], key=precision_rank) == [2, 8, EXACT]
    assert [parse_bits(text) for text in ("2", "8", "exact", "x")] == [2, 8, EXACT, EXACT]


def test_stages_read_converters_exactly():
    assert Rung.parse("TST@4-8-2").stages() == {
        Unit("teacher", 0): 4,
        Unit("encoder", 0): EXACT,
        Unit("student", 1): 8,
        Unit("decoder", 1): EXACT,
        Unit("teacher", 2): 2,
    }


def test_a_ladder_finds_its_rungs_by_name():
    entries = [LadderRung(Rung.parse(n), None, None, (), 0, 0) for n in ("SS@4", "TT@exact")]
    ladder = Ladder(tuple(entries))
    assert len(ladder) == 2 and ladder[1].name == "TT@exact"
    assert ladder.index_of("TT@exact") == 1
    with pytest.raises(CompositionError, match=r"no rung 'TT@4' .* it has SS@4, TT@exact"):
        ladder.index_of("TT@4")
