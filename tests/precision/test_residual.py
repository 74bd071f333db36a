"""Planes and residuals on their own: any pattern from any code, and the sizes that they promise."""

import numpy as np
import pytest

from pwl_jax.precision import decode_tensor, encode_tensor, planes
from pwl_jax.precision.codes import SliceCodes
from pwl_jax.precision.payload import PartReader, payload_of
from pwl_jax.precision.residual import decode_slice, encode_slice

WIDTHS = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


def reader_of(parts):
    return PartReader(payload_of("exact", {}, parts))


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("dtype", WIDTHS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_any_pattern_is_reached_from_any_code(dtype, bits, zeros):
    rng = np.random.default_rng(0)
    patterns = np.frombuffer(rng.bytes(999 * WIDTHS[dtype]), f"<u{WIDTHS[dtype]}").copy()
    patterns[::3] = 0
    half = 1 << (bits - 1)
    codes = rng.integers(-half, half, patterns.size).astype(np.int8)
    codes[::5] = 0
    scales = rng.choice(np.float32([0, 2.0**-100, 1e-3, 1.5, 2.0**110]), patterns.size)
    slice_codes = SliceCodes(codes, lambda: scales, bits)
    reader = reader_of(encode_slice(patterns, slice_codes, dtype, zeros))
    out = np.empty_like(patterns)
    if zeros:
        # Only zeros whose code is 0 as well are left out.
        assert np.any((patterns == 0) & (codes != 0))
    decode_slice(reader, slice_codes, dtype, zeros, out)
    reader.finish()
    np.testing.assert_array_equal(out, patterns, strict=True)


def test_classes_are_magnitudes_up_to_15():
    few, many = np.arange(-8, 8, dtype=np.int8), np.int8([-128, -16, -15, 14, 127])
    assert classes_of(few, 4) == [8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6, 7]
    assert classes_of(many, 8) == [15, 15, 15, 14, 15]
    # Refined codes may lie beyond those of their width.
    assert classes_of(np.int16([-300, 0, 15, 16]), 4) == [15, 0, 15, 15]


def classes_of(codes, bits):
    classes = SliceCodes(codes, lambda: np.ones(codes.size, np.float32), bits).classes()
    assert classes.dtype == np.uint8
    return classes.tolist()


@pytest.mark.parametrize("bits", [4, 8])
def test_edges_are_half_a_step_nearer_to_zero(bits):
    highest = (1 << (bits - 1)) - 1
    codes = np.array([-2, -1, 0, 1, 2, highest, -highest - 1], np.int8)
    edges = SliceCodes(codes, lambda: np.full(7, 2, np.float32), bits).edges()
    assert edges.tolist() == [-3, -1, -1, 1, 3, 2 * highest - 1, -2 * highest - 1]


def test_ordered_patterns_are_in_the_order_of_values():
    values = np.float32([-np.inf, -1.5, -1e-45, 0.0, 1e-45, 1.0, np.inf])
    ordered = planes.ordered(values.view(np.uint32)).view(np.int32)
    assert np.all(np.diff(ordered) > 0)
    np.testing.assert_array_equal(planes.ordered(ordered.view(np.uint32)), values.view(np.uint32))


def test_small_differences_are_small_numbers():
    differences = np.array([0, -1, 1, -2, 32767, -32768], np.int16).view(np.uint16)
    coded = planes.zigzag(differences)
    assert coded.tolist() == [0, 1, 2, 3, 65534, 65535]
    np.testing.assert_array_equal(planes.unzigzag(coded), differences, strict=True)


def entropy(share):
    return -share * np.log2(share) - (1 - share) * np.log2(1 - share)


@pytest.mark.parametrize("kept", ["random", "2:4"])
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_pruned_weights_cost_little_more_than_their_mask_and_what_is_left(kept, share):
    rng = np.random.default_rng(1)
    array = rng.standard_normal((2048, 256)).astype(np.float32)
    if kept == "2:4":
        rank = np.argsort(np.argsort(np.abs(array).reshape(-1, 4), axis=1), axis=1)
        mask, mask_bits = (rank >= 2).reshape(array.shape), np.log2(6) / 4
        share = 0.5
    else:
        mask, mask_bits = rng.random(array.shape) < share, entropy(share)
    dense = [len(p.data) for p in encode_tensor(array[mask][:, None], ("exact",))]
    pruned = np.where(mask, array, np.float32(0))
    least = dense[0] + mask_bits / 8 * array.size
    for stages in (("exact",), (4, "exact")):
        payloads = encode_tensor(pruned, stages)
        assert decode_tensor(payloads).tobytes() == pruned.tobytes()
        total = sum(len(p.data) for p in payloads)
        assert total < 1.12 * least, (kept, stages, total / least)


def test_low_precision_in_wide_floats_stays_cheap():
    """Weights of 16 bits that are kept as float32 cost as much as in 16 bits."""
    rng = np.random.default_rng(2)
    wide = rng.standard_normal((512, 256)).astype(np.float32)
    wide.view(np.uint32)[:] &= 0xFFFF0000
    narrow = (wide.view(np.uint32) >> 16).astype(np.uint16)
    for stages in (("exact",), (4, "exact")):
        total = sum(len(p.data) for p in encode_tensor(wide, stages))
        assert total < 0.75 * narrow.nbytes
