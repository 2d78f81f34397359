"""Items whose files vanish, move, or leave their source: marked, or followed with their labels."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from icehouse.cli import app
from icehouse.data.manifest import SourceOptions
from icehouse.embed.extract import EmbedReport
from icehouse.embed.pipeline import embed_sources
from icehouse.errors import SourceError
from icehouse.store.store import Store
from icehouse.store.table import Table
from toys import ToyEncoder, picture
from typer.testing import CliRunner


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tmp_path / "photos"


def take(folder: Path, *names: str, motif: str = "") -> None:
    """Take photos, of a motif or each of its own, by its file's name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(ord(motif or path.stem)).save(path)


def embed(store: Path, *sources: Path, **options: Any) -> EmbedReport:
    return embed_sources(sources, store, encoder=ToyEncoder(), options=SourceOptions(**options))


def items(store: Path, columns: str = "item_id, label") -> list[tuple[Any, ...]]:
    rows = Store.open(store).query(f"select {columns} from items where not missing order by item_id")
    return [tuple(row.values()) for row in rows.to_pylist()]


def missing(store: Path) -> list[str]:
    found = Store.open(store).query("select item_id from items where missing order by item_id")
    return list(found["item_id"].to_pylist())


def label(store: Path, labels: dict[str, str]) -> None:
    rows = pa.table({"item_id": list(labels), "label": list(labels.values())})
    Store.open(store).items.upsert(rows, key="item_id")


def test_a_renamed_folder_takes_its_items_along(photos: Path, store: Path) -> None:
    take(photos, *(f"old/{k}.png" for k in range(4)))
    embed(store, photos)
    label(store, {f"old/{k}.png": "ab"[k % 2] for k in range(4)})
    added = items(store, "added")
    (photos / "old").rename(photos / "new")
    take(photos, "new/4.png")
    report = embed(store, photos)
    assert (report.new, report.changed, report.moved, report.vanished, report.images) == (1, 4, 4, 0, 1)
    assert items(store) == [(f"new/{k}.png", "ab"[k % 2]) for k in range(4)] + [("new/4.png", None)]
    assert items(store, "added")[:4] == added
    assert missing(store) == []
    again = embed(store, photos)
    assert (again.unchanged, again.moved) == (5, 0)


def test_under_another_root(tmp_path: Path, store: Path) -> None:
    take(tmp_path, "a/x.png", "a/y.png")
    embed(store, tmp_path / "a")
    label(store, {"x.png": "kept"})
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x.png").rename(tmp_path / "b" / "z.png")
    report = embed(store, tmp_path / "b")  # of the other root nothing was asked
    assert (report.moved, report.vanished) == (1, 0)
    assert items(store, "item_id, label, root") == [
        ("y.png", None, str(tmp_path / "a")),
        ("z.png", "kept", str(tmp_path / "b")),
    ]


def test_two_copies_moved_at_once_are_told_by_their_names(photos: Path, store: Path) -> None:
    take(photos, "one/a.png", "one/b.png", "two/a.png", motif="x")
    embed(store, photos)
    label(store, {"one/a.png": "1a", "one/b.png": "1b", "two/a.png": "2a"})
    (photos / "zone").mkdir()
    (photos / "one").rename(photos / "zone" / "one")
    (photos / "two").rename(photos / "aside")
    (photos / "aside" / "a.png").rename(photos / "aside" / "q.png")
    shutil.copy(photos / "zone" / "one" / "a.png", photos / "zzz.png")
    report = embed(store, photos)
    assert (report.new, report.moved) == (1, 3)
    assert items(store) == [
        ("aside/q.png", "2a"),
        ("zone/one/a.png", "1a"),
        ("zone/one/b.png", "1b"),
        ("zzz.png", None),
    ]


def test_moved_and_changed_is_another_picture(photos: Path, store: Path) -> None:
    take(photos, "a.png", "b.png")
    embed(store, photos)
    label(store, {"a.png": "one"})
    (photos / "a.png").unlink()
    take(photos, "c.png")
    report = embed(store, photos)
    assert (report.new, report.moved, report.vanished) == (1, 0, 1)
    assert items(store) == [("b.png", None), ("c.png", None)]
    assert missing(store) == ["a.png"]


def test_a_taken_id_keeps_its_labels_and_it_is_said(photos: Path, store: Path) -> None:
    take(photos, "a.png", "b.png")
    embed(store, photos)
    label(store, {"a.png": "one", "b.png": "two"})
    (photos / "a.png").replace(photos / "b.png")
    report = embed(store, photos)
    assert (report.changed, report.moved, report.vanished) == (1, 0, 1)
    assert items(store) == [("b.png", "two")]
    assert any(
        "1 known item holds the picture of another item now" in note and "b.png" in note
        for note in report.notes
    )


def test_a_copy_that_stays_is_no_move(photos: Path, store: Path) -> None:
    take(photos, "a.png")
    embed(store, photos)
    shutil.copy(photos / "a.png", photos / "b.png")
    assert embed(store, photos).moved == 0
    (photos / "a.png").unlink()  # b was there before
    report = embed(store, photos)
    assert (report.moved, report.vanished) == (0, 1)
    assert [row[0] for row in items(store, "item_id")] == ["b.png"]


def test_a_move_seen_in_two_runs(tmp_path: Path, photos: Path, store: Path) -> None:
    take(photos, "a.png", "b.png")
    embed(store, photos)
    label(store, {"a.png": "one"})
    (photos / "a.png").rename(tmp_path / "a.png")
    assert embed(store, photos).vanished == 1
    (tmp_path / "a.png").rename(photos / "c.png")
    assert embed(store, photos).moved == 1
    assert items(store) == [("b.png", None), ("c.png", "one")]
    assert missing(store) == []


def test_an_id_of_ones_own_stays(tmp_path: Path, store: Path) -> None:
    take(tmp_path, "images/1.png")
    posts = tmp_path / "posts.csv"
    posts.write_text("id,image,text,label\np1,images/1.png,some words,x\n")
    embed(store, posts)
    (tmp_path / "images").rename(tmp_path / "pictures")
    posts.write_text("id,image,text,label\np1,pictures/1.png,some words,x\n")
    report = embed(store, posts)
    assert (report.changed, report.moved, report.images) == (1, 1, 0)
    assert items(store, "item_id, path, label") == [("p1", "pictures/1.png", "x")]
    # Another source does not take the item from the file that names it.
    (tmp_path / "pictures").rename(tmp_path / "shots")
    assert embed(store, tmp_path / "shots").moved == 0


def test_a_row_taken_out_of_its_source(tmp_path: Path, store: Path) -> None:
    take(tmp_path, "0.png", "1.png", "2.png")
    head, rows = "id,image,text", ["a,0.png,first", "b,1.png,second", "c,,only words", "d,2.png,last"]
    posts = tmp_path / "posts.csv"
    posts.write_text("\n".join([head, *rows]) + "\n")
    embed(store, posts)
    (tmp_path / "other.csv").write_text("id,text\ne,elsewhere\n")
    embed(store, tmp_path / "other.csv")
    posts.write_text("\n".join([head, rows[0], rows[3]]) + "\n")
    report = embed(store, posts)
    assert (report.unchanged, report.vanished) == (2, 2)
    assert missing(store) == ["b", "c"]
    assert embed(store, posts).vanished == 0
    posts.write_text("\n".join([head, *rows]) + "\n")
    assert embed(store, posts).changed == 2
    assert missing(store) == []


def test_a_row_that_cannot_be_taken_is_still_in_its_source(tmp_path: Path, store: Path) -> None:
    posts = tmp_path / "posts.csv"
    posts.write_text("id,text\na,first\nb,second\n")
    embed(store, posts)
    posts.write_text("id,text\na,first\nb,second\nb,third\n")
    assert embed(store, posts).vanished == 0
    posts.write_text("id,text\na,first\nb,second\n")
    assert embed_sources([posts], store, encoder=ToyEncoder(), limit=1).vanished == 0


def test_every_folder_below_what_is_asked_about(tmp_path: Path, photos: Path, store: Path) -> None:
    photos = photos
    take(photos, "trip/0.png", "trip/1.png", "home/2.png")
    embed(store, photos / "trip")
    (photos / "trip" / "1.png").unlink()
    embed(store, photos)
    assert missing(store) == ["1.png"]
    (photos / "trip" / "0.png").unlink()
    (tmp_path / "link").symlink_to(photos)
    embed(store, tmp_path / "link")
    assert missing(store) == ["0.png", "1.png", "trip/0.png"]


def test_an_emptied_folder_is_no_mistake(tmp_path: Path, store: Path) -> None:
    take(tmp_path, "a/0.png", "b/1.png")
    embed(store, tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "0.png").unlink()
    report = embed(store, tmp_path / "a", tmp_path / "b")
    assert (report.unchanged, report.vanished) == (1, 1)
    (tmp_path / "b" / "1.png").unlink()
    assert embed(store, tmp_path / "b").vanished == 1
    assert missing(store) == ["0.png", "1.png"]
    (tmp_path / "c").mkdir()
    with pytest.raises(SourceError, match="no images"):
        embed(store, tmp_path / "c")


def test_a_moved_file_with_a_new_time(photos: Path, store: Path) -> None:
    take(photos, "a.png")
    embed(store, photos)
    label(store, {"a.png": "one"})
    shutil.copyfile(photos / "a.png", photos / "b.png")
    (photos / "a.png").unlink()
    os.utime(photos / "b.png", ns=(5, 5))
    assert embed(store, photos).moved == 1
    assert items(store, "item_id, label, mtime_ns") == [("b.png", "one", 5)]


def test_labels_stay_unless_a_source_tells_others(tmp_path: Path, store: Path) -> None:
    take(tmp_path / "p", "cats/0.png", "cats/1.png", "dogs/2.png", "dogs/3.png")
    embed(store, tmp_path / "p", labels_from_folders=True)
    (tmp_path / "p" / "cats" / "1.png").rename(tmp_path / "p" / "dogs" / "1.png")
    report = embed(store, tmp_path / "p", labels_from_folders=True)
    assert (report.moved, report.columns_changed) == (1, {})
    assert ("dogs/1.png", "cats") in items(store)
    (tmp_path / "p" / "cats" / "0.png").rename(tmp_path / "p" / "dogs" / "0.png")
    report = embed(store, tmp_path / "p", labels_from_folders=True, replace_labels=True)
    assert (report.moved, report.columns_changed["label"]) == (1, 2)
    assert {label for _, label in items(store)} == {"dogs"}
    (tmp_path / "p" / "dogs" / "3.png").rename(tmp_path / "p" / "3.png")
    (tmp_path / "p" / "posts.csv").write_text("image,label\n3.png,wolf\n")
    report = embed(store, tmp_path / "p" / "posts.csv", label_columns=("label",))
    assert (report.moved, report.columns_changed) == (1, {"label": 1})
    assert ("3.png", "wolf") in items(store)


def test_swapped_names_keep_their_labels_and_it_is_said(tmp_path: Path, photos: Path, store: Path) -> None:
    take(photos, *(f"{k}.png" for k in range(4)))
    embed(store, photos)
    label(store, {f"{k}.png": f"L{k}" for k in range(4)})
    (photos / "0.png").rename(tmp_path / "aside")
    (photos / "1.png").rename(photos / "0.png")
    (tmp_path / "aside").rename(photos / "1.png")
    take(photos, "2.png", motif="9")  # no other item's picture
    report = embed(store, photos)
    assert (report.changed, report.moved, report.vanished) == (3, 0, 0)
    assert items(store) == [(f"{k}.png", f"L{k}") for k in range(4)]
    assert any(
        "2 known items hold the picture of another" in n and "(0.png, 1.png)" in n for n in report.notes
    )


def test_a_move_is_one_commit(photos: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(photos, "a/0.png", "a/1.png", "a/2.png")
    embed(store, photos)
    (photos / "a").rename(photos / "b")
    seen: list[list[str]] = []
    commit = Table._commit

    def watched(table: Table, *args: Any, **options: Any) -> Any:
        made = commit(table, *args, **options)
        if table.path.name == "items":
            seen.append(sorted(table.read(["item_id"])["item_id"].to_pylist()))
        return made

    monkeypatch.setattr(Table, "_commit", watched)
    assert embed(store, photos).moved == 3
    assert seen == [["b/0.png", "b/1.png", "b/2.png"]]


def test_a_table_without_rows_has_lost_them(tmp_path: Path, store: Path) -> None:
    take(tmp_path, "a.png")
    table, other = tmp_path / "posts.csv", tmp_path / "others.csv"
    table.write_text("id,image,text,label\na,a.png,one,x\nb,,two,y\n")
    other.write_text("id,text,label\nc,three,x\n")
    embed(store, table, other)
    table.write_text("id,image,text,label\n")
    report = embed(store, table)
    assert (report.items, report.vanished, missing(store)) == (0, 2, ["a", "b"])
    assert any("posts.csv: its rows are all gone" in note for note in report.notes)
    table.write_text("id,image,text,label\na,a.png,one,x\nb,,two,y\n")
    embed(store, table)
    assert missing(store) == []
    table.write_text("id,image,text,label\n")
    assert embed(store, table, other).vanished == 2  # beside one that has rows
    with pytest.raises(SourceError, match="header and no rows"):  # a store that knows nothing of it
        embed(tmp_path / "new", table)


def test_a_source_that_is_not_there_keeps_its_items(tmp_path: Path, photos: Path, store: Path) -> None:
    take(photos, "a.png")
    table = tmp_path / "it's.csv"
    table.write_text("id,text\nc,three\n")
    embed(store, table)
    embed(store, photos)
    shutil.rmtree(photos)
    table.write_text("")
    for source, left in ((photos, ["c"]), (table, [])):
        with pytest.raises(SourceError, match="keeps 1 item of it unchanged") as told:
            embed(store, source)
        assert missing(store) == []
        command = shlex.split(str(told.value).split("`")[1])
        assert CliRunner().invoke(app, [*command[1:], "--yes"]).exit_code == 0
        assert [row[0] for row in items(store, "item_id")] == left
