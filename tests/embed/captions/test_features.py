"""Captions as features that follow the items, with an encoder small enough to check by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from caption_stores import Lab
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.cli import app
from icehouse.data.text import text_sha256
from icehouse.embed import encoder as registry
from icehouse.embed.captions.caption_table import captions_of
from icehouse.embed.captions.features import (
    embed_captions,
    field_names,
    fields_of,
    pack,
    split_sentences,
    vocabulary_of,
    write_fields,
)
from icehouse.embed.captions.questions import DAMAGE, SENTIMENT, USELESS, Prompt
from icehouse.embed.pipeline import choose_encoder
from icehouse.embed.tables import load_checked
from icehouse.errors import CaptionError, EncoderError, HeadError, SpaceError
from icehouse.heads.inputs import load_samples, parse_inputs
from icehouse.heads.runs import Run
from icehouse.heads.trainer import train
from icehouse.serve.predict import predict
from icehouse.serve.query import search
from icehouse.store.index_build import build_index
from icehouse.store.maintain import verify
from icehouse.store.store import Store
from ollama_server import OllamaServer, Question
from toys import ToyEncoder
from typer.testing import CliRunner

LONG = "One two three four five six seven eight. Nine ten eleven twelve. Thirteen fourteen fifteen sixteen seventeen."


@pytest.fixture
def encoder() -> ToyEncoder:
    return ToyEncoder()


def toy(encoder: ToyEncoder, *texts: str, output: str = "joint") -> np.ndarray:
    values = encoder.encode_texts(list(texts), [output])[output]
    assert isinstance(values, np.ndarray)
    return values


def test_features_follow_the_items(lab: Lab, encoder: ToyEncoder) -> None:
    store = lab.store(3)
    lab.imported(store, {"0000": "a house", "0001": "a tree", "0002": "a car"})
    report = embed_captions(store, encoder=encoder)
    assert (report.captions, report.embedded, report.pooled) == (3, 3, 0)
    assert report.features == ["toy-a/caption/joint", "toy-a/caption/pooled"]
    features = store.features("toy-a/caption/joint")
    assert features.ids.tolist() == ["0000", "0001", "0002", "copy"]
    np.testing.assert_allclose(features.X, toy(encoder, "a house", "a tree", "a car", "a car"), atol=1e-3)
    assert store.feature_table("toy-a/caption/joint").spec["key"] == "image_sha256"
    assert verify(store).ok


def test_only_what_is_new_is_embedded(lab: Lab, encoder: ToyEncoder) -> None:
    store = lab.store(3)
    lab.imported(store, {"0000": "a house"})
    embed_captions(store, encoder=encoder)
    store.table("captions/default").append(
        pa.table({"caption_key": ["k"], "image_sha256": ["k"], "caption": ["a tree"], "flags": [""]})
    )
    encoder.batches.clear()
    report = embed_captions(store, encoder=encoder)
    assert (report.known, report.embedded) == (1, 1)
    report = embed_captions(store, encoder=encoder)
    assert (report.known, report.embedded) == (2, 0)


def test_a_table_that_lacks_rows_gets_them(lab: Lab, encoder: ToyEncoder) -> None:
    store = lab.store(2)
    lab.imported(store, {"0000": "a house", "0001": "a tree"})
    embed_captions(store, encoder=encoder)
    table = store.feature_table("toy-a/caption/pooled")
    keys = table.read(["image_sha256"])["image_sha256"].to_pylist()
    table.delete("image_sha256", keys[:1])
    assert embed_captions(store, encoder=encoder).embedded == 1
    assert table.rows == store.feature_table("toy-a/caption/joint").rows == 2


def test_long_captions_are_pooled_over_sentences(lab: Lab, encoder: ToyEncoder) -> None:
    store = lab.store(2)
    lab.imported(store, {"0000": LONG, "0001": "a tree"})
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


def test_captions_that_say_nothing_are_left_out(lab: Lab, encoder: ToyEncoder) -> None:
    store = lab.store(3)
    lab.imported(store, {"0000": "I cannot assist with that.", "0001": "a tree", "0002": "..."})
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


def test_another_encoder_and_other_captions_are_refused(lab: Lab, encoder: ToyEncoder) -> None:
    store = lab.store(2)
    lab.imported(store, {"0000": "a house"})
    embed_captions(store, encoder=encoder)
    lab.imported(store, {"0000": "a house", "0001": "a tree"}, "more")
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
    lab.imported(store, {i: f"a {'house' if n % 2 else 'tree'} number{n}" for n, i in enumerate(ids)})
    lab.imported(store, {i: f"the picture {n}" for n, i in enumerate(ids)}, "plain")
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


def test_captions_are_searched_by_words(lab: Lab, encoder: ToyEncoder) -> None:
    store = lab.store(3)
    lab.imported(store, {"0000": "a house", "0001": "some tree", "0002": "red car"})
    embed_captions(store, encoder=encoder)
    for output in ("joint", "pooled"):
        feature = f"toy-a/caption/{output}"
        assert search(store, text="red car", feature=feature, encoder=encoder, k=1).hits[0].item_id in (
            "0002",
            "copy",
        )
        assert load_checked(store.feature_table(feature).spec, encoder) is encoder
    build_index(store, "toy-a/caption/joint")


# Long captions


def words(texts: Sequence[str]) -> np.ndarray:
    """Tokens as CLIP counts them: one a word, and two around."""
    return np.array([len(text.split()) + 2 for text in texts])


def characters(texts: Sequence[str]) -> np.ndarray:
    return np.array([len(text) + 2 for text in texts])


def test_sentences() -> None:
    assert split_sentences('He says "Stop!" and goes. Then? "No." (End.) ok') == [
        'He says "Stop!"',
        "and goes.",
        "Then?",
        '"No."',
        "(End.)",
        "ok",
    ]
    assert split_sentences("- one\n- two\n\nthree") == ["- one", "- two", "three"]
    assert split_sentences("洪水です。道路が冠水。") == ["洪水です。", "道路が冠水。"]
    assert split_sentences("U.S. roads at 3.5 m") == ["U.S.", "roads at 3.5 m"]
    assert split_sentences(" \n ") == []


def test_blanks_take_linear_time() -> None:
    for blank in (" ", "\t", "\n", ".", '. "', "\u2003"):
        text = "one" + blank * 300_000 + "two"  # quadratic: hours
        assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


@given(st.text(max_size=300))
@settings(deadline=None, max_examples=100)
def test_nothing_but_space_is_lost(text: str) -> None:
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


@given(st.text(st.sampled_from("ab .!?\n"), max_size=400), st.integers(4, 30))
@settings(deadline=None, max_examples=100)
def test_pieces_fit_and_keep_everything(text: str, limit: int) -> None:
    for count in (words, characters):
        pieces = pack(text, limit, count)
        assert all(count([piece])[0] <= limit for piece in pieces)
        assert "".join("".join(pieces).split()) == "".join(text.split())


def test_what_fits_stays_whole_and_neighbours_share_a_piece() -> None:
    assert pack("One two. Three.", 10, words) == ["One two. Three."]
    assert pack("One two. Three four. Five six.", 6, words) == ["One two. Three four.", "Five six."]
    assert (
        pack("a b c d e f g", 5, words) == ["a b c", "d e f", "g"]
        or len(pack("a b c d e f g", 5, words)) <= 4
    )
    assert pack("", 5, words) == []


def test_a_word_longer_than_the_context_is_cut_in_characters() -> None:
    pieces = pack("x" * 100, 12, characters)
    assert "".join(pieces).replace(" ", "") == "x" * 100
    assert max(map(len, pieces)) <= 10


# Structured captions as numbers

NUMBERS = "fields/caption-fields/numbers"


def answer(question: Question) -> str:
    """Damage, people and objects by the picture; every fourth answer breaks the schema."""
    n = int(question.sha[:8], 16)
    if n % 4 == 0:
        return "{I see a street."
    return json.dumps(
        {
            "caption": f"Scene {n % 10}.",
            "objects": ["Car ", "tree"] if n % 2 else ["House", "car"],
            "damage": DAMAGE[n % 3],
            "people": n % 5,
            "visible_text": "STOP HERE" if n % 2 else "",
            "sentiment": SENTIMENT[n % 3],
        }
    )


def caption(lab: Lab, store: Store, **options: Any) -> None:
    lab.server.answers = answer
    prompt = Prompt.of("Look.", None, structured=True)
    lab.caption(store, prompt=prompt, **options)


def row(**columns: object) -> dict[str, object]:
    empty = dict.fromkeys(("objects", "damage", "people", "visible_text", "sentiment"))
    return {**empty, **columns}


def test_each_number_is_what_its_name_says() -> None:
    vocabulary = ["car", "house"]
    told = row(
        objects=["Cars", "CAR", "car", " "],
        damage="mild",
        people=3,
        visible_text="go  home",
        sentiment="negative",
    )
    X = fields_of([told, row(), row(people=0, damage="none", sentiment="positive", objects=[])], vocabulary)
    names = field_names(vocabulary)
    assert X.shape == (3, len(names))
    first, unknown, nobody = ({n: v for n, v in zip(names, x.tolist(), strict=True) if v} for x in X)
    assert first == pytest.approx(
        {
            "damage=mild": 1,
            "sentiment=negative": 1,
            "people>0": 1,
            "log(1+people)": np.log(4),
            "visible_text": 1,
            "log(1+words of visible_text)": np.log(3),
            "log(1+objects)": np.log(3),
            "object=car": 1,
        }
    )
    assert unknown == {"damage=unknown": 1, "sentiment=unknown": 1, "people=unknown": 1}
    assert nobody == {"damage=none": 1, "sentiment=positive": 1}


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "objects": st.none()
                | st.lists(st.sampled_from(["car", "Car", "tree", "", "ﬁre"]), max_size=6),
                "damage": st.none() | st.sampled_from(DAMAGE),
                "people": st.none() | st.integers(0, 1_000_000),
                "visible_text": st.none() | st.text(max_size=20),
                "sentiment": st.none() | st.sampled_from(SENTIMENT),
            }
        ),
        min_size=1,
        max_size=8,
    )
)
@settings(deadline=None, max_examples=60)
def test_numbers_are_finite_and_depend_on_their_row_alone(rows: list[dict[str, object]]) -> None:
    vocabulary = vocabulary_of(one["objects"] for one in rows)  # type: ignore[misc]
    X = fields_of(rows, vocabulary)
    assert np.isfinite(X.astype(np.float16)).all()
    assert (X[:, :4].sum(axis=1) == 1).all()
    assert (X[:, 4:8].sum(axis=1) == 1).all()
    np.testing.assert_array_equal(X, np.vstack([fields_of([one], vocabulary) for one in rows]))


def test_the_vocabulary_holds_what_several_captions_name() -> None:
    assert vocabulary_of([["b", "a", "b"], ["a", "b", "c"], None]) == ["a", "b"]
    assert vocabulary_of([["a", "b"], ["b"], ["a", "b"]], most=1) == ["b"]


@pytest.mark.slow
def test_heads_and_sql_see_the_same(lab: Lab, encoder: ToyEncoder, tmp_path: Path) -> None:
    store = lab.store(40)
    caption(lab, store)
    report = embed_captions(store, encoder=encoder)
    assert report.fields is not None
    assert report.features == ["toy-a/caption/joint", "toy-a/caption/pooled", NUMBERS]
    assert (report.fields.written, report.fields.known, report.fields.objects) == (40, 0, 3)
    assert report.fields.covered == 1.0
    assert verify(store).ok

    told = store.query(
        f'select c.*, n.vector from captions_default c join "{NUMBERS}" n using (image_sha256)'
    ).to_pylist()
    assert len(told) == 40
    assert {one["damage"] for one in told} == {*DAMAGE, None}
    vocabulary = store.feature_table(NUMBERS).spec["provenance"]["objects"]
    assert vocabulary == ["car", "house", "tree"] or vocabulary == ["car", "tree", "house"]
    np.testing.assert_allclose([one["vector"] for one in told], fields_of(told, vocabulary), atol=2e-3)
    severe = field_names(vocabulary).index("damage=severe") + 1  # SQL counts from one
    (count,) = store.query(
        f"select sum(vector[{severe}])::int as n from fields_caption_fields_numbers"
    ).to_pylist()
    assert count["n"] == sum(one["damage"] == "severe" for one in told)

    # A label that the columns tell, and nothing else does.
    by_image = {one["image_sha256"]: one["damage"] or "unknown" for one in told}
    items = store.items.read(["item_id", "image_sha256"]).to_pylist()
    labels = [by_image[item["image_sha256"]] for item in items]
    splits = ["train", "train", "dev", "test"] * len(items)
    rows = {"item_id": [item["item_id"] for item in items], "label": labels, "split": splits[: len(items)]}
    store.items.upsert(pa.table(rows), key="item_id")
    assert parse_inputs("caption,caption-fields", store) == {
        "caption": "toy-a/caption/pooled",
        "caption-fields": NUMBERS,
    }
    assert len(load_samples(store, {"f": NUMBERS}, label="label").ids) == len(items)
    for head, options in (("logreg", ()), ("lightgbm", ("-p", "min_data=1"))):
        result = CliRunner().invoke(
            app,
            ["train", head, "-s", str(store.path), "--inputs", "caption-fields", "--no-report", *options],
        )
        assert result.exit_code == 0, result.output
        run = Run.load(store, "latest")
        assert run.features == {"caption-fields": NUMBERS}
        assert run.metrics["test"]["accuracy"]["value"] > 0.9
        assert predict(store, run).table.num_rows == len(items)
        with pytest.raises(HeadError, match="takes captions"):
            predict(store, run, [tmp_path / "pictures"], encoder=encoder)


def test_only_what_is_new_is_written_and_the_vocabulary_stays(lab: Lab, encoder: ToyEncoder) -> None:
    store = lab.store(12)
    caption(lab, store, limit=6)
    embed_captions(store, encoder=encoder)
    before = store.feature_table(NUMBERS).spec
    kept = store.features(NUMBERS).X.copy()
    caption(lab, store)
    report = embed_captions(store, encoder=encoder).fields
    assert report is not None
    assert (report.written, report.known) == (6, 6)
    assert store.feature_table(NUMBERS).spec["provenance"] == before["provenance"]
    np.testing.assert_array_equal(store.features(NUMBERS).X[: len(kept)], kept)
    again = write_fields(store, captions_of(store))
    assert again is not None
    assert (again.written, again.known) == (0, 12)
    # Under another name the objects are chosen afresh, and the two do not mix.
    other = write_fields(store, captions_of(store), name="later")
    assert other is not None
    assert other.feature == "later/caption-fields/numbers"
    assert (other.written, other.known) == (12, 0)


def test_numbers_of_other_captions_or_objects_are_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    store = lab.store(8)
    caption(lab, store)
    write_fields(store, captions_of(store))
    first = store.feature_table(NUMBERS).spec["fingerprint"]
    monkeypatch.setattr("icehouse.embed.captions.features.vocabulary_of", lambda _: ["sea"])
    write_fields(store, captions_of(store), name="other")
    assert store.feature_table("other/caption-fields/numbers").spec["fingerprint"] != first
    monkeypatch.setattr("icehouse.embed.captions.features.VERSION", "fields-v0")
    with pytest.raises(SpaceError, match="version"):
        write_fields(store, captions_of(store))


def test_pairs_of_picture_and_text_are_kept_by_item(
    lab: Lab, server: OllamaServer, encoder: ToyEncoder
) -> None:
    store = lab.store(4, texts=["calm", "help", "water", "fire", "wind"])
    server.answers = answer
    prompt = Prompt.of("Look. {text}", None, with_text=True, structured=True)
    lab.caption(store, prompt=prompt, name="post")
    report = embed_captions(store, "post", encoder=encoder).fields
    assert report is not None
    assert report.feature == "fields/caption-post-fields/numbers"
    features = store.features(report.feature)
    assert features.ids.tolist() == ["0000", "0001", "0002", "0003", "copy"]
    assert features.spec["key"] == "item_id"
    assert verify(store).ok


def test_no_encoder_is_taken_for_their_maker(
    lab: Lab, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "available", dict)
    store = lab.store(6)
    caption(lab, store)
    embed_captions(store, encoder=encoder)
    assert choose_encoder("auto", store, [], device="cpu", precision="auto").id == "toy:a"
    with pytest.raises(EncoderError, match="fields"):
        search(store, text="car", feature=NUMBERS)


def test_plain_captions_have_no_columns(lab: Lab, encoder: ToyEncoder) -> None:
    store = lab.store(3)
    lab.caption(store)
    assert embed_captions(store, encoder=encoder).fields is None
    assert not [name for name in store.feature_names() if "fields" in name]
