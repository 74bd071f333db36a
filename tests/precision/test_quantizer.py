"""Codes, scales and zero points, against what they promise and against plain NumPy."""

import dataclasses
import itertools

import numpy as np
import pytest

from pwl_jax.precision import PrecisionError, Quantization, decode_tensor, encode_tensor, expand
from pwl_jax.precision.grid import Grid
from pwl_jax.precision.quantizer import quantize, read_numbers, storable, stored_numbers

RULES = [
    Quantization(scheme, granularity, group_size, axis, scale, bias_correction=axis == 0)
    for scheme, (granularity, group_size), axis, scale in itertools.product(
        ("symmetric", "affine"),
        (("tensor", 1), ("channel", 1), ("group", 7), ("group", 64)),
        (0, -1),
        ("minmax", "mse", "quartic", "percentile"),
    )
]


def weights(shape=(50, 6), seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_t(5, shape).astype(dtype)


def scale_of_each(array, rule):
    """The scale of every element, told apart by loops over a matrix."""
    coded = quantize(array, 4, rule)
    axis, group = rule.axis_and_group(array.shape)
    channels_last = axis not in (0, None) or array.ndim == 1
    matrix = array.reshape(coded.grid.rows, coded.grid.columns)
    scales = np.empty(matrix.shape, np.float32)
    for row, column in np.ndindex(*matrix.shape):
        along, channel = (row, column) if channels_last else (column, row)
        place = (along // group, channel) if channels_last else (channel, along // group)
        scales[row, column] = coded.scales[place]
    return coded, scales.reshape(-1)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(50, 6), (6, 5, 10), (3, 3, 4, 8)])
def test_scales_belong_to_their_groups(rule, shape):
    array = weights(shape)
    coded, expected = scale_of_each(array, rule)
    for start, stop in ((0, array.size), (1, 2), (17, 239), (array.size - 3, array.size)):
        found = coded.grid.spread(coded.scales, start, stop)
        np.testing.assert_array_equal(found, expected[start:stop], strict=True)


@pytest.mark.parametrize("group", [1, 3, 64, 5000, 1 << 50])
@pytest.mark.parametrize(
    ("axis", "shape"), [(None, (5, 3000)), (0, (3, 5000)), (1, (5000, 3)), (1, (3, 5000))]
)
def test_long_rows_are_spread_in_parts(group, axis, shape):
    grid = Grid.of(shape, axis, group)
    scales = np.arange(np.prod(grid.scales_shape), dtype=np.float32).reshape(grid.scales_shape)
    whole = grid.spread(scales, 0, 15_000)
    if grid.channels_last:
        expected = scales[np.arange(grid.rows) // group]
    else:
        expected = scales[:, np.arange(grid.columns) // group]
    np.testing.assert_array_equal(whole, expected.reshape(-1))
    for start, stop in ((0, 1), (4999, 5003), (123, 14_999)):
        np.testing.assert_array_equal(grid.spread(scales, start, stop), whole[start:stop])


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(
    "rule", [r for r in RULES if r.scale == "minmax" and not r.bias_correction]
)
def test_nothing_is_further_than_half_a_step_where_nothing_is_clipped(bits, rule):
    array = weights((64, 8), seed=bits)
    coded = quantize(array, bits, rule)
    steps = coded.grid.spread(coded.scales, 0, array.size).reshape(array.shape)
    # A zero point is rounded, and may so lose half a step at one end of the range.
    slack = 1.0001 if rule.scheme == "symmetric" else 2.0001
    error = np.abs(expand(array, bits, (bits,), quantization=rule) - array)
    assert np.all(error <= steps / 2 * slack)


@pytest.mark.parametrize("rule", [r for r in RULES if r.scale == "mse"])
def test_the_search_is_no_worse_than_keeping_the_extremes(rule):
    array = weights((1000, 8), seed=7)
    for bits in (3, 4):
        plain = dataclasses.replace(rule, scale="minmax")
        found = expand(array, bits, (bits,), quantization=rule) - array
        naive = expand(array, bits, (bits,), quantization=plain) - array
        assert np.sum(found**2) <= np.sum(naive**2) * 1.01


def test_smaller_groups_are_closer():
    array = weights((4096, 16), seed=8) * np.float32(1.2) ** np.arange(16)
    array = array.astype(np.float32)
    rules = [
        Quantization(granularity="tensor"),
        Quantization(granularity="channel"),
        *(Quantization(group_size=size) for size in (256, 64, 16)),
    ]
    errors = [np.linalg.norm(expand(array, 4, (4,), quantization=r) - array) for r in rules]
    assert errors == sorted(errors, reverse=True)


def test_affine_codes_are_closer_on_one_sided_values():
    array = np.abs(weights((640, 8), seed=9))
    symmetric, affine = (
        np.linalg.norm(expand(array, 4, (4,), quantization=Quantization(scheme)) - array)
        for scheme in ("symmetric", "affine")
    )
    assert affine < 0.7 * symmetric


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("granularity", ["channel", "group"])
def test_errors_of_a_channel_cancel_but_for_the_offsets_own_rounding(axis, granularity):
    array = weights((640, 640), seed=11) * np.float32(0.02)
    means = {}
    for corrected in (False, True):
        rule = Quantization("symmetric", granularity, 64, axis, "mse", bias_correction=corrected)
        error = expand(array, 3, (3,), quantization=rule) - array
        means[corrected] = np.abs(error.mean(1 if axis == 0 else 0, dtype=np.float64)).mean()
    assert means[True] < 0.15 * means[False]


def test_channels_of_many_zeros_stay_zero():
    array = weights((640, 4), seed=12)
    array[::2, 1] = 0
    seen = expand(array, 4, (4,))
    assert not seen[::2, 1].any() and np.count_nonzero(seen[:, 0]) == 640


def test_percentile_clips_what_lies_beyond():
    array = np.ones((1000, 2), np.float32)
    array[:5] = 100
    rule = Quantization(
        granularity="channel", scale="percentile", percentile=99.0, bias_correction=False
    )
    assert np.max(np.abs(expand(array, 4, (4,), quantization=rule))) < 1.2
    whole = Quantization(granularity="channel", scale="percentile", percentile=100)
    assert np.max(expand(array, 4, (4,), quantization=whole)) > 90


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_rule_comes_back_to_the_bit(rule, dtype):
    array = weights((70, 9), seed=10, dtype=dtype)
    array[3, 4], array[5, 6], array[0] = np.nan, -np.inf, 0
    for stages in ((2, "exact"), (5, "exact"), (3, 4, 8, "exact")):
        payloads = encode_tensor(array, stages, quantization=rule)
        assert decode_tensor(payloads).tobytes() == array.tobytes()
        assert np.isfinite(decode_tensor(payloads[:1])).all()


def test_channels_of_zeros_have_scale_zero():
    array = weights((100, 3))
    array[:, 1] = 0
    rule = Quantization(granularity="channel")
    assert quantize(array, 4, rule).scales[0, 1] == 0
    assert not np.any(expand(array, 4, (4,), quantization=rule)[:, 1])


def test_scales_have_three_bits_of_mantissa():
    values = np.geomspace(1e-29, 1e30, 999, dtype=np.float32)
    kept = storable(values)
    assert np.all((kept >= values) & (kept <= values * 1.1251))
    assert not np.any(kept.view(np.uint32) & 0xFFFFF)
    np.testing.assert_array_equal(read_numbers(stored_numbers(kept)), kept, strict=True)
    np.testing.assert_array_equal(storable(kept), kept)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scheme", "log"), ("granularity", "block"), ("scale", "max"), ("channel_axis", 1),
        ("group_size", 0), ("group_size", 1.5), ("percentile", 50), ("percentile", 101),
    ],
)  # fmt: skip
def test_other_rules_are_refused(field, value):
    with pytest.raises(PrecisionError, match=f"{field} is "):
        Quantization(**{field: value})


@pytest.mark.parametrize("bits", [1, 9])
def test_other_widths_are_refused(bits):
    with pytest.raises(PrecisionError, match="expected 2 to 8"):
        quantize(weights(), bits)


@pytest.mark.parametrize("rule", ["minmax", "mse", "quartic", "percentile"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_a_group_of_many_values_is_looked_at_as_a_whole(granularity, rule):
    """One outlier between the looked at, and columns of zeros at even places."""
    array = weights((8192, 16), seed=13) * np.float32(0.1)
    array[4097] = 100
    array[:, ::4] = 0
    for axis in (-1, 0):
        quantization = Quantization(
            granularity=granularity, channel_axis=axis, scale=rule, percentile=100
        )
        seen = expand(array if axis else array.T, 8, (8,), quantization=quantization)
        seen = seen if axis else seen.T
        assert np.abs(seen[:, 1]).max() > 1
        if rule in ("minmax", "percentile"):
            assert abs(seen[4097, 1] - 100) < 1


def test_what_is_larger_than_scales_are_is_left_to_the_exact_update():
    array = np.full((16, 4), 3e38, np.float32)
    payloads = encode_tensor(array, (4, "exact"))
    assert decode_tensor(payloads[:1]).max() < 1e36
    assert decode_tensor(payloads).tobytes() == array.tobytes()
