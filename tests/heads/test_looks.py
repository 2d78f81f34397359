"""How often a test set was scored, whatever scored it."""

from __future__ import annotations

import shutil

import pytest
from icehouse.heads.compare import compare
from icehouse.heads.runs import Run, log_scoring, scoring_count, scoring_text
from icehouse.heads.shots import shots
from icehouse.heads.sweep import sweep
from icehouse.heads.trainer import evaluate, train
from icehouse.store.store import Store
from quick import Make

FIXED = {"C": 1.0, "unit": False}


def looks(store: Store, run: Run, label: str = "label") -> dict[str, int]:
    return scoring_count(store, label, run.training_items()["test"])["by"]


def test_every_scoring_of_the_rows_counts_and_nothing_else(make_store: Make) -> None:
    store = make_store(120, no_text=(9,))
    run = train(store, params=FIXED)
    assert run.record["looks"] == {"total": 1, "by": {"train": 1}}
    # Rows left out for want of an input make no new test set; a run that is gone was a look all the same.
    again = train(store, params=FIXED, inputs="image")
    assert again.record["looks"]["total"] == 2
    shutil.rmtree(again.path)
    assert evaluate(store, run, where="event = 'event 1'").metrics["looks"]["by"] == {
        "train": 2,
        "evaluate": 1,
    }
    evaluate(store, run, split="dev")
    assert looks(store, run) == {"train": 2, "evaluate": 1}
    board = compare(store, [run], latency=False)
    assert board.looks["total"] == board.as_json()["looks"]["total"] == 3
    assert looks(store, run) == {"train": 2, "evaluate": 1}
    assert looks(store, run, "event") == {}


def test_a_sweep_counts_its_winners_once_and_shots_their_draws(make_store: Make) -> None:
    store = make_store(120)
    for _ in range(2):  # the second time there is nothing left to do
        done = sweep(store, ["logreg"], inputs="image,text", grid={"logreg": {"C": [1.0]}}, report=False)
        shots(store, ["logreg"], inputs="text", counts=[1, 2], draws=3, grid={"logreg": {"C": [1.0]}})
    assert looks(store, done.winners["logreg"][0]) == {"sweep": 1, "shots": 6}


def test_test_can_be_left_alone(make_store: Make) -> None:
    store = make_store(120)
    run = train(store, params=FIXED, test=False)
    assert "test" not in run.metrics
    assert set(run.predictions()["split"].to_pylist()) == {"dev"}
    assert "not scored (--no-test)" in run.notes[-1]
    kept = sweep(store, ["logreg"], inputs="text", test=False, report=False).winners["logreg"]
    assert "test" not in kept[0].metrics
    curves = shots(store, ["logreg"], inputs="text", counts=[1], draws=2, test=False)
    assert (curves.on, curves.looks, curves.test_rows) == ("dev", None, run.metrics["dev"]["n"])
    assert looks(store, run) == {}
    # Afterwards it may be scored, once.
    kept = sweep(store, ["logreg"], inputs="text", report=False).winners["logreg"]
    assert kept[0].record["looks"] == {"total": 1, "by": {"sweep": 1}}
    assert evaluate(store, run).metrics["looks"]["total"] == 2


@pytest.mark.parametrize("damage", ["{", "[]", '{"items": 5}', "null"])
def test_a_damaged_count_is_said_and_costs_no_training(make_store: Make, damage: str) -> None:
    store = make_store(120)
    run = train(store, params=FIXED)
    (path,) = (store.path / "looks").glob("*.json")
    path.write_text(damage)
    again = train(store, params=FIXED)
    assert again.record["looks"]["damaged"] == [path.with_suffix(".damaged").name]
    assert path.with_suffix(".damaged").read_text() == damage
    assert "at least" in scoring_text(again.record["looks"])
    assert looks(store, run) == {"train": 1}


def test_a_sentence_says_how_often() -> None:
    assert "first time" in scoring_text({"total": 1, "by": {"train": 1}})
    several = scoring_text({"total": 7, "by": {"train": 4, "evaluate": 3}})
    assert "scored 7 times (evaluate 3, train 4)" in several


def test_any_name_of_an_item_counts(make_store: Make) -> None:
    store = make_store(12)
    for times in (1, 2):
        assert log_scoring(store, "label", ["a\ud800", "é", ""], "train")["total"] == times
    assert scoring_count(store, "label", ["é"])["total"] == 2
    assert scoring_count(store, "label", ["e"])["total"] == 0
