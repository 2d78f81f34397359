"""Metrics of the server for Prometheus: requests, latency, batches, queue, answers by class."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .protection import Application, Message, Receive, Scope, Send

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Monitor:
    """The server's metrics, in a registry of its own: two servers in one process do not count each other's requests."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("icehouse_requests", "Requests", ("route", "method", "status"), **made)
        self.latency = Histogram(
            "icehouse_request_seconds", "Seconds to answer", ("route",), buckets=_SECONDS, **made
        )
        self.batches = Histogram(
            "icehouse_batch_size", "Inputs encoded together", ("modality",), buckets=_SIZES, **made
        )
        self.waiting = Gauge("icehouse_queue", "Inputs that are being worked on or wait", **made)
        self.overloaded = Counter(
            "icehouse_overloaded", "Requests refused because the queue was full", **made
        )
        self.answers = Counter("icehouse_answers", "Predictions by class", ("run", "label"), **made)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)


class Measured:
    """ASGI middleware that counts and times requests by route; addresses that no route takes count as one."""

    def __init__(self, app: Application, monitor: Monitor) -> None:
        self.app, self.monitor = app, monitor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and note what became of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self.monitor.requests.labels(route, method, str(status)).inc()
            self.monitor.latency.labels(route).observe(time.perf_counter() - begun)


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
