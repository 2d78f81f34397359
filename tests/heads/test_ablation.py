from __future__ import annotations

import json
from typing import Any

import pytest
from icehouse.errors import HeadError
from icehouse.heads.report import ablate, known_ablation, subsets
from icehouse.heads.runs import scoring_count
from icehouse.heads.sweep import sweep
from icehouse.heads.trainer import train
from icehouse.store.files import unseal
from quick import QUICK, Make

GIVEN = {"C": 1.0, "unit": False}  # nothing to choose: quick


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [("a", "a"), ("ab", "ab b a"), ("abc", "abc bc ac ab a b c"), ("abcd", "abcd bcd acd abd abc a b c d")],
)
def test_subsets_are_all_all_but_one_and_each_alone(inputs: str, expected: str) -> None:
    assert subsets(list(inputs)) == [tuple(subset) for subset in expected.split()]


def test_both_inputs_are_needed_and_it_says_so_with_an_interval(make_store: Make) -> None:
    store = make_store(240)
    run = train(store)
    told = ablate(store, run)
    assert told["on"] == "dev"
    assert [entry["inputs"] for entry in told["subsets"]] == [["image", "text"], ["text"], ["image"]]
    text = train(store, inputs="text")
    for entry, same in zip(told["subsets"], (run, text), strict=False):
        assert entry["macro_f1"]["value"] == pytest.approx(same.metrics["dev"]["macro_f1"]["value"])
    assert all(told["adds"][name]["macro_f1"]["low"] > 0.05 for name in ("image", "text"))
    kept = json.loads((run.path / "ablation.json").read_text())
    assert known_ablation(run) == unseal(kept, "ablation.json") == told


def test_a_head_that_needs_two_inputs_is_not_defined_on_one(make_store: Make) -> None:
    store = make_store(60)
    whole, *others = ablate(store, train(store, "align", params=QUICK["align"]), draws=50)["subsets"]
    assert "macro_f1" in whole
    assert all("macro_f1" not in entry and entry["undefined"] for entry in others)


def test_test_is_not_looked_at(make_store: Make) -> None:
    store = make_store(120)
    run = train(store, params=GIVEN)
    assert scoring_count(store, "label", run.training_items()["test"])["total"] == 1
    for kept in (run, train(store, params=GIVEN, test=False)):
        assert ablate(store, kept, draws=20)["on"] == "dev"
    assert scoring_count(store, "label", run.training_items()["test"])["total"] == 1


def test_without_splits_the_held_out_part_is_compared(make_store: Make) -> None:
    store = make_store(60, split=lambda i: None)
    run = train(store, params=GIVEN)
    told = ablate(store, run, draws=50)
    assert told["on"] == "dev"
    assert told["subsets"][0]["accuracy"]["value"] == pytest.approx(run.metrics["dev"]["accuracy"]["value"])


def test_without_dev_rows_of_train_are_compared_out_of_fold(make_store: Make) -> None:
    # One item a class and group: nothing can be held out without taking a class from training.
    store = make_store(
        60, split=lambda i: "train" if i < 42 else "test", copies={i: i % 3 for i in range(42)}
    )
    run = train(store, params={"C": 1.0})
    assert run.metrics["protocol"]["rows"]["dev"] == 0
    told = ablate(store, run, draws=20)
    assert (told["on"], told["rows"]) == ("train, out of fold", 42)


def test_a_run_of_a_sweep_is_compared_on_the_rows_of_the_sweep(make_store: Make) -> None:
    # No dev split: a part was held out with the seed of the rows, not that of the fit; and rows without text are in none.
    store = make_store(120, split=lambda i: ("train", "train", "test")[i % 3], no_text=(0, 1, 2, 3, 4, 5))
    how: Any = {"seeds": [0, 3], "grid": {"mlp": {"epochs": [2]}}, "report": False}
    done = [
        sweep(store, ["mlp"], inputs="image", **how),
        sweep(store, ["mlp"], inputs="image+text,image", name="both", **how),
    ]
    runs = [run for one in done for run in one.winners["mlp"]]
    assert len(runs) == 4
    for run in runs:
        value = ablate(store, run, draws=20)["subsets"][0]["accuracy"]["value"]
        assert value == pytest.approx(run.metrics["dev"]["accuracy"]["value"])


def test_items_that_have_changed_are_not_compared(make_store: Make) -> None:
    store = make_store(60)
    run = train(store, params=GIVEN)
    store.items.delete("item_id", ["p009"])
    with pytest.raises(HeadError, match="have changed since"):
        ablate(store, run)
