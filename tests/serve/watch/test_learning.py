"""Labels that come with a stream teach an `online` head, whose versions are runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from icehouse.errors import UsageError
from icehouse.heads.runs import Run, list_runs
from icehouse.serve.watch.status import read_status
from icehouse.store.store import Store

Run_ = Callable[..., list[dict[str, Any]]]
Posts = Callable[..., dict[str, Any]]


def test_labels_teach_and_versions_are_runs(run_lines: Run_, posts: Posts, own: Path, tmp_path: Path) -> None:
    """What is not about the storm gets a class that training never saw."""
    store = Store.open(own)
    before = [run.run_id for run in list_runs(store)]
    parent = next(run for run in list_runs(store) if run.family == "online")
    kinds = [(number % 2 == 0, number % 3 != 0) for number in range(120)]
    some = [
        posts(bright, about, label="elsewhere" if not about else "severe" if bright else "none")
        for bright, about in kinds
    ]
    told = run_lines([*some, posts()], runs=(), learn="kind", learn_every=50, store=own)
    assert [line["learned"]["labels"] for line in told[:-1]] == list(range(1, 121))
    assert "learned" not in told[-1]
    # Predicted before it is learned: the first cannot be right, the last ones are.
    assert told[0]["learned"]["label"] == "elsewhere"
    assert told[0]["learned"]["predicted"] in ("severe", "none")
    late = [line["learned"]["predicted"] == line["learned"]["label"] for line in told[80:120]]
    assert sum(late) >= 28
    versions = [run for run in list_runs(store) if run.run_id not in before]
    assert [run.record["learned"]["labels"] for run in versions] == [50, 50, 20]
    assert [run.record["learned"]["parent"] for run in versions] == [
        parent.run_id,
        *(run.run_id for run in versions[:-1]),
    ]
    last = Run.load(store, "kind")
    assert last.run_id == versions[-1].run_id
    assert {"elsewhere", "severe", "none"} == {*last.classes}
    assert last.metrics["stream"]["accuracy"] > 0.65
    assert last.predictions().num_rows == 20
    assert {line["id"] for line in some} <= last.training_items()["train"]
    assert last.summary()["rows"] is None
    learning = read_status(tmp_path / "state" / "status.json")["learning"]  # type: ignore[index]
    assert (learning["labels"], learning["versions"], learning["run"]) == (120, 3, last.run_id)
    # The parent is as it was.
    assert {*Run.load(store, parent.run_id).head.classes_.tolist()} == {"severe", "none"}


def test_a_label_may_come_later(run_lines: Run_, posts: Posts, own: Path) -> None:
    post, other = posts(), posts()
    lines = [
        post,
        {"id": post["id"], "label": "severe"},
        {"id": "never seen", "label": "severe"},
        {**other, "label": "nan"},
        {"id": "copy", "image_path": post["image_path"], "label": "severe"},
    ]
    told = run_lines(lines, runs=(), learn="kind", store=own)
    assert [line["decision"] for line in told] == ["classified", "label", "error", "classified", "repeat"]
    assert told[1]["learned"] == {"label": "severe", "predicted": "severe", "labels": 1}
    assert "not among the latest" in told[2]["error"]
    assert "means no value" in told[3]["learned"]["error"]
    # A repeat is known by the post that it repeats.
    assert told[4]["learned"]["labels"] == 2


def test_labels_without_a_run_to_teach(run_lines: Run_) -> None:
    (told,) = run_lines([{"id": "a", "label": "x"}])
    assert told["decision"] == "error"
    assert "--learn" in told["error"]


def test_a_head_that_cannot_go_on_learning(run_lines: Run_) -> None:
    with pytest.raises(UsageError, match="train one with `icehouse train online`"):
        run_lines([], learn="damage")
