"""`diff-attn`, both versions: what it learns, shows, keeps, refuses, and how the published form differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icehouse.errors import HeadError, UsageError
from icehouse.heads.families.attention import DiffAttn
from icehouse.heads.families.linear import LogReg
from icehouse.heads.head import Head
from icehouse.heads.inputs import Inputs
from icehouse.heads.registry import create
from interaction import equal_or_different, hidden_token
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

#: Small and quick: one configuration, no choice.
QUICK: dict[str, Any] = {
    "width": 16,
    "heads": 2,
    "depth": 1,
    "lr": 5e-3,
    "dropout": 0.0,
    "epochs": 12,
    "batch_size": 32,
}
versions = pytest.mark.parametrize("version", ["v1", "v2"])


def test_it_is_in_the_registry() -> None:
    assert type(create("diff-attn")) is DiffAttn


@pytest.mark.slow
@versions
def test_it_learns_what_lies_between_inputs(version: Any) -> None:
    train, val, test = equal_or_different(600), equal_or_different(150, 1), equal_or_different(300, 2)
    assert DiffAttn(**QUICK, version=version).fit(*train, val=val).score(*test) > 0.95
    assert LogReg(C=1.0, unit=False).fit(*train).score(*test) < 0.6


@pytest.mark.slow
def test_it_finds_the_tokens_that_matter() -> None:
    train, val, test = hidden_token(600), hidden_token(150, 1), hidden_token(300, 2)
    head = DiffAttn(**{**QUICK, "epochs": 15}).fit(*train, val=val)
    assert head.score(*test) > 0.9


@versions
def test_a_single_input_of_tokens_attends_within_itself(version: Any) -> None:
    X, y = hidden_token(60)
    single = {"text": X["text"]}
    head = DiffAttn(**{**QUICK, "epochs": 2}, version=version).fit(single, y)
    assert head.predict_proba(single).shape == (60, 2)
    assert set(head.cross_attention(single)) == {("text", "text")}


def test_one_vector_has_nothing_to_attend_to() -> None:
    X, y = equal_or_different(20)
    with pytest.raises(HeadError, match="nothing to attend to: 'x' is one vector a row"):
        DiffAttn(**QUICK).fit(X["image"], y)


@versions
def test_three_inputs_and_rows_that_lack_some(version: Any) -> None:
    X, y = equal_or_different(60)
    caption = np.random.default_rng(0).normal(size=(60, 3))
    present = {name: np.arange(60) % 5 != i for i, name in enumerate(("image", "text", "caption"))}
    present = {
        name: mask & (np.arange(60) > 0) for name, mask in present.items()
    }  # the first row has nothing
    some = Inputs({"image": X["image"], "text": X["text"], "caption": caption}, present)
    head = DiffAttn(**{**QUICK, "epochs": 2}, version=version).fit(some, y)
    proba = head.predict_proba(some)
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba[:7], head.predict_proba(some[:7]), rtol=1e-9)
    weights = head.attention(some)
    total = sum(weight.sum(axis=1) for weight in weights.values())
    np.testing.assert_allclose(total, np.arange(60) > 0, rtol=1e-5)


@versions
def test_rows_of_tokens_do_not_see_each_other(version: Any) -> None:
    X, y = hidden_token(40)
    head = DiffAttn(**{**QUICK, "epochs": 2}, version=version).fit(X, y)
    whole = head.predict_proba(X)
    alone = np.concatenate([head.predict_proba(X[[i]]) for i in range(len(X))])
    np.testing.assert_allclose(alone, whole, rtol=1e-9)
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_allclose(head.predict_proba(X[order]), whole[order], rtol=1e-9)


def test_attention_by_token() -> None:
    X, y = hidden_token(30)
    head = DiffAttn(**{**QUICK, "epochs": 2}).fit(X, y)
    weights, between = head.attention(X), head.cross_attention(X[:3])
    assert {name: w.shape for name, w in weights.items()} == {"image": (30, 5), "text": (30, 4)}
    np.testing.assert_allclose(weights["image"].sum(axis=1) + weights["text"].sum(axis=1), 1, rtol=1e-5)
    assert (weights["text"][~X["text"].mask] == 0).all()
    assert set(between) == {(a, b) for a in ("image", "text") for b in ("image", "text")}
    assert between["text", "image"].shape == (3, 4, 5)
    assert (between["text", "image"][~X["text"].mask[:3]] == 0).all()


@pytest.mark.slow
@versions
def test_saved_cloned_searched_and_fitted_twice(version: Any, tmp_path: Path) -> None:
    X, y = equal_or_different(80)
    head = DiffAttn(**{**QUICK, "epochs": 2}, version=version).fit(X, y)
    proba = head.predict_proba(X)
    head.save(tmp_path)
    again = Head.load(tmp_path)
    assert again.get_params() == head.get_params()
    np.testing.assert_array_equal(again.predict_proba(X), proba)
    np.testing.assert_array_equal(clone(head).fit(X, y).predict_proba(X), proba)
    search = GridSearchCV(clone(head), {"depth": [1, 2]}, cv=2).fit(X, y)
    assert search.best_params_["depth"] in (1, 2)


@pytest.mark.slow
def test_a_grid_trains_as_one_and_the_best_is_kept() -> None:
    train, val = equal_or_different(300), equal_or_different(100, 1)
    head = DiffAttn(**{**QUICK, "lr": (1e-6, 5e-3), "epochs": 8}).fit(*train, val=val)
    assert head.chosen_["lr"] == 5e-3
    one = DiffAttn(**{**QUICK, "epochs": 8}).fit(*train, val=val)
    np.testing.assert_allclose(head.predict_proba(val[0]), one.predict_proba(val[0]), rtol=1e-3, atol=1e-4)


def test_wrong_parameters_are_named() -> None:
    X, y = equal_or_different(20)
    with pytest.raises(UsageError, match="version must be 'v1' or 'v2', not 'v3'"):
        DiffAttn(version="v3").fit(X, y)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(UsageError, match="depth must be"):
        DiffAttn(depth=0).fit(X, y)
    with pytest.raises(UsageError, match="multiple of 8 for heads=4, not 12"):
        DiffAttn(width=12, version="v1").fit(X, y)
    DiffAttn(width=12, epochs=1, lr=1e-3, dropout=0.0).fit(X, y)


# ---------------------------------------------------------------------- as published


def test_in_the_published_form_queries_and_keys_have_no_effect() -> None:
    X, y = equal_or_different(64, noise=0.3)
    head = DiffAttn(as_published=True, epochs=2)
    assert "attends across the batch" in head.fit(X, y).notes_[0]
    before = head.predict_proba(X)
    again = DiffAttn(as_published=True, epochs=2)
    again.fit(X, y)
    network: Any = again.network_
    width = network.network.attention.qkv.weight.shape[1]
    network.network.attention.qkv.weight[: 2 * width] = 0  # W_q and W_k, which come before W_v
    np.testing.assert_allclose(again.predict_proba(X), before, rtol=1e-9)


def test_only_the_published_form_depends_on_its_batch_mates() -> None:
    X, y = equal_or_different(64, noise=0.3)
    quick: dict[str, Any] = {"lr": 0.05, "epochs": 3, "dropout": 0.0}
    published, ours = DiffAttn(as_published=True, **quick), DiffAttn(**{**QUICK, **quick})
    assert (published.batch_independent, ours.batch_independent) == (False, True)
    published.fit(X, y)
    ours.fit(X, y)

    def change(head: Any) -> float:
        return float(np.abs(head.predict_proba(X)[:8] - head.predict_proba(X[:8])).max())

    assert change(published) > 1e-4
    assert change(ours) < 1e-9
