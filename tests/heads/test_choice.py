"""The choice along a curve: a plateau of a step metric ends nothing, and equal scores are decided by log loss."""

from __future__ import annotations

import numpy as np
import pytest
from icehouse.heads.families.fusion import MLP
from icehouse.heads.families.gbm import Gbm
from icehouse.heads.families.knn import Knn
from icehouse.heads.families.late_fusion import LateFusion
from icehouse.heads.families.linear import LogReg, Svm
from icehouse.heads.families.zero_shot import TipAdapter
from icehouse.heads.selection import Choice


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
