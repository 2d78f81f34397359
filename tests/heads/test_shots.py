"""Few labels: what is drawn, what a head gets to see, and what is said of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from icehouse.dups.find import find_duplicates
from icehouse.dups.pair_graph import DuplicateExclusion, DuplicateSearches
from icehouse.errors import HeadError, UsageError
from icehouse.heads.families.linear import LogReg
from icehouse.heads.inputs import Inputs
from icehouse.heads.metrics import METRICS
from icehouse.heads.shots import draw_items, shots
from quick import Make
from shell import ran, told

NONE = DuplicateSearches([])


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every fit of logreg got."""
    seen: list[dict[str, Any]] = []
    real = LogReg._fit

    def noting(self: LogReg, X: Inputs, y: np.ndarray, val: Any, weight: Any) -> Mapping[str, Any] | None:
        rows = {row.tobytes() for row in X["image"]}
        seen.append({"y": Counter(y.tolist()), "val": val, "rows": rows, "seed": self.seed})
        return real(self, X, y, val, weight)

    monkeypatch.setattr(LogReg, "_fit", noting)
    return seen


def ids_of(n: int) -> np.ndarray:
    return np.array([f"p{i:03d}" for i in range(n)], object)


def test_draws_are_balanced_nested_and_do_not_depend_on_the_order() -> None:
    n = 90
    ids, labels = ids_of(n), np.array(["a", "b", "c"] * (n // 3))
    content = {"text": np.array([f"t{i}" for i in range(n)], object)}
    rounds = draw_items(ids, labels, DuplicateExclusion(ids, content, NONE), 4, np.random.default_rng([0, 1]))
    assert [sorted(labels[took].tolist()) for took in rounds] == [["a", "b", "c"]] * 4
    assert len(set(np.concatenate(rounds).tolist())) == 12
    fewer = draw_items(ids, labels, DuplicateExclusion(ids, content, NONE), 2, np.random.default_rng([0, 1]))
    assert [took.tolist() for took in fewer] == [took.tolist() for took in rounds[:2]]
    order = np.random.default_rng(5).permutation(n)
    moved = {"text": content["text"][order]}
    again = draw_items(
        ids[order],
        labels[order],
        DuplicateExclusion(ids[order], moved, NONE),
        4,
        np.random.default_rng([0, 1]),
    )
    assert [set(ids[order][took]) for took in again] == [set(ids[took]) for took in rounds]
    other = draw_items(ids, labels, DuplicateExclusion(ids, content, NONE), 4, np.random.default_rng([0, 2]))
    assert set(np.concatenate(other).tolist()) != set(np.concatenate(rounds).tolist())


def test_no_copy_is_drawn_again() -> None:
    # Of class a only three pictures, each ten times; one of them is a picture of class b's too.
    ids = ids_of(40)
    labels = np.array(["a"] * 30 + ["b"] * 10)
    pictures = [f"a{i % 3}" for i in range(30)] + [f"b{i}" for i in range(9)] + ["a0"]
    content = {"image": np.array(pictures, object), "text": np.array([None] * 40, object)}
    alike = DuplicateExclusion(ids, content, NONE)
    for seed in range(20):
        rounds = draw_items(ids, labels, alike.fresh(), 16, np.random.default_rng(seed))
        drawn = [pictures[row] for row in np.concatenate(rounds)]
        assert len(drawn) == len(set(drawn)) == 12
    assert not alike.excluded().any()


def test_near_duplicates_by_a_search(make_store: Make) -> None:
    # Train's p000 and p001 are near-duplicates, as are p012 and p013; nobody else is like anybody.
    store = make_store(120)
    base = 0xB2CDCD3232CDCD30
    hashes = {
        "p000": base,
        "p001": base ^ 1,
        "p012": base ^ (0xFFFF << 30),
        "p013": base ^ (0xFFFF << 30) ^ 1,
    }
    column = pa.array(list(hashes.values()), pa.uint64())
    store.items.upsert(pa.table({"item_id": list(hashes), "phash": column}), key="item_id")
    found = find_duplicates(store, feature=None)
    ids = np.array(["p013", "p005", "p000", "p001", "p012"], object)
    content = {"image": np.array(list("abcde"), object)}
    alike = DuplicateExclusion(ids, content, DuplicateSearches([found]))
    assert alike.covered.all()
    alike.mark(2)
    assert alike.excluded().tolist() == [False, False, True, True, False]
    alike.mark(0)
    assert alike.excluded(np.array([4, 1])).tolist() == [True, False]
    alike.mark(1)
    assert DuplicateExclusion(ids, content, DuplicateSearches([found])).excluded().tolist() == [False] * 5
    # p000 and p001 are of two classes: no draw has both.
    curves = shots(store, ["logreg"], inputs="image", counts=[20], draws=3)
    assert any("resemble another" in note for note in curves.notes)


def test_heads_see_the_shots_and_nothing_else(make_store: Make, fits: list[dict[str, Any]]) -> None:
    store = make_store(240)
    curves = shots(store, ["logreg"], inputs="image+text,image", counts=[2, 1], draws=3)
    found = [(p.trial.inputs, p.shots, p.rows) for p in curves.points]
    assert found == [(name, k, 3.0 * k) for name in ("image+text", "image") for k in (1, 2)]
    assert curves.test_rows == 60
    assert all(fit["val"] is None for fit in fits)
    assert [fit["seed"] for fit in fits] == [0, 1, 2] * 4
    assert [set(fit["y"].values()) for fit in fits] == 2 * ([{1}] * 3 + [{2}] * 3)
    # The same items for every combination, and more of them for more shots.
    for draw in range(3):
        assert fits[draw]["rows"] == fits[6 + draw]["rows"] < fits[3 + draw]["rows"]


def test_more_labels_are_better_and_the_interval_holds_the_mean(make_store: Make) -> None:
    wrong = ("calm", "flood", "quake")
    store = make_store(400, label=lambda i: wrong[(i + 1) % 3] if i % 4 == 0 else None)
    curves = shots(store, ["logreg"], inputs="image+text", counts=[1, 16], draws=5)
    few, many = (point.values["macro_f1"] for point in curves.points)
    assert many["mean"] > few["mean"] + 0.05
    assert many["sd"] < few["sd"]
    for point in curves.points:
        for value in point.values.values():
            assert value["low"] <= value["mean"] <= value["high"]
            assert value["high"] - value["low"] > 0.01
        found = point.as_json()
        assert found["scores"]["accuracy"]["mean"] == pytest.approx(np.mean(found["by_draw"]["accuracy"]))


def test_a_class_with_few_items_gives_all_it_has(make_store: Make, fits: list[dict[str, Any]]) -> None:
    store = make_store(120, label=lambda i: "rare" if i in (0, 1, 12, 36) else None)
    curves = shots(store, ["logreg"], inputs="image", counts=[8], draws=2)
    assert curves.notes == [
        "class 'rare' has only 4 items to draw: all that it has are in every draw for more shots"
    ]
    assert [sorted(fit["y"].values()) for fit in fits] == [[4, 8, 8, 8]] * 2


def test_what_dev_was_held_out_of_train_is_drawn_from(make_store: Make) -> None:
    def two(i: int) -> str:
        return "train" if i < 12 else "test"

    curves = shots(make_store(60, split=two), ["logreg"], inputs="image", counts=[4], draws=1)
    assert curves.points[0].rows == 12
    assert curves.notes == []


def test_nothing_is_done_twice(
    make_store: Make, fits: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(120)
    whole = shots(store, ["logreg"], inputs="image", counts=[1, 4], draws=3, name="whole")
    assert len(fits) == 6
    noting = LogReg._fit

    def dies(self: LogReg, *args: Any) -> Any:
        if len(fits) == 10:
            raise KeyboardInterrupt
        return noting(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(LogReg, "_fit", dies)
        with pytest.raises(KeyboardInterrupt):
            shots(store, ["logreg"], inputs="image", counts=[1, 4], draws=3, name="cut")
    rest = shots(store, ["logreg"], inputs="image", counts=[1, 4], draws=3, name="cut")
    assert len(fits) == 12
    assert [p.values for p in rest.points] == [p.values for p in whole.points]
    more = shots(store, ["logreg"], inputs="image", counts=[1, 2, 4], draws=4, name="cut")
    assert len(fits) == 12 + 4 + 1 + 1
    fewer = shots(store, ["logreg"], inputs="image", counts=[1], draws=3, name="cut")
    assert len(fits) == 18
    assert fewer.points[0].values == whole.points[0].values
    assert len(more.points[0].draws) == 4
    with pytest.raises(HeadError, match=r"begun with other data .seed differ.*--fresh"):
        shots(store, ["logreg"], inputs="image", counts=[1], name="cut", seed=1)
    shots(store, ["logreg"], inputs="image", counts=[1], draws=1, name="cut", seed=1, fresh=True)
    assert len(fits) == 19


def test_zero_shots_are_zero_shot(make_store: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    X = {"calm": [1.0] * 8, "flood": [-1.0] * 8, "quake": [0.5, -0.5] * 4}

    def prompted(head: Any, store: Any, specs: Any, labels: Any) -> Any:
        assert labels == ["calm", "flood", "quake"]
        return head.unfitted(class_vectors={"image": X}) if head.takes_prompts != "never" else head

    monkeypatch.setattr("icehouse.heads.shots.with_prompts", prompted)
    curves = shots(make_store(120), ["logreg", "tip-adapter"], inputs="image", counts=[0, 2], draws=3)
    found = [(p.trial.family, p.shots, len(p.draws)) for p in curves.points]
    assert found == [("logreg", 2, 3), ("tip-adapter", 2, 3), ("zero-shot", 0, 1)]
    zero = curves.points[2]
    assert zero.rows == 0
    assert zero.values["accuracy"]["sd"] is None
    alone = shots(make_store(120, name="other"), ["zero-shot"], inputs="image", counts=[4], draws=3)
    assert alone.points[0].values == zero.values


class Refusing(LogReg):
    """Learns from no fewer than four of a class."""

    refused: ClassVar[int] = 0

    def _fit(self, X: Inputs, y: np.ndarray, val: Any, sample_weight: Any) -> Mapping[str, Any] | None:
        if np.bincount(y).min() < 4:
            Refusing.refused += 1
            raise HeadError("too few of a class")
        return super()._fit(X, y, val, sample_weight)


def test_a_head_that_refuses_costs_the_others_nothing(
    make_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icehouse.heads.families.linear.LogReg", Refusing)
    curves = shots(make_store(120), ["logreg", "knn"], inputs="image", counts=[1, 4], draws=2)
    assert [(p.error, len(p.draws)) for p in curves.points] == [("too few of a class", 0), *[(None, 2)] * 3]
    assert Refusing.refused == 1
    assert "logreg on image: too few of a class" in curves.notes


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"counts": [-1]}, UsageError, "from 0 on"),
        ({"heads": ["logrge"]}, UsageError, "did you mean 'logreg'"),
        ({"name": "../out"}, UsageError, "no name for a sweep"),
        ({"positive": "x"}, UsageError, "no class 'x' to take as positive"),
        ({"where": "split <> 'test'"}, HeadError, "no test split"),
    ],
)
def test_what_makes_no_sense_is_said(
    make_store: Make, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        shots(make_store(60), **{"heads": ["logreg"], "counts": [4], "draws": 2, **options})


def test_the_command(make_store: Make) -> None:
    store = make_store(120)
    arguments = ("shots", "--heads", "logreg", "-i", "image", "--shots", "1,2", "--draws", "2")
    out = ran(store, *arguments).stdout
    lines = out.splitlines()
    assert lines[0] == "macro_f1 on 30 test rows, by labelled items a class"
    assert "1 shot " in lines[1]
    assert lines[2].count("±") == 2
    assert "choose nothing by it" in out
    found = told(store, *arguments)
    assert [point["shots"] for point in found["points"]] == [1, 2]
    assert len(found["points"][0]["by_draw"]["macro_f1"]) == 2
    assert ran(store, *arguments, "--metric", "auroc").stdout.startswith("auroc on 30 test rows")


def test_any_metric_with_intervals_that_are_no_points(make_store: Make) -> None:
    (point,) = shots(make_store(120), ["logreg"], inputs="image+text", counts=[4], draws=2).points
    for metric in METRICS:
        value = point.values[metric]
        assert value["low"] <= value["mean"] <= value["high"]
        assert value["high"] - value["low"] > 0.001, metric
