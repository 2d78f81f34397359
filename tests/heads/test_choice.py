"""The choice along a curve, and what it is made on: no plateau ends it, and no class is lost for want of dev."""

from __future__ import annotations

import numpy as np
import pytest
from icehouse.heads.families.fusion import MLP
from icehouse.heads.families.gbm import Gbm
from icehouse.heads.families.knn import Knn
from icehouse.heads.families.late_fusion import LateFusion
from icehouse.heads.families.linear import LogReg, Svm
from icehouse.heads.families.zero_shot import TipAdapter
from icehouse.heads.head import Choice
from icehouse.heads.inputs import Inputs
from icehouse.heads.registry import create
from quick import Data, quick


def rows(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"macro_f1": score, "accuracy": score, "log_loss": loss} for score, loss in pairs]


def walked(select: str, patience: int, *pairs: tuple[float, float]) -> tuple[int, int]:
    """Number of the best row, and of rows that were looked at."""
    choice, best = Choice(select, patience), -1
    for i, row in enumerate(rows(*pairs)):
        if choice.offer(row):
            best = i
        if choice.exhausted:
            return best, i + 1
    return best, len(pairs)


def test_ties_go_on_and_log_loss_decides_among_them() -> None:
    plateau = [(0.4, 0.6)] * 9
    assert walked("macro_f1", 2, *plateau, (0.7, 0.5)) == (9, 10)
    assert walked("macro_f1", 2, (0.4, 0.6), (0.4, 0.5), (0.4, 0.7)) == (1, 3)
    # A little below the plateau, but log loss still falls: learning goes on.
    assert walked("accuracy", 2, (0.4, 0.9), *[(0.39, 0.8 - 0.01 * i) for i in range(9)], (0.6, 0.5)) == (
        10,
        11,
    )


def test_what_gets_worse_ends() -> None:
    assert walked("macro_f1", 2, (0.4, 0.6), (0.3, 0.7), (0.3, 0.8), (0.9, 0.1)) == (0, 3)
    assert walked("log_loss", 3, (0, 0.5), (0, 0.6), (0, 0.6), (0, 0.6), (0, 0.1)) == (0, 4)
    # Nothing is better than all right.
    assert walked("accuracy", 2, (1.0, 0.5), (1.0, 0.6), (1.0, 0.7), (1.0, 0.8)) == (0, 3)


def rare(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One row in eight is positive; a weak fit answers with the other class alone."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n) % 8 == 0).astype(int)
    X = rng.normal(size=(n, 40))
    X[:, 0] += 2.5 * y
    return X.astype(np.float32), np.array(["neg", "pos"])[y]


@pytest.mark.parametrize("select", ["log_loss", "macro_f1", "accuracy"])
@pytest.mark.parametrize("family", [LogReg, Svm, Knn, TipAdapter, Gbm, LateFusion])
def test_the_best_row_of_the_curve_is_kept_and_no_plateau_of_one_class(family: type, select: str) -> None:
    X, y = rare(480, 0)
    V, v = rare(240, 1)
    head = family(select=select).fit(X, y, val=(V, v))
    sign = -1 if select == "log_loss" else 1
    best = max(head.curve_, key=lambda row: (sign * row[select], -row["log_loss"]))
    assert {name: head.chosen_[name] for name in head.chosen_.keys() & best.keys()} == {
        name: best[name] for name in head.chosen_.keys() & best.keys()
    }
    assert (head.predict(V) == "pos").any()
    kept = -np.log(head.predict_proba(V)[np.arange(len(v)), (v == "pos").astype(int)]).mean()
    assert kept == pytest.approx(best["log_loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("select", ["macro_f1", "accuracy"])
def test_a_network_learns_on_past_the_plateau(select: str) -> None:
    X, y = rare(160, 0)
    val = rare(160, 1)
    head = MLP(
        metric=select, lr=3e-4, weight_decay=0.01, dropout=0.0, hidden=16, epochs=30, patience=2, seed=0
    )
    head.fit(X, y, val=val)
    epochs = [row for row in head.curve_ if "epoch" in row]
    best = max(epochs, key=lambda row: (row[select], -row["log_loss"]))
    assert head.chosen_["stop"] == best["epoch"]
    assert len({row[select] for row in epochs}) > 1


def test_rows_with_equal_features_are_one_group() -> None:
    X = Inputs({"a": np.array([[1.0], [1.0], [1.0], [2.0]]), "b": np.array([[0.0], [0.0], [3.0], [0.0]])})
    assert X.row_groups().tolist() == [0, 0, 2, 3]


@pytest.mark.parametrize("family", ["svm", "tip-adapter", "late-fusion", "online", "align", "logreg"])
def test_a_class_that_dev_lacks_is_not_lost(family: str, data: Data) -> None:
    X, y = data(160, k=4, noise=0.5)
    V, v = data(80, k=4, seed=1, noise=0.5)
    T, t = data(200, k=4, seed=2, noise=0.5)
    head = quick(family)
    whole = quick(family).fit(X, y, val=(V, v))
    assert whole.notes_ == []
    head.fit(X, y, val=(V[v != 3], v[v != 3]))
    assert ["dev has no row of 3" in note for note in head.notes_] == [True]
    of_it = t == 3
    assert (head.predict(T)[of_it] == 3).mean() >= (whole.predict(T)[of_it] == 3).mean() - 0.15
    assert head.score(T, t) > 0.8
    assert {name: getattr(head, name) for name in head.parameters()} == quick(family).get_params()


def test_a_class_with_one_row_that_dev_lacks_is_told(data: Data) -> None:
    X, y = data(160, k=4, noise=0.5)
    V, v = data(80, k=4, seed=1, noise=0.5)
    once = np.r_[np.flatnonzero(y != 3), np.flatnonzero(y == 3)[:1]]
    head = create("svm").fit(X[once], y[once], val=(V[v != 3], v[v != 3]))
    assert "too few to hold one out" in head.notes_[0]
    T, t = data(200, k=4, seed=2, noise=0.5)
    said = head.predict_proba(T)[:, 3]
    assert said[t == 3].min() > said[t == 0].max()  # not flat: its sigmoid is that of the others
