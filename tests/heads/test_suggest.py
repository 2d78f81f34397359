"""What to label next: better than chance at the same price, never twice the same, whatever the order of the items."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icehouse.dups.find import find_duplicates
from icehouse.dups.pair_graph import DuplicateExclusion, DuplicateSearches
from icehouse.errors import HeadError, UsageError
from icehouse.heads import active
from icehouse.heads.active import select_batch, suggest, uncertainty, unit_rows
from icehouse.heads.families.linear import LogReg
from icehouse.heads.inputs import Inputs, Tokens
from icehouse.heads.trainer import predict_items, train
from icehouse.store.store import Store
from quick import Make
from shell import ran, refused, told

DIM = 12
SHARES = (0.4, 0.25, 0.15, 0.1, 0.06, 0.04)


def task(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes of very different size, each in three places: what a random draw sees of the rare ones is little."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(SHARES), 3, DIM))
    y = rng.choice(len(SHARES), n, p=SHARES)
    X = centres[y, rng.integers(0, 3, n)] + 0.6 * rng.normal(size=(n, DIM))
    return X.astype(np.float32), y


def fill(make_store: Make, X: np.ndarray, labels: Sequence[str | None], **given: Any) -> Store:
    """A store of items p<i> with pictures X[i] and no texts."""
    given = {"split": lambda i: None, **given}
    return make_store(len(X), X=Inputs({"image": X}), labels=labels, no_text=range(len(X)), **given)


def mostly_unlabelled(make_store: Make, **given: Any) -> Store:
    X, y = task(0, 200)
    return fill(make_store, X, [f"c{y[i]}" if i < 20 else None for i in range(200)], **given)


@pytest.fixture
def store(make_store: Make) -> Store:
    return mostly_unlabelled(make_store)


def ids_of(store: Store, *args: Any, **kwargs: Any) -> list[str]:
    found: list[str] = suggest(store, *args, **kwargs).table["item_id"].to_pylist()
    return found


def test_suggested_labels_beat_random_ones_at_the_same_price(make_store: Make) -> None:
    budget, gains = 24, []
    for seed in range(6):
        X, y = task(seed, 700)
        first, pool, test = np.arange(24), np.arange(24, 450), np.arange(450, 700)
        labels = [f"c{y[i]}" if i < 24 else None for i in range(450)]
        store = fill(make_store, X[:450], labels, name=f"{seed}")
        train(store, "logreg", params={"C": 1.0, "unit": False}, draws=2)
        made = suggest(store, budget)
        assert made.about["run"] is not None
        suggested = np.array([int(item[1:]) for item in made.table["item_id"].to_pylist()])

        rng = np.random.default_rng(seed)
        batches = [suggested, *(rng.choice(pool, budget, replace=False) for _ in range(4))]
        scores = []
        for batch in batches:
            rows = np.concatenate([first, batch])
            scores.append(LogReg(C=1.0, unit=False).fit(X[rows], y[rows]).score(X[test], y[test]))
        gains.append(scores[0] - float(np.mean(scores[1:])))
    assert np.mean(gains) > 0.02
    assert sum(gain > 0 for gain in gains) >= 4


def test_it_says_why(store: Store) -> None:
    run = train(store, "logreg", params={"C": 1.0}, draws=2)
    with pytest.raises(UsageError, match="inputs of its own"):
        suggest(store, run=run, inputs="image")
    assert suggest(store, 3, inputs="image").about["run"] is None
    made = suggest(store, 10)
    assert made.about["run"] == run.run_id
    assert (made.about["unlabelled"], made.about["labelled"]) == (180, 20)
    rows = made.table.to_pylist()
    assert len({row["item_id"] for row in rows}) == 10
    for row in rows:
        assert int(row["item_id"][1:]) >= 20
        assert 0 <= row["uncertainty"] <= 1
        assert row["why"].startswith(f"{row['predicted']} 0.")
        assert "stands for" in row["why"]
    samples = {row["item_id"]: row for row in rows}
    # Uncertainty is that of the head's own probabilities.
    for row in predict_items(store, run).to_pylist():
        if row["item_id"] in samples:
            proba = sorted(value for name, value in row.items() if name.startswith("p_"))
            assert samples[row["item_id"]]["uncertainty"] == pytest.approx(
                1 - proba[-1] + proba[-2], abs=1e-5
            )
            assert samples[row["item_id"]]["predicted"] == row["predicted"]


def test_the_order_of_the_items_plays_no_part(make_store: Make) -> None:
    found = []
    for i in range(3):
        order = np.random.default_rng(i).permutation(200).tolist() if i else None
        store = mostly_unlabelled(make_store, order=order, name=str(i))
        train(store, "logreg", params={"C": 1.0, "unit": False}, draws=2)
        found.append((ids_of(store, 15), ids_of(store, 15, run=None), ids_of(store, 15)))
    assert found[0] == found[1] == found[2]
    assert found[0][0] == found[0][2] != found[0][1]
    assert ids_of(store, 5, run=None) == found[2][1][:5]  # a smaller batch is the beginning of a larger one


def test_no_copies_and_none_of_a_labelled_item(make_store: Make) -> None:
    # Items 100 to 139 share four pictures; 140 to 149 are copies of labelled items.
    copies = {i: 100 + i % 4 for i in range(100, 140)} | {140 + i: i for i in range(10)}
    store = mostly_unlabelled(make_store, copies=copies)
    made = suggest(store, 200, run=None)
    pictures = [copies.get(int(item[1:]), int(item[1:])) for item in made.table["item_id"].to_pylist()]
    assert len(pictures) == len(set(pictures))
    assert not {int(item[1:]) for item in made.table["item_id"].to_pylist()} & set(range(140, 150))
    assert made.about["like_labelled"] == 10
    assert len(pictures) <= 200 - 20 - 10 - 36
    assert any("resemble one that is suggested" in note for note in made.about["notes"])
    nothing = mostly_unlabelled(make_store, name="copies", copies={i: i % 20 for i in range(20, 200)})
    with pytest.raises(
        HeadError, match="180 items to choose from, and none that does not resemble a labelled"
    ):
        suggest(nothing, 5, run=None)


def test_near_duplicates_by_a_search_or_by_a_cap(make_store: Make) -> None:
    X, y = task(0, 200)
    # Thirty pictures of one scene, and one unlabelled one beside a labelled one.
    rng = np.random.default_rng(1)
    X[100:130] = X[100] + 0.01 * rng.normal(size=(30, DIM)).astype(np.float32)
    X[150] = X[3] + 0.01
    store = fill(make_store, X, [f"c{y[i]}" if i < 20 else None for i in range(200)])
    scene = {f"p{i:03d}" for i in range(100, 130)}
    capped = suggest(store, 170, run=None)
    assert len(scene & set(capped.table["item_id"].to_pylist())) == 1
    assert capped.about["closest"] < 0.95
    assert "p150" in capped.table["item_id"].to_pylist()
    find_duplicates(store, feature="toy/image/pooled", rule=0.99)
    made = suggest(store, 170, run=None)
    assert made.about["searches"] == ["toy-image-pooled"]
    assert len(scene & set(made.table["item_id"].to_pylist())) == 1
    assert made.about["like_labelled"] == 1
    assert "p150" not in made.table["item_id"].to_pylist()
    # Asked not to look at the search, it does not.
    assert suggest(store, 5, run=None, dups="none").about["searches"] == []


def test_what_a_search_did_not_look_at_is_capped_and_said(make_store: Make) -> None:
    X, _ = task(0, 60)
    X[40:60] = X[40] + 0.01 * np.random.default_rng(1).normal(size=(20, DIM)).astype(np.float32)
    store = fill(make_store, X, [None] * 60)
    find_duplicates(store, feature="toy/image/pooled", rule=0.99, where="item_id < 'p050'")
    made = suggest(store, 60, run=None)
    assert len([item for item in made.table["item_id"].to_pylist() if item >= "p040"]) == 1
    assert any(
        note.startswith("10 items are unknown to the search toy-image-pooled") for note in made.about["notes"]
    )


def test_what_is_to_choose_from(make_store: Make) -> None:
    X, y = task(0, 120)
    splits = [("train", "dev", "test", "pool", None)[i % 5] for i in range(120)]
    labels = [f"c{y[i]}" if i < 60 else None for i in range(120)]
    store = fill(make_store, X, labels, split=lambda i: splits[i])

    def rows(**given: Any) -> set[int]:
        return {int(item[1:]) for item in ids_of(store, 120, run=None, **given)}

    free = rows()
    assert free
    assert min(free) >= 60
    assert not {splits[i] for i in free} & {"dev", "test"}
    assert suggest(store, 1, run=None).about["held_out"] == 24
    assert {splits[i] for i in rows(pool="split=pool")} == {"pool"}
    assert min(rows(pool="split=pool")) < 60
    # By its one name, and the other items' labels are labels.
    assert {splits[i] for i in rows(pool="split=validation")} == {"dev"}
    assert suggest(store, 1, run=None, pool="split=pool").about["labelled"] == 48
    assert {i % 2 for i in rows(where="event = 'event 1'")} == {1}
    for given, error, message in (
        ({"pool": "split=none"}, UsageError, "no item has split = 'none'"),
        ({"pool": "split"}, UsageError, "column=value"),
        ({"label": "labell"}, UsageError, r"no column 'labell'.*did you mean 'label'"),
        ({"label": "event"}, HeadError, "no item with these features is without a 'event'"),
        ({"by": "entropie"}, UsageError, "did you mean 'entropy'"),
        ({"n": 0}, UsageError, "at least one"),
    ):
        with pytest.raises(error, match=message):
            suggest(store, **given)  # type: ignore[arg-type]


def test_a_store_without_labels(make_store: Make) -> None:
    X, _ = task(0, 50)
    store = fill(make_store, X, [None] * 50)
    made = suggest(store, 8)
    assert made.about["run"] is None
    assert made.table["uncertainty"].null_count == made.table["predicted"].null_count == 8
    assert "nearest label" not in made.table["why"][0].as_py()
    with pytest.raises(HeadError, match="no runs"):
        suggest(store, 8, run="latest")
    assert suggest(store, 80).about["notes"][-1].endswith("there are no more unlabelled items")


def unlike(n: int) -> DuplicateExclusion:
    """Items of which none resembles another."""
    ids = np.array([f"{i:03d}" for i in range(n)], object)
    return DuplicateExclusion(ids, {"x": np.array([None] * n, object)}, DuplicateSearches([]))


def test_uncertainty() -> None:
    proba = np.array([[1.0, 0, 0], [1 / 3] * 3, [0.5, 0.5, 0], [0.6, 0.3, 0.1]])
    np.testing.assert_allclose(uncertainty(proba, "margin"), [0, 1, 1, 0.7], atol=1e-12)
    np.testing.assert_allclose(uncertainty(proba, "least-confidence"), [0, 1, 0.75, 0.6], atol=1e-12)
    entropy = uncertainty(proba, "entropy")
    np.testing.assert_allclose(entropy[:3], [0, 1, np.log(2) / np.log(3)], atol=1e-12)


def test_picks_are_the_greedy_ones() -> None:
    """Against a loop that tries everything at every step."""
    X, _ = task(3, 80)
    at = unit_rows(Inputs({"x": X}))
    rng = np.random.default_rng(0)
    u, candidates, labelled = rng.random(80), np.arange(10, 80), np.arange(10)
    # Without content each item is its own: none resembles another.
    found = select_batch(at, candidates, 12, exclusion=unlike(80), weight=u, labelled=labelled, cap=2.0)
    chosen: list[int] = []

    def score(pick: int) -> float:
        near = at[candidates] @ at[[*labelled, *chosen, pick]].T
        return float((u[candidates] ** 2 * np.maximum(near, 0).max(axis=1)).sum())

    for _ in range(12):
        chosen.append(max((i for i in candidates.tolist() if i not in chosen), key=score))
    assert found.rows.tolist() == chosen


def test_very_many_candidates_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    X, _ = task(1, 600)
    at = unit_rows(Inputs({"x": X}))

    def picked(**given: Any) -> active.Batch:
        return select_batch(at, np.arange(600), 10, exclusion=unlike(600), **given)

    def score(rows: np.ndarray) -> float:
        return float(np.maximum(at @ at[rows].T, 0).max(axis=1).sum())

    whole = picked()
    monkeypatch.setattr(active, "_PICKABLE", 200)
    monkeypatch.setattr(active, "_WANTING", 150)
    some = picked()
    assert score(some.rows) > 0.9 * score(whole.rows)
    assert some.rows.tolist() == picked().rows.tolist() != picked(seed=1).rows.tolist()
    assert 500 < some.stands_for.sum() < 700
    u = np.zeros(600)
    u[:250] = 1
    assert picked(weight=u).rows.max() < 250


def test_unit_rows() -> None:
    rng = np.random.default_rng(0)
    X, mask = rng.normal(size=(6, 4)) + 100, np.ones((6, 3), bool)
    mask[:, 2] = False
    tokens = np.repeat(rng.normal(size=(6, 1, 5)), 3, axis=1)
    tokens[:, 2] = 0
    at = unit_rows(Inputs({"a": X, "b": Tokens(tokens, mask)}))
    np.testing.assert_allclose(np.linalg.norm(at, axis=1), 1, atol=1e-6)
    # Both inputs count alike, however long their vectors are, and tokens are as their mean.
    np.testing.assert_allclose((at[:, :4] ** 2).sum(axis=1), 0.5, atol=1e-6)
    np.testing.assert_allclose(at, unit_rows(Inputs({"a": X * 3, "b": tokens[:, 0]})), atol=1e-5)
    lacking = unit_rows(Inputs({"a": X, "b": tokens[:, 0]}, {"b": np.arange(6) > 0}))
    assert (lacking[0, 4:] == 0).all()


def test_the_command(store: Store, tmp_path: Path) -> None:
    result = ran(store, "suggest", "-n", "4")
    assert len(result.stdout.splitlines()) == 5
    assert "by coverage alone" in result.stderr
    assert "hint" in result.stderr
    train(store, "logreg", params={"C": 1.0}, draws=2)
    found = told(store, "suggest", "-n", "4", "--by", "entropy")
    assert (found["by"], len(found["items"])) == ("entropy", 4)
    target = tmp_path / "label-these.csv"
    assert ran(store, "suggest", "-n", "6", "--out", str(target)).stdout == ""
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert list(rows[0]) == ["item_id", "path", "text", "uncertainty", "predicted", "why"]
    assert told(store, "suggest", "-n", "2", "--run", "none")["run"] is None
    refused(store, "suggest", "--pool", "split")
