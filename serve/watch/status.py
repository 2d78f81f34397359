"""Counts, rates and latencies of a watch, in one small file that the server's *Live* page and ``/metrics`` read."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ...store.files import temp_name
from .sinks import Decision

#: Seconds that rates are about, posts that latencies are about, posts of each class that are shown.
WINDOW_S, LATENCIES, LATEST = 60.0, 2000, 12

#: After so many seconds without a word a watch is taken for dead.
SILENT_S = 15.0

_SHOWN = 240


class Status:
    """Counts of a watch so far; threads may add to it while another reads."""

    def __init__(self, name: str, about: Mapping[str, Any]) -> None:
        self.name, self.about = name, dict(about)
        self.started = time.time()
        self.counts: Counter[str] = Counter()
        self.stages: Counter[str] = Counter()
        self.classes: dict[str, Counter[str]] = {}
        self.learning: dict[str, Any] = {}
        self.state = "running"
        self._recent: deque[tuple[float, str]] = deque()
        self._ms: dict[str, deque[float]] = {}
        self._latest: dict[str, dict[str, deque[dict[str, Any]]]] = {}
        self._lock = threading.Lock()

    def restore(self, before: Mapping[str, Any]) -> None:
        """Go on counting where an earlier process of the same watch ended."""
        self.counts.update({str(k): int(v) for k, v in dict(before.get("counts") or {}).items()})
        self.stages.update({str(k): int(v) for k, v in dict(before.get("stages") or {}).items()})
        for run, counts in dict(before.get("classes") or {}).items():
            self.classes[str(run)] = Counter({str(k): int(v) for k, v in counts.items()})

    def add(self, decision: Decision) -> None:
        """Count a decision that is out."""
        now = time.time()
        post = decision.post
        with self._lock:
            self.counts[decision.decision] += 1
            self.stages[decision.stage] += 1
            self._recent.append((now, decision.decision))
            while self._recent and self._recent[0][0] < now - WINDOW_S:
                self._recent.popleft()
            for stage, ms in post.ms.items():
                self._ms.setdefault(stage, deque(maxlen=LATENCIES)).append(ms)
            for run, told in decision.runs.items():
                label = told.get("predicted")
                if label is None:
                    continue
                self.classes.setdefault(run, Counter())[label] += 1
                latest = self._latest.setdefault(run, {}).setdefault(label, deque(maxlen=LATEST))
                latest.appendleft(
                    {
                        "id": post.id,
                        "text": (post.text or "")[:_SHOWN],
                        "image_url": post.image_url,
                        "image_sha256": decision.sha256,
                        "path": decision.path,
                        "probability": told.get("probability"),
                        "decision": decision.decision,
                        "at": now,
                    }
                )

    def figures(self) -> dict[str, Any]:
        """Counts, rates and latencies, without the posts themselves: what a line of statistics holds."""
        now = time.time()
        with self._lock:
            recent = Counter(kind for at, kind in self._recent if at >= now - WINDOW_S)
            seconds = min(WINDOW_S, max(now - self.started, 1.0))
            return {
                "name": self.name,
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(now - self.started, 1),
                "counts": dict(self.counts),
                "stages": dict(self.stages),
                "per_second": {kind: round(n / seconds, 2) for kind, n in recent.items()},
                "posts_per_second": round(recent.total() / seconds, 2),
                "ms": {
                    stage: {
                        "p50": round(float(np.percentile(values, 50)), 2),
                        "p95": round(float(np.percentile(values, 95)), 2),
                    }
                    for stage, values in self._ms.items()
                },
                "classes": {run: dict(counts) for run, counts in self.classes.items()},
                **({"learning": self.learning} if self.learning else {}),
            }

    def write(self, path: Path, further: Mapping[str, Any]) -> None:
        """Put the present state in the place of the last one."""
        told = {**self.figures(), **self.about, **further, "state": self.state, "updated": time.time()}
        told |= {"pid": os.getpid(), "started": self.started}
        with self._lock:
            told["latest"] = {
                run: {label: list(posts) for label, posts in labels.items()}
                for run, labels in self._latest.items()
            }
        # Not waited for until it is on the medium: it is written every second, and the next one is as good.
        temp = path.parent / temp_name(".json")
        try:
            temp.write_text(json.dumps(told), encoding="utf-8")
            temp.replace(path)
        finally:
            temp.unlink(missing_ok=True)


def read_status(path: Path) -> dict[str, Any] | None:
    """Read what `Status.write` wrote; None where there is nothing, or nothing whole."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if not _is_sound(told):
            return None
    except (OSError, ValueError, RecursionError):
        return None
    told["alive"] = told["state"] == "running" and time.time() - told["updated"] < SILENT_S
    return dict(told)


def _is_sound(told: Any) -> bool:
    """Whether a status is of the form that `Status.write` gives it: a store may be a stranger's."""

    def numbers(value: Any) -> bool:
        return isinstance(value, dict) and all(isinstance(n, (int, float)) for n in value.values())

    def each(value: Any, check: Any) -> bool:
        return isinstance(value, dict) and all(map(check, value.values()))

    def posts(value: Any) -> bool:
        return isinstance(value, list) and all(
            isinstance(post, dict)
            and isinstance(post.get("id"), str)
            and isinstance(post.get("text", ""), str)
            and isinstance(post.get("probability"), (int, float))
            for post in value
        )

    try:
        drift, learning = told.get("drift", {}), told.get("learning", {})
        return (
            all(isinstance(told[name], (int, float)) for name in ("updated", "posts_per_second"))
            and all(isinstance(told[name], str) for name in ("name", "state", "source"))
            and isinstance(told["outs"], list)
            and numbers(told["counts"])
            and numbers(told.get("collections", {}))
            and numbers(told.get("stages", {}))
            and each(told["ms"], lambda ms: numbers(ms) and {"p50", "p95"} <= ms.keys())
            and each(told["classes"], numbers)
            and all(run in told["classes"] for run in told["latest"])
            and each(told["latest"], lambda labels: each(labels, posts))
            and all(label in told["classes"][run] for run in told["latest"] for label in told["latest"][run])
            and isinstance(told.get("lag"), (int, type(None)))
            and (not drift or _is_drift(drift))
            and (not learning or numbers({k: v for k, v in learning.items() if k in ("labels", "judged")}))
        )
    except (KeyError, TypeError, AttributeError):
        return False


_DRIFT = ("inputs", "auroc", "auroc_low", "auroc_high", "unlike", "unlike_low", "unlike_high", "expected")


def _is_drift(drift: Any) -> bool:
    return (
        all(isinstance(drift[name], (int, float)) for name in _DRIFT)
        and isinstance(drift["run"], str)
        and all(isinstance(point["auroc"], (int, float)) for point in drift.get("history", []))
    )


def watches(store: Path) -> list[dict[str, Any]]:
    """The watches of a store, as far as they can be read: those that run first, of the others the latest."""
    found = [read_status(path) for path in sorted((store / "watch").glob("*/status.json"))]
    return sorted(
        (told for told in found if told is not None), key=lambda told: (not told["alive"], -told["updated"])
    )
