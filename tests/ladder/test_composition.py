import pytest
from hypothesis import given
from hypothesis import strategies as st

from pwl_jax.errors import UserError
from pwl_jax.ladder import Composition, CompositionError, Unit, compositions_of

letters = st.text("TS", min_size=1, max_size=8)


def names(compositions):
    return [str(composition) for composition in compositions]


@given(letters)
def test_text_and_composition_are_inverse(text):
    composition = Composition.parse(text)
    assert str(composition) == text and len(composition) == len(text)
    assert composition == Composition.parse(f" {text}\n", blocks=len(text))
    assert hash(composition) == hash(Composition(tuple(text)))


@pytest.mark.parametrize("text", ["", "ts", "TTXS", "TT SS", "T-S", "TTSS@4"])
def test_what_is_no_composition(text):
    with pytest.raises(CompositionError, match="expected one letter T or S a block"):
        Composition.parse(text)


def test_wrong_number_of_blocks_names_both():
    with pytest.raises(UserError, match="'TTS' has 3 blocks; this network has 4"):
        Composition.parse("TTS", blocks=4)


def test_families():
    assert names(Composition.prefixes(3)) == ["SSS", "TSS", "TTS", "TTT"]
    assert names(Composition.suffixes(3)) == ["SSS", "SST", "STT", "TTT"]
    assert names(Composition.contiguous(3)) == ["SSS", "TSS", "TTS", "TTT", "STS", "STT", "SST"]
    assert names(Composition.all(2)) == ["SS", "ST", "TS", "TT"]
    assert len(set(Composition.all(5))) == 32
    for teachers in (-1, 4):
        with pytest.raises(CompositionError, match="0 to 3 teacher blocks"):
            Composition.prefix(3, teachers)


def test_orders_are_joined_without_repeats():
    assert names(compositions_of(["prefix", "suffix"], 2)) == ["SS", "TS", "TT", "ST"]
    with pytest.raises(CompositionError, match="unknown order 'sufix'; expected some of prefix"):
        compositions_of(["prefix", "sufix"], 2)


@given(letters)
def test_properties_by_definition(text):
    composition = Composition.parse(text)
    assert composition.is_teacher == (set(text) == {"T"})
    assert composition.is_student == (set(text) == {"S"})
    assert composition.is_prefix == (text == "".join(sorted(text, reverse=True)))


@given(letters)
def test_units_execute_every_block_and_convert_wherever_the_source_changes(text):
    units = Composition.parse(text).units()
    assert len(units) == len(set(units)) == len(text) + text.count("TS") + text.count("ST")
    blocks = [unit for unit in units if unit.kind in ("teacher", "student")]
    assert [unit.index for unit in blocks] == list(range(len(text)))
    assert "".join(unit.kind[0].upper() for unit in blocks) == text
    for before, unit, after in zip(units, units[1:], units[2:], strict=False):
        if unit.kind in ("encoder", "decoder"):
            assert before.index == unit.index == after.index - 1
            kinds = ("teacher", "student") if unit.kind == "encoder" else ("student", "teacher")
            assert (before.kind, after.kind) == kinds


@given(letters)
def test_entry_is_the_latest_boundary_from_teacher_to_student(text):
    composition = Composition.parse(text)
    for block, source in enumerate(text):
        if source == "S":
            begun = text[: block + 1].rfind("TS")
            assert composition.entry(Unit("student", block)) == (None if begun < 0 else begun)


def test_entries_by_hand():
    composition = Composition.parse("STSSTS")
    blocks = [Unit("student", block) for block in (0, 2, 3, 5)]
    assert [composition.entry(unit) for unit in blocks] == [None, 1, 1, 4]
    assert [composition.stream(unit) for unit in blocks] == ["own", "1", "1", "4"]
    others = Unit("teacher", 4), Unit("decoder", 3), Unit("encoder", 4)
    assert {composition.stream(unit) for unit in others} == {"own"}


@pytest.mark.parametrize("unit", [Unit("teacher", 0), Unit("encoder", 12)])
def test_unit_names(unit):
    assert Unit.parse(str(unit)) == unit


@pytest.mark.parametrize(
    "text",
    ["teacher", "teacher/", "teacher/-1", "head/0", "teacher/²", "", "teacher/" + "1" * 5000],
)
def test_what_is_no_unit(text):
    with pytest.raises(CompositionError, match="expected <kind>/<index>"):
        Unit.parse(text)
