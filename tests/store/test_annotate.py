"""Labels and splits joined from a file."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from icehouse.errors import SourceError, UsageError
from icehouse.store.annotate import join
from icehouse.store.store import Store


def labels(store: Store, column: str = "label") -> dict[str, str | None]:
    rows = store.items.read(["item_id", column]).to_pylist()
    return {row["item_id"]: row[column] for row in rows}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_brings_the_same(store: Store, tmp_path: Path, suffix: str) -> None:
    rows = [("b", "10", "dev"), ("c", "2", None), ("z", "3", "dev")]
    path = tmp_path / f"labels.{suffix}"
    if suffix == "jsonl":
        lines = [json.dumps({"item_id": i, "stars": int(n), "split": s}) for i, n, s in rows]
        path.write_text("\n".join(lines))
    elif suffix == "parquet":
        ids, stars, splits = zip(*rows, strict=True)
        pq.write_table(pa.table({"item_id": ids, "stars": [int(n) for n in stars], "split": splits}), path)
    else:
        mark = "," if suffix == "csv" else "\t"
        path.write_text(
            "\n".join(mark.join(cell or "" for cell in row) for row in [("item_id", "stars", "split"), *rows])
        )
    report = join(store, path)
    assert report.columns == ["stars", "split"]
    assert (report.rows, report.matched, report.changed) == (3, 2, 2)
    assert (report.unmatched_rows, report.first_unmatched_rows) == (1, ["z"])
    assert (report.unmatched_items, report.first_unmatched_items) == (3, ["a", "d", "e"])
    assert labels(store, "stars") == {"a": None, "b": "10", "c": "2", "d": None, "e": None}
    # An empty cell leaves what was there, and an item without a row keeps its own.
    assert labels(store, "split") == {"a": "train", "b": "dev", "c": "test", "d": "test", "e": None}
    assert store.items.read(["item_id"])["item_id"].to_pylist() == ["a", "b", "c", "d", "e"]
    assert join(store, path).changed == 0


def test_other_keys_and_chosen_columns(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("file,text,label\ncopy/a.jpg,ignored,bird\n")
    assert join(store, path, on="path", file_key="file", columns=["label"]).matched == 1
    assert labels(store)["c"] == "bird"
    digest = store.items.read(["image_sha256"])["image_sha256"][0].as_py()
    path.write_text(f"image_sha256,label\n{digest},fox\n")
    report = join(store, path, on="image_sha256")
    assert (report.rows, report.matched, report.unmatched_items) == (1, 2, 3)  # a and its copy
    assert [labels(store)[i] for i in "abcde"] == ["fox", "dog", "fox", "dog", "cat"]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("id,label\na,x\n", {}, "no column 'item_id'.*it has: id, label.*--on item_id=COLUMN"),
        ("item_id,label\na,x\n", {"columns": ["lable"]}, "no column 'lable'.*item_id, label"),
        ("item_id,label\na,x\n", {"columns": ["item_id"]}, "is the key"),
        ("item_id,text,label\na,x,y\n", {}, "'text' has a name that icehouse fills.*--columns label"),
        ("item_id,Width\na,1\n", {}, "'Width' has a name"),
        ("item_id,label\na,x\n", {"on": "text"}, "cannot be joined on 'text'"),
    ],
)
def test_wrong_columns(
    store: Store, tmp_path: Path, content: str, options: dict[str, list[str]], message: str
) -> None:
    path = tmp_path / "x.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        join(store, path, **options)  # type: ignore[arg-type]
    assert labels(store)["a"] == "cat"


def test_rows_that_contradict_each_other_are_refused_and_equal_ones_are_not(
    store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    path.write_text("item_id,label\na,x\nb,y\na,x\n")
    assert join(store, path).rows == 2
    path.write_text("item_id,label\nb,y\na,x\na,\n")
    with pytest.raises(SourceError, match=r"two rows with item_id 'a' that differ in 'label' .'x', None"):
        join(store, path)
    with pytest.raises(SourceError, match="no file"):
        join(store, tmp_path / "none.csv")


def test_a_bad_row_is_told_and_costs_only_itself(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("item_id,label\na,x\nb,y,extra\nc,z\n")
    report = join(store, path)
    assert report.matched == 2
    assert any("line 3" in note for note in report.notes)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["A", "B"], "letter case differs ('A' in the file, 'a' in the store)"),
        (
            ["a.jpg", "b.jpg"],
            "one of them has a suffix such as .jpg that the other has not ('a.jpg' in the file",
        ),
        (
            ["images/a", "images/b"],
            "folders are named on one side only ('images/a' in the file, 'a' in the store)",
        ),
        (["x\\\\A.PNG"], "folders, suffix, letter case or zeros differ"),
        (["z", "y"], "('z' in the file, 'a' in the store); --on KEY=COLUMN names another column"),
    ],
)
def test_nothing_matched_is_an_error_with_a_hint(
    store: Store, tmp_path: Path, keys: list[str], told: str
) -> None:
    path = tmp_path / "x.csv"
    path.write_text("item_id,label\n" + "".join(f"{key},new\n" for key in keys))
    with pytest.raises(SourceError) as caught:
        join(store, path)
    assert f"{len(keys)} {'key' if len(keys) == 1 else 'keys'} none is the item_id of an item" in str(
        caught.value
    )
    assert told in str(caught.value)
    assert labels(store)["a"] == "cat"


def test_lost_leading_zeros_are_told(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "zeros")
    store.items.append(pa.table({"item_id": ["007", "img_0012"]}), unique="item_id")
    path = tmp_path / "x.csv"
    for key in ("7", "7.0", "img_12"):
        path.write_text(f"item_id,label\n{key},x\n")
        with pytest.raises(SourceError, match="leading zeros are lost on one side"):
            join(store, path)
    path.write_text("item_id,label\n007,x\nimg_12,y\n")
    assert any("leading zeros are lost on one side ('img_12'" in note for note in join(store, path).notes)


def test_an_index_column_of_pandas_is_no_column_of_the_store(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(",item_id,split\n0,a, Val\n1,b,Training\n")
    report = join(store, path)
    assert report.columns == ["split"]
    assert "x.csv: a column without a name is left out" in report.notes
    assert store.query("select split from items order by item_id limit 2")["split"].to_pylist() == [
        "dev",
        "train",
    ]
    with pytest.raises(UsageError, match="without a name"):
        join(store, path, columns=[""])


def test_the_remedy_for_another_encoding_works(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes("item_id,note\na,\u201cb\u201d\n".encode("cp1252"))
    with pytest.raises(
        SourceError, match=r"not one of its 1 row could be read; line 2: .*give --encoding cp1252"
    ):
        join(store, path)
    join(store, path, encoding="cp1252")
    assert labels(store, "note")["a"] == "\u201cb\u201d"


def test_keys_and_values_have_one_spelling(store: Store, tmp_path: Path) -> None:
    store.items.append(pa.table({"item_id": ["12", "cafe\u0301"]}), unique="item_id")
    path = tmp_path / "x.csv"
    path.write_text("item_id , label\n12.0, 1.0 \ncaf\u00e9,True\n a ,NA\n9.177910441581855e+17,x\n")
    report = join(store, path)
    assert (report.matched, report.changed) == (3, 2)
    found = labels(store)
    assert (found["12"], found["cafe\u0301"], found["a"]) == ("1", "true", "cat")
    assert any("row 4: left out: the id" in note and "lost digits" in note for note in report.notes)
    path.write_text("item_id,label\n9.177910441581855e+17,x\n")
    with pytest.raises(SourceError, match=r"row 1: the id .* lost digits"):
        join(store, path)


def test_what_a_join_leaves_out_or_makes_alike_is_told(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    columns = {
        "item_id": ["a", "b"],
        "label": ["Cat", "Dog"],
        "tags": [["x", "y"], ["z"]],
        "deep": [{"x": [1]}] * 2,
    }
    pq.write_table(pa.table({**columns, "jpg": [b"\xff\xd8\xff\xe0abc"] * 2}), path)
    report = join(store, path)
    assert report.columns == ["label", "tags"]
    assert labels(store, "tags")["a"] == ["x", "y"]
    said = "\n".join(report.notes)
    assert "x.parquet: column 'deep' is left out: it holds nested values (fields x)" in said
    assert "x.parquet: column 'jpg' is left out: it holds pictures" in said
    assert (
        "column 'label' has values that are nearly the same: 'Cat' (1 row) and 'cat' (1 row); 'Dog'" in said
    )
    path = tmp_path / "y.csv"
    path.write_text("item_id,tags\nb,w\n")
    join(store, path)
    assert labels(store, "tags")["b"] == ["w"]
