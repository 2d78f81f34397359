"""Labels of several sources, list columns, and pictures inside Parquet files, from embedding on."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from icehouse.data.manifest import SourceOptions
from icehouse.dups.find import find_duplicates
from icehouse.dups.leakage import split_items
from icehouse.embed.extract import EmbedReport
from icehouse.embed.pipeline import embed_sources
from icehouse.errors import SourceError, UsageError
from icehouse.heads.inputs import load_samples
from icehouse.store.annotate import join
from icehouse.store.maintain import describe
from icehouse.store.sql import export
from icehouse.store.store import Store
from toys import ToyEncoder, picture


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def embed(store: Path, *sources: Path, encoder: ToyEncoder | None = None, **options: Any) -> EmbedReport:
    strict = options.pop("strict_labels", False)
    return embed_sources(
        sources,
        store,
        encoder=encoder or ToyEncoder(),
        options=SourceOptions(**options),
        strict_labels=strict,
    )


def values(store: Path, column: str = "label") -> dict[str, Any]:
    rows = Store.open(store).items.read(["item_id", column]).to_pylist()
    return {row["item_id"]: row[column] for row in rows}


# ------------------------------------------------------------------------------------------------ labels from folders


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i, name in enumerate(("cat/1.png", "cat/2.png", "dog/3.png", "top.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(path)
    (tmp_path / "photos" / "labels.csv").write_text("image,label\ncat/1.png,tabby\ncat/2.png,\ntop.png,cat\n")
    return tmp_path / "photos"


def test_folders_never_replace_another_sources_labels(photos: Path, store: Path) -> None:
    embed(store, photos / "labels.csv")
    for _ in range(2):  # the second time, the items' source is the folder
        report = embed(store, photos, labels_from_folders=True)
        assert values(store) == {
            "cat/1.png": "tabby",
            "cat/2.png": "cat",
            "dog/3.png": "dog",
            "top.png": "cat",
        }
        (note,) = [note for note in report.notes if "another source" in note]
        assert note.startswith("1 item with another 'label'")
        assert report.columns_changed == {}
    embed(store, photos, folder_label_column="animal")
    assert values(store)["cat/1.png"] == "tabby"
    assert values(store, "animal") == {
        "cat/1.png": "cat",
        "cat/2.png": "cat",
        "dog/3.png": "dog",
        "top.png": None,
    }
    report = embed(store, photos, labels_from_folders=True, replace_labels=True)
    assert values(store)["cat/1.png"] == "cat"
    with pytest.raises(UsageError, match="cannot be called 'path'"):
        embed(store, photos, folder_label_column="path")


@pytest.mark.parametrize("first", [True, False])
def test_a_folder_and_a_file_in_one_call(photos: Path, store: Path, first: bool) -> None:
    sources = [photos, photos / "labels.csv"] if first else [photos / "labels.csv", photos]
    for _ in range(2):
        report = embed(store, *sources, labels_from_folders=True)
        assert values(store) == {
            "cat/1.png": "tabby",
            "cat/2.png": "cat",
            "dog/3.png": "dog",
            "top.png": "cat",
        }
        assert report.rejected == 0
    assert any("the file's kept" in note for note in report.notes)


# ------------------------------------------------------------------------------------------------ list columns


def jsonl(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def test_list_columns_live_in_the_store(tmp_path: Path, store: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl", '{"id":"1","text":"a","label":["x","y"]}', '{"id":"2","text":"b","label":"x"}'
    )
    embed(store, path)
    assert values(store) == {"1": ["x", "y"], "2": ["x"]}
    assert embed(store, path).unchanged == 2
    jsonl(path, '{"id":"1","text":"a","label":["x","z"]}', '{"id":"2","text":"b","label":"x"}')
    report = embed(store, path)
    assert (report.changed, report.columns_changed) == (1, {"label": 1})
    # Single values of another file become lists; the other way round there is no room.
    embed(store, jsonl(tmp_path / "b.jsonl", '{"id":"3","text":"c","label":"w"}'))
    assert values(store) == {"1": ["x", "z"], "2": ["x"], "3": ["w"]}
    opened = Store.open(store)
    assert opened.query("select item_id from items where list_contains(label, 'z')")[
        "item_id"
    ].to_pylist() == ["1"]
    with pytest.raises(UsageError, match="'label' holds several values an item"):
        load_samples(opened, {"text": "toy-a/text/pooled"}, label="label")
    with pytest.raises(UsageError, match="'label' holds several values an item"):
        opened.features("toy-a/text/pooled", label="label")
    with pytest.raises(UsageError, match="'label' holds several values an item"):
        split_items(opened, stratify="label")
    assert describe(opened)["labels"]["label"]["counts"] == {"x": 2, "z": 1, "w": 1}
    export(opened, "toy-a/text/pooled", tmp_path / "x.csv", columns=["label"])
    assert '1,"[""x"", ""z""]",' in (tmp_path / "x.csv").read_text()
    (tmp_path / "j.csv").write_text("item_id,label\n2,v\n")
    join(opened, tmp_path / "j.csv")
    assert values(store)["2"] == ["v"]
    other = tmp_path / "other"
    embed(other, jsonl(tmp_path / "c.jsonl", '{"id":"1","text":"a","label":"x"}'))
    with pytest.raises(UsageError, match="several values a row, and the store's has one"):
        embed(other, path)


def test_near_identical_labels_are_told(tmp_path: Path, store: Path) -> None:
    first = jsonl(tmp_path / "a.jsonl", '{"id":"1","text":"a","label":"Flood"}')
    second = jsonl(tmp_path / "b.jsonl", '{"id":"2","text":"b","label":"flood"}')
    assert not any("nearly the same" in note for note in embed(store, first).notes)
    with pytest.raises(SourceError, match=r"--strict-labels: column 'label'.*'flood' \(1 row\) and 'Flood'"):
        embed(store, second, strict_labels=True)
    assert values(store) == {"1": "Flood"}
    assert any(
        "nearly the same: 'flood' (1 row) and 'Flood' (1 row)" in n for n in embed(store, second).notes
    )


# ------------------------------------------------------------------------------------------------ pictures in Parquet


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, seeds: list[int]) -> Path:
    cells = [{"bytes": b"no picture" if seed < 0 else png(seed), "path": f"{seed}.png"} for seed in seeds]
    pq.write_table(pa.table({"image": cells, "label": [seed % 2 for seed in seeds]}), path, row_group_size=4)
    return path


def test_pictures_in_parquet_go_all_the_way(tmp_path: Path, store: Path) -> None:
    path = write(tmp_path / "p.parquet", [0, 1, 2, 3, 4, 5, -1, 1])
    report = embed(store, path)
    assert (report.new, report.images, report.failed) == (8, 6, 1)
    opened = Store.open(store)
    failure = opened.query("select item_id, path, stage from failures").to_pylist()[0]
    assert failure == {"item_id": "p.parquet#image:7", "path": f"{path}#image:7", "stage": "decode"}
    row = opened.query("select * from items where item_id = 'p.parquet#image:3'").to_pylist()[0]
    assert (row["bytes"], row["format"], row["width"], row["label"]) == (len(png(2)), "PNG", 64, "0")
    again = embed(store, path)
    assert (again.unchanged, again.images, again.known_failures, again.failed) == (8, 0, 1, 0)
    # Another encoder reads them again.
    assert embed(store, path, encoder=ToyEncoder("toy-b")).images == 6
    # Equal contents are duplicates; a list of files names no picture in a Parquet file.
    found = find_duplicates(opened, feature="toy-a/image/pooled", rule=0.9999)
    clusters = pq.read_table(found.path / "clusters.parquet").to_pylist()
    assert sorted(row["item_id"] for row in clusters) == ["p.parquet#image:2", "p.parquet#image:8"]
    assert '"p.parquet#image:8",,"p.parquet#image:2"' in (found.path / "drop.csv").read_text()


def test_a_changed_parquet_file_is_noticed(tmp_path: Path, store: Path) -> None:
    path = write(tmp_path / "p.parquet", [0, 1, 2])
    embed(store, path)
    os.utime(path, ns=(1, 1))
    report = embed(store, path)
    assert (report.changed, report.images) == (3, 0), "looked at again, and the same"
    write(path, [0, 9])
    report = embed(store, path)
    assert (report.changed, report.images) == (2, 1)
    opened = Store.open(store)
    missing = opened.query("select item_id from items where missing")["item_id"].to_pylist()
    assert missing == ["p.parquet#image:3"]
