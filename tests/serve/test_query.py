"""Questions in words and pictures, answered in the feature's own space or not at all."""

from __future__ import annotations

from pathlib import Path

import icehouse
import numpy as np
import pyarrow as pa
import pytest
from icehouse.data.manifest import SourceOptions
from icehouse.embed.pipeline import choose_encoder, embed_sources
from icehouse.errors import SourceError, SpaceError, UsageError
from icehouse.heads.inputs import load_samples
from icehouse.serve.query import search
from icehouse.store.sql import export
from icehouse.store.store import Store
from PIL import Image
from toys import ToyEncoder, make_pictures


@pytest.fixture
def store(tmp_path: Path) -> Store:
    make_pictures(tmp_path / "photos", 9)
    table = tmp_path / "photos" / "posts.csv"
    rows = [f"p{i},{i:04d}.png,post number{i} of the flood" for i in range(8)]
    table.write_text("\n".join(["id,image,text", *rows, "t,,only words about lunch"]) + "\n")
    embed_sources([table], tmp_path / "store", encoder=ToyEncoder())
    return Store.open(tmp_path / "store")


def test_by_image_finds_itself(store: Store, tmp_path: Path) -> None:
    result = search(store, image=tmp_path / "photos" / "0005.png", encoder=ToyEncoder(), k=3)
    assert result.hits[0].item_id == "p5"
    assert result.hits[0].score == pytest.approx(1, abs=1e-3)
    assert (result.feature, len(result.hits)) == ("toy-a/image/pooled", 3)


def test_an_empty_text_is_no_question(store: Store) -> None:
    for text in ("", " \n"):
        with pytest.raises(UsageError, match="the text is empty"):
            search(store, text=text, encoder=ToyEncoder())


def test_by_text_in_the_texts(store: Store) -> None:
    result = search(store, text="only words about lunch", feature="toy-a/text/joint", encoder=ToyEncoder())
    assert result.hits[0].item_id == "t"
    assert result.hits[0].text == "only words about lunch"


def test_a_question_is_cleaned_as_the_texts_were(store: Store) -> None:
    plain = search(store, text="post number3 of the flood", feature="toy-a/text/joint", encoder=ToyEncoder())
    noisy = search(
        store,
        text="RT @a: post number3 of  the flood https://t.example/x",
        feature="toy-a/text/joint",
        encoder=ToyEncoder(),
    )
    assert [hit.score for hit in noisy.hits] == [hit.score for hit in plain.hits]
    assert plain.hits[0].item_id == "p3"


def test_by_item_without_an_image_searches_the_texts(store: Store) -> None:
    result = search(store, item="t")
    assert result.feature == "toy-a/text/joint"
    assert "t" not in {hit.item_id for hit in result.hits}


def test_scores_are_cosines_of_what_is_stored(store: Store) -> None:
    encoder = ToyEncoder()
    features = store.features("toy-a/image/joint")
    query = encoder.encode_texts(["flood"], ["joint"])["joint"][0]
    cosines = features.X @ query / (np.linalg.norm(features.X, axis=1) * np.linalg.norm(query))
    hits = search(store, text="flood", encoder=encoder, k=100).hits
    assert len(hits) == 8
    for hit in hits:
        assert hit.score == pytest.approx(cosines[list(features.ids).index(hit.item_id)], abs=1e-5)


def test_another_encoder_is_refused(store: Store) -> None:
    with pytest.raises(SpaceError, match="toy:b"):
        search(store, text="flood", encoder=ToyEncoder("b"))


def test_another_resize_is_refused_by_the_probe(store: Store, tmp_path: Path) -> None:
    changed = ToyEncoder(resample=Image.Resampling.NEAREST)
    with pytest.raises(SpaceError, match="probe"):
        search(store, image=tmp_path / "photos" / "0005.png", encoder=changed)


def test_what_cannot_be_asked(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one question"):
        search(store)
    with pytest.raises(UsageError, match="joint"):
        search(store, text="x", feature="toy-a/image/pooled", encoder=ToyEncoder())
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    with pytest.raises(SourceError, match=r"bad\.jpg"):
        search(store, image=tmp_path / "bad.jpg", encoder=ToyEncoder())


def test_the_package_offers_it(store: Store) -> None:
    assert icehouse.search(store.path, item="p1", k=2).hits[0].rank == 1


def test_words_stay_in_the_joint_space_and_pictures_in_pooled(store: Store, tmp_path: Path) -> None:
    encoder = ToyEncoder()
    assert search(store, text="flood", encoder=encoder).feature == "toy-a/image/joint"
    assert search(store, item="p1").feature == "toy-a/image/pooled"
    photo = tmp_path / "photos" / "0001.png"
    (tmp_path / "more.csv").write_text("id,text\nx,some other words\n")
    embed_sources([tmp_path / "more.csv"], store, encoder=ToyEncoder("b"))  # of texts alone
    assert search(store, text="flood", encoder=encoder).feature == "toy-a/image/joint"
    assert search(store, image=photo, encoder=encoder).feature == "toy-a/image/pooled"
    assert search(store, item="p1").feature == "toy-a/image/pooled"
    assert choose_encoder("auto", store, [], device="cpu", precision="auto").id == "toy:a"
    with pytest.raises(UsageError, match=r"toy-a, toy-b; choose with --feature"):
        search(store, item="t")
    embed_sources([photo], store, encoder=ToyEncoder("b"), options=SourceOptions(root=tmp_path))
    with pytest.raises(UsageError, match=r"toy-a, toy-b; choose with --feature, such as toy-a/image/pooled"):
        search(store, item="p1")


def test_vanished_items_are_left_out_and_it_is_said(store: Store, tmp_path: Path) -> None:
    store.items.upsert(pa.table({"item_id": ["p3", "t"], "missing": [True, True]}), key="item_id")
    found = search(store, item="p1", k=20)
    assert {hit.item_id for hit in found.hits} == {"p0", "p2", "p4", "p5", "p6", "p7"}
    assert found.remark is not None
    assert "2 items that have vanished are left out" in found.remark
    marked = search(store, item="p1", k=20, where="missing")
    assert [hit.item_id for hit in marked.hits] == ["p3"]
    assert marked.remark is None
    assert search(store, item="p3", k=1).hits  # it may still be the question
    assert len(search(store, item="p1", k=20, where="text <> 'missing'").hits) == 6
    features = store.features("toy-a/text/pooled")
    assert (len(features), features.left_out) == (7, 2)
    notes: list[str] = []
    export(store, "toy-a/text/pooled", tmp_path / "out.csv", notes=notes)
    assert "p3" not in (tmp_path / "out.csv").read_text()
    assert len(notes) == 1
    samples = load_samples(store, {"image": "toy-a/image/pooled"})
    assert (len(samples), samples.vanished) == (7, 2)
