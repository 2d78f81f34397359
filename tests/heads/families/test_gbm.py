from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from icehouse.heads.families.gbm import Gbm
from icehouse.heads.head import Head
from icehouse.heads.inputs import Inputs
from quick import Data

SMALL = {"num_leaves": 7, "min_data": 5, "max_rounds": 30, "patience": 5}


def test_boosting_stops_early_and_the_round_is_the_choice(data: Data) -> None:
    V, v = data(90, seed=1, noise=3.0)
    head = Gbm(**SMALL | {"max_rounds": 200}).fit(*data(200, noise=3.0), val=(V, v))
    assert head.chosen_["rounds"] < 200
    row = head.curve_[0]
    assert row["log_loss"] == pytest.approx(-np.log(head.predict_proba(V)[np.arange(90), v]).mean())
    assert head.refit(V, v).booster_.current_iteration() == head.chosen_["rounds"]


@pytest.mark.slow
def test_it_learns_an_interaction_that_no_linear_head_can() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1200, 4))
    y = (X[:, 0] > 0) ^ (X[:, 1] > 0)
    assert Gbm(feature_fraction=1.0).fit(X[:800], y[:800]).score(X[800:], y[800:]) > 0.9


def test_a_missing_input_is_not_a_row_of_zeros(data: Data) -> None:
    """The rows of one class lack the text: that alone tells it."""
    rng = np.random.default_rng(0)
    present = np.arange(200) % 2 == 0
    X = Inputs({"image": rng.normal(size=(200, 3)), "text": np.zeros((200, 2))}, {"text": present})
    head = Gbm(**SMALL | {"feature_fraction": 1.0}).fit(X, present.astype(int))
    assert head.score(X, present.astype(int)) == 1.0


def test_wide_inputs_are_reduced(data: Data, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    X = {"image": rng.normal(size=(120, 40)) + y[:, None], "text": rng.normal(size=(120, 3))}
    head = Gbm(**SMALL | {"components": 5}).fit(X, y)
    assert head.booster_.num_feature() == 8
    assert head.score(X, y) > 0.9
    head.save(tmp_path)
    np.testing.assert_array_equal(Head.load(tmp_path).predict_proba(X), head.predict_proba(X))
    assert Gbm(**SMALL).fit(X, y).booster_.num_feature() == 43


def test_it_is_saved_in_lightgbms_own_format(data: Data, tmp_path: Path) -> None:
    import lightgbm

    X, y = data(60)
    head = Gbm(**SMALL, components=None).fit(X, y)
    head.save(tmp_path)
    theirs = lightgbm.Booster(model_file=tmp_path / "model.txt")
    Z = np.concatenate([X["image"], X["text"]], axis=1)
    np.testing.assert_array_equal(theirs.predict(Z), head.predict_proba(X))
    (tmp_path / "model.txt").write_text("nonsense")
    from icehouse.errors import HeadError

    with pytest.raises(HeadError, match="damaged"):
        Head.load(tmp_path)


@pytest.mark.parametrize("n", [12, 24, 40])
def test_few_rows_are_split_too(n: int) -> None:
    def drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.arange(rows) % 2
        return 2.0 * y[:, None] + np.random.default_rng(seed).normal(size=(rows, 8)), y

    head = Gbm().fit(*drawn(n, 0))
    assert head.chosen_["min_data"] == max(1, n // 20)
    assert head.score(*drawn(400, 1)) > 0.8
    assert Gbm(min_data=20).fit(*drawn(n, 0)).score(*drawn(400, 1)) == 0.5


def test_many_rows_have_the_leaves_of_lightgbm() -> None:
    rng = np.random.default_rng(0)
    head = Gbm(num_leaves=3, rounds=2).fit(rng.normal(size=(500, 4)), np.arange(500) % 2)
    assert head._settings(500)[0]["min_data"] == 20
