"""scikit-learn's own checks, over the families that learn from a single array."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from quick import quick
from sklearn.utils.estimator_checks import check_estimator

#: What each family is given beside its quick settings. Nothing is left to choose where weights must equal repeated
#: rows: which rows are held out to choose on depends on how many there are.
FIXED: dict[str, dict[str, Any]] = {
    "knn": {"k": 5, "temperature": 0.1, "centre": False},
    "late-fusion": {"head_params": {"C": 1.0, "unit": False}, "combine": "mean", "weights": None},
    "lightgbm": {"num_leaves": 7, "rounds": 10},
    "logreg": {"C": 1.0},
    "mlp": {},
    "online": {"passes": 3},
    "svm": {"C": 1.0, "unit": False},
    "two-token": {},
    "tip-adapter": {"alpha": 10.0, "beta": 5.5, "centre": False},
    "zero-shot": {},
}

_EQUIVALENCE = "check_sample_weight_equivalence_on_dense_data"
_BATCHES = "a row of weight two is one long step, two rows are two places in the order of the batches"

#: What cannot hold, and why.
EXCUSED = {
    "knn": {_EQUIVALENCE: "a row of weight two is one neighbour with two votes, two rows are two neighbours"},
    "lightgbm": {_EQUIVALENCE: "the fewest rows of a leaf and the rows of a tree are counted, not weighed"},
    "mlp": {_EQUIVALENCE: _BATCHES},
    "two-token": {_EQUIVALENCE: _BATCHES},
    "online": {_EQUIVALENCE: "a row of weight two is one long step, two rows are two places in the order"},
    "svm": {_EQUIVALENCE: "the calibration is fitted on rows held out, and repeated rows are held out apart"},
}


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FIXED))
def test_scikit_learns_own_checks(family: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(
            quick(family, **FIXED[family]), on_fail=None, expected_failed_checks=EXCUSED.get(family, {})
        )
    failed = [f"{r['check_name']}: {r['exception']}" for r in results if r["status"] == "failed"]
    assert not failed
    assert sum(r["status"] == "passed" for r in results) > 40
