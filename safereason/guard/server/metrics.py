"""Metrics of a server, for Prometheus."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safereason.guard.base import GuardVerdict
from safereason.guard.server.paths import METHODS

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class ServerMetrics:
    """Counters and histograms of one server."""

    def __init__(self, queue_length: Callable[[], float]) -> None:
        # A registry of its own: the library's global one allows each name once per process, and tests start many.
        self.registry = CollectorRegistry()
        here = self.registry
        self.requests = Counter("safereason_requests", "Requests answered.", ("path", "status"), registry=here)
        self.seconds = Histogram(
            "safereason_request_seconds", "Seconds to an answer.", ("path",), buckets=_SECONDS, registry=here
        )
        self.batches = Histogram("safereason_batch_size", "Questions judged together.", buckets=_SIZES, registry=here)
        self.verdicts = Counter("safereason_verdicts", "Verdicts by label.", ("label",), registry=here)
        # Each label exists from the start, so that rates can be computed before its first verdict.
        for label in ("safe", "unsafe", "unparsed"):
            self.verdicts.labels(label)
        Gauge("safereason_queue_length", "Questions that wait.", registry=here).set_function(queue_length)

    def count(self, verdict: GuardVerdict) -> None:
        """Counts one verdict."""
        self.verdicts.labels(verdict.label or "unparsed").inc()


class MeteredApp:
    """Middleware that counts and times requests."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if path not in METHODS:
            # Each label value takes memory, and callers could make up any number of paths.
            path = "other"
        start = time.perf_counter()
        status = 500  # of an app that raises before it answers

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note_status)
        finally:
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)
