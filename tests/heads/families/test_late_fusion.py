from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from icehouse.data.splits import held_out
from icehouse.heads.families.late_fusion import LateFusion
from icehouse.heads.families.linear import LogReg
from icehouse.heads.families.zero_shot import ZeroShot
from icehouse.heads.head import Head
from icehouse.heads.inputs import Inputs
from icehouse.heads.sweep import trials
from quick import Data

PROBE = {"C": 1.0, "unit": False}


def test_the_mean_is_that_of_the_probes(data: Data) -> None:
    X, y = data(90)
    head = LateFusion(head_params=PROBE, combine="mean", weights=[1, 3]).fit(X, y)
    image, text = (LogReg(**PROBE).fit({name: X[name]}, y).predict_proba({name: X[name]}) for name in X.names)
    np.testing.assert_allclose(head.predict_proba(X), (image + 3 * text) / 4)


def test_a_row_that_lacks_an_input_has_the_others_word(data: Data) -> None:
    X, y = data(90)
    head = LateFusion(head_params=PROBE, combine="mean").fit(X, y)
    lacking = Inputs({"image": np.zeros_like(X["image"]), "text": X["text"]}, {"image": np.zeros(90, bool)})
    np.testing.assert_allclose(
        head.predict_proba(lacking), head.heads_["text"].predict_proba({"text": X["text"]})
    )
    neither = Inputs(dict(X.items()), {name: np.zeros(90, bool) for name in X.names})
    np.testing.assert_allclose(head.predict_proba(neither), np.tile(head.prior_, (90, 1)))


def test_two_inputs_know_more_than_one(data: Data) -> None:
    X, y = data(300, k=4)
    V, v = data(300, k=4, seed=1)
    for combine in ("mean", "stack"):
        head = LateFusion(head_params=PROBE, combine=combine).fit(X, y, val=data(100, k=4, seed=2))
        alone = max(LogReg(**PROBE).fit(X[name], y).score(V[name], v) for name in X.names)
        assert head.score(V, v) > alone + 0.1


def test_the_stack_learns_from_rows_its_probes_did_not_see() -> None:
    """One input memorises (more features than rows, all noise), the other knows a little: only crossing tells them apart."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    noise, signal = rng.normal(size=(200, 400)), rng.normal(size=(200, 3)) + 1.2 * y[:, None]
    head = LateFusion(head_params={"C": 100.0, "unit": False}, combine="stack").fit(
        {"noise": noise, "signal": signal}, y
    )
    assert head.stack_ is not None
    weights = np.abs(head.stack_.coef_[0])
    assert weights[2:].sum() > 2 * weights[:2].sum()


def test_what_probes_chose_is_refitted(data: Data) -> None:
    X, y = data(120, noise=2.0)
    head = LateFusion(head_params={"C": [0.01, 1.0]}).fit(X, y, val=data(90, seed=1, noise=2.0))
    assert set(head.chosen_["each"]["image"]) == {"C", "unit"}
    again = head.refit(X, y)
    assert again.chosen_["each"] == head.chosen_["each"]
    np.testing.assert_allclose(again.predict_proba(X), head.predict_proba(X), atol=0.02)


@pytest.mark.parametrize("combine", ["mean", "stack"])
@pytest.mark.parametrize("family", ["svm", "knn", "zero-shot"])
def test_probes_of_any_family(data: Data, tmp_path: Path, family: str, combine: str) -> None:
    X, y = data(90)
    X = Inputs({"mini/image/pooled": X["image"], "text": X["text"]})
    head = LateFusion(head=family, combine=combine).fit(X, y, val=(X, y))
    head.save(tmp_path)
    again = Head.load(tmp_path)
    np.testing.assert_array_equal(again.predict_proba(X), head.predict_proba(X))
    kept = {path.suffix or path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert kept == {".json", ".safetensors", "SHA256SUMS"}


def test_an_input_whose_rows_show_one_class_has_no_probe(data: Data) -> None:
    X, y = data(60, k=2)
    some = Inputs(dict(X.items()), {"text": y == 0})
    head = LateFusion(head_params=PROBE, combine="mean").fit(some, y)
    assert list(head.heads_) == ["image"]
    assert np.isfinite(head.predict_proba(some)).all()


def test_probes_may_be_told_apart(data: Data) -> None:
    X, y = data(60)
    head = LateFusion(head_params=PROBE, each={"text": {"C": 0.01}}, combine="mean").fit(X, y)
    assert head.heads_["text"].get_params()["C"] == 0.01
    assert head.heads_["image"].get_params()["C"] == 1.0
    assert not isinstance(head.heads_["text"], ZeroShot)


def test_an_input_may_show_its_classes_only_where_the_choice_was_made(data: Data) -> None:
    """The text is there for one class and a single row of the other, which is held out: no probe then, one at the end."""
    X, y = data(60, k=2)
    part = held_out(y, seed=0)
    assert part is not None
    other = np.flatnonzero(part & (y == 1))[0]
    some = Inputs(dict(X.items()), {"text": (y == 0) | (np.arange(60) == other)})
    head = LateFusion(head_params=PROBE, each={"text": {"C": 0.5}}).fit(some, y)
    assert list(head.heads_) == ["image", "text"]
    assert head.heads_["text"].get_params()["C"] == 0.5
    assert np.isfinite(head.predict_proba(some)).all()


@pytest.mark.parametrize("family", ["logreg", "zero-shot"])
@pytest.mark.parametrize("combine", ["mean", "stack"])
def test_classes_are_weighed(data: Data, family: str, combine: str) -> None:
    X, y = data(400, k=2, noise=4.0)
    rare = (y == 0) | (np.arange(400) % 10 == 1)
    X, y = X[rare], y[rare]
    params = PROBE if family == "logreg" else {}
    plain, even, heavy = (
        LateFusion(head=family, head_params=params, combine=combine, class_weight=weight).fit(X, y)
        for weight in (None, "balanced", {1: 50.0})
    )
    np.testing.assert_allclose(even.prior_, [0.5, 0.5])
    if combine == "stack" or family == "logreg":
        found = [(head.predict(X) == 1).sum() for head in (plain, even, heavy)]
        assert found[0] < found[1] < found[2]


def test_a_probe_keeps_a_class_weight_of_its_own(data: Data) -> None:
    X, y = data(60, k=2)
    head = LateFusion(
        head_params=PROBE, each={"text": {"class_weight": None}}, class_weight="balanced", combine="mean"
    ).fit(X, y)
    assert head.heads_["text"].get_params()["class_weight"] is None
    assert head.heads_["image"].get_params()["class_weight"] == {0: 1.0, 1: 1.0}


def test_copies_are_in_one_fold() -> None:
    """An input that only memorises knows a copy of what it has seen: that is no knowledge."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(100) % 2, 2)
    noise = np.repeat(rng.normal(size=(100, 200)), 2, axis=0)
    signal = rng.normal(size=(200, 3)) + 1.0 * y[:, None]

    def share(groups: np.ndarray) -> float:
        """Of the stack's weights, those on the noise."""
        head = LateFusion(head_params={"C": 100.0, "unit": False}, combine="stack")
        head.fit({"noise": noise, "signal": signal}, y, groups=groups)
        assert head.stack_ is not None
        weights = np.abs(head.stack_.coef_[0])
        return float(weights[:2].sum() / weights.sum())

    assert share(np.arange(200) // 2) < 0.2 < 0.35 < share(np.arange(200))


def test_heads_that_draw_rows_or_folds_get_every_seed() -> None:
    planned = trials(["tip-adapter", "late-fusion", "logreg"], [{"text": "toy/text/pooled"}], [0, 1, 2])
    assert {trial.family: trial.seeds for trial in planned} == {
        "tip-adapter": (0, 1, 2),
        "late-fusion": (0, 1, 2),
        "logreg": (0,),
    }
