"""Decisions into the store itself: items, features and decisions, by the store's own writers."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icehouse.heads.runs import Run
from icehouse.serve.predict import predict
from icehouse.store.store import Store
from toys import picture

Run_ = Callable[..., list[dict[str, Any]]]
Posts = Callable[..., dict[str, Any]]


def test_posts_become_items(run_lines: Run_, posts: Posts, own: Path, tmp_path: Path) -> None:
    first, off = posts(), posts(about=False)
    again = {**posts(), "image_path": first["image_path"]}
    file = io.BytesIO()
    picture(4711).save(file, "PNG")
    inline = {
        "id": "inline",
        "text": "storm roof",
        "image_base64": base64.b64encode(file.getvalue()).decode(),
    }
    lines = [first, off, again, inline, b"bad"]
    out = str(tmp_path / "out.jsonl")
    told = run_lines(lines, store=own, outs=(out, "store"))
    store = Store.open(own)
    items = {row["item_id"]: row for row in store.items.read().to_pylist()}
    assert {first["id"], off["id"], again["id"], "inline"} <= items.keys()
    assert len(items) == 84
    row = items[first["id"]]
    assert (row["text"], row["width"], row["height"], row["missing"]) == (first["text"], 64, 48, False)
    assert Path(row["root"], row["path"]) == Path(first["image_path"])
    kept = Path(items["inline"]["root"], items["inline"]["path"])
    assert kept.read_bytes() == file.getvalue()
    assert items[again["id"]]["image_sha256"] == row["image_sha256"]
    decided = {row["item_id"]: row for row in store.table("decisions").read().to_pylist()}
    assert {key: value["decision"] for key, value in decided.items()} == {
        line["id"]: line["decision"] for line in told
    }
    assert decided[again["id"]]["repeat_of"] == first["id"]
    assert json.loads(decided[first["id"]]["runs"])["damage"]["predicted"] == "severe"


def test_features_are_those_that_embed_would_make(
    run_lines: Run_, posts: Posts, own: Path, tmp_path: Path
) -> None:
    some = [posts(bright=number % 2 == 0) for number in range(6)]
    told = run_lines(some, store=own, outs=(str(tmp_path / "out.jsonl"), "store"))
    store = Store.open(own)
    run = Run.load(store, "damage")
    stored = {
        row["item_id"]: row for row in predict(store, run, where="source = 'watch/watch'").table.to_pylist()
    }
    for line in told:
        entry = line["runs"]["damage"]
        assert stored[line["id"]]["predicted"] == entry["predicted"]
        assert stored[line["id"]]["p_severe"] == pytest.approx(entry["probabilities"]["severe"], abs=2e-3)
    name = next(name for name in store.feature_names() if name.endswith("image/pooled"))
    vectors = store.vectors(name)
    assert len({*vectors.keys}) == len(vectors.keys)
    assert np.isfinite(np.asarray(vectors.X, np.float32)).all()


def test_a_store_is_needed(run_lines: Run_, tmp_path: Path) -> None:
    from icehouse.errors import IcehouseError

    with pytest.raises(IcehouseError):
        run_lines([], store=tmp_path / "none", outs=("store",))
