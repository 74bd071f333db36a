"""Damaged, foreign and hostile payloads are refused, without crash or large allocation."""

import dataclasses
import json
import time
import tracemalloc

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import zstandard

from pwl_jax.precision import (
    PrecisionError,
    Quantization,
    StagePayload,
    decode_tensor,
    encode_tensor,
)

STAGES = (4, 8, "exact")
MAX_BYTES = 1 << 20


def kernel(seed=0):
    return (np.random.default_rng(seed).standard_normal((32, 16)) * 0.1).astype(np.float32)


def headed(payload, **fields):
    header = {**payload.header, **fields}
    kept = {name: value for name, value in header.items() if value is not ...}
    return dataclasses.replace(payload, header=kept)


PAYLOADS = encode_tensor(kernel(), STAGES, quantization=Quantization(group_size=24))


@pytest.mark.parametrize("stage", [1, 2])
def test_an_update_refuses_another_base(stage):
    other = encode_tensor(kernel(1), STAGES)
    with pytest.raises(PrecisionError, match="another base"):
        decode_tensor([*other[:stage], PAYLOADS[stage]])


@pytest.mark.parametrize("order", [[], [1], [2], [0, 2], [0, 1, 1], [0, 0], [0, 1, 2, 2], [1, 0]])
def test_stages_out_of_order_are_refused(order):
    with pytest.raises(PrecisionError):
        decode_tensor([PAYLOADS[i] for i in order])


@pytest.mark.parametrize(
    "field", ["kind", "dtype", "shape", "parts", "bits", "axis", "group", "affine"]
)
@pytest.mark.parametrize(
    "value",
    [
        ...,
        None,
        -1,
        10**30,
        1.5,
        True,
        "x",
        [],
        {},
        [-1],
        [1 << 62] * 4,
        [10**30],
        ["zstd", 1],
        [["zstd", -1]],
        [["lzma", 3], ["raw", 4]],
        [["raw", 1 << 62], ["raw", 1]],
        [0, 1 << 62],
    ],
)
def test_edited_headers_are_refused(field, value):
    with pytest.raises(PrecisionError):
        decode_tensor([headed(PAYLOADS[0], **{field: value})], max_bytes=MAX_BYTES)


@pytest.mark.parametrize("value", [..., None, 3, "0" * 64, "A" * 64, ["x"]])
def test_edited_ties_are_refused(value):
    with pytest.raises(PrecisionError):
        decode_tensor([PAYLOADS[0], headed(PAYLOADS[1], base=value)])


def test_more_than_max_bytes_is_refused():
    with pytest.raises(PrecisionError, match="larger than"):
        decode_tensor(PAYLOADS, max_bytes=kernel().nbytes - 1)
    decode_tensor(PAYLOADS, max_bytes=kernel().nbytes)


def test_too_many_axes_are_refused():
    exact = encode_tensor(np.zeros(1, np.float32), ("exact",))[0]
    with pytest.raises(PrecisionError, match="axes"):
        decode_tensor([headed(exact, shape=[1] * 65)])


@pytest.mark.parametrize("declared", [True, False])
def test_a_decompression_bomb_is_refused_before_it_is_opened(declared):
    bomb = zstandard.ZstdCompressor(write_content_size=declared).compress(bytes(1 << 28))
    header = {"kind": "exact", "dtype": "uint8", "shape": [9], "parts": [["zstd", len(bomb)]]}
    tracemalloc.start()
    try:
        with pytest.raises(PrecisionError):
            decode_tensor([StagePayload("exact", header, bomb)])
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, 3e38])
def test_scales_and_offsets_that_no_encoder_writes_are_refused(scale, offset):
    array = kernel()
    payload = encode_tensor(array, (8,))[0]
    assert (payload.header["axis"], payload.header["group"]) == (1, 32)
    codes = np.full(array.size, 128, np.uint8).tobytes()
    numbers = np.ones(32, "<f4")
    numbers[16 * offset + 3] = scale
    scales = (numbers.view("<u4") >> 20).astype("<u2").tobytes()
    parts = [["raw", 32], ["raw", 32], ["raw", len(codes)]]
    data = scales[0::2] + scales[1::2] + codes
    payload = StagePayload(8, {**payload.header, "parts": parts}, data)
    if offset and scale == -1:
        # Codes of 0 everywhere: what is left are the offsets.
        expected = np.broadcast_to(numbers[16:], array.shape)
        np.testing.assert_array_equal(decode_tensor([payload]), expected)
        return
    with pytest.raises(PrecisionError, match="scale"):
        decode_tensor([payload])


@pytest.mark.parametrize(("shape", "axis", "group"), [
    ([1, 1 << 21], 1, 1), ([1 << 21, 1], 0, 1), ([1 << 18, 8], 1, 1), ([8, 1 << 18], 0, 1),
    ([1 << 11, 1 << 10], None, 1), ([8, 1 << 18], 1, (1 << 17) + 1), ([8, 1 << 18], 0, 1 << 62),
    ([8, 1 << 18], 0, (1 << 17) + 1),
])  # fmt: skip
def test_grids_as_fine_or_coarse_as_can_be_take_little_time_and_memory(shape, axis, group):
    """Of codes that a hostile author can send in a few bytes."""
    count = 1 << 21
    rows, columns = (1, count) if axis is None else (shape[0], shape[1])
    channels = columns if axis == 1 else rows
    values = (rows if axis == 1 else columns) if axis is not None else count
    scales = channels * -(-values // group)
    sizes = [scales + channels] * 2 + [1 << 16] * (count >> 17)
    frames = [zstandard.compress(bytes(size)) for size in sizes]
    header = {
        "kind": "codes", "dtype": "bfloat16", "shape": shape, "bits": 4, "axis": axis,
        "group": group, "affine": False, "parts": [["zstd", len(frame)] for frame in frames],
    }  # fmt: skip
    tracemalloc.start()
    start = time.monotonic()
    try:
        payload = StagePayload(4, header, b"".join(frames))
        if channels * 8 > count:
            with pytest.raises(PrecisionError, match="channels"):
                decode_tensor([payload])
        else:
            assert not decode_tensor([payload]).view(np.uint16).any()
        assert tracemalloc.get_traced_memory()[1] < 4 * (2 * count) + (16 << 20)
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < 5


def decodes_or_refuses(payloads):
    try:
        decoded = decode_tensor(payloads, max_bytes=MAX_BYTES)
    except PrecisionError:
        return
    assert decoded.nbytes <= MAX_BYTES


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(st.integers(0, 2), st.integers(0, 1 << 16), st.integers(1, 255), st.booleans())
def test_flipped_and_cut_data(which, place, mask, cut):
    payloads = list(PAYLOADS[: which + 1])
    data = bytearray(payloads[which].data)
    if cut:
        del data[place % len(data) :]
    else:
        data[place % len(data)] ^= mask
    payloads[which] = dataclasses.replace(payloads[which], data=bytes(data))
    decodes_or_refuses(payloads)
    if which < 2:
        with pytest.raises(PrecisionError):
            decode_tensor([*payloads, PAYLOADS[which + 1]])


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(st.integers(0, 2), st.integers(0, 1 << 16), st.sampled_from('0129-"[]{},:exz'))
def test_headers_with_one_letter_changed(which, place, letter):
    text = json.dumps(PAYLOADS[which].header)
    place %= len(text)
    try:
        header = json.loads(text[:place] + letter + text[place + 1 :])
    except ValueError:
        return
    changed = StagePayload(PAYLOADS[which].stage, header, PAYLOADS[which].data)
    decodes_or_refuses([*PAYLOADS[:which], changed])
