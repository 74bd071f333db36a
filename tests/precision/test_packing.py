"""Packing by hand-worked bytes, and the quantizer's promises."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from pwl_jax.precision import PrecisionError
from pwl_jax.precision.packing import pack_bits, packed_bytes, unpack_bits
from pwl_jax.precision.quantizer import dequantize, quantize, refine, refined

# Codes 0, 1, -1 plus 2^(bits - 1), lowest bit first; worked out on paper.
BY_HAND = {
    2: "1e",  # 2 3 1: 01 11 10
    3: "ec 00",  # 4 5 3: 011 101 100
    4: "98 07",  # 8 9 7
    5: "30 3e",  # 16 17 15: 01111 10001 10000
    6: "60 f8 01",  # 32 33 31: 011111 100001 100000
    7: "c0 e0 0f",  # 64 65 63: 0111111 1000001 1000000
    8: "80 81 7f",
}


@pytest.mark.parametrize("bits", BY_HAND)
def test_hand_worked_bytes(bits):
    codes = np.asarray([0, 1, -1], np.int8)
    data = bytes.fromhex(BY_HAND[bits])
    assert pack_bits(codes, bits) == data
    np.testing.assert_array_equal(unpack_bits(data, bits, 3), codes)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(st.integers(2, 8), st.integers(0, 200), st.integers(0, 1000))
def test_round_trip_and_size(bits, count, seed):
    half = 1 << (bits - 1)
    codes = np.random.default_rng(seed).integers(-half, half, count).astype(np.int8)
    data = pack_bits(codes, bits)
    assert len(data) == packed_bytes(count, bits) == -(-count * bits // 8)
    np.testing.assert_array_equal(unpack_bits(data, bits, count), codes)


@pytest.mark.parametrize("bits", [3, 5])
def test_more_codes_than_one_slice(bits):
    codes = np.random.default_rng(0).integers(-4, 4, (1 << 18) + 3).astype(np.int8)
    np.testing.assert_array_equal(unpack_bits(pack_bits(codes, bits), bits, codes.size), codes)


@pytest.mark.parametrize("bits", [0, 1, 9])
def test_other_widths_are_refused(bits):
    with pytest.raises(PrecisionError, match="expected 2 to 8"):
        pack_bits(np.zeros(1, np.int8), bits)


def test_codes_that_do_not_fit_are_refused():
    with pytest.raises(PrecisionError, match="do not fit"):
        pack_bits(np.asarray([8], np.int8), 4)


@pytest.mark.parametrize("bits", range(2, 9))
def test_error_is_at_most_half_a_step_where_nothing_is_clipped(bits):
    array = np.random.default_rng(6).uniform(-1, 1, (500, 8)).astype(np.float32)
    coded = quantize(array, bits)
    half = 1 << (bits - 1)
    error = np.abs(dequantize(coded) - array)
    inside = (coded.codes > -half) & (coded.codes < half - 1)
    assert np.all(error[inside] <= np.broadcast_to(coded.scales / 2, error.shape)[inside] * 1.0001)
    assert np.all(coded.scales <= 1.5 / half)


def test_search_is_no_worse_than_the_largest_value_as_the_end():
    array = np.random.default_rng(7).standard_t(3, (1000, 8)).astype(np.float32)
    largest = np.abs(array).max(0)
    naive = np.clip(np.rint(array / largest * 7), -8, 7) * largest / 7
    error = np.sum((dequantize(quantize(array, 4)) - array) ** 2, 0)
    assert np.all(error <= np.sum((naive - array) ** 2, 0) * 1.001)


def test_zero_channels_and_non_finite_values():
    array = np.ones((10, 3), np.float32)
    array[:, 0] = 0
    array[0, 1], array[1, 1], array[:, 2] = np.nan, np.inf, np.nan
    coded = quantize(array, 4)
    assert coded.scales[0] == 0 and coded.scales[2] == 0
    assert np.all(np.isfinite(dequantize(coded)))
    np.testing.assert_allclose(dequantize(coded)[2:, 1], 1, rtol=0.08)


def test_refinement_is_inverted_exactly():
    array = np.random.default_rng(8).standard_normal((100, 5)).astype(np.float32)
    base = quantize(array, 3)
    finer, differences = refine(array, base, 7)
    again = refined(base, differences, 7)
    np.testing.assert_array_equal(again.codes, finer.codes)
    np.testing.assert_array_equal(dequantize(again), dequantize(finer))
