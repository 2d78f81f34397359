"""Captions as features that follow the items, with an encoder small enough to check by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from caption_stores import Lab
from icehouse.data.text import text_sha256
from icehouse.embed.captions.answers import USELESS
from icehouse.embed.captions.features import embed_captions
from icehouse.embed.captions.importing import import_captions
from icehouse.embed.captions.settings import Prompt
from icehouse.embed.pipeline import load_checked
from icehouse.errors import CaptionError, HeadError, SpaceError
from icehouse.heads.samples import load_samples, parse_inputs
from icehouse.heads.trainer import train
from icehouse.serve.predict import predict
from icehouse.serve.query import search
from icehouse.store.index.build import build_index
from icehouse.store.maintain import verify
from icehouse.store.store import Store
from ollama_server import OllamaServer, Question
from toys import ToyEncoder

LONG = "One two three four five six seven eight. Nine ten eleven twelve. Thirteen fourteen fifteen sixteen seventeen."


@pytest.fixture
def encoder() -> ToyEncoder:
    return ToyEncoder()


def toy(encoder: ToyEncoder, *texts: str, output: str = "joint") -> np.ndarray:
    values = encoder.encode_texts(list(texts), [output])[output]
    assert isinstance(values, np.ndarray)
    return values


def captioned(store: Store, tmp_path: Path, captions: dict[str, str], name: str = "default") -> None:
    path = tmp_path / f"{name}.csv"
    path.write_text("item_id,caption\n" + "".join(f'{i},"{c}"\n' for i, c in captions.items()))
    import_captions(store, path, name=name)


def test_features_follow_the_items(lab: Lab, encoder: ToyEncoder, tmp_path: Path) -> None:
    store = lab.store(3)
    captioned(store, tmp_path, {"0000": "a house", "0001": "a tree", "0002": "a car"})
    report = embed_captions(store, encoder=encoder)
    assert (report.captions, report.embedded, report.pooled) == (3, 3, 0)
    assert report.features == ["toy-a/caption/joint", "toy-a/caption/pooled"]
    features = store.features("toy-a/caption/joint")
    assert features.ids.tolist() == ["0000", "0001", "0002", "copy"]
    np.testing.assert_allclose(features.X, toy(encoder, "a house", "a tree", "a car", "a car"), atol=1e-3)
    assert store.feature_table("toy-a/caption/joint").spec["key"] == "image_sha256"
    assert verify(store).ok


def test_only_what_is_new_is_embedded(lab: Lab, encoder: ToyEncoder, tmp_path: Path) -> None:
    store = lab.store(3)
    captioned(store, tmp_path, {"0000": "a house"})
    embed_captions(store, encoder=encoder)
    store.table("captions/default").append(
        pa.table({"caption_key": ["k"], "image_sha256": ["k"], "caption": ["a tree"], "flags": [""]})
    )
    encoder.batches.clear()
    report = embed_captions(store, encoder=encoder)
    assert (report.known, report.embedded) == (1, 1)
    report = embed_captions(store, encoder=encoder)
    assert (report.known, report.embedded) == (2, 0)


def test_a_table_that_lacks_rows_gets_them(lab: Lab, encoder: ToyEncoder, tmp_path: Path) -> None:
    store = lab.store(2)
    captioned(store, tmp_path, {"0000": "a house", "0001": "a tree"})
    embed_captions(store, encoder=encoder)
    table = store.feature_table("toy-a/caption/pooled")
    keys = table.read(["image_sha256"])["image_sha256"].to_pylist()
    table.delete("image_sha256", keys[:1])
    assert embed_captions(store, encoder=encoder).embedded == 1
    assert table.rows == store.feature_table("toy-a/caption/joint").rows == 2


def test_long_captions_are_pooled_over_sentences(lab: Lab, encoder: ToyEncoder, tmp_path: Path) -> None:
    store = lab.store(2)
    captioned(store, tmp_path, {"0000": LONG, "0001": "a tree"})
    report = embed_captions(store, encoder=encoder, dtype="float32")
    assert (report.embedded, report.pooled) == (2, 1)
    pieces = [
        "One two three four five six seven eight. Nine ten eleven twelve.",
        "Thirteen fourteen fifteen sixteen seventeen.",
    ]
    weighted = np.array([12, 5]) @ toy(encoder, *pieces) / 17
    joint = store.features("toy-a/caption/joint", where="item_id = '0000'").X[0]
    np.testing.assert_allclose(joint, weighted / np.linalg.norm(weighted), atol=1e-6)
    pooled = store.features("toy-a/caption/pooled", where="item_id = '0000'").X[0]
    np.testing.assert_allclose(
        pooled, np.array([12, 5]) @ toy(encoder, *pieces, output="pooled") / 17, atol=1e-6
    )
    counts = store.query('select pieces from "toy-a/caption/joint" order by pieces').to_pylist()
    assert counts == [{"pieces": 1}, {"pieces": 2}]


def test_captions_that_say_nothing_are_left_out(lab: Lab, encoder: ToyEncoder, tmp_path: Path) -> None:
    store = lab.store(3)
    captioned(store, tmp_path, {"0000": "I cannot assist with that.", "0001": "a tree", "0002": "..."})
    report = embed_captions(store, encoder=encoder)
    assert (report.embedded, report.useless) == (1, 2)
    assert set(USELESS) >= {"refusal", "empty"}
    assert store.features("toy-a/caption/joint").ids.tolist() == ["0001"]
    assert verify(store).ok


def test_captions_of_pairs_are_kept_by_item(lab: Lab, server: OllamaServer, encoder: ToyEncoder) -> None:
    # "copy" and "0001" are one picture with two texts, so with two captions.
    store = lab.store(2, texts=["calm", "help", "water"])

    def answer(question: Question) -> str:
        return f"about {question.prompt.split()[-1].strip(chr(34))}"

    server.answers = answer
    prompt = Prompt.of("Look. {text}", None, with_text=True)
    lab.caption(store, prompt=prompt, name="post")
    report = embed_captions(store, "post", encoder=encoder)
    assert report.features == ["toy-a/caption-post/joint", "toy-a/caption-post/pooled"]
    features = store.features("toy-a/caption-post/joint")
    assert features.ids.tolist() == ["0000", "0001", "copy"]
    expected = toy(encoder, "about calm", "about help", "about water")
    np.testing.assert_allclose(features.X, expected, atol=1e-3)
    assert verify(store).ok

    # The text of a post is corrected: its caption is another one, and so is its vector.
    changed = pa.table({"item_id": ["copy"], "text": ["fire"], "text_sha256": [text_sha256("fire")]})
    store.items.upsert(changed, key="item_id")
    lab.caption(store, prompt=prompt, name="post")
    assert embed_captions(store, "post", encoder=encoder).embedded == 1
    features = store.features("toy-a/caption-post/joint")
    np.testing.assert_allclose(features.X[2:], toy(encoder, "about fire"), atol=1e-3)


def test_another_encoder_and_other_captions_are_refused(
    lab: Lab, encoder: ToyEncoder, tmp_path: Path
) -> None:
    store = lab.store(2)
    captioned(store, tmp_path, {"0000": "a house"})
    embed_captions(store, encoder=encoder)
    captioned(store, tmp_path, {"0000": "a house", "0001": "a tree"}, "more")
    embed_captions(store, "more", encoder=encoder)
    table = store.table("captions/default")
    table.append(
        pa.table({"caption_key": ["k"], "image_sha256": ["k"], "caption": ["a tree"], "flags": [""]})
    )
    with pytest.raises(SpaceError, match=r"toy:a .* does not mix with toy:b"):
        embed_captions(store, encoder=ToyEncoder("b"), name="toy-a")
    with pytest.raises(CaptionError, match=r"no captions 'none' in .*; there are: default, more"):
        embed_captions(store, "none", encoder=encoder)


@pytest.mark.slow
def test_heads_take_captions_beside_the_rest(lab: Lab, encoder: ToyEncoder, tmp_path: Path) -> None:
    store = lab.store(12)
    ids = [f"{i:04d}" for i in range(12)]
    captioned(store, tmp_path, {i: f"a {'house' if n % 2 else 'tree'} number{n}" for n, i in enumerate(ids)})
    captioned(store, tmp_path, {i: f"the picture {n}" for n, i in enumerate(ids)}, "plain")
    rows = {
        "item_id": ids,
        "label": [str(n % 2) for n in range(12)],
        "split": (["train", "train", "dev", "test"] * 3),
    }
    store.items.upsert(pa.table(rows), key="item_id")
    embed_captions(store, encoder=encoder)
    embed_captions(store, "plain", encoder=encoder)
    inputs = parse_inputs("caption,caption-plain", store)
    assert inputs == {"caption": "toy-a/caption/pooled", "caption-plain": "toy-a/caption-plain/pooled"}
    samples = load_samples(store, inputs, label="label")
    assert len(samples.ids) == 12
    run = train(store, "logreg", inputs="caption", draws=10, dups=None)
    assert run.features == {"caption": "toy-a/caption/pooled"}
    assert predict(store, run).table["item_id"].to_pylist() == [*ids, "copy"]
    with pytest.raises(HeadError, match="takes captions"):
        predict(store, run, [tmp_path / "pictures"], encoder=encoder)


def test_captions_are_searched_by_words(lab: Lab, encoder: ToyEncoder, tmp_path: Path) -> None:
    store = lab.store(3)
    captioned(store, tmp_path, {"0000": "a house", "0001": "some tree", "0002": "red car"})
    embed_captions(store, encoder=encoder)
    for output in ("joint", "pooled"):
        feature = f"toy-a/caption/{output}"
        assert search(store, text="red car", feature=feature, encoder=encoder, k=1).hits[0].item_id in (
            "0002",
            "copy",
        )
        assert load_checked(store.feature_table(feature).spec, encoder) is encoder
    build_index(store, "toy-a/caption/joint")
