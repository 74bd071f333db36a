"""The HTTP application over real sockets."""

import base64
import io
import json
import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image

from pwl_jax.runtime import Backoff, LiveModel, hand_over
from pwl_jax.serving import create_app, serve_folder, serve_in_thread
from tests import tiny_bundle as tiny
from tests.http_call import call

RNG = np.random.default_rng(5)
PIXELS = RNG.integers(0, 256, tiny.INPUT_SHAPE, dtype=np.uint8)
IMAGES = RNG.normal(size=(3, *tiny.INPUT_SHAPE)).astype(np.float32)
LIMIT = 20_000
NPY = {"Content-Type": "application/x-npy"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def model(bundle, executor):
    with LiveModel.open(bundle, executor=executor, rung="TTT@exact", climb=False) as model:
        yield model


@pytest.fixture(scope="module")
def url(model):
    app = create_app(model, "tiny", max_body_bytes=LIMIT, close_model=False)
    with serve_in_thread(app) as url:
        yield url


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def image_bytes(kind: str, pixels=PIXELS) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def logits_of(body: bytes) -> np.ndarray:
    answers = json.loads(body)["predictions"]
    return np.array([answer["logits"] for answer in answers], np.float32)


def test_predict_npy(url, model):
    status, _, body = call(f"{url}/predict", npy(IMAGES), NPY)
    assert status == 200
    answer = json.loads(body)
    assert (answer["rung"], answer["executor"]) == ("TTT@exact", "jax")
    np.testing.assert_array_equal(logits_of(body), model.predict(IMAGES).logits)
    first, prediction = answer["predictions"][0], model.predict(IMAGES)
    assert first["label"] == prediction.labels[0] == tiny.CLASS_NAMES[first["class"]]
    assert first["top"][0]["probability"] == first["probability"]
    assert first["probability"] == pytest.approx(prediction.probabilities[0].max())


def test_predict_answers_npy_when_asked(url, model):
    status, headers, body = call(
        f"{url}/predict", npy(IMAGES), {**NPY, "Accept": "application/x-npy"}
    )
    assert (status, headers["X-Rung"], headers["X-Executor"]) == (200, "TTT@exact", "jax")
    np.testing.assert_array_equal(np.load(io.BytesIO(body)), model.predict(IMAGES).logits)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_predict_images(url, model, kind):
    data = image_bytes(kind)
    status, _, body = call(f"{url}/predict", data, {"Content-Type": f"image/{kind}"})
    assert status == 200
    expected = model.predict(Image.open(io.BytesIO(data))).logits
    np.testing.assert_array_equal(logits_of(body), expected)


@pytest.mark.parametrize(
    ("document", "inputs"),
    [
        ({"instances": IMAGES.tolist()}, IMAGES),
        ({"instances": [PIXELS.tolist()], "dtype": "uint8"}, PIXELS),
        ({"instances": [{"b64": base64.b64encode(image_bytes("png")).decode()}]}, PIXELS),
    ],
)
def test_predict_json(url, model, document, inputs):
    status, _, body = call(f"{url}/predict", json.dumps(document).encode(), JSON)
    assert status == 200
    np.testing.assert_array_equal(logits_of(body), model.predict(inputs).logits)


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"hello", "text/plain", 415, "content type 'text/plain' is not taken; send image/png"),
        (b"", "application/json", 400, "the body is no JSON"),
        (b"[]", "application/json", 400, "expected a JSON object, got list"),
        (b"{}", "application/json", 400, "at least one instance"),
        (b'{"instances": []}', "application/json", 400, "at least one instance"),
        (b'{"instances": [[1, 2], [3]]}', "application/json", 400, "no array of float32"),
        (b'{"instances": ["a"]}', "application/json", 400, "no array of float32"),
        (b'{"instances": [1e999]}', "application/json", 400, "not finite"),
        (b'{"instances": [-1], "dtype": "uint8"}', "application/json", 400, "from 0 to 255"),
        (b'{"instances": [1], "dtype": "int4"}', "application/json", 400, "dtype 'int4'"),
        (b'{"instances": [{"b64": "%%"}]}', "application/json", 400, "no base64"),
        (b'{"instances": [{"x": 1}]}', "application/json", 400, "b64"),
        (b"[" * 100_00, "application/json", 400, "the body is no JSON"),
        (b"nothing", "image/png", 400, "no readable PNG or JPEG"),
        (image_bytes("png")[:-60], "image/png", 400, "no readable PNG or JPEG"),
        (image_bytes("gif"), "image/png", 400, "no readable PNG or JPEG"),
        (b"nothing", "application/x-npy", 400, "no readable .npy"),
        (npy(IMAGES)[:-1], "application/x-npy", 400, "no readable .npy"),
        (npy(np.array([{}], object)), "application/x-npy", 400, "no readable .npy"),
        (npy(np.zeros((1, 9, 9, 3), np.float32)), "application/x-npy", 400, "8"),
        (npy(np.zeros((1, 8, 8, 3), np.float64)), "application/x-npy", 400, "float64"),
        (npy(np.zeros((0, 8, 8, 3), np.float32)), "application/x-npy", 400, ""),
        (bytes(LIMIT + 1), "application/x-npy", 413, f"more than {LIMIT} bytes"),
    ],
)
def test_bad_requests_get_a_clear_json_error(url, body, kind, status, message):
    answered, headers, answer = call(f"{url}/predict", body, {"Content-Type": kind})
    assert answered == status
    assert headers["Content-Type"] == "application/json"
    assert message in json.loads(answer)["error"]


def test_unknown_path_and_method(url):
    status, _, body = call(f"{url}/nothing")
    assert status == 404 and "GET /nothing" in json.loads(body)["error"]
    status, headers, body = call(f"{url}/predict", method="GET")
    assert status == 405 and headers["Allow"] == "POST" and "error" in json.loads(body)


def test_status_page_and_health(url):
    status, _, body = call(f"{url}/status")
    document = json.loads(body)
    assert status == 200
    assert (document["model"], document["state"], document["rung"]) == (
        "tiny",
        "resting",
        "TTT@exact",
    )
    assert [rung["name"] for rung in document["ladder"]] == list(tiny.RUNGS)
    assert document["answers_since"]["TTT@exact"] > 0
    assert call(f"{url}/healthz")[0] == 200
    status, headers, body = call(f"{url}/")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    assert b"http" not in body.replace(b"http-equiv", b"")


def test_metrics(url):
    call(f"{url}/predict", npy(IMAGES), NPY)
    call(f"{url}/predict", b"", {"Content-Type": "text/plain"})
    status, headers, body = call(f"{url}/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain")
    values = dict(line.rsplit(" ", 1) for line in body.decode().splitlines() if line[0] != "#")
    assert float(values['pwl_requests_total{path="/predict",status="200"}']) >= 1
    assert float(values['pwl_requests_total{path="/predict",status="415"}']) >= 1
    assert float(values['pwl_predictions_total{executor="jax",rung="TTT@exact"}']) >= 3
    assert [line for line in values if line.startswith("pwl_executor")] == [
        'pwl_executor{executor="jax"}'
    ]
    assert float(values["pwl_rung_index"]) == 0
    assert float(values["pwl_live_bytes"]) > 0
    assert float(values["pwl_requests_in_flight"]) == 0


def test_503_before_the_first_rung_and_200_after(bundle, tmp_path, executor):
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    shards = (folder / "shards").rename(tmp_path / "shards")
    model = LiveModel.open(folder, executor=executor, block=False, backoff=Backoff(0.02, 0.02))
    with serve_in_thread(create_app(model, "tiny")) as url:
        status, headers, body = call(f"{url}/predict", npy(IMAGES), NPY)
        assert status == 503 and headers["Retry-After"] == "1"
        assert "first rung" in json.loads(body)["error"]
        assert call(f"{url}/healthz")[0] == 503
        assert call(f"{url}/v2/health/ready")[0] == 503
        assert call(f"{url}/v2/health/live")[0] == 200
        assert json.loads(call(f"{url}/status")[2])["rung"] is None
        shards.rename(folder / "shards")
        model.wait(timeout=60)
        assert call(f"{url}/predict", npy(IMAGES), NPY)[0] == 200
        assert call(f"{url}/healthz")[0] == 200
    assert model.progress.state == "closed"


def test_requests_under_way_finish_at_shutdown(bundle, executor):
    model = LiveModel.open(bundle, executor=executor, rung="TTT@exact", climb=False)
    predict, entered, release = model.predict, threading.Event(), threading.Event()

    def slow(inputs):
        entered.set()
        assert release.wait(30)
        return predict(inputs)

    model.predict = slow  # type: ignore[method-assign]
    results = []
    with serve_in_thread(create_app(model)) as url:
        caller = threading.Thread(
            target=lambda: results.append(call(f"{url}/predict", npy(IMAGES), NPY)[0])
        )
        caller.start()
        assert entered.wait(30)
        threading.Timer(0.3, release.set).start()
    caller.join(30)
    assert results == [200]


def test_concurrent_callers_while_climbing(bundle, executor):
    size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    statuses, rungs = [], set()
    with serve_folder(bundle, bytes_per_second=size) as source:
        model = LiveModel.open(source, executor=executor, warm_batches=(4,))
        with serve_in_thread(create_app(model)) as url:

            def ask():
                while model.progress.state != "resting":
                    status, _, body = call(f"{url}/predict", npy(IMAGES), NPY)
                    statuses.append(status)
                    rungs.add(json.loads(body)["rung"])

            callers = [threading.Thread(target=ask) for _ in range(3)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
    assert set(statuses) == {200}
    assert len(rungs) >= 3


def test_status_and_metrics_name_the_executor_that_answers(bundle, monkeypatch):
    monkeypatch.setattr(hand_over, "SETTLED_SECONDS", 0.2)
    monkeypatch.setattr(hand_over, "FASTER", 1e9)
    seen = set()
    with (
        LiveModel.open(bundle) as model,
        serve_in_thread(create_app(model, "tiny", close_model=False)) as url,
    ):
        deadline = time.monotonic() + 60
        while len(seen) < 2 and time.monotonic() < deadline:
            body = call(f"{url}/metrics")[2].decode()
            (metric,) = (line for line in body.splitlines() if line.startswith("pwl_executor{"))
            seen.add(metric)
        document = json.loads(call(f"{url}/status")[2])
        _, headers, _ = call(f"{url}/predict", npy(IMAGES), {**NPY, "Accept": NPY["Content-Type"]})
    assert seen == {f'pwl_executor{{executor="{name}"}} 1.0' for name in ("onnxruntime", "jax")}
    assert document["executor"] == headers["X-Executor"] == "jax"
    assert [event["executor"] for event in document["events"] if event["kind"] == "executor"] == [
        "jax"
    ]
