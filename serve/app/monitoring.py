"""Metrics for Prometheus: requests, latency, batches, queue, answers by class, drift of inputs; and those of watches."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..drift import DriftMonitor, Reference
from ..watch.status import watches

if TYPE_CHECKING:
    from ...heads.runs import Run
    from ...store.store import Store
    from .inference import Embedded

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


class InputDrift:
    """Drift of what a head is asked about here, against what it learned from, as a watch has it of its stream."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._monitor: DriftMonitor | None = None
        self._lock = threading.Lock()

    def begin(self, store: Store, run: Run) -> None:
        """Read what the head learned from; inputs that come before that are not counted."""
        reference = Reference.of(store, run)
        if reference is not None:
            monitor = DriftMonitor(reference, {name: name for name in run.specs}, run.run_id)
            self._run, self._monitor = run, monitor

    def add(self, embedded: Embedded) -> None:
        """Take in an input, if it has all that the head reads, as vectors."""
        if self._monitor is None or self._run is None:
            return
        vectors = {name: embedded.vector(spec) for name, spec in self._run.specs.items()}
        if all(vector is not None for vector in vectors.values()):
            with self._lock:
                self._monitor.add([SimpleNamespace(features=vectors)])

    @property
    def latest(self) -> dict[str, Any]:
        """The last comparison as JSON values; empty until there is one."""
        return {} if self._monitor is None else self._monitor.latest


class Measured:
    """ASGI middleware that counts and times requests by route; addresses that no route takes count as one."""

    def __init__(self, app: ASGIApp, monitor: Monitor) -> None:
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


class WatchCollector:
    """Metrics of a store's watches, read from their status whenever Prometheus asks, and drift of the server's inputs."""

    def __init__(self, store: Path, inputs: InputDrift) -> None:
        self.store, self.inputs = store, inputs

    def collect(self) -> Iterator[Any]:
        """Yield the metrics as they stand."""
        up = GaugeMetricFamily("icehouse_watch_up", "Whether a watch runs", labels=["watch"])
        posts = CounterMetricFamily("icehouse_watch_posts", "Posts by decision", labels=["watch", "decision"])
        rate = GaugeMetricFamily("icehouse_watch_posts_per_second", "Over the last minute", labels=["watch"])
        lag = GaugeMetricFamily("icehouse_watch_lag", "Messages that wait to be read", labels=["watch"])
        seconds = GaugeMetricFamily(
            "icehouse_watch_stage_seconds", "Latency of a stage", labels=["watch", "stage", "quantile"]
        )
        answers = CounterMetricFamily(
            "icehouse_watch_answers", "Predictions by class", labels=["watch", "run", "label"]
        )
        drift = GaugeMetricFamily(
            "icehouse_drift", "Latest inputs against the training set", labels=["watch", "run", "measure"]
        )
        for told in watches(self.store):
            name = str(told.get("name"))
            up.add_metric([name], float(told["alive"]))
            for decision, n in told.get("counts", {}).items():
                posts.add_metric([name, decision], n)
            rate.add_metric([name], told.get("posts_per_second", 0.0) if told["alive"] else 0.0)
            if told.get("lag") is not None:
                lag.add_metric([name], told["lag"])
            for stage, ms in told.get("ms", {}).items():
                for key, quantile in (("p50", "0.5"), ("p95", "0.95")):
                    seconds.add_metric([name, stage, quantile], ms[key] / 1000)
            for run, labels in told.get("classes", {}).items():
                for label, n in labels.items():
                    answers.add_metric([name, run, label], n)
            _add_drift(drift, name, told.get("drift") or {})
        _add_drift(drift, "serve", self.inputs.latest)
        yield from (up, posts, rate, lag, seconds, answers, drift)


def _add_drift(family: Any, name: str, told: dict[str, Any]) -> None:
    for measure in ("auroc", "auroc_low", "auroc_high", "unlike", "unlike_low", "unlike_high"):
        if measure in told:
            family.add_metric([name, str(told["run"]), measure], told[measure])
