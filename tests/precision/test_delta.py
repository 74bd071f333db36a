import ml_dtypes
import numpy as np
import pytest

from pwl_jax.precision import PrecisionError, decode_tensor, encode_delta

TYPES = [np.float32, np.float16, np.float64, ml_dtypes.bfloat16, np.int8, np.uint16, np.int64, bool]


def pair(dtype, size=5000):
    rng = np.random.default_rng(0)
    old = np.frombuffer(rng.bytes(size * np.dtype(dtype).itemsize), np.uint8).copy()
    new = old.copy()
    new[::13] ^= rng.integers(0, 256, new[::13].size).astype(np.uint8)
    if dtype is bool:
        old &= 1
        new &= 1
    shape = (size // 10, 10)
    return old.view(dtype).reshape(shape), new.view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_new_tensor_comes_back_from_the_old_one(dtype):
    old, new = pair(dtype)
    payload = encode_delta(new, old)
    assert payload.header["kind"] == "delta"
    decoded = decode_tensor([payload], previous=old)
    assert decoded.dtype == new.dtype and decoded.tobytes() == new.tobytes()
    assert encode_delta(new, np.asfortranarray(old)).digest == payload.digest


@pytest.mark.parametrize("shape", [(), (0, 3), (300,), (4, 5)])
def test_an_unchanged_tensor_has_no_data(shape):
    array = np.full(shape, 1.5, np.float32)
    payload = encode_delta(array.copy(), array)
    assert (payload.header["kind"], len(payload.data)) == ("same", 0)
    assert decode_tensor([payload], previous=array).tobytes() == array.tobytes()


def test_small_changes_are_small():
    rng = np.random.default_rng(1)
    old = rng.standard_normal((512, 256)).astype(np.float32)
    tuned = (old * (1 + 1e-4 * rng.standard_normal(old.shape))).astype(np.float32)
    some = old.copy()
    some[:, 3] += 1
    assert len(encode_delta(tuned, old).data) < 0.5 * old.nbytes
    assert len(encode_delta(some, old).data) < 0.02 * old.nbytes


def test_what_shares_nothing_is_sent_whole():
    rng = np.random.default_rng(2)
    array, other = rng.standard_normal((2, 40, 60)).astype(np.float32)
    for previous in (array.T, array.astype(np.float16), other):
        payload = encode_delta(array, previous)
        assert payload.header["kind"] == "exact"
        assert decode_tensor([payload]).tobytes() == array.tobytes()


def test_another_tensor_or_none_is_refused():
    old, new = pair(np.float32)
    payload = encode_delta(new, old)
    with pytest.raises(PrecisionError, match="another tensor"):
        decode_tensor([payload], previous=new)
    with pytest.raises(PrecisionError, match="another tensor"):
        decode_tensor([payload], previous=old.reshape(-1))
    with pytest.raises(PrecisionError, match="none is given"):
        decode_tensor([payload])
    with pytest.raises(PrecisionError, match="no stage can follow"):
        decode_tensor([payload, payload], previous=old)
