"""Live page: what the watches of the store do now, and the same for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ...embed.thumbnails import small_picture
from ...errors import ImageError
from ..watch.status import watches
from .monitoring import InputDrift
from .state import Json, page, served, wants_page

router = APIRouter(include_in_schema=False)

#: Size of the curve of a drift figure.
_WIDTH, _HEIGHT = 160, 36

_SIDE = 160


@router.get("/live")
def live(request: Request) -> Any:
    """Show the watches of the store, those that run first."""
    found = _watches(request)
    if not wants_page(request):
        return Json({"watches": [_without_paths(told) for told in found]})
    return page(request, "app_live.html", title="Live", watches=[shown(told) for told in found])


@router.get("/live/picture")
def live_picture(
    request: Request,
    watch: Annotated[str, Query(max_length=200)],
    sha256: Annotated[str, Query(max_length=64)],
) -> Response:
    """A small picture of one of the latest posts of a watch."""
    for told in _watches(request):
        if told.get("name") == watch:
            for post in _posts(told):
                if post.get("image_sha256") == sha256 and isinstance(post.get("path"), str):
                    data = _thumbnail(post["path"], sha256)
                    if data is not None:
                        headers = {"cache-control": "private, max-age=300"}
                        return Response(data, media_type="image/webp", headers=headers)
    raise HTTPException(404, "there is no such picture")


@lru_cache(maxsize=256)
def _thumbnail(path: str, sha256: str) -> bytes | None:
    try:
        return small_picture(Path(path), side=_SIDE)
    except ImageError:
        return None


def _watches(request: Request) -> list[dict[str, Any]]:
    store = served(request).store
    return [] if store is None else watches(store.path)


def _posts(told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for labels in told.get("latest", {}).values():
        for posts in labels.values():
            yield from posts


def _without_paths(told: dict[str, Any]) -> dict[str, Any]:
    """A status for other programs; where files of this machine lie is nothing of theirs."""
    told = dict(told)
    told["latest"] = {
        run: {
            label: [{key: value for key, value in post.items() if key != "path"} for post in posts]
            for label, posts in labels.items()
        }
        for run, labels in told.get("latest", {}).items()
    }
    return told


def shown(told: dict[str, Any]) -> dict[str, Any]:
    """A status as the page draws it: how many posts are left after each stage, the stages' times, curves of drift."""
    counts = told.get("counts", {})
    total = sum(counts.values())
    # Errors of posts that got as far as the heads, such as one without the picture that a head needs.
    unanswered = max(0, told.get("stages", {}).get("heads", 0) - counts.get("classified", 0))
    left, steps = total, [("came in", total)]
    for gone, name in (
        (counts.get("error", 0) - unanswered, "could be read"),
        (counts.get("label", 0), "posts, not labels"),
        (counts.get("filtered", 0), "in a collection"),
        (counts.get("repeat", 0), "no repeats"),
        (counts.get("irrelevant", 0), "let through by gates"),
        (unanswered, "answered by a head"),
    ):
        if gone > 0:
            left -= gone
            steps.append((name, left))
    drift = told.get("drift") or None
    return {
        "lag": None,
        "collections": {},
        "learning": {},
        **told,
        "total": total,
        "steps": [(name, n, n / total if total else 0.0) for name, n in steps],
        "drift": drift and {**drift, "curve": _curve([point["auroc"] for point in drift.get("history", [])])},
        "latest": {
            run: {label: posts for label, posts in labels.items() if posts}
            for run, labels in told.get("latest", {}).items()
        },
    }


def _curve(values: list[float]) -> str:
    """Points of a curve, 0 to 1 from bottom to top."""
    if len(values) < 2:
        return ""
    step = _WIDTH / (len(values) - 1)
    return " ".join(f"{i * step:.1f},{_HEIGHT * (1 - value):.1f}" for i, value in enumerate(values))


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
