"""Base and updates: every bit comes back, and each stage is what `expand` says."""

import tracemalloc

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from pwl_jax.precision import (
    PrecisionError,
    canonical_json,
    check_stages,
    decode_tensor,
    encode_tensor,
    expand,
    quantizable,
)

ml_dtypes = pytest.importorskip("ml_dtypes")

STAGES = [(4, "exact"), (8, "exact"), (4, 8, "exact"), (2, 3, 5, "exact"), ("exact",), (4,)]
FLOATS = ["float16", "bfloat16", "float32", "float64"]
INTEGERS = ["bool", "int8", "uint8", "int16", "uint32", "int64", "uint64"]
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def dtype_of(name):
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def bits_of(array):
    return np.ascontiguousarray(array).reshape(-1).view(UNSIGNED[array.dtype.itemsize])


def assert_same(decoded, array):
    assert decoded.dtype == array.dtype.newbyteorder("=")
    assert decoded.shape == array.shape
    native = array.astype(array.dtype.newbyteorder("="))
    np.testing.assert_array_equal(bits_of(decoded), bits_of(native))


@st.composite
def patterned(draw, names=tuple(FLOATS), min_dims=0):
    """Arrays of arbitrary bit patterns, so that NaN payloads and subnormals are among them."""
    dtype = dtype_of(draw(st.sampled_from(names)))
    shapes = hnp.array_shapes(min_dims=min_dims, max_dims=4, min_side=0, max_side=12)
    shape = draw(st.just(()) | shapes if min_dims == 0 else shapes)
    seed = draw(st.integers(0, 2**32 - 1))
    size = int(np.prod(shape, dtype=int))
    raw = np.random.default_rng(seed).integers(0, 256, size * dtype.itemsize, np.uint8)
    if dtype.kind == "b":
        raw &= 1
    return raw.view(dtype).reshape(shape)


@hypothesis.settings(max_examples=120, deadline=None)
@hypothesis.given(patterned((*FLOATS, *INTEGERS)), st.sampled_from(STAGES))
def test_every_bit_pattern_is_restored_and_every_stage_is_expand(array, stages):
    payloads = encode_tensor(array, stages)
    assert len(payloads) == (len(stages) if quantizable(array) and stages[0] != "exact" else 1)
    for count, stage in enumerate(stages[: len(payloads)], 1):
        expanded = expand(array, stage, stages)
        assert_same(decode_tensor(payloads[:count]), expanded)
    if stages[-1] == "exact" or not quantizable(array):
        assert_same(decode_tensor(payloads), array)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("stages", [(4, "exact"), (4, 8, "exact"), ("exact",)])
def test_special_values_survive_and_leave_their_channel_in_shape(name, stages):
    rng = np.random.default_rng(1)
    array = rng.standard_normal((64, 6)).astype(dtype_of(name))
    patterns = array.view(UNSIGNED[array.dtype.itemsize])
    top = np.asarray(-0.0, array.dtype).view(patterns.dtype)
    infinity = np.asarray(np.inf, array.dtype).view(patterns.dtype)
    patterns[0, 0], patterns[1, 0] = infinity, infinity | top
    patterns[2, 1], patterns[3, 1] = infinity | patterns.dtype.type(1), infinity | top | 3
    patterns[4, 2], patterns[5, 2], patterns[6, 2] = top, 1, top | 1
    payloads = encode_tensor(array, stages)
    assert_same(decode_tensor(payloads), array)
    if stages[0] == 4:
        base = decode_tensor(payloads[:1]).astype(np.float64)
        assert np.all(np.isfinite(base))
        # ml_dtypes reports signalling NaNs as it meets them.
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(array)
        error = base[finite] - array[finite].astype(np.float64)
        assert np.sqrt(np.mean(error**2)) < 0.25


@pytest.mark.parametrize("name", FLOATS)
def test_all_patterns_of_16_bits_and_the_extremes(name):
    dtype = dtype_of(name)
    if dtype.itemsize == 2:
        array = np.arange(1 << 16, dtype=np.uint16).view(dtype).reshape(256, 256)
    else:
        info = np.finfo(dtype)
        values = [info.max, -info.max, info.tiny, info.smallest_subnormal, -0.0, 0, 1, -1]
        array = np.asarray(values * 4, dtype).reshape(16, 2)
    for stages in STAGES[:5]:
        assert_same(decode_tensor(encode_tensor(array, stages)), array)


@pytest.mark.parametrize("dtype", [">f4", ">f2", ">i4", ">u8", "<f4"])
def test_memory_layout_and_byte_order_play_no_part(dtype):
    rng = np.random.default_rng(2)
    plain = (rng.standard_normal((20, 30)) * 9).astype(dtype)
    native = plain.astype(plain.dtype.newbyteorder("="))
    for array in (plain, plain.T, plain[::2, ::-3], np.asfortranarray(plain)):
        payloads = encode_tensor(array, (4, "exact"))
        assert_same(decode_tensor(payloads), array)
        same = native.reshape(plain.shape)
        if array is plain:
            expected = encode_tensor(same, (4, "exact"))
            assert [p.data for p in payloads] == [p.data for p in expected]


def test_big_endian_nan_payload():
    array = np.asarray([[0x7F800123, 0xFFC00001]] * 8, ">u4").view(">f4")
    assert_same(decode_tensor(encode_tensor(array, (4, "exact"))), array)


def test_equal_input_gives_equal_bytes():
    array = np.random.default_rng(3).standard_normal((40, 24)).astype(np.float32)
    first, second = (encode_tensor(a, (4, 8, "exact")) for a in (array, array.copy(order="F")))
    for one, other in zip(first, second, strict=True):
        assert bytes(one.data) == bytes(other.data)
        assert canonical_json(one.header) == canonical_json(other.header)


@pytest.mark.parametrize("shape", [(), (5,), (0, 3), (3, 0), (7, 4)])
def test_small_flat_and_empty_tensors_are_exact_in_the_first_stage(shape):
    array = np.ones(shape, np.float32)
    payloads = encode_tensor(array, (4, 8, "exact"))
    assert not quantizable(array)
    assert [p.stage for p in payloads] == [4]
    assert_same(decode_tensor(payloads), array)


@pytest.mark.parametrize(
    "stages", [(), (1,), (9,), (4, 4), (8, 4), ("exact", 4), ("exact", "exact"), (True,), (4.0,)]
)
def test_stages_that_do_not_refine_are_refused(stages):
    with pytest.raises(PrecisionError, match="rising widths"):
        check_stages(stages)


def test_expand_refuses_a_stage_that_is_not_sent():
    with pytest.raises(PrecisionError, match="not one of"):
        expand(np.ones((9, 9), np.float32), 8, (4, "exact"))


def test_types_without_a_code_are_refused():
    with pytest.raises(PrecisionError, match="object"):
        encode_tensor(np.asarray([[None]]), ("exact",))


def test_sizes_of_a_kernel():
    array = (np.random.default_rng(4).standard_normal((256, 256)) * 0.05).astype(np.float32)
    sizes = [len(p.data) for p in encode_tensor(array, (4, 8, "exact"))]
    assert sizes[0] <= 0.135 * array.nbytes
    assert sum(sizes) < 0.95 * array.nbytes
    # Eight bits refine the four that are there already.
    assert sizes[1] < len(encode_tensor(array, (8,))[0].data)


@pytest.mark.parametrize("stages", [(4, "exact"), (4, 8, "exact")])
def test_more_values_than_one_slice_of_the_sorted_residual(stages):
    array = np.random.default_rng(9).standard_normal(((1 << 17) + 5, 9)).astype(np.float32)
    assert_same(decode_tensor(encode_tensor(array, stages)), array)


def test_base_and_update_stay_near_the_exact_tensor_alone():
    array = (np.random.default_rng(10).standard_t(5, (1024, 256)) * 0.02).astype(np.float32)
    total = sum(len(p.data) for p in encode_tensor(array, (4, "exact")))
    assert total <= 1.02 * len(encode_tensor(array, ("exact",))[0].data)


def test_eight_bits_are_closer_than_four():
    array = np.random.default_rng(5).standard_t(4, (512, 64)).astype(np.float32)
    four, eight = (expand(array, bits, (4, 8, "exact")) - array for bits in (4, 8))
    assert np.linalg.norm(four) < 0.25 * np.linalg.norm(array)
    assert np.linalg.norm(eight) < 0.1 * np.linalg.norm(four)


@pytest.mark.parametrize("shape", [(128, 512), (3, 3, 128, 128), (2304, 256)])
def test_restoring_takes_three_times_the_tensor(shape):
    wide = np.random.default_rng(0).standard_normal(shape, np.float32)
    array = (wide.view(np.uint32) >> 16).astype(np.uint16).view(ml_dtypes.bfloat16)
    payloads = encode_tensor(array, (4, "exact"))
    decode_tensor(payloads)
    tracemalloc.start()
    try:
        restored = decode_tensor(payloads)
        extra = tracemalloc.get_traced_memory()[1] - restored.nbytes
    finally:
        tracemalloc.stop()
    assert restored.tobytes() == array.tobytes()
    assert extra <= 3 * array.nbytes
