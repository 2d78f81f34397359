"""The main job from sources to features, with a toy model and everything else real."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from icehouse.data.images import decode
from icehouse.data.manifest import SourceOptions
from icehouse.embed import pipeline as commit
from icehouse.embed.pipeline import embed_sources
from icehouse.errors import SpaceError, UsageError
from icehouse.store.store import Store
from PIL import Image
from toys import ToyEncoder, make_pictures, picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    make_pictures(tmp_path / "photos", 20)
    return tmp_path / "photos"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def count(store: Path, sql: str) -> int:
    return Store.open(store).query(f"select count(*) as n from {sql}")["n"][0].as_py()


def test_a_folder_becomes_features(photos: Path, store: Path) -> None:
    encoder = ToyEncoder()
    report = embed_sources([photos], store, encoder=encoder, dtype="float32")
    assert (report.items, report.new, report.images, report.failed) == (20, 20, 20, 0)
    opened = Store.open(store)
    assert opened.feature_names() == ["toy-a/image/joint", "toy-a/image/pooled"]
    features = opened.features("toy-a/image/pooled")
    assert list(features.ids) == [f"{i:04d}.png" for i in range(20)]
    for i in (0, 7, 19):
        pixels = encoder.prepare_image(decode((photos / f"{i:04d}.png").read_bytes()).image)[None]
        np.testing.assert_array_equal(features.X[i], encoder.encode_images(pixels, ["pooled"])["pooled"][0])


def test_items_hold_what_is_known_of_the_file(photos: Path, store: Path) -> None:
    embed_sources([photos], store, encoder=ToyEncoder())
    row = Store.open(store).query("select * from items where item_id = '0003.png'").to_pylist()[0]
    whole = decode((photos / "0003.png").read_bytes(), hashed=True)
    assert (row["width"], row["height"], row["format"], row["phash"]) == (64, 48, "PNG", whole.phash)
    assert row["bytes"] == (photos / "0003.png").stat().st_size
    assert (row["path"], row["root"], row["missing"]) == ("0003.png", str(photos.resolve()), False)


def test_second_run_does_nothing(photos: Path, store: Path) -> None:
    embed_sources([photos], store, encoder=ToyEncoder())
    before = Store.open(store).items.snapshot().version
    again = ToyEncoder()
    report = embed_sources([photos], store, encoder=again)
    assert (report.unchanged, report.new, report.changed, report.images) == (20, 0, 0, 0)
    assert again.batches == []
    assert Store.open(store).items.snapshot().version == before


def test_only_what_is_new_or_changed_is_encoded(photos: Path, store: Path) -> None:
    embed_sources([photos], store, encoder=ToyEncoder())
    picture(999).save(photos / "new.png")
    picture(998).save(photos / "0004.png")
    shutil.copy(photos / "0001.png", photos / "copy.png")
    os.utime(photos / "0002.png", ns=(1, 1))
    (photos / "0005.png").rename(photos / "renamed.png")
    report = embed_sources([photos], store, encoder=ToyEncoder())
    assert report.images == 2, "the copy, the touched and the renamed file have their features already"
    assert (report.new, report.changed, report.moved, report.vanished) == (2, 3, 1, 0)
    opened = Store.open(store)
    assert count(store, "items where missing") == 0
    by_id = dict(zip(*(lambda f: (f.ids, f.X))(opened.features("toy-a/image/pooled")), strict=True))
    np.testing.assert_array_equal(by_id["copy.png"], by_id["0001.png"])
    before = ToyEncoder().prepare_image(decode((photos / "renamed.png").read_bytes()).image)[None]
    renamed = ToyEncoder().encode_images(before, ["pooled"])["pooled"][0]
    np.testing.assert_allclose(by_id["renamed.png"], renamed, atol=1e-3)
    assert "0005.png" not in by_id
    changed = ToyEncoder().prepare_image(picture(998))[None]
    expected = ToyEncoder().encode_images(changed, ["pooled"])["pooled"][0]
    np.testing.assert_allclose(by_id["0004.png"], expected, atol=1e-3)


def test_a_vanished_file_that_comes_back(photos: Path, store: Path) -> None:
    embed_sources([photos], store, encoder=ToyEncoder())
    (photos / "0000.png").rename(photos.parent / "aside.png")
    assert embed_sources([photos], store, encoder=ToyEncoder()).vanished == 1
    assert embed_sources([photos], store, encoder=ToyEncoder()).vanished == 0
    (photos.parent / "aside.png").rename(photos / "0000.png")
    report = embed_sources([photos], store, encoder=ToyEncoder())
    assert (report.changed, report.images) == (1, 0)
    assert count(store, "items where missing") == 0


def test_one_bad_file_costs_only_itself(photos: Path, store: Path) -> None:
    (photos / "0003.png").write_bytes((photos / "0003.png").read_bytes()[:200])
    (photos / "0009.png").write_bytes(b"")
    (photos / "0010.png").write_text("<html>gone</html>")
    (photos / "broken.png").symlink_to("nowhere.png")
    report = embed_sources([photos], store, encoder=ToyEncoder())
    assert (report.images, report.failed) == (17, 4)
    rows = Store.open(store).failures.snapshot().read().to_pylist()
    assert {(row["item_id"], row["stage"]) for row in rows} == {
        ("0003.png", "decode"),
        ("0009.png", "decode"),
        ("0010.png", "decode"),
        ("broken.png", "read"),
    }
    assert all(row["message"] and "\n" not in row["message"] for row in rows)


def test_known_failures_are_left_alone_until_asked_or_changed(photos: Path, store: Path) -> None:
    (photos / "0003.png").write_bytes(b"not an image")
    (photos / "0004.png").write_bytes(b"not an image either")
    embed_sources([photos], store, encoder=ToyEncoder())
    report = embed_sources([photos], store, encoder=ToyEncoder())
    assert (report.failed, report.known_failures) == (0, 2)
    report = embed_sources([photos], store, encoder=ToyEncoder(), retry_failures=True)
    assert (report.failed, report.known_failures) == (2, 0)
    assert count(store, "failures") == 2, "a retried failure replaces its earlier row"
    picture(500).save(photos / "0003.png")
    report = embed_sources([photos], store, encoder=ToyEncoder())
    assert (report.images, report.failed, report.known_failures) == (1, 0, 1)
    assert count(store, "failures") == 1


def test_a_batch_that_fails_costs_only_the_guilty(photos: Path, store: Path) -> None:
    Image.new("RGB", (40, 40), (13, 0, 0)).save(photos / "0006.png")
    report = embed_sources([photos], store, encoder=ToyEncoder(poison=13))
    assert (report.images, report.failed) == (19, 1)
    row = Store.open(store).failures.snapshot().read().to_pylist()[0]
    assert (row["item_id"], row["stage"], row["message"]) == ("0006.png", "encode", "the model choked")
    assert embed_sources([photos], store, encoder=ToyEncoder(poison=13)).known_failures == 1


def test_images_and_texts_of_a_table(photos: Path, store: Path, tmp_path: Path) -> None:
    table = photos / "posts.csv"
    table.write_text(
        "id,image,text,label,split\n"
        "a,0000.png,help is needed,need,train\n"
        "b,0001.png,,other,train\n"
        "c,,only words here,other,dev\n"
        "d,gone.png,words without their picture,need,test\n"
    )
    encoder = ToyEncoder()
    report = embed_sources([table], store, encoder=encoder, dtype="float32")
    assert (report.items, report.images, report.texts, report.failed) == (4, 2, 3, 1)
    opened = Store.open(store)
    train = opened.features("toy-a/image/pooled", split="train", label="label")
    assert (list(train.ids), list(train.y)) == (["a", "b"], ["need", "other"])
    texts = opened.features("toy-a/text/pooled")
    assert list(texts.ids) == ["a", "c", "d"]
    expected = encoder.encode_texts(["only words here"], ["pooled"])["pooled"][0]
    np.testing.assert_array_equal(texts.X[1], expected)


def test_changed_labels_cost_no_encoding_and_are_told(photos: Path, store: Path) -> None:
    table = photos / "posts.csv"
    table.write_text("id,image,label\na,0000.png,need\nb,0001.png,other\n")
    embed_sources([table], store, encoder=ToyEncoder())
    table.write_text("id,image,label\na,0000.png,other\nb,0001.png,other\n")
    report = embed_sources([table], store, encoder=ToyEncoder())
    assert (report.changed, report.unchanged, report.images) == (1, 1, 0)
    assert report.columns_changed == {"label": 1}
    assert list(Store.open(store).features("toy-a/image/pooled", label="label").y) == ["other", "other"]


def test_columns_a_source_lacks_are_left_alone(photos: Path, store: Path) -> None:
    table = photos / "posts.csv"
    table.write_text("id,image,label,split\n0000.png,0000.png,need,train\n")
    embed_sources([table], store, encoder=ToyEncoder())
    embed_sources([photos], store, encoder=ToyEncoder())
    row = Store.open(store).query("select * from items where item_id = '0000.png'").to_pylist()[0]
    assert (row["label"], row["split"]) == ("need", "train")


def test_content_that_changed_with_size_and_time_kept(photos: Path, store: Path) -> None:
    Image.new("RGB", (8, 8), (1, 2, 3)).save(photos / "0000.bmp")
    (photos / "bad.jpg").write_bytes(b"x" * (photos / "0001.png").stat().st_size)
    embed_sources([photos], store, encoder=ToyEncoder())
    for name, data in {"0000.bmp": None, "bad.jpg": (photos / "0001.png").read_bytes()}.items():
        before = (photos / name).stat()
        if data is None:
            Image.new("RGB", (8, 8), (9, 2, 3)).save(photos / name)
        else:
            (photos / name).write_bytes(data)
        os.utime(photos / name, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (photos / name).stat().st_size == before.st_size
    assert embed_sources([photos], store, encoder=ToyEncoder()).changed == 0
    report = embed_sources([photos], store, encoder=ToyEncoder(), check_content=True)
    assert (report.changed, report.unchanged, report.images, report.failed) == (2, 20, 1, 0)
    assert "21 files compared by their bytes: 1 had changed with size and time kept" in report.notes
    row = Store.open(store).query("select image_sha256 from items where item_id = '0000.bmp'").to_pylist()[0]
    assert row["image_sha256"] == hashlib.sha256((photos / "0000.bmp").read_bytes()).hexdigest()
    assert count(store, "failures") == 0
    assert embed_sources([photos], store, encoder=ToyEncoder(), check_content=True).changed == 0


def test_another_file_of_the_same_size_and_time_is_read(store: Path, tmp_path: Path) -> None:
    """Unpacked bitmaps of one size differ in neither; their content tells them apart."""
    for folder, red in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8), (red, 0, 0)).save(tmp_path / folder / "1.bmp")
        os.utime(tmp_path / folder / "1.bmp", (0, 0))
    table = tmp_path / "posts.csv"
    table.write_text("id,image\n7,a/1.bmp\n")
    embed_sources([table], store, encoder=ToyEncoder())
    report = embed_sources([tmp_path / "b"], store, encoder=ToyEncoder())
    assert report.new == 1
    assert embed_sources([tmp_path / "a"], store, encoder=ToyEncoder()).rejected == 1, "the id 1.bmp is taken"
    (tmp_path / "a" / "1.bmp").unlink()
    table.write_text("id,image\n7,b/1.bmp\n")
    assert embed_sources([table], store, encoder=ToyEncoder()).changed == 1
    rows = Store.open(store).query("select distinct image_sha256 from items")["image_sha256"].to_pylist()
    assert rows == [hashlib.sha256((tmp_path / "b" / "1.bmp").read_bytes()).hexdigest()]


def test_refused_rows_replace_nothing(store: Path, tmp_path: Path) -> None:
    """Two files of one name in two folders: the second is refused, and the advice in the message works."""
    for place, folder in enumerate(("one", "two")):
        make_pictures(tmp_path / folder, 1 + place)
        (tmp_path / folder / "0000.png").write_bytes(
            (tmp_path / folder / "0000.png").read_bytes() + b"x" * place
        )
        (tmp_path / folder / "posts.csv").write_text(f"image,label,split\n0000.png,{folder},{folder}\n")
    embed_sources([tmp_path / "one" / "posts.csv"], store, encoder=ToyEncoder())
    report = embed_sources([tmp_path / "two" / "posts.csv"], store, encoder=ToyEncoder())
    assert (report.rejected, report.new, report.changed) == (1, 0, 0)
    assert report.columns_changed == {}
    (message,) = Store.open(store).query("select message from failures")["message"].to_pylist()
    assert message.endswith(f"; --root {tmp_path.as_posix()} tells them apart, or use another store")
    report = embed_sources(
        [tmp_path / "two" / "posts.csv"], store, encoder=ToyEncoder(), options=SourceOptions(root=tmp_path)
    )
    assert (report.rejected, report.new, report.failed) == (0, 1, 0)
    rows = Store.open(store).query("select item_id, label from items order by item_id").to_pylist()
    assert rows == [{"item_id": "0000.png", "label": "one"}, {"item_id": "two/0000.png", "label": "two"}]


def test_a_source_without_a_column_leaves_it_alone_beside_one_that_has_it(
    store: Path, tmp_path: Path
) -> None:
    make_pictures(tmp_path / "set", 3)
    table = tmp_path / "set" / "posts.csv"
    table.write_text("image,text,label,split\n0000.png,zero,a,train\n0001.png,one,b,test\n")
    embed_sources([table], store, encoder=ToyEncoder())
    table.write_text("image,text,label,split\n0000.png,zero,a,train\n")
    report = embed_sources([tmp_path / "set", table], store, encoder=ToyEncoder())
    rows = (
        Store.open(store).query("select item_id, text, label, split from items order by item_id").to_pylist()
    )
    assert [tuple(row.values()) for row in rows] == [
        ("0000.png", "zero", "a", "train"),
        ("0001.png", "one", "b", "test"),
        ("0002.png", None, None, None),
    ]
    (tmp_path / "set" / "metadata.csv").write_text("file_name,text\n0002.png,two\n")
    report = embed_sources([tmp_path / "set"], store, encoder=ToyEncoder())
    rows = Store.open(store).query("select text from items order by item_id").to_pylist()
    assert [row["text"] for row in rows] == ["zero", "one", "two"]
    assert report.columns_changed == {}


def test_splits_from_folder_names_replace_none(store: Path, tmp_path: Path) -> None:
    make_pictures(tmp_path / "set" / "train", 2)
    make_pictures(tmp_path / "set" / "val", 1)
    report = embed_sources([tmp_path / "set"], store, encoder=ToyEncoder())
    assert count(store, "items where split = 'train'") == 2
    assert count(store, "items where split = 'dev'") == 1
    opened = Store.open(store)
    mine = pa.table({"item_id": ["train/0000.png"], "split": ["test"]})
    opened.items.upsert(mine, key="item_id")
    report = embed_sources([tmp_path / "set"], store, encoder=ToyEncoder())
    assert (report.unchanged, report.columns_changed) == (3, {})
    assert count(store, "items where item_id = 'train/0000.png' and split = 'test'") == 1


def test_a_missing_picture_is_explained(photos: Path, store: Path) -> None:
    shutil.copy(photos / "0000.png", photos / "0000.webp")
    table = photos / "posts.csv"
    table.write_text("id,image,text\na,0000,x\nb,0001.jpg,y\nc,pics/0001.png,z\nd,0002.png,z\n")
    report = embed_sources([table], store, encoder=ToyEncoder())
    assert (report.failed, report.texts) == (3, 3)
    found = (
        Store.open(store)
        .query("select item_id, message from failures order by item_id")["message"]
        .to_pylist()
    )
    assert found == [
        "No such file or directory; 2 files would fit: '0000.png', '0000.webp'",
        "No such file or directory; '0001.png' is there: another suffix",
        f"No such file or directory; there is no folder 'pics' in {photos}",
    ]


def test_cut_texts_are_counted(store: Path, tmp_path: Path) -> None:
    table = tmp_path / "texts.csv"
    table.write_text("id,text\na,short\nb," + "word " * 40 + "\n")
    report = embed_sources([table], store, encoder=ToyEncoder())
    assert (report.texts, report.cut_texts) == (2, 1)
    assert (
        Store.open(store)
        .query('select count(*) as n from "toy-a/text/joint" where truncated')["n"][0]
        .as_py()
        == 1
    )


def test_tokens_on_request(photos: Path, store: Path, tmp_path: Path) -> None:
    embed_sources([photos], store, encoder=ToyEncoder())
    report = embed_sources([photos], store, encoder=ToyEncoder(), tokens=True)
    assert report.images == 20, "the tokens of every image are new"
    opened = Store.open(store)
    assert "toy-a/image/tokens" in opened.feature_names()
    assert count(store, '"toy-a/image/joint"') == 20
    assert opened.features("toy-a/image/tokens").X.shape == (20, 4, 3)


def test_limit(photos: Path, store: Path) -> None:
    assert embed_sources([photos], store, encoder=ToyEncoder(), limit=5).images == 5
    assert embed_sources([photos], store, encoder=ToyEncoder()).images == 15


def test_mixed_spaces_are_refused_by_fingerprint(photos: Path, store: Path) -> None:
    """Also where nothing is new."""
    embed_sources([photos], store, encoder=ToyEncoder("a"), name="mine")
    for _ in range(2):
        with pytest.raises(SpaceError, match=r"toy:a.*toy:b|toy:b.*toy:a"):
            embed_sources([photos], store, encoder=ToyEncoder("b"), name="mine")
        picture(999).save(photos / "new.png")
    assert count(store, "items") == 20


def test_another_resize_is_caught_by_the_probe_alone(photos: Path, store: Path) -> None:
    embed_sources([photos], store, encoder=ToyEncoder())
    picture(999).save(photos / "new.png")
    with pytest.raises(SpaceError, match="probe"):
        embed_sources([photos], store, encoder=ToyEncoder(resample=Image.Resampling.NEAREST))
    assert count(store, '"toy-a/image/joint"') == 20


def test_the_probe_needs_no_files(photos: Path, store: Path, tmp_path: Path) -> None:
    embed_sources([photos], store, encoder=ToyEncoder())
    shutil.rmtree(photos)
    make_pictures(tmp_path / "others", 3, seed=9)
    with pytest.raises(SpaceError, match="probe"):
        embed_sources([tmp_path / "others"], store, encoder=ToyEncoder(resample=Image.Resampling.NEAREST))
    assert embed_sources([tmp_path / "others"], store, encoder=ToyEncoder()).images == 3


def test_other_cleaning_or_precision_is_refused(store: Path, tmp_path: Path) -> None:
    table = tmp_path / "texts.csv"
    table.write_text("id,text\na,some words\n")
    embed_sources([table], store, encoder=ToyEncoder(), cleaning="none")
    with pytest.raises(SpaceError, match="none"):
        embed_sources([table], store, encoder=ToyEncoder(), cleaning="social-v1")
    with pytest.raises(UsageError, match="float16"):
        embed_sources([table], store, encoder=ToyEncoder(), dtype="float32")
    with pytest.raises(UsageError, match="social-v1"):
        embed_sources([table], store, encoder=ToyEncoder(), cleaning="socail-v1")


def test_results_do_not_depend_on_workers(photos: Path, tmp_path: Path) -> None:
    stores = []
    for workers in (1, 7):
        embed_sources([photos], tmp_path / f"store{workers}", encoder=ToyEncoder(), workers=workers)
        stores.append(Store.open(tmp_path / f"store{workers}").features("toy-a/image/joint"))
    assert list(stores[0].ids) == list(stores[1].ids)
    np.testing.assert_array_equal(stores[0].X, stores[1].X)


def test_report_is_json(photos: Path, store: Path) -> None:
    report = embed_sources([photos], store, encoder=ToyEncoder())
    assert {stage["stage"] for stage in report.stages} == {"read", "decode", "encode image", "write"}
    assert json.loads(json.dumps(report.as_dict()))["images"] == 20


def test_an_interrupted_run_keeps_what_it_has(
    photos: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = ToyEncoder(batch_size=4)
    plain = encoder.encode_images

    def interrupted(pixels, outputs):
        if len(encoder.batches) > 2:
            raise KeyboardInterrupt
        return plain(pixels, outputs)

    monkeypatch.setattr(encoder, "encode_images", interrupted)
    monkeypatch.setattr("icehouse.embed.pipeline._shortest", lambda *_: None)
    monkeypatch.setattr(
        "icehouse.embed.tables.make_probe", lambda e, m, own, outputs: {o: {} for o in outputs}
    )
    with pytest.raises(KeyboardInterrupt):
        embed_sources([photos], store, encoder=encoder)
    assert count(store, '"toy-a/image/joint"') == 12
    assert embed_sources([photos], store, encoder=ToyEncoder()).images == 8


def test_commits_happen_while_the_run_goes_on(
    photos: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "ROWS", 8)
    embed_sources([photos], store, encoder=ToyEncoder(batch_size=4))
    snapshot = Store.open(store).feature_table("toy-a/image/joint").snapshot()
    assert len(snapshot.parts) > 1
    assert snapshot.rows == 20


def test_a_named_pipe_does_not_hang(photos: Path, store: Path) -> None:
    os.mkfifo(photos / "pipe.png")
    report = embed_sources([photos], store, encoder=ToyEncoder())
    assert (report.images, report.failed) == (20, 1)


def test_two_folders_do_not_overwrite_each_others_items(photos: Path, store: Path, tmp_path: Path) -> None:
    embed_sources([photos], store, encoder=ToyEncoder())
    make_pictures(tmp_path / "others", 3, seed=5, width=80)
    report = embed_sources([tmp_path / "others"], store, encoder=ToyEncoder())
    assert (report.rejected, report.failed, report.images) == (3, 3, 0)
    assert count(store, "items") == 20
    assert set(Store.open(store).query("select distinct root from items")["root"].to_pylist()) == {
        str(photos.resolve())
    }
    message = Store.open(store).query("select message from failures limit 1")["message"][0].as_py()
    assert "--root" in message
    assert embed_sources([tmp_path / "others"], store, encoder=ToyEncoder()).failed == 0, "told once"


def test_a_moved_folder_keeps_its_items(photos: Path, store: Path) -> None:
    embed_sources([photos], store, encoder=ToyEncoder())
    moved = photos.rename(photos.parent / "moved")
    report = embed_sources([moved], store, encoder=ToyEncoder())
    assert (report.changed, report.images, report.rejected) == (20, 0, 0)
    assert count(store, "items") == 20


def test_numbered_texts_of_two_files_do_not_overwrite_each_other(store: Path, tmp_path: Path) -> None:
    for name, word in (("a", "flood"), ("b", "lunch")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "posts.csv").write_text(f"text\n{word}\n")
    embed_sources([tmp_path / "a" / "posts.csv"], store, encoder=ToyEncoder())
    assert embed_sources([tmp_path / "b" / "posts.csv"], store, encoder=ToyEncoder()).rejected == 1
    assert Store.open(store).query("select text from items")["text"].to_pylist() == ["flood"]
    (tmp_path / "a" / "posts.csv").write_text("text\nfire\n")
    assert embed_sources([tmp_path / "a" / "posts.csv"], store, encoder=ToyEncoder()).changed == 1


def test_one_modality_at_a_time(photos: Path, store: Path) -> None:
    table = photos / "posts.csv"
    table.write_text("id,image,text\na,0000.png,some words\nb,gone.png,other words\n")
    report = embed_sources([table], store, encoder=ToyEncoder(), only="text")
    assert (report.images, report.texts, report.failed) == (0, 2, 0)
    assert embed_sources([table], store, encoder=ToyEncoder(), only="text").unchanged == 2
    report = embed_sources([table], store, encoder=ToyEncoder(), only="image")
    assert (report.images, report.texts, report.failed) == (1, 0, 1)
