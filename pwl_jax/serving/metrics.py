"""Prometheus metrics of one served model."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from pwl_jax.runtime import LiveModel, Prediction

_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Counts requests and reads the model's progress when scraped. One registry an app."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, model: LiveModel) -> None:
        self._model = model
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "pwl_requests", "Answered requests", ("path", "status"), registry=self._registry
        )
        self._answers = Counter(
            "pwl_predictions",
            "Answered images by rung and executor",
            ("rung", "executor"),
            registry=self._registry,
        )
        self._executor = Gauge(
            "pwl_executor",
            "1 for the executor that answers",
            ("executor",),
            registry=self._registry,
        )
        self._latency = Histogram(
            "pwl_predict_seconds",
            "Seconds from a decoded request to its logits",
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._in_flight = Gauge(
            "pwl_requests_in_flight", "Predictions under way", registry=self._registry
        )
        readings = {
            "pwl_rung_index": ("Index of the rung that answers, -1 before the first", "rung_index"),
            "pwl_bytes_fetched": ("Bytes read from the bundle", "bytes_fetched"),
            "pwl_bytes_total": ("Bytes read once the top is reached", "bytes_total"),
            "pwl_live_bytes": ("Bytes of weights held", "live_bytes"),
            "pwl_climb_failures": ("Failed attempts to load a rung", "failures"),
        }
        for name, (text, field) in readings.items():
            gauge = Gauge(name, text, registry=self._registry)
            gauge.set_function(self._reading(field))

    def count_request(self, path: str, status: int) -> None:
        """Counts one finished request."""
        self._requests.labels(path, str(status)).inc()

    def count_answers(self, prediction: Prediction) -> None:
        """Counts the images of an answer."""
        labels = self._answers.labels(prediction.rung, prediction.executor)
        labels.inc(len(prediction.logits))

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Times one prediction."""
        began = time.perf_counter()
        self._in_flight.inc()
        try:
            yield
        finally:
            self._in_flight.dec()
            self._latency.observe(time.perf_counter() - began)

    def _reading(self, field: str) -> Callable[[], float]:
        return lambda: float(getattr(self._model.progress, field))

    def exposition(self) -> bytes:
        """All metrics in Prometheus's text format."""
        self._executor.clear()
        self._executor.labels(self._model.executor.name).set(1)
        return generate_latest(self._registry)
