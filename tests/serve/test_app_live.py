"""The Live page and the metrics of watches: what the status says, and nothing that it should not."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icehouse.serve.app.pages import live_data
from PIL import Image
from served import HTML, client, make_store

pytest.importorskip("fastapi")


@pytest.fixture(scope="module")
def store(work: Path) -> Path:
    return work / "store"


@pytest.fixture(scope="module")
def app(store: Path) -> Iterator[Any]:
    with client(store) as made:
        yield made


@pytest.fixture
def status(store: Path) -> dict[str, Any]:
    """A watch that runs, whose post tries what texts can try."""
    folder = store / "watch" / "w1"
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "a.png"
    Image.new("RGB", (300, 200), (200, 30, 30)).save(picture)
    post = {
        "id": "<script>alert(1)</script>",
        "text": "<img src=x onerror=alert(1)>",
        "image_sha256": "ab",
        "path": str(picture),
        "probability": 0.75,
        "decision": "classified",
    }
    told = {
        "name": "w1", "state": "running", "updated": time.time(), "source": "redis://host/posts", "outs": ["stdout"],
        "counts": {"classified": 60, "repeat": 30, "irrelevant": 10}, "posts_per_second": 12.5, "lag": 7,
        "ms": {"embed": {"p50": 20.0, "p95": 40.0}}, "classes": {"damage": {"severe": 60}},
        "latest": {"damage": {"severe": [post]}}, "collections": {"kerala": 4},
        "drift": {"run": "damage", "inputs": 200, "reference": 100, "auroc": 0.61, "auroc_low": 0.55, "auroc_high": 0.67,
                  "unlike": 0.1, "unlike_low": 0.05, "unlike_high": 0.15, "expected": 0.01, "drifted": True,
                  "history": [{"at": 1, "auroc": 0.5, "unlike": 0}, {"at": 2, "auroc": 0.61, "unlike": 0.1}]},
    }  # fmt: skip
    (folder / "status.json").write_text(json.dumps(told))
    return told


def test_the_page_shows_what_the_watch_does(app: Any, store: Path, status: dict[str, Any]) -> None:
    html = app.get("/live", headers=HTML).text
    assert "12.5" in html
    assert "running" in html
    assert "no repeats" in html
    assert "70 · 70%" in html
    assert "60 · 60%" in html
    assert "0.61" in html
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    found = app.get("/live/picture?watch=w1&sha256=ab", headers=HTML)
    assert found.headers["content-type"] == "image/webp"
    assert app.get("/live/picture?watch=w1&sha256=zz", headers=HTML).status_code == 404
    assert app.get("/live/picture?watch=../w1&sha256=ab", headers=HTML).status_code == 404


def test_other_programs_get_json_without_paths(app: Any, store: Path, status: dict[str, Any]) -> None:
    (told,) = app.get("/live").json()["watches"]
    assert (told["name"], told["alive"], told["counts"]["repeat"]) == ("w1", True, 30)
    assert "path" not in told["latest"]["damage"]["severe"][0]


def test_posts_that_no_head_could_judge_were_read() -> None:
    counts = {"error": 11, "filtered": 4, "label": 2, "classified": 3}
    told = live_data({"counts": counts, "stages": {"read": 1, "collections": 4, "learn": 2, "heads": 13}})
    assert [(name, n) for name, n, _ in told["steps"]] == [
        ("came in", 20),
        ("could be read", 19),
        ("posts, not labels", 17),
        ("in a collection", 13),
        ("answered by a head", 3),
    ]


def test_metrics(app: Any, store: Path, status: dict[str, Any]) -> None:
    lines = app.get("/metrics").text.splitlines()
    assert 'icehouse_watch_up{watch="w1"} 1.0' in lines
    assert 'icehouse_watch_posts_total{decision="repeat",watch="w1"} 30.0' in lines
    assert 'icehouse_watch_lag{watch="w1"} 7.0' in lines
    assert 'icehouse_watch_stage_seconds{quantile="0.95",stage="embed",watch="w1"} 0.04' in lines
    assert 'icehouse_drift{measure="auroc_low",run="damage",watch="w1"} 0.55' in lines


def test_a_watch_that_says_nothing_any_more(app: Any, store: Path, status: dict[str, Any]) -> None:
    (store / "watch" / "w1" / "status.json").write_text(json.dumps({**status, "updated": time.time() - 60}))
    assert "silent" in app.get("/live", headers=HTML).text
    assert 'icehouse_watch_up{watch="w1"} 0.0' in app.get("/metrics").text


@pytest.mark.parametrize(
    "change",
    [
        {"counts": {"a": "b"}}, {"counts": []}, {"ms": {"a": 1}}, {"ms": {"a": {"p50": 1}}}, {"classes": {}}, {"latest": 5},
        {"latest": {"damage": {"severe": [5]}}}, {"latest": {"damage": {"other": []}}}, {"drift": {"auroc": "x"}},
        {"name": 5}, {"outs": None}, {"updated": None}, {"lag": "x"}, {"collections": [1]}, {"stages": {"heads": "x"}},
    ],
)  # fmt: skip
def test_a_status_of_another_form_is_left_out(
    app: Any, store: Path, status: dict[str, Any], change: dict[str, Any]
) -> None:
    (store / "watch" / "w1" / "status.json").write_text(json.dumps({**status, **change}))
    assert app.get("/live").json() == {"watches": []}
    assert app.get("/live", headers=HTML).status_code == 200
    assert app.get("/metrics").status_code == 200


def test_a_store_without_watches(app: Any, store: Path) -> None:
    for path in (store / "watch").glob("*/status.json"):
        path.unlink()
    assert "No watch has run" in app.get("/live", headers=HTML).text


def test_drift_of_what_is_asked_here(tmp_path: Path) -> None:
    store = make_store(tmp_path, 120)
    with client(store.path) as web:
        (run,) = web.app.state.served.runs
        until = time.monotonic() + 30
        while web.app.state.served.drift._monitor is None and time.monotonic() < until:
            time.sleep(0.05)
        assert "icehouse_drift{" not in web.get("/metrics").text
        rng = np.random.default_rng(0)
        for start in range(0, 100, 50):
            items = []
            for i in range(start, start + 50):  # pictures as bright as none of the store
                buffer = io.BytesIO()
                Image.fromarray(rng.integers(250, 256, (24, 24, 3)).astype(np.uint8)).save(buffer, "PNG")
                items.append({"image": base64.b64encode(buffer.getvalue()).decode(), "text": f"word{i}"})
            assert web.post("/predict/batch", json={"items": items}).status_code == 200
        told = ""
        while "icehouse_drift{" not in told and time.monotonic() < until:
            time.sleep(0.05)
            told = web.get("/metrics").text
        found = dict(re.findall(rf'icehouse_drift{{measure="(\w+)",run="{run}",watch="serve"}} (\S+)', told))
        assert float(found["auroc_low"]) > 0.9
