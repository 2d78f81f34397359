"""The contract, over every head of the registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icehouse.errors import HeadError, IcehouseError, UsageError
from icehouse.heads.head import Head
from icehouse.heads.inputs import Inputs, Tokens
from icehouse.heads.registry import available, create, head_class
from quick import Data, quick
from sklearn.base import clone, is_classifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score

#: By family, a parameter with two values that make two heads; for the rest see `two_values`.
TWO: dict[str, tuple[str, list[Any]]] = {
    "knn": ("k", [1, 30]),
    "late-fusion": ("head_params", [{"C": 0.01, "unit": False}, {"C": 1.0, "unit": False}]),
    "lightgbm": ("rounds", [1, 10]),
    "online": ("passes", [1, 5]),
    "tip-adapter": ("alpha", [1.0, 100.0]),
    "zero-shot": ("factor", [1.0, 30.0]),
}


#: Values of parameters of another kind, and what is said of them.
WRONG: list[tuple[str, Any, str]] = [
    ("seed", -1, "from 0 on, not -1"),
    ("seed", "x", "whole number, not 'x'"),
    ("epochs", "abc", "a whole number"),
    ("epochs", 2.5, "a whole number"),
    ("epochs", True, "a whole"),
    ("hidden", 0, "hidden must be"),
    ("hidden", "wide", "hidden must be"),
    ("k", 2.5, "whole number"),
    ("max_iter", "x", "its default is 200"),
    ("tol", "x", "a number"),
    ("standardize", "x", "true or"),
    ("rounds", 1.5, "whole number"),
    ("passes", 1.5, "whole number"),
    ("cache", "x", "whole number"),
    ("factor", True, "'auto'"),
    ("C", [1.0, "x"], "several numbers"),
    ("batch_size", "x", "'auto'"),
]


def two_values(family: str) -> tuple[str, list[Any]]:
    return TWO.get(
        family, ("lr", [1e-4, 1e-2]) if "lr" in head_class(family).parameters() else ("C", [0.01, 1.0])
    )


def shifted(n: int, y: np.ndarray, seed: int = 0) -> Inputs:
    """Rows whose class 1 lies elsewhere, in a direction that no norm over the features takes away."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, width in (("image", 8), ("text", 5)):
        arrays[name] = rng.normal(size=(n, width)) + 4 * y[:, None] * (-1.0) ** np.arange(width)
    return Inputs({name: array.astype(np.float32) for name, array in arrays.items()})


pytestmark = pytest.mark.parametrize("family", sorted(available()))


_fitted: dict[str, Head] = {}


@pytest.fixture
def fitted(family: str, data: Data) -> Head:
    """A head that has learned from `data(60)`; tests that only ask it share it."""
    if family not in _fitted:
        _fitted[family] = quick(family).fit(*data(60))
    return _fitted[family]


@pytest.mark.slow
def test_predicts_better_than_chance(family: str, data: Data) -> None:
    epochs = {"epochs": 5} if "epochs" in head_class(family).parameters() else {}
    head = quick(family, **epochs).fit(*data(240), val=data(60, seed=1))
    X, y = data(120, seed=2)
    assert (head.predict(X) == y).mean() > 0.6
    assert head.score(X, y) == (head.predict(X) == y).mean()


def test_probabilities(fitted: Head, data: Data) -> None:
    proba = fitted.predict_proba(data(10, seed=1)[0])
    assert proba.shape == (10, 3)
    assert proba.dtype == np.float64
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert (proba >= 0).all()


def test_a_prediction_never_depends_on_the_other_rows(family: str, fitted: Head, data: Data) -> None:
    if not head_class(family).batch_independent:
        pytest.skip("reproduces a published form that does")
    X, _ = data(40, seed=1)
    whole = fitted.predict_proba(X)
    alone = np.concatenate([fitted.predict_proba(X[[i]]) for i in range(len(X))])
    order = np.random.default_rng(0).permutation(len(X))
    shuffled = np.empty_like(whole)
    shuffled[order] = fitted.predict_proba(X[order])
    np.testing.assert_allclose(alone, whole, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(shuffled, whole, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_a_head_that_was_saved_says_the_same(family: str, data: Data, tmp_path: Path) -> None:
    head = quick(family).fit(*data(90))
    head.save(tmp_path / "head")
    X, _ = data(20, seed=1)
    for again in (Head.load(tmp_path / "head"), head_class(family).load(tmp_path / "head")):
        np.testing.assert_array_equal(again.predict_proba(X), head.predict_proba(X))
        np.testing.assert_array_equal(again.predict(X), head.predict(X))
        assert again.get_params() == head.get_params()
        assert again.chosen_ == head.chosen_


def test_nothing_is_pickled(family: str, fitted: Head, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert path.suffix in (".json", ".safetensors", ".txt") or path.name == "SHA256SUMS", path
        # Libraries write files for their user alone.
        assert path.stat().st_mode == (tmp_path / "head.json").stat().st_mode, path
    record = json.loads((tmp_path / "head.json").read_text())
    assert record["family"] == family
    assert record["widths"] == {"image": 8, "text": 5}


@pytest.mark.slow
@pytest.mark.parametrize("names", [["calm", "flood", "quake"], [3, 1, 2], [0, 1, 2], ["1", "10", "2"]])
def test_labels_keep_their_kind(family: str, data: Data, tmp_path: Path, names: list[Any]) -> None:
    X, y = data(60)
    labels = np.array(names)[y]
    head = quick(family).fit(X, labels)
    assert head.classes_.tolist() == sorted(names)
    head.save(tmp_path)
    again = Head.load(tmp_path)
    assert again.classes_.dtype.kind == labels.dtype.kind
    assert set(again.predict(X).tolist()) <= set(names)
    assert again.predict(X).tolist() == head.predict(X).tolist()


@pytest.mark.slow
def test_fitting_twice_gives_the_same(family: str, data: Data) -> None:
    X, y = data(60)
    head = quick(family).fit(X, y)
    first = head.predict_proba(X)
    np.testing.assert_array_equal(head.fit(X, y).predict_proba(X), first)
    np.testing.assert_array_equal(quick(family).fit(X, y).predict_proba(X), first)


def test_fitting_leaves_features_and_parameters_alone(family: str, data: Data) -> None:
    X, y = data(30)
    before = {name: X[name].copy() for name in X.names}
    head = quick(family)
    params = dict(head.get_params())
    head.fit(X, y, val=data(30, seed=1)).predict(X)
    assert head.get_params() == params
    for name, array in before.items():
        np.testing.assert_array_equal(X[name], array)


def test_what_was_chosen_can_be_fitted_again(family: str, data: Data) -> None:
    X, y = data(60)
    head = quick(family).fit(X, y, val=data(30, seed=1))
    again = head.refit(X, y)
    assert again is not head
    assert set(head.chosen_) <= set(head.parameters())
    for name, value in head.chosen_.items():
        assert again.get_params()[name] == value
    assert json.loads(json.dumps(head.curve_, allow_nan=False)) == head.curve_


@pytest.mark.slow
def test_scikit_learn_can_clone_and_search(family: str, data: Data) -> None:
    head = quick(family)
    assert is_classifier(head)
    copy = clone(head)
    assert copy is not head
    assert copy.get_params() == head.get_params()
    X, y = data(60)
    assert cross_val_score(clone(head), X, y, cv=3).shape == (3,)
    name, values = two_values(family)
    search = GridSearchCV(head, {name: values}, cv=3, scoring="neg_log_loss").fit(X, y)
    assert [params[name] for params in search.cv_results_["params"]] == values
    # That the values reached the heads shows in what these say.
    first, second = search.cv_results_["mean_test_score"]
    assert np.isfinite([first, second]).all()
    assert first != second
    best = quick(family, **search.best_params_).fit(X, y)
    np.testing.assert_array_equal(search.predict_proba(X), best.predict_proba(X))


def test_a_misspelt_parameter_is_answered_with_the_right_one(family: str) -> None:
    name = max(head_class(family).parameters(), key=len)
    wrong = name[:-1] + "xx"
    for attempt in (lambda: create(family, **{wrong: 1}), lambda: create(family).set_params(**{wrong: 1})):
        with pytest.raises(UsageError, match=f"did you mean '{name}'"):
            attempt()


def test_parameters_are_shown_where_they_differ(family: str) -> None:
    assert repr(create(family)) == f"{head_class(family).__name__}()"


def test_rows_that_are_too_few(family: str, data: Data) -> None:
    X, _ = data(2)
    head = quick(family).fit(X, ["a", "b"])
    assert head.predict_proba(X).shape == (2, 2)
    with pytest.raises(HeadError, match="two classes"):
        quick(family).fit(X, ["a", "a"])
    with pytest.raises(HeadError, match="no rows"):
        quick(family).fit(X[[]], [])


@pytest.mark.slow
def test_two_hundred_classes(family: str) -> None:
    centres, rng = np.random.default_rng(7), np.random.default_rng(0)
    y = np.arange(600) % 200
    X = {
        name: (2 * centres.normal(size=(200, width))[y] + 0.3 * rng.normal(size=(600, width))).astype(
            np.float32
        )
        for name, width in (("image", 8), ("text", 5))
    }
    # Two hundred trees a round, and six stacks of two hundred classes, are slow for what they tell.
    enough = {"rounds": 3, "combine": "mean", "epochs": 5}
    known = head_class(family).parameters()
    head = quick(family, **{name: value for name, value in enough.items() if name in known}).fit(X, y)
    proba = head.predict_proba(X)
    assert proba.shape == (600, 200)
    assert np.isfinite(proba).all()
    # Chance is half a percent; the networks have a few epochs.
    assert head.score(X, y) > 0.03


@pytest.mark.slow
def test_one_in_a_thousand(family: str) -> None:
    y = np.isin(np.arange(2002), (500, 1500)).astype(int)
    # Two rows are no leaf of a tree otherwise, and seldom in a batch.
    enough = {"min_data": 1, "epochs": 8}
    known = head_class(family).parameters()
    head = quick(family, **{name: n for name, n in enough.items() if name in known}).fit(
        shifted(2002, y), np.where(y == 1, "rare", "common")
    )
    v = np.arange(400) % 4 // 3
    proba = head.predict_proba(shifted(400, v, seed=1))
    assert np.isfinite(proba).all()
    assert roc_auc_score(v, proba[:, 1]) > 0.65


def test_a_constant_input_does_no_harm(family: str, data: Data) -> None:
    X, y = data(30)
    flat = Inputs({"image": X["image"], "text": np.zeros_like(X["text"])})
    assert np.isfinite(quick(family).fit(flat, y).predict_proba(flat)).all()


def test_bad_features_are_named(family: str, fitted: Head, data: Data) -> None:
    X, y = data(60)
    broken = X["text"].copy()
    broken[7, 2] = np.nan
    with pytest.raises(HeadError, match=r"'text' has NaN .*first in row 7"):
        quick(family).fit({"image": X["image"], "text": broken}, y)
    with pytest.raises(HeadError, match="NaN"):
        fitted.predict({"image": X["image"], "text": broken})


def test_inputs_that_do_not_fit_are_named(fitted: Head, data: Data) -> None:
    X, _ = data(60)
    with pytest.raises(HeadError, match="'text' is missing"):
        fitted.predict({"image": X["image"]})
    with pytest.raises(HeadError, match=r"X has 4 features.*expecting 5.*'text'"):
        fitted.predict({"image": X["image"], "text": X["text"][:, :4]})
    extra = {"text": X["text"], "caption": X["text"], "image": X["image"]}
    np.testing.assert_array_equal(fitted.predict_proba(extra), fitted.predict_proba(X))


def test_labels_that_do_not_fit_are_named(family: str, data: Data) -> None:
    X, y = data(60)
    for labels, message in (
        (y[:59], "60 rows of features and 59 labels"),
        (y + 0.5, "continuous"),
        (np.array(["a", None] * 30, object), "NoneType"),
    ):
        with pytest.raises(HeadError, match=message):
            quick(family).fit(X, labels)


def test_nothing_is_predicted_before_fitting(family: str, data: Data, tmp_path: Path) -> None:
    from sklearn.exceptions import NotFittedError

    X, _ = data(3)
    with pytest.raises(HeadError, match="call fit first"):
        quick(family).predict(X)
    with pytest.raises(NotFittedError):
        quick(family).predict(X)
    with pytest.raises(HeadError, match="call fit first"):
        quick(family).save(tmp_path)


def test_rows_to_choose_on_may_have_labels_of_their_own(family: str, data: Data) -> None:
    X, y = data(30)
    V, v = data(30, seed=1)
    labels = np.array(["a", "b", "c"])[y]
    others = np.array(["a", "b", "new"])[v]
    assert quick(family).fit(X, labels, val=(V, others)).classes_.tolist() == ["a", "b", "c"]
    with pytest.raises(HeadError, match="none of the 30 rows"):
        quick(family).fit(X, labels, val=(V, np.full(30, "new")))


def test_a_plain_array_is_enough(family: str, data: Data) -> None:
    X, y = data(60)
    if not getattr(head_class(family), "takes_one_vector", True):
        with pytest.raises(HeadError, match="add an input"):
            quick(family).fit(X["image"], y % 2)
        return
    head = quick(family).fit(X["image"], y % 2)
    assert head.n_features_in_ == 8
    assert head.predict(X["image"]).shape == (60,)


def test_a_row_without_weight_is_not_there(family: str, data: Data) -> None:
    X, y = data(36)
    weight = np.r_[np.ones(27), np.zeros(9)]
    head = quick(family).fit(X, np.r_[y[:27], np.full(9, 7)], sample_weight=weight)
    assert head.classes_.tolist() == [0, 1, 2]
    np.testing.assert_allclose(
        head.predict_proba(X), quick(family).fit(X[:27], y[:27], sample_weight=np.ones(27)).predict_proba(X)
    )


def test_tokens_and_missing_inputs_are_taken_or_refused(family: str, data: Data) -> None:
    X, y = data(30)
    kind = head_class(family)
    # One to five tokens a row, of which what the mask hides is zero.
    mask = np.arange(5) < 1 + np.arange(30)[:, None] % 5
    noise = np.random.default_rng(3).normal(size=(30, 5, 5)).astype(np.float32)
    values = (X["text"][:, None] + 0.3 * noise) * mask[..., None]
    tokens = Inputs({"image": X["image"], "text": Tokens(values, mask)})
    if not kind.takes_tokens:
        with pytest.raises(HeadError, match="pooled"):
            quick(family).fit(tokens, y)
    else:
        head = quick(family).fit(tokens, y)
        whole = head.predict_proba(tokens)
        assert np.isfinite(whole).all()
        if kind.batch_independent:
            order = np.random.default_rng(0).permutation(30)
            np.testing.assert_allclose(head.predict_proba(tokens[order]), whole[order], rtol=1e-6, atol=1e-9)
            # Alone, without the room that a longer neighbour needs.
            for row in range(10):
                length = int(mask[row].sum())
                short = Tokens(values[[row], :length], mask[[row], :length])
                alone = head.predict_proba(Inputs({"image": X["image"][[row]], "text": short}))
                np.testing.assert_allclose(alone, whole[[row]], rtol=1e-6, atol=1e-9)
        other = values.copy()
        other[:, 0] += 5
        changed = head.predict_proba(Inputs({"image": X["image"], "text": Tokens(other, mask)}))
        assert not np.allclose(changed, whole, atol=1e-3)
    present = np.arange(30) % 5 > 0
    some = Inputs({"image": X["image"], "text": X["text"] * present[:, None]}, {"text": present})
    if kind.handles_missing:
        proba = quick(family).fit(some, y).predict_proba(some)
        assert np.isfinite(proba).all()
    else:
        with pytest.raises(HeadError, match="6 of 30 rows lack an input"):
            quick(family).fit(some, y)


@pytest.mark.slow
def test_seeds_that_are_fitted_together_are_as_each_alone(family: str, data: Data) -> None:
    if "seed" not in head_class(family).parameters():
        pytest.skip("draws nothing")
    # In float32: what a rounded product does to a network of a few epochs is no difference of seeds.
    exact = {"precision": "float32"} if "precision" in head_class(family).parameters() else {}
    (X, y), val = data(90), data(45, seed=1)
    together = quick(family, **exact).fit_seeds([3, 0], X, y, val=val)
    assert [head.get_params()["seed"] for head in together] == [3, 0]
    for head in together:
        alone = quick(family, **exact, seed=head.get_params()["seed"]).fit(X, y, val=val)
        np.testing.assert_allclose(head.predict_proba(X), alone.predict_proba(X), atol=1e-3)
        assert head.chosen_.keys() == alone.chosen_.keys()


def test_parameters_of_another_kind_are_one_line(family: str, data: Data) -> None:
    X, y = data(30)
    known = head_class(family).parameters()
    for name, value, message in WRONG:
        if name in known:
            with pytest.raises(UsageError, match=f"{name} must be") as caught:
                quick(family, **{name: value}).fit(X, y)
            assert message in str(caught.value)
            assert "\n" not in str(caught.value)


def test_a_damaged_head_is_one_line(fitted: Head, data: Data, tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="no head in"):
        Head.load(tmp_path)
    fitted.save(tmp_path)
    record = json.loads((tmp_path / "head.json").read_text())
    (tmp_path / "head.json").write_text("{")
    with pytest.raises(HeadError, match=r"head\.json is not what was written"):
        Head.load(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()  # earlier versions wrote none
    for damage in ({"format": 99}, {"family": "nosuch"}, {"classes": None, "widths": None}):
        (tmp_path / "head.json").write_text(json.dumps({**record, **damage}))
        with pytest.raises(IcehouseError):
            Head.load(tmp_path).predict(data(3)[0])
    (tmp_path / "head.json").write_text("{")
    with pytest.raises(HeadError, match="is damaged"):
        Head.load(tmp_path)


def test_a_head_that_lacks_something_is_refused(family: str, fitted: Head, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    fitted.save(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    file, record = tmp_path / "head.safetensors", tmp_path / "head.json"
    arrays, good = load_file(file) if file.exists() else {}, json.loads(record.read_text())
    for name in list(arrays)[:10]:
        save_file({other: array for other, array in arrays.items() if other != name}, file)
        with pytest.raises(HeadError, match="is damaged"):
            Head.load(tmp_path)
        save_file(arrays, file)
    for name in good["state"]:
        state = {other: value for other, value in good["state"].items() if other != name}
        record.write_text(json.dumps({**good, "state": state}))
        with pytest.raises(HeadError, match="is damaged"):
            Head.load(tmp_path)


@pytest.mark.slow
def test_a_head_that_a_stranger_changed_is_refused_or_finite(family: str, data: Data, tmp_path: Path) -> None:
    """Checksums and all: weights of other shapes, kinds and values, and records of other kinds."""
    from safetensors.numpy import load_file, save_file

    quick(family).fit(*data(60)).save(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    X = data(3)[0]
    record, file = tmp_path / "head.json", tmp_path / "head.safetensors"
    arrays = load_file(file) if file.exists() else {}
    good, said = json.loads(record.read_text()), []

    def ask(what: str) -> None:
        try:
            assert np.isfinite(Head.load(tmp_path).predict_proba(X)).all(), what
        except IcehouseError as error:
            said.append(str(error))

    changes = (
        np.ravel,
        np.transpose,
        lambda a: a[:-1],
        lambda a: a[None],
        lambda a: a.astype(np.int8),
        lambda a: a * np.nan,
    )
    rng = np.random.default_rng(0)
    for name in rng.permutation(list(arrays))[:6].tolist():
        for number, change in enumerate(changes):
            with np.errstate(all="ignore"):
                changed = np.ascontiguousarray(change(arrays[name]))
            save_file({**arrays, name: changed}, file)
            ask(f"{name} {number}")
    if arrays:
        save_file(arrays, file)
    sizes = [key for key in ("hidden", "width", "depth") if key in good["params"]]
    for key in sizes:
        record.write_text(json.dumps({**good, "params": {**good["params"], key: 10**9}}))
        with pytest.raises(HeadError, match=f"too few for {key}"):
            Head.load(tmp_path)
    for key in ("classes", "widths", "chosen", "curve", "notes", "state", "params", "family"):
        for value in (None, -1, 1e308, "x", [], {}, [[]], [1, "a"], {"image": -1}, "\ud800"):
            record.write_text(json.dumps({**good, key: value}))
            ask(f"{key} {value!r}")
    assert len(said) > 40
    assert not [line for line in said if "\n" in line]
