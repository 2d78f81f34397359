from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from icehouse.cli import app
from icehouse.heads.runs import list_runs
from icehouse.store.store import Store
from typer.testing import CliRunner

Make = Callable[..., Store]


def call(store: Store, *args: str) -> Any:
    return CliRunner().invoke(app, [args[0], "--store", str(store.path), *args[1:]])


def test_train_reports_the_scores(make_store: Make) -> None:
    store = make_store(120, copies={9: 0})
    result = call(store, "train", "logreg", "--inputs", "image,text", "--label", "label")
    assert result.exit_code == 0, result.output
    run = list_runs(store)[0]
    for expected in (
        run.run_id,
        "chosen on the dev split (30 rows); learned from 60 rows",
        "test (touched once), 30 rows",
        "macro-F1",
        "majority",
        "without 1 copies of train",
        "flood",
        f"{100 * run.metrics['test']['accuracy']['value']:.1f}",
    ):
        assert expected in result.output, expected


def test_train_as_json(make_store: Make) -> None:
    store = make_store(120)
    result = call(
        store, "train", "--class-weight", "balanced", "-p", "C=0.5", "-p", "select=accuracy", "--json"
    )
    report = json.loads(result.stdout)
    assert report["head"]["params"]["C"] == 0.5
    assert report["head"]["params"]["class_weight"] == "balanced"
    assert report["head"]["params"]["select"] == "accuracy"
    assert report["metrics"]["test"]["n"] == 30
    assert report["run_id"] == list_runs(store)[0].run_id


def test_a_grid_of_c_on_the_command_line(make_store: Make) -> None:
    store = make_store(120)
    report = json.loads(call(store, "train", "-p", "C=[0.1, 1]", "--refit", "--json").stdout)
    assert [row["C"] for row in report["metrics"]["curve"]] == 2 * [0.1, 1.0]  # with and without unit length
    assert report["metrics"]["protocol"]["trained_on"] == 90


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
    report = json.loads(call(store, "evaluate", "--split", "all", "--json").stdout)
    assert report["n"] == 120


def test_runs(make_store: Make) -> None:
    store = make_store(120)
    empty = call(store, "runs")
    assert empty.exit_code == 0
    assert "icehouse train" in empty.output
    assert json.loads(call(store, "runs", "--json").stdout) == []
    call(store, "train")
    run = list_runs(store)[0]
    listed = call(store, "runs").stdout
    interval = run.metrics["test"]["macro_f1"]
    assert run.run_id in listed
    assert f"{100 * interval['low']:.1f}–{100 * interval['high']:.1f}" in listed
    assert json.loads(call(store, "runs", "--json").stdout) == [run.summary()]
    assert "learned from 60 rows" in call(store, "runs", "latest").output
    assert json.loads(call(store, "runs", run.run_id, "--json").stdout)["run_id"] == run.run_id


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["train", "--label", "labl"], 1, "no label column 'labl'"),
        (["train", "lgreg"], 2, "did you mean 'logreg'"),
        (["train", "-p", "C"], 2, "NAME=VALUE"),
        (["train", "-p", "c_weight=1"], 2, "Invalid parameter 'c_weight'"),
        (["train", "-p", "C=lots"], 2, "C must be"),
        (["train", "--where", "nonsense ="], 2, "condition"),
        (["evaluate"], 1, "icehouse train"),
        (["runs", "nosuch"], 1, "no runs"),
    ],
)
def test_errors_are_one_line(make_store: Make, args: list[str], status: int, message: str) -> None:
    result = call(make_store(60), *args)
    assert result.exit_code == status, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""


def test_help_names_every_option_without_loading_anything_heavy() -> None:
    for command in ("train", "evaluate", "runs"):
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_near_identical_labels_are_told_before_training(make_store: Make) -> None:
    spelt = ["flood", "Flood ", "calm", "NA", "1", "1.0"]
    store = make_store(120, label=lambda i: spelt[i % 6])
    told = (
        "'label' has classes that are nearly the same, and heads learn them as different ones: 'flood' (20 rows) and "
        "'Flood ' (20 rows); '1' (20 rows) and '1.0' (20 rows); 'NA' (20 rows), which may mean that there is none"
    )
    result = call(store, "train", "logreg")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"WARNING: {told}")
    assert told in list_runs(store)[0].notes[0]
    for command in (["train", "logreg"], ["sweep", "--heads", "logreg"], ["shots", "--heads", "logreg"]):
        refused = call(store, *command, "--strict-labels")
        assert refused.exit_code == 1
        assert f"--strict-labels: {told}" in refused.stderr
    assert len(list_runs(store)) == 1
    # Those that are left out by a condition do not count.
    where = "label in ('calm', 'flood')"
    assert call(store, "train", "logreg", "--strict-labels", "--where", where).exit_code == 0
