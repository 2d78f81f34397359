"""Inputs of heads, and samples of a store: named arrays and tokens over the same rows, taken, joined, aligned by item."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from icehouse.errors import HeadError, UsageError
from icehouse.heads.inputs import Inputs, StoredTokens, Tokens, concatenate, load_samples, parse_inputs
from icehouse.store.schema import features_schema
from icehouse.store.store import Store
from icehouse.store.vectors import tokens_to_arrow
from quick import Make


def inputs() -> Inputs:
    return Inputs(
        {
            "image": np.arange(12, dtype=np.float32).reshape(4, 3),
            "text": Tokens(np.ones((4, 2, 5), np.float32), np.array([[1, 1], [1, 0], [1, 1], [1, 0]], bool)),
        },
        {"image": np.array([True, False, True, True])},
    )


@pytest.mark.parametrize(
    "rows",
    [[0, 2], np.array([0, 2]), np.array([True, False, True, False]), slice(0, 3, 2), (np.array([0, 2]), ...)],
)
def test_rows_are_taken_from_every_input(rows: object) -> None:
    part = inputs()[rows]
    assert len(part) == 2
    np.testing.assert_array_equal(part["image"], [[0, 1, 2], [6, 7, 8]])
    np.testing.assert_array_equal(part["text"].mask, [[True, True], [True, True]])
    assert part.present("image").all()


def test_no_rows() -> None:
    assert len(inputs()[[]]) == 0


def test_looks_like_a_matrix_and_like_a_mapping() -> None:
    X = inputs()
    assert X.shape == (4, 8)
    assert X.names == ("image", "text")
    assert X.widths == {"image": 3, "text": 5}
    assert "image" in X
    assert set(dict(X)) == {"image", "text"}
    assert repr(X) == "Inputs(image: 4×3, text: 4×2×5)"


def test_what_is_ambiguous_is_refused() -> None:
    with pytest.raises(TypeError):
        iter(inputs())
    with pytest.raises(TypeError, match=r"inputs\[\[3\]\]"):
        inputs()[3]


def test_a_row_lacks_an_input() -> None:
    X = inputs()
    assert X.has_missing
    np.testing.assert_array_equal(X.complete(), [True, False, True, True])
    assert not X[[0, 2, 3]].has_missing


def test_a_plain_array_is_one_input() -> None:
    assert Inputs.of(np.zeros((2, 3))).names == ("x",)
    X = inputs()
    assert Inputs.of(X) is X


def test_whole_numbers_become_floats() -> None:
    assert Inputs.of(np.arange(6).reshape(2, 3))["x"].dtype == np.float64


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "no input"),
        ({"image": np.zeros((2, 3)), "text": np.zeros((3, 3))}, r"image 2, text 3"),
        ({"image": np.zeros(3)}, r"shape \(3,\)"),
        ({"image": np.array([["a"]])}, "not numeric"),
        ({"image": np.zeros((2, 3), complex)}, "Complex data"),
        ({"image": Tokens(np.zeros((2, 3, 4)), np.ones((2, 4), bool))}, "tokens of input 'image'"),
    ],
)
def test_what_is_no_input_is_named(arrays: dict[str, object], message: str) -> None:
    with pytest.raises(HeadError, match=message):
        Inputs(arrays)


def test_presence_must_fit() -> None:
    with pytest.raises(HeadError, match="present"):
        Inputs({"image": np.zeros((2, 3))}, {"image": np.ones(3, bool)})


def test_select_names_what_is_missing() -> None:
    with pytest.raises(HeadError, match=r"'caption' is missing; the data has image, text"):
        inputs().select(["image", "caption"])


def test_bad_rows() -> None:
    X = np.zeros((5, 2), np.float32)
    X[1, 0], X[3, 1] = np.nan, np.inf
    assert Inputs.of(X).bad_rows()["x"].tolist() == [1, 3]
    assert Inputs.of(np.full((3, 2), 3e38, np.float32)).bad_rows() == {}


def test_concatenate_pads_tokens_and_keeps_presence() -> None:
    longer = Inputs(
        {
            "text": Tokens(np.ones((1, 4, 5), np.float32), np.ones((1, 4), bool)),
            "image": np.zeros((1, 3), np.float32),
        }
    )
    both = concatenate([inputs(), longer])
    assert len(both) == 5
    assert both["text"].shape == (5, 4, 5)
    assert both["text"].mask.sum() == 6 + 4
    assert both.present("image").tolist() == [True, False, True, True, True]
    assert both.present("text").all()


def stored(seed: int = 0) -> tuple[StoredTokens, Tokens]:
    """Ranges of states in another order than they lie, and the same padded."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 5, 9)
    starts = np.cumsum(lengths) - lengths
    states = rng.standard_normal((int(lengths.sum()), 3)).astype(np.float16)
    rows = rng.permutation(9)[:7]
    ranges = StoredTokens(states, starts[rows], lengths[rows])
    mask = np.arange(ranges.shape[1]) < lengths[rows][:, None]
    values = np.zeros((*mask.shape, 3), np.float32)
    for i, row in enumerate(rows):
        values[i, : lengths[row]] = states[starts[row] : starts[row] + lengths[row]]
    return ranges, Tokens(values, mask)


@pytest.mark.parametrize("seed", range(5))
def test_stored_tokens_are_like_padded_ones(seed: int) -> None:
    ranges, padded = stored(seed)
    assert ranges.shape == padded.shape
    assert len(ranges) == 7
    assert np.array_equal(ranges.values, padded.values)
    assert np.array_equal(ranges.mask, padded.mask)
    assert np.allclose(ranges.means(), padded.means())
    for rows in (slice(2, 5), np.array([6, 0, 0]), np.arange(7) % 2 == 0, np.array([], np.intp)):
        some = ranges[rows]
        assert some.states is ranges.states
        assert np.array_equal(some.values, padded[rows].values)
        for got, expected in zip(ranges.take(rows), padded.take(rows), strict=True):
            assert np.array_equal(got, expected)
    both = concatenate([Inputs({"x": ranges[:3]}), Inputs({"x": ranges[3:]})])["x"]
    assert isinstance(both, StoredTokens)
    assert np.array_equal(both.values, padded.values)
    mixed = concatenate([Inputs({"x": ranges[:3]}), Inputs({"x": padded[3:]})])["x"]
    assert np.array_equal(mixed.values, padded.values)


def test_bad_rows_of_stored_tokens() -> None:
    ranges, _ = stored(1)
    states = ranges.states.copy()
    row = int(np.flatnonzero(ranges.lengths)[1])
    states[ranges.starts[row]] = np.nan
    bad = Inputs({"x": StoredTokens(states, ranges.starts, ranges.lengths)}).bad_rows()
    assert bad["x"].tolist() == [row]


BOTH = {"image": "toy/image/pooled", "text": "toy/text/pooled"}


def add_encoder(
    store: Store, spec: Callable[..., dict[str, Any]], name: str, modality: str = "image"
) -> None:
    store.ensure_feature_table(
        f"{name}/{modality}/pooled",
        spec(modality, "pooled", 3, name=name, encoder=name, fingerprint=f"{name:0>16}"),
        features_schema(modality, "pooled", 3, "float32"),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("image,text", BOTH),
        ("image+text", BOTH),
        ([" image ", "text"], BOTH),
        (None, BOTH),
        ("text", {"text": "toy/text/pooled"}),
        ("image/joint", {"image": "toy/image/joint"}),
        ("toy/image", {"image": "toy/image/pooled"}),
        ("toy/image/joint", {"image": "toy/image/joint"}),
        ("picture=toy/image/joint,text", {"picture": "toy/image/joint", "text": "toy/text/pooled"}),
        ({"caption": "text/joint"}, {"caption": "toy/text/joint"}),
        (
            "image,image/joint",
            {"toy/image/pooled": "toy/image/pooled", "toy/image/joint": "toy/image/joint"},
        ),
    ],
)
def test_names_of_inputs(make_store: Make, inputs: Any, expected: dict[str, str]) -> None:
    store = make_store(12, outputs=("joint", "pooled"))
    assert parse_inputs(inputs, store) == expected
    assert list(parse_inputs(inputs, store)) == list(expected)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("imgae", "did you mean 'image'"),
        ("toy", "no feature fits"),
        ("image,caption", "`icehouse embed --captions default`"),
        ("mini/image/pooled", "there are: toy/image/pooled, toy/text/pooled"),
        ("", "name nothing"),
        ("image,", "name nothing"),
        ("x=image,x=text", "given twice"),
    ],
)
def test_inputs_that_are_not_there(make_store: Make, inputs: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_inputs(inputs, make_store(12))


def test_the_features_that_there_are(make_store: Make, tmp_path: Path) -> None:
    assert parse_inputs("image", make_store(12, outputs=("joint",))) == {"image": "toy/image/joint"}
    with pytest.raises(UsageError, match="icehouse embed"):
        parse_inputs("image", Store.create(tmp_path / "empty"))


def test_several_encoders_have_to_be_told_apart(
    make_store: Make, spec: Callable[..., dict[str, Any]]
) -> None:
    store = make_store(12)
    add_encoder(store, spec, "other")
    with pytest.raises(UsageError, match="say which: other/image, toy/image"):
        parse_inputs("image", store)
    assert parse_inputs("other/image,toy/image", store) == {
        "other/image/pooled": "other/image/pooled",
        "toy/image/pooled": "toy/image/pooled",
    }
    assert parse_inputs("text", store) == {"text": "toy/text/pooled"}
    nothing = r"none of 12 items has all of the features other/image/pooled \(of 0\)"
    with pytest.raises(HeadError, match=nothing):
        load_samples(store, {"image": "other/image/pooled"}, label="label")


def test_rows_are_aligned_by_item(make_store: Make) -> None:
    store = make_store(24, no_text=(3, 7))
    samples = load_samples(store, BOTH, label="label")
    assert len(samples) == 22
    assert samples.left_out == {"image": 0, "text": 2}
    image = store.features("toy/image/pooled")
    text = store.features("toy/text/pooled")
    for i, item in enumerate(samples.ids):
        assert item not in ("p003", "p007")
        np.testing.assert_array_equal(samples.X["image"][i], image.X[image.ids.tolist().index(item)])
        np.testing.assert_array_equal(samples.X["text"][i], text.X[text.ids.tolist().index(item)])
        assert samples.labels[i] == ("calm", "flood", "quake")[int(item[1:]) % 3]
    assert samples.specs["text"]["key"] == "text_sha256"


def test_rows_that_lack_an_input_can_be_kept(make_store: Make) -> None:
    samples = load_samples(make_store(24, no_text=(3, 7)), BOTH, label="label", missing="keep")
    assert len(samples) == 24
    assert np.flatnonzero(~samples.X.present("text")).tolist() == [3, 7]
    assert not samples.X["text"][[3, 7]].any()
    assert samples.X["image"][[3, 7]].any()


def test_a_condition_and_splits(make_store: Make) -> None:
    store = make_store(24, split=lambda i: ("Train", "val", None)[i % 3])
    samples = load_samples(store, BOTH, label="label", where="event = 'event 1'")
    assert [int(item[1:]) % 2 for item in samples.ids] == [1] * 12
    assert set(samples.split.tolist()) == {"train", "dev", None}
    by_event = load_samples(store, BOTH, label="label", split_column="event")
    assert set(by_event.split.tolist()) == {"event 0", "event 1"}


def test_take_keeps_rows_together(make_store: Make) -> None:
    samples = load_samples(make_store(24), BOTH, label="label")
    part = samples.take(np.array([5, 2]))
    assert part.ids.tolist() == ["p005", "p002"]
    np.testing.assert_array_equal(part.X["text"], samples.X["text"][[5, 2]])
    assert part.labels.tolist() == samples.labels[[5, 2]].tolist()
    assert part.content["image"].tolist() == samples.content["image"][[5, 2]].tolist()
    with pytest.raises(HeadError, match="without a label"):
        _ = load_samples(make_store(12, name="other"), BOTH).labels


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"label": "labl"},
            r"no label column 'labl' in items \(did you mean 'label'\?\); there are: label, event",
        ),
        ({"label": "label", "split_column": "spilt"}, "did you mean 'split'"),
        (
            {"label": "label", "where": "event = 'none'"},
            "no item has a label 'label' and meets the condition",
        ),
    ],
)
def test_rows_that_are_not_there(make_store: Make, options: dict[str, str], message: str) -> None:
    with pytest.raises(HeadError, match=message):
        load_samples(make_store(12), BOTH, **options)  # type: ignore[arg-type]


def test_tokens_come_with_their_mask(make_store: Make, spec: Callable[..., dict[str, Any]]) -> None:
    store = make_store(6, no_text=(1,))
    schema = features_schema("text", "tokens", 2, "float32")
    table = store.ensure_feature_table("toy/text/tokens", spec("text", "tokens", 2), schema)
    keys = store.items.read(["text_sha256"])["text_sha256"].drop_null()
    mask = np.arange(3) < np.array([1, 2, 3, 1, 2])[:, None]
    values = np.arange(30, dtype=np.float32).reshape(5, 3, 2)
    table.append(
        pa.table(
            {
                "text_sha256": keys,
                "truncated": [False] * 5,
                "tokens": tokens_to_arrow(values, mask, "float32"),
            }
        ).cast(schema)
    )
    assert parse_inputs("text", store) == {"text": "toy/text/pooled"}
    inputs = parse_inputs("image,text/tokens", store)
    samples = load_samples(store, inputs, label="label")
    tokens = samples.X["text"]
    np.testing.assert_array_equal(tokens.mask, mask)
    np.testing.assert_array_equal(tokens.values, values * mask[..., None])
    kept = load_samples(store, inputs, label="label", missing="keep")
    assert kept.X["text"].mask.sum(axis=1).tolist() == [1, 0, 2, 3, 1, 2]
