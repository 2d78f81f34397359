"""Questions in words and pictures, answered in the feature's own space or not at all."""

from __future__ import annotations

from pathlib import Path

import icehouse
import numpy as np
import pytest
from icehouse.embed.pipeline import embed_sources
from icehouse.errors import SourceError, SpaceError, UsageError
from icehouse.serve.query import search
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
    assert (result.feature, len(result.hits)) == ("toy-a/image/joint", 3)


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
