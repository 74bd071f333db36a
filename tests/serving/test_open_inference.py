"""Open Inference Protocol v2, JSON and binary tensors, over real sockets."""

import json

import numpy as np
import pytest

from pwl_jax.runtime import LiveModel
from pwl_jax.serving import create_app, serve_in_thread
from tests import tiny_bundle as tiny
from tests.http_call import call

RNG = np.random.default_rng(6)
PIXELS = RNG.integers(0, 256, tiny.INPUT_SHAPE, dtype=np.uint8)
IMAGES = RNG.normal(size=(3, *tiny.INPUT_SHAPE)).astype(np.float32)
LENGTH = "Inference-Header-Content-Length"
SHAPE = list(IMAGES.shape)


@pytest.fixture(scope="module")
def model(bundle, executor):
    with LiveModel.open(bundle, executor=executor, rung="TTT@exact", climb=False) as model:
        yield model


@pytest.fixture(scope="module")
def url(model):
    with serve_in_thread(create_app(model, "tiny", close_model=False)) as url:
        yield url


def request(**changes) -> dict:
    tensor = {"name": "images", "shape": SHAPE, "datatype": "FP32", "data": IMAGES.tolist()}
    return {"inputs": [{**tensor, **changes}]}


def infer(url, document, tail=b"", headers=None):
    body = json.dumps(document).encode()
    headers = {LENGTH: str(len(body))} if headers is None and tail else headers or {}
    return call(f"{url}/v2/models/tiny/infer", body + tail, headers)


def test_metadata_and_health(url):
    assert json.loads(call(f"{url}/v2")[2])["name"] == "pwl_jax"
    for path in (
        "health/live",
        "health/ready",
        "models/tiny/ready",
        "models/tiny/versions/1/ready",
    ):
        assert call(f"{url}/v2/{path}")[0] == 200
    document = json.loads(call(f"{url}/v2/models/tiny")[2])
    assert document["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 8, 8, 3]}]
    assert document["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 5]}]


def test_infer_json(url, model):
    status, _, body = infer(url, {**request(), "id": "seven"})
    answer = json.loads(body)
    assert (status, answer["id"], answer["model_name"]) == (200, "seven", "tiny")
    assert answer["parameters"] == {"rung": "TTT@exact", "executor": "jax"}
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"]) == ("logits", "FP32")
    logits = np.array(output["data"], np.float32).reshape(output["shape"])
    np.testing.assert_array_equal(logits, model.predict(IMAGES).logits)


def test_infer_uint8(url, model):
    tensor = {"datatype": "UINT8", "shape": [1, *PIXELS.shape], "data": PIXELS.ravel().tolist()}
    _, _, body = infer(url, request(**tensor))
    logits = np.array(json.loads(body)["outputs"][0]["data"], np.float32)
    np.testing.assert_array_equal(logits, model.predict(PIXELS).logits[0])


@pytest.mark.parametrize(
    "wanted",
    [
        {"outputs": [{"name": "logits", "parameters": {"binary_data": True}}]},
        {"parameters": {"binary_data_output": True}},
    ],
)
def test_infer_binary(url, model, wanted):
    tail = IMAGES.tobytes()
    document = request(parameters={"binary_data_size": len(tail)})
    del document["inputs"][0]["data"]
    status, headers, body = infer(url, {**document, **wanted}, tail)
    assert status == 200
    length = int(headers[LENGTH])
    (output,) = json.loads(body[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": len(body) - length}
    logits = np.frombuffer(body[length:], "<f4").reshape(output["shape"])
    np.testing.assert_array_equal(logits, model.predict(IMAGES).logits)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "exactly one tensor in 'inputs'"),
        ({"inputs": [1]}, "exactly one tensor in 'inputs'"),
        (request(name="pixels"), "unknown input 'pixels'; expected 'images'"),
        (request(datatype="INT64"), "datatype 'INT64' is not taken"),
        (request(shape=[3, 8, 8]), "shape [3, 8, 8] takes 192 values; got 576"),
        (request(shape=[-1, 8, 8, 3]), "no list of positive whole numbers"),
        (request(shape=[True, 8, 8, 3]), "no list of positive whole numbers"),
        (request(shape=[1, 24, 8, 3]), "8"),
        (request(data="text"), "no array of float32"),
        (request(data=None), "no array of float32"),
        (request(parameters=[]), "'parameters' must be a JSON object"),
        (request(parameters={"binary_data_size": 4}), "does not agree with the 0 bytes sent"),
        ({**request(), "outputs": [{"name": "features"}]}, "unknown output; expected 'logits'"),
        ({**request(), "outputs": 3}, "'outputs' must be a list"),
    ],
)
def test_bad_requests(url, document, message):
    status, _, body = infer(url, document)
    assert status == 400
    assert message in json.loads(body)["error"]


def test_bad_length_header_and_unknown_model(url):
    for value in ("-1", "99999999", "x"):
        status, _, body = infer(url, request(), headers={LENGTH: value})
        assert status == 400 and LENGTH in json.loads(body)["error"]
    status, _, body = call(f"{url}/v2/models/other")
    assert status == 404
    assert json.loads(body)["error"] == "no model 'other'; this server has 'tiny'"
    assert tiny.CLASSES == 5
