from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from icehouse.errors import HeadError, UsageError
from icehouse.heads.families.linear import LogReg
from icehouse.heads.inputs import Samples, load_samples, parse_inputs
from icehouse.heads.runs import Run
from icehouse.heads.trainer import assign_splits, train
from icehouse.store.store import Store
from icehouse.store.vectors import Vectors
from quick import Make


def samples_of(store: Store) -> Samples:
    return load_samples(store, parse_inputs(None, store), label="label")


def roles(run: Run) -> dict[str, int]:
    return {name: len(ids) for name, ids in run.training_items().items()}


def test_a_run_from_end_to_end(make_store: Make) -> None:
    store = make_store(120)
    run = train(store, "logreg", inputs="image,text", label="label")
    assert run.path.parent == store.path / "runs"
    assert run.family == "logreg"
    assert run.classes == ["calm", "flood", "quake"]
    assert run.features == {"image": "toy/image/pooled", "text": "toy/text/pooled"}
    assert roles(run) == {"train": 60, "dev": 30, "test": 30}
    assert run.metrics["test"]["n"] == 30
    assert run.metrics["test"]["accuracy"]["value"] > 0.8
    assert run.metrics["dev"]["n"] == 30
    protocol = run.metrics["protocol"]
    assert protocol["chosen_on"] == "the dev split"
    assert protocol["refit"] is False
    assert protocol["trained_on"] == 60
    assert protocol["notes"] == []
    assert run.metrics["chosen"] == protocol["chosen"] == run.head.chosen_
    assert set(protocol["chosen"]) == {"C", "unit"}
    assert len(run.metrics["curve"]) > 3
    for alone in ("image", "text"):
        other = train(store, inputs=alone).metrics["test"]["accuracy"]["value"]
        assert other < run.metrics["test"]["accuracy"]["value"]
    # Predictions can be joined in SQL.
    path = run.path / "predictions.parquet"
    joined = store.query(f"select count(*) n from '{path}' p join items using (item_id) where p.y = label")
    assert joined["n"].to_pylist() == [60]


class Recorder(LogReg):
    """A head that notes what it was fitted on."""

    fits: list[dict[str, Any]] = []  # noqa: RUF012

    def fit(self, X: Any, y: Any, val: Any = None, sample_weight: Any = None, groups: Any = None) -> Any:
        Recorder.fits.append(
            {"rows": len(X), "val": None if val is None else len(val[0]), "params": self.get_params()}
        )
        return super().fit(X, y, val, sample_weight, groups)


@pytest.mark.parametrize(
    ("refit", "split", "fits"),
    [
        (None, True, [(60, 30)]),
        (False, True, [(60, 30)]),
        (True, True, [(60, 30), (90, None)]),
        (None, False, [(96, 24), (120, None)]),
        (False, False, [(96, 24)]),
    ],
)
def test_what_is_fitted_again(
    make_store: Make, refit: bool | None, split: bool, fits: list[tuple[int, int | None]]
) -> None:
    Recorder.fits = []
    store = make_store(120) if split else make_store(120, split=lambda i: None)
    head = Recorder()
    run = train(store, head, refit=refit)
    assert not hasattr(head, "classes_")  # a head that was given is not changed
    assert [(fit["rows"], fit["val"]) for fit in Recorder.fits] == fits
    assert run.metrics["protocol"]["refit"] is (len(fits) == 2)
    assert run.metrics["protocol"]["trained_on"] == fits[-1][0]
    assert ("held out" in run.metrics["protocol"]["chosen_on"]) is not split
    if len(fits) == 2:
        assert Recorder.fits[1]["params"]["C"] == run.metrics["chosen"]["C"]


def test_without_a_test_split_the_scores_are_called_dev(make_store: Make) -> None:
    run = train(make_store(120, split=lambda i: None))
    assert "test" not in run.metrics
    assert run.metrics["dev"]["n"] == 24
    assert run.summary()["scored_on"] == "dev"
    notes = " ".join(run.metrics["protocol"]["notes"])
    assert "names no splits" in notes
    assert "no test split" in notes
    assert set(run.predictions()["split"].to_pylist()) == {"dev"}
    # Dev scores are of the head that had not learned from dev, not of the one that was kept.
    samples = samples_of(Store.open(run.path.parents[1]))
    kept = run.predict_features(samples.X).to_arrow(samples.ids).to_pylist()
    by_item = {row["item_id"]: row["p_calm"] for row in kept}
    differ = [abs(row["p_calm"] - by_item[row["item_id"]]) for row in run.predictions().to_pylist()]
    assert max(differ) > 1e-6


def test_what_takes_no_part_and_what_train_does_not_know_is_noted(make_store: Make) -> None:
    splits = ("train", "dev", "test", "unlabelled")
    run = train(
        make_store(120, split=lambda i: splits[i // 3 % 4], label=lambda i: "storm" if i == 6 else None)
    )
    assert sum(roles(run).values()) == 90
    assert run.metrics["test"]["unseen"] == {"storm": 1}
    notes = run.metrics["protocol"]["notes"]
    assert any(note.startswith("30 labelled items in none") for note in notes)
    assert any("'storm'" in note for note in notes)


def test_copies_are_held_out_together(make_store: Make) -> None:
    copies = {i: i % 30 for i in range(120)}  # each picture is posted four times
    store = make_store(120, split=lambda i: None, copies=copies)
    parts = assign_splits(samples_of(store))
    pictures = samples_of(store).content["image"]
    assert len(parts.dev)
    assert not set(pictures[parts.dev]) & set(pictures[parts.train])


def test_scores_are_repeated_without_copies_of_train(make_store: Make) -> None:
    # p006 to p008 are in dev, p009 to p011 in test: the latter's pictures are those of p000 to p002, in train.
    store = make_store(120, copies={9: 0, 10: 1, 11: 2})
    apart = train(store).metrics["test"]["without_copies"]
    assert apart["copies"] == 3
    assert apart["n"] == 27
    assert apart["accuracy"]["low"] <= apart["accuracy"]["value"] <= apart["accuracy"]["high"]
    none = train(make_store(120, name="other")).metrics["test"]["without_copies"]
    assert none == {"copies": 0}


def test_predictions_are_what_the_head_says(make_store: Make) -> None:
    store = make_store(120)
    run = train(store)
    table = run.predictions()
    assert table.column_names == ["item_id", "split", "y", "predicted", "p_calm", "p_flood", "p_quake"]
    assert table["split"].to_pylist() == ["dev"] * 30 + ["test"] * 30
    samples = samples_of(store)
    rows = {item: i for i, item in enumerate(samples.ids)}
    proba = run.predict_features(samples.X)
    for row in table.to_pylist():
        i = rows[row["item_id"]]
        assert row["y"] == samples.labels[i]
        assert row["predicted"] == proba.labels[i]
        assert row["p_flood"] == pytest.approx(proba.proba[i, 1], abs=1e-6)
    test = [row for row in table.to_pylist() if row["split"] == "test"]
    accuracy = np.mean([row["y"] == row["predicted"] for row in test])
    assert run.metrics["test"]["accuracy"]["value"] == pytest.approx(accuracy)


def test_the_record_says_how_it_was_made(make_store: Make) -> None:
    store = make_store(120, no_text=(0, 1))
    run = train(store, params={"class_weight": "balanced"}, where="event <> 'x'", seed=3)
    record = json.loads((run.path / "run.json").read_text())
    assert record["head"]["params"]["class_weight"] == "balanced"
    assert record["head"]["params"]["seed"] == 3
    assert record["data"]["where"] == "event <> 'x'"
    assert record["data"]["left_out"] == {"image": 0, "text": 2}
    text = record["inputs"]["text"]
    assert text["fingerprint"] == store.feature_table("toy/text/pooled").spec["fingerprint"]
    assert "probe" not in text["spec"]
    assert record["majority"] in run.classes
    assert any("2 labelled items without toy/text/pooled" in note for note in record["protocol"]["notes"])
    assert (run.path / "head" / "head.json").exists()


def test_same_seed_same_run(make_store: Make) -> None:
    store = make_store(120, split=lambda i: None)
    first, second, other = train(store), train(store), train(store, seed=1)
    assert first.metrics == second.metrics
    assert first.training_items()["dev"] != other.training_items()["dev"]


def test_rows_that_lack_an_input_can_take_part(make_store: Make) -> None:
    store = make_store(120, no_text=tuple(range(0, 120, 5)))
    assert sum(roles(train(store)).values()) == 96
    kept = train(store, missing="keep")
    assert sum(roles(kept).values()) == 120
    assert kept.metrics["test"]["accuracy"]["value"] > 0.6


def test_too_few_rows_to_hold_out(make_store: Make) -> None:
    run = train(make_store(3, split=lambda i: None))
    assert "dev" not in run.metrics
    assert "test" not in run.metrics
    assert run.predictions().num_rows == 0
    assert any("too small" in note for note in run.metrics["protocol"]["notes"])
    assert run.summary()["macro_f1"] is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"label": "lable"}, HeadError, "did you mean 'label'"),
        ({"head": "logrge"}, UsageError, "did you mean 'logreg'"),
        ({"params": {"clas_weight": 1}}, UsageError, "did you mean 'class_weight'"),
        ({"inputs": "imaeg"}, UsageError, "did you mean 'image'"),
        ({"where": "label = 'calm'"}, HeadError, "two classes"),
        ({"split_column": "event"}, HeadError, r"no labelled item is in split 'train'.*event 0 \(60\)"),
    ],
)
def test_what_cannot_be_trained_is_said(
    make_store: Make, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    store = make_store(120)
    with pytest.raises(error, match=message):
        train(store, **options)
    assert not list(store.path.glob("runs/*"))


def test_an_item_with_bad_features_is_named(make_store: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(24)
    original = Store.vectors

    def broken(self: Store, name: str) -> Vectors:
        found = original(self, name)
        X = found.X.copy()
        X[4] = np.nan
        return replace(found, X=X)

    monkeypatch.setattr(Store, "vectors", broken)
    with pytest.raises(HeadError, match="NaN or infinity for 1 item, first 'p004'"):
        train(store)
