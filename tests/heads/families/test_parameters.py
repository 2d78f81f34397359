"""Values of parameters that make no sense are refused, whatever the family."""

from __future__ import annotations

from typing import Any

import pytest
from icehouse.errors import UsageError
from icehouse.heads.registry import create
from quick import Data

WRONG: dict[str, list[dict[str, Any]]] = {
    "knn": [
        {"k": 0},
        {"temperature": -1},
        {"input_weights": [1]},
        {"centre": "x"},
        {"prior": 0},
        {"select": "x"},
    ],
    "late-fusion": [
        {"combine": "vote"},
        {"weights": [1.0]},
        {"weights": [-1.0, 2.0]},
        {"stack_C": 0},
        {"head": "late-fusion"},
        {"head": "nosuch"},
        {"each": {"audio": {}}},
        {"select": "auc"},
        {"head_params": {"nosuch": 1}},
    ],
    "lightgbm": [
        {"num_leaves": 1},
        {"feature_fraction": 0},
        {"rounds": 0},
        {"rounds": "many"},
        {"components": 0},
        {"patience": 0},
        {"select": "auc"},
        {"learning_rate": "auto"},
    ],
    "logreg": [
        *({"C": C} for C in (0, -1.0, "x", [], [1.0, float("nan")], float("inf"))),
        {"select": "auc"},
        {"scale": "row"},
        {"class_weight": "even"},
    ],
    "online": [
        {"rate": 0},
        {"penalty": -1},
        {"passes": 0},
        {"passes": "x"},
        {"batch": 0},
        {"unit": "auto"},
    ],
    "svm": [{"C": 0}, {"scale": "row"}, {"select": "auc"}, {"unit": "maybe"}, {"class_weight": "even"}],
    "tip-adapter": [
        {"beta": 0},
        {"alpha": "x"},
        {"factor": -1},
        {"cache": 0},
        {"centre": "x"},
        {"select": "x"},
        {"class_weight": {1: 0.0}},
    ],
    "zero-shot": [
        {"factor": 0},
        {"factor": "x"},
        {"input_weights": [1.0]},
        {"input_weights": [-1.0, 2.0]},
    ],
}


@pytest.mark.parametrize(
    ("family", "params"), [(f, params) for f, several in WRONG.items() for params in several]
)
def test_values_that_make_no_sense_are_refused(family: str, params: dict[str, Any], data: Data) -> None:
    with pytest.raises(UsageError) as caught:
        create(family, **params).fit(*data(30))
    assert "\n" not in str(caught.value)
