"""Reports: what a page and its data say of a run, whatever strangers wrote and whatever has gone since."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from html_page import HtmlPage
from icehouse.dups.find import find_duplicates
from icehouse.heads import report as reports
from icehouse.heads.report import command_line, known_ablation, leave_report, write_report
from icehouse.heads.runs import Run, list_runs
from icehouse.heads.sweep import sweep
from icehouse.heads.trainer import train
from icehouse.store.store import Store
from quick import QUICK, Make
from shell import ran, told
from toys import make_pictures

Reported = tuple[Run, dict[str, Any], HtmlPage]
LABELS = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "$\\frac{ & </style>\u202e")
TEXT = "</p><svg onload=alert(3)>\x00 {{7*7}} javascript:alert(4) <!-- ]]>"
GIVEN = {"C": 1.0, "unit": False}  # nothing to choose: quick


def read(run: Run) -> Reported:
    """A run, and what its report says as data and as a page."""
    page = HtmlPage(run.path / "report.html")
    return run, json.loads((run.path / "report.json").read_text()), page


def reported(store: Store, family: str = "logreg", **options: Any) -> Reported:
    run = train(store, family, **options)
    assert write_report(store, run) == run.path / "report.html"
    return read(run)


def change(store: Store, rows: list[dict[str, Any]]) -> None:
    """Put other values into some columns of items."""
    schema = store.items.snapshot().schema
    some = pa.schema([schema.field(name) for name in rows[0]])
    store.items.upsert(pa.Table.from_pylist(rows, schema=some), key="item_id")


@pytest.mark.slow
def test_the_command_leaves_a_report_with_every_run(make_store: Make) -> None:
    store = make_store(120)
    assert not (train(store, params=GIVEN).path / "report.html").exists(), "that is for the caller to make"
    ran(store, "train", "logreg")
    run, data, page = read(Run.load(store, "latest"))
    assert (data["metrics"], data["run"], data["split"]) == (run.metrics, run.record, "test")
    assert data["ablation"] == known_ablation(run)
    assert data["calibration"]["n"] == 30
    matrix = np.array(run.metrics["test"]["confusion"]["matrix"])
    assert len(data["mistakes"]) == min(matrix.sum() - np.trace(matrix), 12)
    figures = ("confusion", "roc", "precision_recall", "reliability", "curve_loss", "curve_score")
    assert {path.name for path in (run.path / "figures").glob("*.*")} == {f"{name}.png" for name in figures}
    for words in (
        f"{100 * run.metrics['test']['macro_f1']['value']:.1f}%",
        "What each input adds",
        "expected calibration error",
        "majority",
        "toy/image/pooled",
        run.specs["image"]["fingerprint"],
        command_line(run),
    ):
        assert words in page.text


@pytest.mark.slow
def test_nothing_hostile_gets_through(make_store: Make, tmp_path: Path) -> None:
    store = make_store(60, label=lambda i: LABELS[i % 3])
    folder = tmp_path / "<b>pictures"
    files = [path.name for path in make_pictures(folder, 50)]
    change(store, [{"item_id": f"p{i:03d}", "root": str(folder), "path": files[i]} for i in range(50)])
    change(store, [{"item_id": f"p{i:03d}", "text": TEXT} for i in range(60)])
    rows = store.items.read().to_pylist()
    copies = [
        {**rows[i], "item_id": f"{i}' <iframe src=//evil>", "label": LABELS[(i + 1) % 3]} for i in (9, 10, 11)
    ]
    store.items.append(pa.Table.from_pylist(copies, schema=store.items.snapshot().schema), unique="item_id")
    (folder / "0009.png").unlink()
    _, _, page = reported(store)
    for words in ("[U+202E]", "<iframe src=//evil>", "the file is gone", "{{7*7}}"):
        assert words in page.text
    assert len(page.all("img")) > 5
    assert page.scripts == []
    assert "default-src 'none'" in page.policy
    assert "script-src" not in page.policy


@pytest.mark.slow
def test_a_report_that_fails_costs_the_run_nothing(make_store: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(60)

    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reports, "confusion_png", broken)
    err = ran(store, "train", "logreg", "-p", "C=1.0", "-p", "unit=false").stderr
    assert re.search(r"is whole, but has no report: .*No space left.*`icehouse report", err)
    run = Run.load(store, "latest")
    assert run.metrics["test"]["n"] == 15
    assert not (run.path / "report.html").exists()
    assert not list(run.path.glob(".tmp-*"))
    monkeypatch.undo()
    assert leave_report(store, run, affordable=0.0) is None
    before = (run.path / "report.html").read_bytes()
    monkeypatch.setattr(reports, "confusion_png", broken)
    assert "No space left" in str(leave_report(store, run, affordable=0.0))
    assert (run.path / "report.html").read_bytes() == before
    assert (run.path / "figures" / "roc.png").exists()


def test_dev_stands_in_for_a_test_that_is_not_there(make_store: Make) -> None:
    store = make_store(60, split=lambda i: None)
    _, data, page = reported(store, "mlp", params=QUICK["mlp"], inputs="text")
    assert (data["split"], data["ablation"]) == ("dev", None)
    assert data["calibration"]["temperature"]["value"] is None
    assert "flatter" in page.text
    assert data["charts"]["curve_loss"]["x"] == "epoch"  # a network's


def test_near_duplicates_are_marked(make_store: Make) -> None:
    store = make_store(120, copies={9: 0, 10: 1, 11: 2})
    find_duplicates(store, feature="toy/image/pooled", rule=0.97, views=False)
    _, data, page = reported(store, inputs="image", params=GIVEN)
    near = [one for row in data["neighbours"] for one in row["nearest"]]
    assert all(one["near_duplicate"] is not None for one in near)
    assert "without near-duplicates" in page.text


def test_neighbours_are_the_nearest_of_training(make_store: Make) -> None:
    store = make_store(120)
    run, data, _ = reported(store, params=GIVEN)
    train_ids = sorted(run.training_items()["train"])
    for row in data["neighbours"]:
        slow = dict.fromkeys(train_ids, 0.0)
        for feature in run.features.values():
            found = store.features(feature)
            vectors = dict(zip(found.ids.tolist(), found.X.astype(np.float64), strict=True))
            mean = np.mean([vectors[item] for item in train_ids], axis=0)
            a = vectors[row["item_id"]] - mean
            for item in train_ids:
                b = vectors[item] - mean
                slow[item] += float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) / 2
        best = sorted(train_ids, key=lambda item: -slow[item])[:5]
        assert [near["item_id"] for near in row["nearest"]] == best
        assert [near["cosine"] for near in row["nearest"]] == pytest.approx(
            [slow[item] for item in best], abs=1e-5
        )


def test_of_many_classes_the_commonest_confusions_are_listed(make_store: Make) -> None:
    store = make_store(156, label=lambda i: f"class {i % 26:02d}")
    run, _, page = reported(store, inputs="text", params=GIVEN)
    confusion = run.metrics["test"]["confusion"]
    confused = [
        (count, confusion["labels"][i], confusion["labels"][j], count / sum(row))
        for i, row in enumerate(confusion["matrix"])
        for j, count in enumerate(row)
        if count and i != j
    ]
    assert f"of {len(confused)} confusions among 26 classes" in page.text
    count, true, said, share = min(confused, key=lambda one: (-one[0], *one[1:3]))
    assert f"of the true {true} {said} {count} {100 * share:.0f}%" in page.text


@pytest.mark.slow
def test_a_costly_ablation_waits_to_be_asked_for(make_store: Make) -> None:
    store = make_store(60)
    run = train(store, params=GIVEN)
    write_report(store, run, affordable=-1.0)
    data = read(run)[1]
    assert data["ablation"] is None
    assert f"icehouse report {run.run_id} --ablation" in data["notes"][0]
    assert Path(told(store, "report", run.run_id, "--ablation")["report"]) == run.path / "report.html"
    assert read(run)[1]["ablation"]["adds"]


def test_items_that_are_gone_leave_placeholders(make_store: Make) -> None:
    store = make_store(120)
    run = train(store, params=GIVEN)
    store.items.delete("item_id", [f"p{i:03d}" for i in range(120)])
    write_report(store, run)
    assert any("could not be told" in note for note in read(run)[1]["notes"])


def test_no_report_and_the_first_seed_of_a_sweep(make_store: Make) -> None:
    store = make_store(60)
    ran(store, "train", "logreg", "--no-report")
    assert not (list_runs(store)[-1].path / "report.html").exists()
    params = {name: [value] for name, value in QUICK["lightgbm"].items()}
    done = sweep(store, ["lightgbm"], inputs="text", seeds=2, grid={"lightgbm": params})
    assert [(run.path / "report.html").exists() for run in done.winners["lightgbm"]] == [True, False]


def test_the_command_line_makes_the_same_run_again(make_store: Make) -> None:
    store = make_store(60)
    how: Any = {"params": {"unit": False}, "where": "event = 'event 1'", "refit": True, "seed": 3}
    first = train(store, "logreg", inputs="text,pic=toy/image/pooled", **how)
    ran(store, *shlex.split(command_line(first))[1:], "--no-report")
    (again,) = (run for run in list_runs(store) if run.run_id != first.run_id)
    assert again.metrics == first.metrics
