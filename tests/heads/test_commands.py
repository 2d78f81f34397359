from __future__ import annotations

import json
import math

import pytest
from icehouse.heads.runs import list_runs
from quick import Make
from shell import call, ran, refused, told


def test_train_reports_the_scores(make_store: Make) -> None:
    store = make_store(120, copies={9: 0})
    result = ran(store, "train", "logreg", "--inputs", "image,text", "--label", "label")
    run = list_runs(store)[0]
    for expected in (
        run.run_id,
        "chosen on the dev split (30 rows); learned from 60 rows",
        "test (touched once), 30 rows",
        "macro-F1",
        "majority",
        "without 1 copy of train",
        "flood",
        f"{100 * run.metrics['test']['accuracy']['value']:.1f}",
    ):
        assert expected in result.output, expected


def test_train_as_json(make_store: Make) -> None:
    store = make_store(120)
    report = told(store, "train", "--class-weight", "balanced", "-p", "C=0.5", "-p", "select=accuracy")
    params = report["head"]["params"]
    assert (params["C"], params["class_weight"], params["select"]) == (0.5, "balanced", "accuracy")
    assert report["metrics"]["test"]["n"] == 30
    assert report["run_id"] == list_runs(store)[0].run_id
    grid = told(store, "train", "-p", "C=[0.1, 1]", "--refit")
    assert [row["C"] for row in grid["metrics"]["curve"]] == 2 * [0.1, 1.0]  # with and without unit length
    assert grid["metrics"]["protocol"]["trained_on"] == 90


def test_scores_on_dev_are_called_dev(make_store: Make) -> None:
    result = call(make_store(120, split=lambda i: None), "train")
    assert "not a test" in result.output
    assert "note: no test split" in result.output
    assert "then fitted again with them" in result.output


def test_evaluate(make_store: Make) -> None:
    store = make_store(120)
    call(store, "train")
    result = call(store, "evaluate", "latest", "--split", "dev", "--split", "test")
    assert "dev + test, 60 rows" in result.output
    assert "careful: 30 of these rows" in result.output
    assert told(store, "evaluate", "--split", "all")["n"] == 120


def test_runs(make_store: Make) -> None:
    store = make_store(120)
    assert "icehouse train" in ran(store, "runs").output
    assert told(store, "runs") == []
    call(store, "train")
    run = list_runs(store)[0]
    listed = call(store, "runs").stdout
    interval = run.metrics["test"]["macro_f1"]
    assert run.run_id in listed
    # Rounded outwards.
    low, high = math.floor(1000 * interval["low"]) / 10, math.ceil(1000 * interval["high"]) / 10
    assert f"{low:.1f}–{high:.1f}" in listed
    assert told(store, "runs") == [run.summary()]
    assert "learned from 60 rows" in call(store, "runs", "latest").output
    assert told(store, "runs", run.run_id)["run_id"] == run.run_id


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["train", "--label", "labl"], 2, "no label column 'labl'"),
        (["train", "lgreg"], 2, "did you mean 'logreg'"),
        (["train", "-p", "C"], 2, "NAME=VALUE"),
        (["train", "-p", "c_weight=1"], 2, "Invalid parameter 'c_weight'"),
        (["train", "-p", "C=lots"], 2, "C must be"),
        (["train", "--where", "nonsense ="], 2, "condition"),
        (["evaluate"], 1, "icehouse train"),
        (["runs", "nosuch"], 2, "no runs"),
    ],
)
def test_errors_are_one_line(make_store: Make, args: list[str], status: int, message: str) -> None:
    assert message in refused(make_store(60), *args, status=status)


def test_near_identical_labels_are_told_before_training(make_store: Make) -> None:
    spelt = ["flood", "Flood ", "calm", "NA", "1", "1.0"]
    store = make_store(120, label=lambda i: spelt[i % 6])
    said = (
        "'label' has classes that are nearly the same, and heads learn them as different ones: 'flood' (20 rows) and "
        "'Flood ' (20 rows); '1' (20 rows) and '1.0' (20 rows); 'NA' (20 rows), which may mean that there is none"
    )
    assert ran(store, "train", "logreg").stderr.startswith(f"WARNING: {said}")
    assert said in list_runs(store)[0].notes[0]
    for command in (["train", "logreg"], ["sweep", "--heads", "logreg"], ["shots", "--heads", "logreg"]):
        assert f"--strict-labels: {said}" in refused(store, *command, "--strict-labels", status=1)
    assert len(list_runs(store)) == 1
    # Those that are left out by a condition do not count.
    where = "label in ('calm', 'flood')"
    ran(store, "train", "logreg", "--strict-labels", "--where", where)


@pytest.mark.slow
def test_the_positive_class_is_the_rarer_one_and_said(make_store: Make) -> None:
    store = make_store(120, label=lambda i: "yes" if i % 5 == 0 else "no")
    shown = ran(store, "train", "logreg", "--draws", "50")
    assert "average precision of 'yes'" in shown.stdout
    assert "positive class: 'yes'" in shown.stdout
    assert "(the rarer class in training; --positive names another)" in shown.stdout
    (run,) = list_runs(store)
    scores = run.metrics["test"]
    assert scores["majority"]["average_precision"] == scores["positive"]["prevalence"]
    # Page and table agree: the same class, the same figure, and its curve.
    ran(store, "report", "--draws", "50", "--no-ablation")
    page = (run.path / "report.html").read_text()
    assert "average precision of &#39;yes&#39;" in page
    assert f"<b>{100 * scores['average_precision']['value']:.1f}%</b>" in page
    report = json.loads((run.path / "report.json").read_text())
    assert [series["name"] for series in report["charts"]["precision_recall"]["series"]] == ["yes"]
    other = told(store, "evaluate", "--positive", "no")
    assert other["positive"] == {**other["positive"], "label": "no", "given": True}
    assert other["average_precision"] != scores["average_precision"]
    bare = told(store, "evaluate", "--draws", "0")
    assert (bare["accuracy"]["low"], bare["positive"]["label"]) == (None, "yes")
    wrong = refused(store, "train", "--positive", "maybe")
    assert "no class 'maybe' to take as positive; there are: 'no', 'yes'" in wrong
    assert len(list_runs(store)) == 1


def test_a_run_of_an_earlier_version_is_still_read(make_store: Make) -> None:
    store = make_store(120, label=lambda i: "yes" if i % 5 == 0 else "no")
    ran(store, "train", "logreg", "--no-report")
    (run,) = list_runs(store)
    metrics = run.metrics
    for name in ("dev", "test"):
        scores = metrics[name]
        for new in ("positive", "one_class", "notes"):
            del scores[new]
        scores["intervals"] = {"method": "percentile bootstrap", "draws": 1000, "level": 0.95, "seed": 0}
        scores["majority"] = {key: scores["majority"][key] for key in ("label", "accuracy", "macro_f1")}
    (run.path / "metrics.json").write_text(json.dumps(metrics))
    record = {key: value for key, value in run.record.items() if not key.startswith("positive")}
    (run.path / "run.json").write_text(json.dumps(record))
    (run.path / "SHA256SUMS").unlink(missing_ok=True)
    assert "bootstrap over the rows, 1,000 draws" in call(store, "runs", "latest").stdout
    for command in (("runs",), ("report",), ("evaluate",), ("compare", "-m", "average_precision")):
        ran(store, *command)
