from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from icehouse.errors import HeadError, UsageError
from icehouse.heads.inputs import load_samples, parse_inputs
from icehouse.store.schema import features_schema
from icehouse.store.store import Store
from icehouse.store.vectors import tokens_to_arrow
from quick import Make

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
