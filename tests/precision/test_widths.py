"""A tensor whose bits are planned: other widths than its stages are named after."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from pwl_jax.precision import (
    PrecisionError,
    Quantization,
    canonical_json,
    decode_tensor,
    encode_tensor,
    expand,
    quantizable,
)

ml_dtypes = pytest.importorskip("ml_dtypes")

EXACT = "exact"
TYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)


@st.composite
def plans(draw):
    """Stages, and widths that fit them: never falling, all exact, or exact at the end alone."""
    names = sorted(draw(st.lists(st.integers(2, 8), min_size=1, max_size=4, unique=True)))
    ends = draw(st.booleans())
    if draw(st.integers(0, 5)) == 0:
        widths = [EXACT] * (len(names) + ends)
    else:
        widths = sorted(draw(st.integers(2, 8)) for _ in names) + [EXACT] * ends
    return (*names, *[EXACT] * ends), tuple(widths)


@st.composite
def tensors(draw):
    """Bit patterns of every kind, so that NaN payloads and subnormals are among them."""
    dtype = np.dtype(draw(st.sampled_from(TYPES)))
    shape = draw(st.sampled_from([(16, 4), (4, 16), (3, 5, 8), (64, 9), (8, 2), (7,), (0, 4), ()]))
    raw = np.random.default_rng(draw(st.integers(0, 99))).bytes(
        int(np.prod(shape, dtype=int)) * dtype.itemsize
    )
    return np.frombuffer(raw, dtype).reshape(shape)


RULES = st.builds(
    Quantization,
    scheme=st.sampled_from(["symmetric", "affine"]),
    granularity=st.sampled_from(["tensor", "channel", "group"]),
    group_size=st.integers(1, 20),
    channel_axis=st.sampled_from([0, -1]),
    scale=st.sampled_from(["minmax", "mse", "quartic", "percentile"]),
)


def same_bits(found, expected):
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(tensors(), plans(), RULES)
def test_every_plan_is_what_a_receiver_sees_and_restores_to_the_bit(array, plan, rule):
    stages, widths = plan
    payloads = encode_tensor(array, stages, quantization=rule, widths=widths)
    again = encode_tensor(array.copy(), stages, quantization=rule, widths=widths)
    for one, other in zip(payloads, again, strict=True):
        assert canonical_json(one.header) == canonical_json(other.header)
        assert bytes(one.data) == bytes(other.data)
    sent = [payload.stage for payload in payloads]
    if quantizable(array, rule.channel_axis) and widths[0] != EXACT:
        # A stage brings something where its width is another than the one before.
        assert sent == [
            stage
            for place, stage in enumerate(stages)
            if not place or widths[place] != widths[place - 1]
        ]
        held = [payload.header.get("bits", EXACT) for payload in payloads]
        assert held == list(dict.fromkeys(widths))
    else:
        assert sent == [stages[0]] and payloads[0].header["kind"] == "exact"
    for place, stage in enumerate(stages):
        arrived = [payload for payload in payloads if payload.stage in stages[: place + 1]]
        seen = expand(array, stage, stages, quantization=rule, widths=widths)
        same_bits(decode_tensor(arrived), seen)
        if widths[place] == EXACT:
            same_bits(seen, array)


def test_a_stage_without_news_brings_nothing_and_the_last_update_still_fits():
    array = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    payloads = encode_tensor(array, (4, 8, EXACT), widths=(8, 8, EXACT))
    assert [payload.stage for payload in payloads] == [4, EXACT]
    assert payloads[1].header["base"] == payloads[0].digest
    whole = encode_tensor(array, (8, EXACT))
    assert bytes(payloads[0].data) == bytes(whole[0].data)
    assert bytes(payloads[1].data) == bytes(whole[1].data)
    same_bits(expand(array, 4, (4, 8, EXACT), widths=(8, 8, EXACT)), expand(array, 8, (8,)))
    # Without a plan, nothing differs from a plan that says the same.
    planned = encode_tensor(array, (4, 8, EXACT), widths=(4, 8, EXACT))
    plain = encode_tensor(array, (4, 8, EXACT))
    assert [p.digest for p in planned] == [p.digest for p in plain]


def test_more_bits_are_nearer_at_the_same_stage():
    array = np.random.default_rng(1).standard_normal((256, 16)).astype(np.float32)
    errors = [
        np.linalg.norm(expand(array, 4, (4, 8, EXACT), widths=(bits, 8, EXACT)) - array)
        for bits in (2, 3, 4, 6, 8)
    ]
    assert errors == sorted(errors, reverse=True) and errors[0] > 10 * errors[-1]


@pytest.mark.parametrize(
    "widths",
    [
        (),
        (4, EXACT),
        (4, 8, EXACT, EXACT),
        (8, 4, EXACT),
        (1, 8, EXACT),
        (4, 9, EXACT),
        (True, 8, EXACT),
        (4.0, 8, EXACT),
        (4, 8, 8),
        (4, EXACT, EXACT),
        (EXACT, 8, EXACT),
        (EXACT, EXACT, 8),
        (4, "8", EXACT),
    ],
)
def test_widths_that_fit_no_stages_are_refused(widths):
    with pytest.raises(PrecisionError, match="never falling") as caught:
        encode_tensor(np.ones((16, 4), np.float32), (4, 8, EXACT), widths=widths)
    assert "\n" not in str(caught.value)
