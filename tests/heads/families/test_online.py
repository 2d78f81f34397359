from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icehouse.errors import HeadError, UsageError
from icehouse.heads.families.linear import LogReg
from icehouse.heads.families.online import Online
from icehouse.heads.head import Head
from icehouse.heads.inputs import Inputs
from quick import Data, quick


def batches(X: Inputs, y: np.ndarray, size: int = 20) -> list[tuple[Inputs, np.ndarray]]:
    return [(X[start : start + size], y[start : start + size]) for start in range(0, len(y), size)]


def test_it_comes_near_logistic_regression(data: Data) -> None:
    X, y = data(600, noise=2.5)
    V, v = data(600, seed=1, noise=2.5)
    dev = data(600, seed=2, noise=2.5)
    ours = Online().fit(X, y, val=dev).predict_proba(V)[np.arange(600), v]
    theirs = LogReg(unit=True).fit(X, y, val=dev).predict_proba(V)[np.arange(600), v]
    assert -np.log(ours).mean() < -np.log(theirs).mean() + 0.03


def test_one_pass_in_batches_learns(data: Data) -> None:
    X, y = data(600)
    head = Online()
    for part in batches(X, y):
        assert head.partial_fit(*part) is head
    assert head.score(*data(300, seed=1)) > 0.85
    assert head.steps_ == 60
    assert head.rows_ == 600


def test_a_loaded_head_goes_on_where_it_stopped(data: Data, tmp_path: Path) -> None:
    X, y = data(200)
    head, other = Online(), Online()
    for part in batches(X, y):
        head.partial_fit(*part)
    for number, part in enumerate(batches(X, y)):
        other.partial_fit(*part)
        other.save(tmp_path / str(number))
        other = Online.load(tmp_path / str(number))
    np.testing.assert_array_equal(other.predict_proba(X), head.predict_proba(X))
    loaded = Head.load(tmp_path / str(number))
    assert isinstance(loaded, Online)
    loaded.partial_fit(*data(20, seed=5))


@pytest.mark.parametrize(
    ("value", "wrong"),
    [("steps", "abc"), ("rate", None), ("penalty", []), ("rows", {}), ("squares", 1), ("seen", 1)],
)
def test_it_goes_on_from_numbers_alone(data: Data, tmp_path: Path, value: str, wrong: Any) -> None:
    quick("online").fit(*data(60)).save(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    record = json.loads((tmp_path / "head.json").read_text())
    record["state"][value] = wrong
    (tmp_path / "head.json").write_text(json.dumps(record))
    with pytest.raises(HeadError, match="is damaged"):
        Head.load(tmp_path)


def test_moving_statistics_move_no_prediction(data: Data) -> None:
    X, y = data(100)
    head = Online(unit=False).partial_fit(X, y)
    V, _ = data(30, seed=1)
    before = head.predict_proba(V)
    head._observe(Inputs({"image": X["image"] * 7 + 3, "text": X["text"] - 9}), np.ones(100))
    np.testing.assert_allclose(head.predict_proba(V), before, atol=1e-9)


def test_a_class_may_come_later(data: Data) -> None:
    X, y = data(600)
    known, late = np.flatnonzero(y < 2), np.flatnonzero(y == 2)
    head = Online().fit(X[known], np.array(["a", "c"])[y[known]])
    V, v = data(300, seed=1)
    before = head.predict_proba(V[v < 2])
    head.partial_fit(X[late[:1]], ["b"])
    assert head.classes_.tolist() == ["a", "b", "c"]
    for rows in np.array_split(np.r_[late, known[:200]], 20):
        head.partial_fit(X[rows], np.array(["a", "c", "b"])[y[rows]])
    assert before.shape == (200, 2)
    assert head.score(V, np.array(["a", "c", "b"])[v]) > 0.8


def test_a_class_that_is_only_announced_changes_no_odds(data: Data) -> None:
    X, y = data(200, k=2)
    head = Online().fit(X, y)
    before = head.predict_proba(X)
    head._meet(np.array([5]))
    after = head.predict_proba(X)
    assert head.classes_.tolist() == [0, 1, 5]
    np.testing.assert_allclose(after[:, :2] / after[:, :2].sum(axis=1, keepdims=True), before, atol=1e-9)
    assert after[:, 2].max() < 0.05


def test_new_labels_after_fit_are_heard(data: Data) -> None:
    """The world turns: what was class 0 is now class 1."""
    X, y = data(300, k=2)
    head = Online().fit(X, y)
    assert head.score(X, 1 - y) < 0.2
    for part in batches(X, 1 - y) * 4:
        head.partial_fit(*part)
    assert head.score(X, 1 - y) > 0.8


def test_first_batches_and_kinds_of_labels(data: Data) -> None:
    X, y = data(30)
    with pytest.raises(HeadError, match=r"name the others in classes="):
        Online().partial_fit(X, ["a"] * 30)
    head = Online().partial_fit(X, ["a"] * 30, classes=["a", "b"])
    assert head.classes_.tolist() == ["a", "b"]
    with pytest.raises(HeadError, match="labels were strings before, and are numbers now"):
        head.partial_fit(X, y)
    with pytest.raises(UsageError, match="balanced"):
        Online(class_weight="balanced").partial_fit(X, y)
    with pytest.raises(HeadError, match="expecting 8 features"):
        head.partial_fit({"image": X["image"][:, :7], "text": X["text"]}, ["a"] * 30)
    rows = head.rows_
    head.partial_fit(X, ["b"] * 30, sample_weight=np.zeros(30))
    assert head.rows_ == rows


def test_classes_of_unequal_size_can_be_weighed(data: Data) -> None:
    X, y = data(600, k=2, noise=4.0)
    rows = np.flatnonzero((y == 0) | (np.arange(600) % 20 == 1))
    plain, balanced = (Online(class_weight=w).fit(X[rows], y[rows]) for w in (None, "balanced"))
    assert (balanced.predict(X) == 1).sum() > (plain.predict(X) == 1).sum()


def test_numbers_are_one_kind_of_label_however_they_are_kept(data: Data) -> None:
    X, y = data(30)
    head = Online().partial_fit(X, y)
    before = head.classes_.dtype
    head.partial_fit(X, y.astype(float))
    assert head.classes_.tolist() == [0, 1, 2]
    assert head.classes_.dtype == before
    head.partial_fit(X, np.full(30, 7.0))
    assert head.classes_.tolist() == [0, 1, 2, 7]
    with pytest.raises(HeadError, match="labels were numbers before, and are strings now"):
        head.partial_fit(X, ["a"] * 30)
    for labels, classes in ((y, ["a", "b"]), (["a"] * 30, [0, 1])):
        with pytest.raises(HeadError, match="give both alike"):
            Online().partial_fit(X, labels, classes=classes)
