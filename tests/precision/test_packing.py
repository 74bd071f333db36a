"""Packing by hand-worked bytes."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from pwl_jax.precision import PrecisionError
from pwl_jax.precision.packing import (
    fields,
    join,
    pack,
    pack_neighbours,
    packed_bytes,
    split,
    unpack,
    unpack_neighbours,
)

# Numbers 1, 2, 3 below 2^width, worked out on paper; the first runs fill the lowest bits.
BY_HAND = {
    1: ([1, 0, 1], "05"),  # one byte: bits 0, 1, 2
    2: ([1, 2, 3], "39"),  # one byte: 01 10 11 from the lowest bits up
    4: ([1, 2, 3], "31 02"),  # two bytes: 1 and 2; then 3 above 1
    8: ([1, 2, 3], "01 02 03"),
}
CODES_BY_HAND = {
    3: ([5, 2, 7], ["36", "05"]),  # high fields 2, 1, 3; low bits 1, 0, 1
    7: ([0x7F, 0x08, 0x01], ["0f 01", "03", "05"]),  # f 1 0; 3 0 0; 1 0 1
}


@pytest.mark.parametrize("width", BY_HAND)
def test_hand_worked_bytes(width):
    numbers, expected = BY_HAND[width]
    data = pack(np.asarray(numbers, np.uint8), width)
    assert data == bytes.fromhex(expected)
    assert unpack(data, width, 3).tolist() == numbers


@pytest.mark.parametrize(("numbers", "expected"), [([], ""), ([9], "09"), ([1, 2, 15], "21 0f")])
def test_neighbours_by_hand(numbers, expected):
    packed = pack_neighbours(np.asarray(numbers, np.uint8)).tobytes()
    assert packed == bytes.fromhex(expected)
    assert unpack_neighbours(packed, len(numbers)).tolist() == [16 * number for number in numbers]


@pytest.mark.parametrize("bits", CODES_BY_HAND)
def test_hand_worked_fields(bits):
    codes, expected = CODES_BY_HAND[bits]
    packed = split(np.asarray(codes, np.uint8), bits)
    assert packed == [bytes.fromhex(text) for text in expected]
    assert join(packed, bits, 3).tolist() == codes


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(st.integers(2, 8), st.integers(0, 200), st.integers(0, 1000))
def test_round_trip_and_size(bits, count, seed):
    codes = np.random.default_rng(seed).integers(0, 1 << bits, count).astype(np.uint8)
    packed = split(codes, bits)
    assert sum(fields(bits)) == bits
    assert [len(data) for data in packed] == [packed_bytes(count, f) for f in fields(bits)]
    assert sum(map(len, packed)) <= -(-count * bits // 8) + len(packed) - 1
    np.testing.assert_array_equal(join(packed, bits, count), codes, strict=True)


@pytest.mark.parametrize("bits", [0, 1, 9])
def test_other_widths_are_refused(bits):
    with pytest.raises(PrecisionError, match="expected 2 to 8"):
        split(np.zeros(1, np.uint8), bits)


def test_codes_that_do_not_fit_are_refused():
    with pytest.raises(PrecisionError, match="16 does not fit in 4"):
        split(np.asarray([16], np.uint8), 4)
