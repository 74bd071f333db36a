"""The HTTP application around one live model."""

import asyncio
import contextlib
import importlib.resources
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pwl_jax.errors import UserError
from pwl_jax.runtime import ExecutorError, LiveModel, NotReadyError, Prediction
from pwl_jax.serving import open_inference, request_codec
from pwl_jax.serving.metrics import Metrics
from pwl_jax.serving.request_codec import RequestError

MAX_BODY_BYTES = 32 << 20
MAX_PIXELS = 64 << 20
WORKERS = 8
# A first rung takes this long at most on a usable link; clients come back after it.
RETRY_AFTER_SECONDS = 1

Handler = Callable[[Request], Awaitable[Response]]


class LiveModelApp:
    """Routes of one live model. `create_app` makes the Starlette application."""

    def __init__(
        self, model: LiveModel, name: str, max_body_bytes: int, close_model: bool, version: str
    ) -> None:
        self._model = model
        self._name = name
        self._max_body_bytes = max_body_bytes
        self._close_model = close_model
        self._version = version
        self._metrics = Metrics(model)
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="pwl-predict")

    def routes(self) -> list[Route]:
        """Every path, each wrapped so that it counts and answers errors as JSON."""
        model = "/v2/models/{name}"
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/", self._page),
            ("GET", "/status", self._status),
            ("GET", "/healthz", self._healthz),
            ("GET", "/metrics", self._scrape),
            ("POST", "/predict", self._predict),
            ("GET", "/v2", self._server_metadata),
            ("GET", "/v2/health/live", self._live),
            ("GET", "/v2/health/ready", self._ready),
            ("GET", model, self._model_metadata),
            ("GET", f"{model}/ready", self._ready),
            ("POST", f"{model}/infer", self._infer),
            ("GET", f"{model}/versions/1", self._model_metadata),
            ("GET", f"{model}/versions/1/ready", self._ready),
            ("POST", f"{model}/versions/1/infer", self._infer),
        ]
        return [
            Route(path, self._guarded(path, handler), methods=[method])
            for method, path, handler in table
        ]

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Lets running predictions finish, then closes the model."""
        yield
        self._workers.shutdown(wait=True)
        if self._close_model:
            await asyncio.to_thread(self._model.close)

    def _guarded(self, path: str, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            try:
                name = request.path_params.get("name", self._name)
                if name != self._name:
                    raise RequestError(404, f"no model '{name}'; this server has '{self._name}'")
                response = await handler(request)
            except RequestError as error:
                response = error_response(error.status, str(error))
            except NotReadyError as error:
                response = error_response(503, str(error))
            except ExecutorError as error:
                response = error_response(500, str(error))
            except UserError as error:
                response = error_response(400, str(error))
            except Exception:
                self._metrics.count_request(path, 500)
                raise
            self._metrics.count_request(path, response.status_code)
            return response

        return guarded

    async def _page(self, request: Request) -> Response:
        page = importlib.resources.files("pwl_jax.serving").joinpath("page.html")
        return HTMLResponse(page.read_text(encoding="utf-8"))

    async def _status(self, request: Request) -> Response:
        return JSONResponse(status_document(self._model, self._name))

    async def _healthz(self, request: Request) -> Response:
        ready = self._model.rung is not None
        return JSONResponse({"status": "ok" if ready else "loading"}, 200 if ready else 503)

    async def _scrape(self, request: Request) -> Response:
        return Response(self._metrics.exposition(), media_type=self._metrics.content_type)

    async def _predict(self, request: Request) -> Response:
        body = await self._body(request)
        content_type = request.headers.get("content-type", "")

        def answer() -> Prediction:
            return self._answer(request_codec.decode_inputs(content_type, body, MAX_PIXELS))

        prediction = await self._work(answer)
        if request_codec.NPY in request.headers.get("accept", ""):
            return Response(
                request_codec.npy_bytes(prediction.logits),
                media_type=request_codec.NPY,
                headers={"X-Rung": prediction.rung, "X-Executor": prediction.executor},
            )
        return JSONResponse(request_codec.prediction_document(prediction))

    async def _server_metadata(self, request: Request) -> Response:
        return JSONResponse(open_inference.server_metadata(self._version))

    async def _live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def _ready(self, request: Request) -> Response:
        ready = self._model.rung is not None
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def _model_metadata(self, request: Request) -> Response:
        return JSONResponse(open_inference.model_metadata(self._model, self._name))

    async def _infer(self, request: Request) -> Response:
        body = await self._body(request)
        length = request.headers.get(open_inference.LENGTH_HEADER)

        def answer() -> tuple[bytes, dict[str, str]]:
            images, document, binary = open_inference.decode_request(body, length)
            return open_inference.encode_response(
                self._answer(images), self._name, document, binary
            )

        content, headers = await self._work(answer)
        return Response(content, headers=headers)

    def _answer(self, inputs: Any) -> Prediction:
        with self._metrics.timed():
            prediction = self._model.predict(inputs)
        self._metrics.count_answers(prediction)
        return prediction

    async def _work(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._workers, call)

    async def _body(self, request: Request) -> bytes:
        """The body, read only up to the limit."""
        limit = self._max_body_bytes
        chunks, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise RequestError(413, f"the body has more than {limit} bytes")
            chunks.append(chunk)
        return b"".join(chunks)


def create_app(
    model: LiveModel,
    name: str = "pwl",
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    close_model: bool = True,
    version: str = "0",
) -> Starlette:
    """The ASGI application that serves a live model.

    Args:
      model: answers 503 until its first rung is up.
      name: the model's name in the Open Inference Protocol.
      max_body_bytes: larger bodies are refused with 413.
      close_model: close the model when the server shuts down.
      version: reported by GET /v2.
    """
    served = LiveModelApp(model, name, max_body_bytes, close_model, version)
    return Starlette(
        routes=served.routes(),
        lifespan=served.lifespan,
        exception_handlers={HTTPException: _http_error, Exception: _defect},
    )


def status_document(model: LiveModel, name: str) -> dict[str, Any]:
    """The answer of GET /status: progress, the ladder, and when each rung began to answer."""
    since: dict[str, float] = {}
    for event in model.events:
        if event.kind == "rung" and event.rung is not None:
            since.setdefault(event.rung, event.seconds)
    ladder = [
        {
            "name": rung.name,
            "top1": rung.top1,
            "mean_average_precision": rung.mean_average_precision,
            "cumulative_bytes": rung.cumulative_bytes,
        }
        for rung in model.ladder.rungs
    ]
    return {
        "model": name,
        **model.progress.to_dict(),
        "executor": model.executor.name,
        "ladder": ladder,
        "answers_since": since,
        "events": [event.to_dict() for event in model.events[-20:]],
    }


def error_response(status: int, message: str) -> JSONResponse:
    """An error as JSON, in the one form every path uses."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else None
    return JSONResponse({"error": message}, status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = error_response(
        error.status_code, f"{request.method} {request.url.path}: {error.detail}"
    )
    response.headers.update(error.headers or {})
    return response


async def _defect(request: Request, error: Exception) -> Response:
    return error_response(500, "internal error; the server's log has the details")
