from __future__ import annotations

import numpy as np
import pytest
from icehouse.errors import HeadError
from icehouse.heads.inputs import Inputs, StoredTokens, Tokens, concatenate


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
