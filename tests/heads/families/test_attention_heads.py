"""`guided-ca`, `diff-attn` and both together: what they learn, show, keep, refuse, and how the published forms differ."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icehouse.errors import HeadError, UsageError
from icehouse.heads.families.fusion import DiffAttn, GuidedCA, GuidedDiff
from icehouse.heads.families.linear import LogReg
from icehouse.heads.head import Head
from icehouse.heads.inputs import Inputs
from interaction import equal_or_different, hidden_token
from sklearn.base import clone

#: Small and quick: one configuration, no choice.
QUICK: dict[str, Any] = {"width": 16, "heads": 2, "lr": 5e-3, "dropout": 0.0, "epochs": 12, "batch_size": 32}
SHORT: dict[str, Any] = {**QUICK, "epochs": 2}
FAST: dict[str, Any] = {"lr": 0.05, "epochs": 3, "dropout": 0.0}
Make = Callable[..., Any]
KINDS: dict[str, Make] = {
    "guided": GuidedCA,
    "guided and differential": GuidedDiff,
    "differential v1": partial(DiffAttn, version="v1"),
    "differential v2": partial(DiffAttn, version="v2"),
}
every = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
published = pytest.mark.parametrize("kind", [GuidedCA, DiffAttn])


@pytest.mark.slow
@every
def test_it_learns_what_lies_between_inputs(make: Make) -> None:
    train, val, test = equal_or_different(600), equal_or_different(150, 1), equal_or_different(300, 2)
    assert make(**QUICK).fit(*train, val=val).score(*test) > 0.95
    # Each input by itself says nothing, and neither does their sum.
    assert LogReg(C=1.0, unit=False).fit(*train).score(*test) < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("kind", [GuidedCA, DiffAttn])
def test_it_reads_tokens_of_one_input_by_those_of_another(kind: type) -> None:
    """The label is whether the image shows, in any patch, what the text names among other words."""
    train, val, test = hidden_token(600), hidden_token(150, 1), hidden_token(300, 2)
    assert kind(**{**QUICK, "epochs": 20}).fit(*train, val=val).score(*test) > 0.9


@every
def test_a_single_input_attends_to_itself_or_has_nothing_to_attend_to(make: Make) -> None:
    X, y = hidden_token(60)
    single = {"image": X["image"]}
    head = make(**SHORT).fit(single, y)
    assert head.predict_proba(single).shape == (60, 2)
    assert set(head.cross_attention(single)) == {("image", "image")}
    X, y = equal_or_different(20)
    with pytest.raises(HeadError, match="nothing to attend to: 'image' is one vector a row"):
        make(**QUICK).fit({"image": X["image"]}, y)


@every
def test_three_inputs_and_rows_that_lack_some(make: Make) -> None:
    X, y = equal_or_different(90)
    rows = np.arange(90)
    # The first row has nothing at all.
    present = {name: (rows % 5 != i) & (rows > 0) for i, name in enumerate(("image", "text", "caption"))}
    arrays = {**dict(X), "caption": np.random.default_rng(0).normal(size=(90, 3))}
    some = Inputs({name: arrays[name] * mask[:, None] for name, mask in present.items()}, present)
    head = make(**SHORT).fit(some, y)
    proba = head.predict_proba(some)
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba[:7], head.predict_proba(some[:7]), rtol=1e-9)
    # What stands where an input is missing does not matter.
    np.testing.assert_array_equal(head.predict_proba(Inputs(arrays, present)), proba)
    for name, weight in head.attention(some).items():
        assert (weight[~present[name]] == 0).all()


@every
def test_attention_by_token(make: Make) -> None:
    X, y = hidden_token(301)
    head = make(**SHORT).fit(X[:60], y[:60])
    weights, between = head.attention(X), head.cross_attention(X[:5])
    for name, weight in weights.items():
        assert weight.shape == X[name].mask.shape
        assert weight.dtype == np.float32
        assert (weight[~X[name].mask] == 0).all()
        np.testing.assert_allclose(head.attention(X[[300]])[name], weight[[300]], rtol=1e-4, atol=1e-6)
    sums = np.stack([weight.sum(axis=1) for weight in weights.values()])
    np.testing.assert_allclose(sums if make is GuidedCA else sums.sum(axis=0), 1, rtol=1e-5)
    guided = make in (GuidedCA, GuidedDiff)
    pairs = {(a, b) for a in X.names for b in X.names if a != b or not guided}
    assert set(between) == pairs
    looks = between["image", "text"]
    assert looks.shape == (5, X["image"].shape[1], X["text"].shape[1])
    assert (looks[~X["image"].mask[:5]] == 0).all()
    if guided:
        np.testing.assert_allclose(looks.sum(axis=2), X["image"].mask[:5], rtol=1e-5)
    with pytest.raises(HeadError, match="call fit first"):
        make().attention(X)


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        (GuidedCA, {"width": 16, "heads": 3}, "width must be a multiple of 3 for heads=3, not 16"),
        *(
            (kind, params, message)
            for kind in (DiffAttn, GuidedDiff)
            for params, message in (
                ({"width": 16, "heads": 3}, "width must be a multiple of 3 for heads=3, not 16"),
                ({"version": "v3"}, "version must be 'v1' or 'v2', not 'v3'"),
                ({"depth": 0}, "depth must be"),
                ({"width": 12, "version": "v1"}, "multiple of 8 for heads=4, not 12"),
            )
        ),
    ],
)
def test_wrong_shapes_are_named(kind: type, params: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind(**params).fit(*equal_or_different(20))


# ---------------------------------------------------------------------- as published


@published
def test_the_published_form_is_trained_as_published(kind: Any) -> None:
    head = kind(as_published=True)
    given = {name: head.get_params()[name] for name in ("lr", "epochs", "patience", "dropout", "optimizer")}
    assert given == {"lr": 1e-3, "epochs": 50, "patience": 5, "dropout": 0.5, "optimizer": "sgd"}
    assert kind(as_published=True, epochs=3).epochs == 3
    assert clone(head).get_params() == head.get_params()
    assert head.build({"image": 9, "text": 7}, 3).project[0].out_features == 128


@pytest.mark.slow
@published
def test_only_the_published_form_depends_on_its_batch_mates(kind: Any, tmp_path: Path) -> None:
    # Near-duplicates, as feeds of disasters are full of.
    X, y = equal_or_different(64, noise=0.3)
    theirs, ours = kind(as_published=True, **FAST), kind(**{**QUICK, **FAST})
    assert (theirs.batch_independent, ours.batch_independent, kind.batch_independent) == (False, True, True)
    assert "attends across the batch: each prediction depends on the rows" in theirs.fit(X, y).notes_[0]
    ours.fit(X, y)

    def change(head: Any) -> float:
        return float(np.abs(head.predict_proba(X)[:8] - head.predict_proba(X[:8])).max())

    assert change(theirs) > 1e-4
    assert change(ours) < 1e-9
    theirs.save(tmp_path)
    again = Head.load(tmp_path)
    assert not again.batch_independent
    np.testing.assert_array_equal(again.predict_proba(X), theirs.predict_proba(X))
    with pytest.raises(HeadError, match="no attention within a row"):
        theirs.attention(X)


@published
def test_the_published_form_takes_two_vectors(kind: Any) -> None:
    X, y = equal_or_different(20)
    tokens, _ = hidden_token(20)
    head = kind(as_published=True)
    for given, message in (
        ({**dict(X), "caption": X["text"]}, "takes two inputs"),
        (tokens, "takes one vector a row"),
        (Inputs(dict(X), {"text": np.arange(20) > 3}), "4 of 20 rows lack an input"),
    ):
        with pytest.raises(HeadError, match=message):
            head.fit(given, y)


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
