"""Which files are one: nothing is dropped in favour of itself, of a link to it, or of a file that is not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from galleries import csv_rows
from icehouse.dups.find import find_duplicates
from icehouse.dups.gallery import write_gallery
from icehouse.dups.groups import CHANGED, GONE, NONE, THERE, Files
from icehouse.dups.pair_graph import Duplicates
from icehouse.embed.pipeline import embed_sources
from icehouse.store.store import Store
from toys import ToyEncoder, picture


def photo(path: Path, seed: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path)
    return path


def found_in(store: Path, **options: object) -> Duplicates:
    return find_duplicates(Store.open(store), name="d", hamming=None, rule=0.999, **options)  # type: ignore[arg-type]


def lists(found: Duplicates) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    keep, drop = (
        {row["item_id"]: row for row in csv_rows(found.path / name)} for name in ("keep.csv", "drop.csv")
    )
    assert not set(keep) & set(drop)
    for row in drop.values():
        assert row["keeper"] in keep
        assert Path(row["file"]).is_file()
        assert not any(Path(row["file"]).samefile(other["file"]) for other in keep.values())
    assert all(Path(row["file"]).is_file() for row in keep.values())
    return keep, drop


@pytest.mark.parametrize("link", ["root", "symlink", "hard", "folder"])
def test_one_file_by_two_names_is_never_dropped(tmp_path: Path, link: str) -> None:
    root, store = tmp_path / "photos", tmp_path / "store"
    for k in range(2):
        photo(root / "trip" / f"{k}.png", k)
    # Sorts before the real one, so that only its being a link speaks against it.
    if link == "root":
        embed_sources([root / "trip"], store, encoder=ToyEncoder())
    elif link == "symlink":
        (root / "album").mkdir()
        (root / "album" / "best.png").symlink_to("../trip/0.png")
    elif link == "hard":
        os.link(root / "trip" / "0.png", root / "0.png")
    else:
        photo(tmp_path / "outer" / "0.png", 0)
        (root / "a").symlink_to(tmp_path / "outer")
        embed_sources([tmp_path / "outer"], store, encoder=ToyEncoder())
    embed_sources([root], store, encoder=ToyEncoder())
    found = found_in(store)
    keep, drop = lists(found)
    same = {k: row["same_file_as"] for k, row in (keep | drop).items() if row["same_file_as"]}
    expected = {
        "root": {"trip/0.png": "0.png", "trip/1.png": "1.png"},
        "symlink": {"album/best.png": "trip/0.png"},
        "hard": {"trip/0.png": "0.png"},
        "folder": {"a/0.png": "0.png"},
    }[link]
    assert same == expected
    # Two names of one file go together, for the sake of a copy.
    assert list(drop) == (["0.png", "a/0.png"] if link == "folder" else [])
    shown = found.clusters(["item_id", "same_file_as"]).to_pylist()
    assert {r["item_id"]: r["same_file_as"] for r in shown if r["same_file_as"]} == expected
    assert any("same_file_as" in note for note in found.summary["notes"])
    page = write_gallery(store, "d").path.read_text(encoding="utf-8")
    assert page.count("same file as") == len(expected)


def test_a_real_copy_is_kept_and_a_link_to_elsewhere_dropped(tmp_path: Path) -> None:
    photo(tmp_path / "elsewhere" / "x.png")
    root = tmp_path / "photos"
    photo(root / "z.png")
    (root / "a.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    embed_sources([root], tmp_path / "store", encoder=ToyEncoder())
    keep, drop = lists(found_in(tmp_path / "store", keeper="item_id"))
    assert (list(keep), list(drop)) == (["z.png"], ["a.png"])


def test_two_rows_of_a_csv_with_one_file(tmp_path: Path) -> None:
    photo(tmp_path / "1.png")
    (tmp_path / "posts.csv").write_text("id,image\na,1.png\nb,1.png\nc,./1.png\n")
    embed_sources([tmp_path / "posts.csv"], tmp_path / "store", encoder=ToyEncoder())
    keep, drop = lists(found_in(tmp_path / "store"))
    assert (sorted(keep), drop) == (["a", "b", "c"], {})


def test_what_is_gone_or_changed_speaks_for_nobody(tmp_path: Path) -> None:
    root, store = tmp_path / "photos", tmp_path / "store"
    for name in ("a", "b", "c", "d", "e"):
        photo(root / f"{name}.png")
    for name in ("x", "y"):
        photo(root / f"{name}.png", 2)
    embed_sources([root], store, encoder=ToyEncoder())
    (root / "a.png").unlink()  # the keeper
    photo(root / "b.png", 77)  # another picture now
    os.utime(root / "d.png", ns=(1, 1))  # touched, the same bytes
    stamp = (root / "e.png").stat()
    data = bytearray((root / "e.png").read_bytes())
    data[-20] ^= 1
    (root / "e.png").write_bytes(data)  # the same size, other bytes
    os.utime(root / "e.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 10**9))
    (root / "x.png").unlink()
    found = found_in(store)
    keep, drop = lists(found)
    assert set(drop) == {"d.png"}
    assert set(keep) == {"b.png", "c.png", "e.png", "y.png"}
    assert any("2 items are in neither list" in note for note in found.summary["notes"])
    assert any("2 duplicates are kept" in note for note in found.summary["notes"])


def test_a_store_away_from_its_pictures_and_one_whose_pictures_are_gone(tmp_path: Path) -> None:
    root, store = tmp_path / "photos", tmp_path / "store"
    for name in ("a", "b"):
        photo(root / f"{name}.png")
    embed_sources([root], store, encoder=ToyEncoder())
    root.rename(tmp_path / "elsewhere")
    away = found_in(store)
    assert (away.summary["kept"], away.summary["dropped"]) == (1, 1)
    assert any("none of 2 files can be seen here" in note for note in away.summary["notes"])
    root.mkdir()
    keep, drop = lists(found_in(store))
    assert (keep, drop) == ({}, {})


def test_a_file_replaced_by_a_link_to_its_keeper(tmp_path: Path) -> None:
    root, store = tmp_path / "photos", tmp_path / "store"
    for name in ("a", "b"):
        photo(root / f"{name}.png")
    shutil.copystat(root / "a.png", root / "b.png")
    embed_sources([root], store, encoder=ToyEncoder())
    (root / "a.png").unlink()
    (root / "a.png").symlink_to("b.png")
    keep, drop = lists(found_in(store))
    assert (set(keep), drop) == ({"a.png", "b.png"}, {})
    assert keep["a.png"]["same_file_as"] == "b.png"


def test_a_kept_item_of_another_group_protects_its_file(tmp_path: Path) -> None:
    """The file changed between two embeddings by two roots: what one item has left, the other still is."""
    root, store = tmp_path / "photos", tmp_path / "store"
    photo(root / "in" / "a.png", 1)
    photo(root / "in" / "b.png", 1)
    embed_sources([root / "in"], store, encoder=ToyEncoder())
    photo(root / "in" / "b.png", 5)
    embed_sources([root], store, encoder=ToyEncoder())
    keep, drop = lists(found_in(store))
    assert drop == {}
    assert set(keep) == {"a.png", "b.png", "in/a.png", "in/b.png"}


def test_duplicate_texts_name_no_picture(tmp_path: Path) -> None:
    for k in range(2):
        photo(tmp_path / f"{k}.png", k)
    (tmp_path / "posts.csv").write_text("id,image,text\na,0.png,the same words\nb,1.png,the same words\n")
    embed_sources([tmp_path / "posts.csv"], tmp_path / "store", encoder=ToyEncoder())
    found = find_duplicates(tmp_path / "store", name="t", feature="toy-a/text/pooled")
    assert (found.path / "drop.csv").read_text().splitlines()[1:] == ['"b",,"a",0,"exact",,1,']


def test_without_inodes_the_real_path_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = photo(tmp_path / "real" / "a.png")
    (tmp_path / "link").symlink_to("real")
    look, nowhere = os.lstat, os.stat_result
    monkeypatch.setattr(os, "lstat", lambda path: nowhere([*look(path)[:1], 0, *look(path)[2:]]))
    other = photo(tmp_path / "b.png")
    paths = pa.array([str(tmp_path / "link" / "a.png"), str(file), str(other)])
    found = Files.inspect(paths, np.full(3, np.nan), np.full(3, np.nan))
    assert found.first().tolist() == [0, 0, 2]
    assert found.link.tolist() == [1, 0, 0]


def test_pictures_inside_parquet_are_never_named(tmp_path: Path) -> None:
    data = photo(tmp_path / "photos" / "a.png").read_bytes()
    pq.write_table(pa.table({"id": ["p", "q"], "image": [data, data]}), tmp_path / "posts.parquet")
    embed_sources([tmp_path / "posts.parquet"], tmp_path / "store", encoder=ToyEncoder())
    found = found_in(tmp_path / "store")
    assert found.summary["dropped"] == 1
    for name in ("keep.csv", "drop.csv"):
        assert [row["file"] for row in csv_rows(found.path / name)] == [""]
    embed_sources([tmp_path / "photos"], tmp_path / "store", encoder=ToyEncoder())
    rows = (found_in(tmp_path / "store").path / "drop.csv").read_text()
    assert ".parquet" not in rows


def test_looking(tmp_path: Path) -> None:
    file = photo(tmp_path / "a.png")
    size, unknown = float(file.stat().st_size), np.nan
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    paths = [
        str(file),
        None,
        str(tmp_path / "loop.png"),
        str(tmp_path / "folder.png"),
        f"{tmp_path}/no\0thing",
        str(file),
    ]
    found = Files.inspect(pa.array(paths), np.array([size] * 5 + [size + 1]), np.full(6, unknown))
    assert found.state.tolist() == [THERE, NONE, GONE, GONE, GONE, CHANGED]
    assert found.first().tolist() == [0, 1, 2, 3, 4, 0]
