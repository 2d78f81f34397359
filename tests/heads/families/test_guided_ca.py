"""`guided-ca` and `guided-ca+diff-attn`: what they learn, show, keep, refuse, and how the published form differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icehouse.errors import HeadError, UsageError
from icehouse.heads.families.attention import GuidedCA, GuidedDiff
from icehouse.heads.families.linear import LogReg
from icehouse.heads.head import Head
from icehouse.heads.inputs import Inputs, Tokens
from icehouse.heads.registry import available, create
from interaction import equal_or_different, hidden_token
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

#: Small and quick: one configuration, no choice.
QUICK: dict[str, Any] = {"width": 16, "heads": 2, "lr": 5e-3, "dropout": 0.0, "epochs": 12, "batch_size": 32}
Make = Callable[..., Any]
both = pytest.mark.parametrize("make", [GuidedCA, GuidedDiff])


@both
def test_it_is_in_the_registry(make: Make) -> None:
    assert make.family in available()
    assert type(create(make.family)) is make


@pytest.mark.slow
@both
def test_it_learns_what_lies_between_inputs(make: Make) -> None:
    train, val, test = equal_or_different(600), equal_or_different(150, 1), equal_or_different(300, 2)
    assert make(**QUICK).fit(*train, val=val).score(*test) > 0.95
    # Each input by itself says nothing, and neither does their sum.
    assert LogReg(C=1.0, unit=False).fit(*train).score(*test) < 0.6


@pytest.mark.slow
def test_it_reads_tokens_of_one_input_by_those_of_another() -> None:
    """The label is whether the image shows, in any patch, what the text names among other words."""
    train, val, test = hidden_token(600), hidden_token(150, 1), hidden_token(300, 2)
    assert GuidedCA(**{**QUICK, "epochs": 20}).fit(*train, val=val).score(*test) > 0.9


def test_a_single_input_of_tokens_attends_to_itself() -> None:
    X, y = hidden_token(60)
    single = {"image": X["image"]}
    head = GuidedCA(**{**QUICK, "epochs": 2}).fit(single, y)
    assert head.predict_proba(single).shape == (60, 2)
    assert set(head.cross_attention(single)) == {("image", "image")}


@both
def test_one_vector_has_nothing_to_attend_to(make: Make) -> None:
    X, y = equal_or_different(20)
    with pytest.raises(HeadError, match="nothing to attend to: 'image' is one vector a row"):
        make(**QUICK).fit({"image": X["image"]}, y)


@both
def test_three_inputs_and_rows_that_lack_some(make: Make) -> None:
    X, y = equal_or_different(90)
    caption = np.random.default_rng(0).normal(size=(90, 3))
    present = {"text": np.arange(90) % 4 > 0, "caption": np.arange(90) % 4 < 2}
    arrays = {"image": X["image"], "text": X["text"] * present["text"][:, None], "caption": caption}
    some = Inputs({**arrays, "caption": caption * present["caption"][:, None]}, present)
    head = make(**{**QUICK, "epochs": 2}).fit(some, y)
    proba = head.predict_proba(some)
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba[:7], head.predict_proba(some[:7]), rtol=1e-9)
    # What stands where an input is missing does not matter.
    noise = Inputs({**arrays, "caption": caption}, present)
    np.testing.assert_array_equal(head.predict_proba(noise), proba)
    attention = head.attention(some)
    assert (attention["caption"][~present["caption"]] == 0).all()


@both
def test_rows_and_padding_do_not_matter(make: Make) -> None:
    X, y = hidden_token(60)
    head = make(**{**QUICK, "epochs": 2}).fit(X, y)
    whole = head.predict_proba(X)
    alone = np.concatenate([head.predict_proba(X[[i]]) for i in range(len(X))])
    np.testing.assert_allclose(alone, whole, rtol=1e-9)
    padded = Inputs(
        {
            name: Tokens(
                np.pad(tokens.values, ((0, 0), (0, 3), (0, 0)), constant_values=9.0),
                np.pad(tokens.mask, ((0, 0), (0, 3))),
            )
            for name, tokens in X.items()
            if isinstance(tokens, Tokens)
        }
    )
    np.testing.assert_allclose(head.predict_proba(padded), whole, rtol=1e-9)


def test_attention_by_token() -> None:
    X, y = hidden_token(301)
    head = GuidedCA(**{**QUICK, "epochs": 2}).fit(X, y)
    weights, between = head.attention(X), head.cross_attention(X[:5])
    for name, weight in weights.items():
        assert weight.shape == X[name].mask.shape
        assert weight.dtype == np.float32
        assert (weight[~X[name].mask] == 0).all()
        np.testing.assert_allclose(weight.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(head.attention(X[[300]])[name], weight[[300]], rtol=1e-4, atol=1e-6)
    looks = between["image", "text"]
    assert looks.shape == (5, X["image"].shape[1], X["text"].shape[1])
    np.testing.assert_allclose(looks.sum(axis=2), X["image"].mask[:5], rtol=1e-5)
    with pytest.raises(HeadError, match="call fit first"):
        GuidedCA().attention(X)


@pytest.mark.slow
@both
def test_saved_cloned_searched_and_fitted_twice(make: Make, tmp_path: Path) -> None:
    X, y = equal_or_different(80)
    quick = {**QUICK, "epochs": 2}
    head = make(**quick).fit(X, y)
    proba = head.predict_proba(X)
    head.save(tmp_path)
    again = Head.load(tmp_path)
    assert isinstance(again, make)
    np.testing.assert_array_equal(again.predict_proba(X), proba)
    np.testing.assert_array_equal(again.attention(X)["text"], head.attention(X)["text"])
    assert clone(head).get_params() == head.get_params()
    np.testing.assert_array_equal(clone(head).fit(X, y).predict_proba(X), proba)
    search = GridSearchCV(make(**quick), {"width": [8, 16]}, cv=2).fit(X, y)
    assert search.best_params_["width"] in (8, 16)


@both
def test_wrong_shapes_are_named(make: Make) -> None:
    X, y = equal_or_different(20)
    with pytest.raises(UsageError, match="width must be a multiple of 3 for heads=3, not 16"):
        make(width=16, heads=3).fit(X, y)


def test_wrong_stacks_are_named() -> None:
    X, y = equal_or_different(20)
    with pytest.raises(UsageError, match="version must be 'v1' or 'v2', not 'v3'"):
        GuidedDiff(version="v3").fit(X, y)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(UsageError, match="depth must be"):
        GuidedDiff(depth=0).fit(X, y)
    with pytest.raises(UsageError, match="multiple of 8 for heads=4"):
        GuidedDiff(width=12, version="v1").fit(X, y)


# ---------------------------------------------------------------------- as published


def test_the_published_form_is_trained_as_published() -> None:
    head = GuidedCA(as_published=True)
    given = {name: head.get_params()[name] for name in ("lr", "epochs", "patience", "dropout", "optimizer")}
    assert given == {"lr": 1e-3, "epochs": 50, "patience": 5, "dropout": 0.5, "optimizer": "sgd"}
    assert GuidedCA(as_published=True, epochs=3).epochs == 3
    assert clone(head).get_params() == head.get_params()
    network: Any = head.build({"image": 9, "text": 7}, 3)
    assert network.project[0].out_features == 128


def test_only_the_published_form_depends_on_its_batch_mates(tmp_path: Path) -> None:
    # Near-duplicates, as feeds of disasters are full of.
    X, y = equal_or_different(64, noise=0.3)
    quick: dict[str, Any] = {"lr": 0.05, "epochs": 3, "dropout": 0.0}
    published, ours = GuidedCA(as_published=True, **quick), GuidedCA(**{**QUICK, **quick})
    assert not published.batch_independent
    assert ours.batch_independent
    assert GuidedCA.batch_independent
    assert "depends on the rows that are predicted with it" in published.fit(X, y).notes_[0]
    ours.fit(X, y)

    def change(head: Any) -> float:
        return float(np.abs(head.predict_proba(X)[:8] - head.predict_proba(X[:8])).max())

    assert change(published) > 1e-4
    assert change(ours) < 1e-9
    published.save(tmp_path)
    again = Head.load(tmp_path)
    assert not again.batch_independent
    np.testing.assert_array_equal(again.predict_proba(X), published.predict_proba(X))
    with pytest.raises(HeadError, match="no attention within a row"):
        published.attention(X)


def test_the_published_form_takes_two_vectors() -> None:
    X, y = equal_or_different(20)
    tokens, _ = hidden_token(20)
    head = GuidedCA(as_published=True)
    with pytest.raises(HeadError, match="takes two inputs"):
        head.fit({**dict(X), "caption": X["text"]}, y)
    with pytest.raises(HeadError, match="takes one vector a row"):
        head.fit(tokens, y)
    present = {"text": np.arange(20) > 3}
    with pytest.raises(HeadError, match="4 of 20 rows lack an input"):
        head.fit(Inputs(dict(X), present), y)


def test_a_published_form_that_collapsed_says_so(recwarn: pytest.WarningsRecorder) -> None:
    X, y = equal_or_different(64, noise=0.3)
    V, v = equal_or_different(40, noise=0.3)
    head = GuidedCA(as_published=True, lr=30.0, epochs=4, patience=2).fit(X, y, val=(V, np.roll(v, 1)))
    assert head.chosen_["stop"] == 1
    assert any("guided-ca as published stopped at epoch 1" in note for note in head.notes_)
    assert not recwarn.list
    learned = GuidedCA(**QUICK).fit(X, y, val=(X, y))
    assert learned.chosen_["stop"] > 1
    assert learned.notes_ == []
