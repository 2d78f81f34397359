"""Ids and labels have one spelling, whatever the file format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from icehouse.data.labels import as_known, near_identical, normalise, normalised
from icehouse.errors import SourceError
from sources import ids, messages, parquet, read, write_rows


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(spelling, "1") for spelling in ("1", "1.0", "1.000", " 1 ", "1.00e+00", "\u00a01\ufeff")],
        *[(spelling, "12") for spelling in ("12", "12.0", "1.2e+01")],
        *[(spelling, "true") for spelling in ("true", "True", "TRUE")],
        *[(spelling, None) for spelling in ("", "  ", "nan", "NaN", "NA", "null", "NULL", "<NA>", "#N/A")],
        *[
            (same, same)
            for same in ("01", "1.5", "-1", "A", "a", "None", "none", "1e5", "12e45", "1E+05", "0x1")
        ],
        ("e\u0301t\u00e9", "\u00e9t\u00e9"),
        ("a  b", "a  b"),
    ],
)
def test_normalisation(value: str, expected: str | None) -> None:
    assert normalised(value) == expected


def test_missing_values_can_be_chosen() -> None:
    assert normalised("NA", ()) == "NA"
    assert normalised("none", ("none",)) is None
    lists = pa.chunked_array([[["a ", "a", "nan"], None, ["1.0"]]], pa.list_(pa.string()))
    assert normalise(lists).to_pylist() == [["a"], None, ["1"]]


def files_of(folder: Path, labels: list[Any], kind: pa.DataType) -> list[Path]:
    """The same rows in every format, as pandas and json write them."""
    ids = list(range(1, len(labels) + 1))
    shown = ["" if label is None else str(label) for label in labels]
    csv = "".join(f"{i}.0,text {i},{label}\n" for i, label in zip(ids, shown, strict=True))
    (folder / "p.csv").write_text("id,text,label\n" + csv)
    (folder / "p.tsv").write_text("id\ttext\tlabel\n" + csv.replace(",", "\t"))
    rows = [{"id": i, "text": f"text {i}", "label": label} for i, label in zip(ids, labels, strict=True)]
    write_rows(folder / "p.jsonl", rows)
    table = {"id": pa.array(ids, pa.float64()), "text": [row["text"] for row in rows]}
    parquet(folder / "p.parquet", **table, label=pa.array(labels, kind))
    return [folder / f"p.{suffix}" for suffix in ("csv", "tsv", "jsonl", "parquet")]


@pytest.mark.parametrize(
    ("labels", "kind", "expected"),
    [
        ([1.0, 0.0, None], pa.float64(), ["1", "0", None]),
        ([1.0, 0.0, None], pa.float32(), ["1", "0", None]),
        ([1, 0, None], pa.int64(), ["1", "0", None]),
        ([True, False, None], pa.bool_(), ["true", "false", None]),
        ([0.1, float("inf"), None], pa.float32(), ["0.1", "inf", None]),
        ([2.5, float("-inf"), float("nan")], pa.float64(), ["2.5", "-inf", None]),
        (["a", " a ", "NA"], pa.string(), ["a", "a", None]),
    ],
)
def test_every_format_gives_the_same(
    tmp_path: Path, labels: list[Any], kind: pa.DataType, expected: list[str | None]
) -> None:
    for path in files_of(tmp_path, labels, kind):
        table = read(path).table
        assert table["item_id"].to_pylist() == ["1", "2", "3"], path
        assert table["label"].to_pylist() == expected, path


def test_respelling_is_said(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("id,text,label\n1,x,1.0\n2,y,NA\n3,z,0\n")
    (note,) = [note for note in read(path).notes if "usual spelling" in note]
    assert note == "p.csv: column 'label': 2 in their usual spelling: '1.0' is '1', 'NA' is no value"
    assert read(path, na_values=()).table["label"].to_pylist() == ["1", "NA", "0"]


def test_ids_that_lost_digits_are_refused(tmp_path: Path) -> None:
    big = [917791044158185473, 917791044158185472, 12]
    parquet(
        tmp_path / "t.parquet",
        id=pa.array(big, pa.int64()).cast(pa.float64(), safe=False),
        text=["a", "b", "c"],
    )
    (tmp_path / "t.csv").write_text(
        "id,text\n9.177910441581855e+17,a\n917791044158185472.0,b\n12.0,c\n1.5E+09,d\n"
    )
    (tmp_path / "t.jsonl").write_text('{"id":9.17e17,"text":"a"}\n{"id":12.0,"text":"c"}\n')
    for name, refused in (("t.parquet", 2), ("t.csv", 3), ("t.jsonl", 1)):
        manifest = read(tmp_path / name)
        assert ids(manifest) == ["12"]
        assert len(messages(manifest)) == refused
        assert all(
            "has lost digits; write the file again with ids that are integers or text" in m
            for m in messages(manifest)
        )
    # What is exact stays: integers of any size, text, and hashes that only look like numbers.
    parquet(tmp_path / "i.parquet", id=pa.array(big[:2], pa.int64()), text=["a", "b"])
    assert ids(read(tmp_path / "i.parquet")) == [str(n) for n in big[:2]]
    (tmp_path / "h.csv").write_text("id,text\n1e5,a\n9177e10,b\n917791044158185473,c\n")
    assert ids(read(tmp_path / "h.csv")) == ["1e5", "9177e10", "917791044158185473"]
    # A narrower float is exact for fewer numbers.
    parquet(tmp_path / "f.parquet", id=pa.array([16777217.0, 7.0], pa.float32()), text=["a", "b"])
    manifest = read(tmp_path / "f.parquet")
    assert ids(manifest) == ["7"]
    assert "lost digits" in manifest.rejected["message"][0].as_py()
    (tmp_path / "all.csv").write_text("id,text\n9.177910441581855e+17,a\n")
    with pytest.raises(SourceError, match=r"not one of its 1 row.*lost digits.*integers or text"):
        read(tmp_path / "all.csv")


def test_near_identical_labels() -> None:
    counts = {
        "1": 3,
        "1.0": 2,
        "True": 1,
        "flood": 5,
        "Flood ": 1,
        "a_b": 1,
        "a b": 1,
        "C": 1,
        "C-": 1,
        "-1": 1,
    }
    assert near_identical(counts) == [
        "'1' (3 rows) and '1.0' (2 rows) and 'True' (1 row)",
        "'flood' (5 rows) and 'Flood ' (1 row)",
        "'a_b' (1 row) and 'a b' (1 row)",
    ]
    assert near_identical({"nan": 2, "x": 1}) == ["'nan' (2 rows), which may mean that there is none"]
    assert near_identical({"?": 2, "-": 1, "x": 1}) == [
        "'?' (2 rows), which may mean that there is none",
        "'-' (1 row), which may mean that there is none",
    ]
    assert near_identical({"none": 4, "severe": 2, "0": 1, "1": 1, "+": 1, "-": 1}) == []


def test_headers_with_blanks_around_names(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('id, image , text, label\n1, a.jpg, "hello, you", x\n2,b.jpg,ho,y\n')
    (tmp_path / "q.tsv").write_text("id\t image\ttext \tlabel\n1\ta.jpg\thello, you\t x\n2\tb.jpg\tho\ty\n")
    rows = [
        {"id": 1, " image": "a.jpg", "text ": "hello, you", "label": "x"},
        {"id": 2, "image": "b.jpg", "text": "ho", "label ": "y"},
    ]
    write_rows(tmp_path / "r.jsonl", rows)
    table = {
        "id": [1, 2],
        " image": ["a.jpg", "b.jpg"],
        "text ": ["hello, you", "ho"],
        "label\u00a0": ["x", "y"],
    }
    parquet(tmp_path / "s.parquet", **table)
    (tmp_path / "quoted.csv").write_text(
        '"id", "image", "text", "label"\n1, "a.jpg", "hello, you", "x"\n2, b.jpg, ho, y\n'
    )
    for name in ("q.tsv", "r.jsonl", "s.parquet", "p.csv", "quoted.csv"):
        manifest = read(tmp_path / name, label_columns=[" label"])
        found = manifest.table.select(["item_id", "path", "label"]).to_pylist()
        assert found == [
            {"item_id": "1", "path": "a.jpg", "label": "x"},
            {"item_id": "2", "path": "b.jpg", "label": "y"},
        ], name
        assert manifest.rejected.num_rows == 0


def test_windows_encoding_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes("id,text\n1,“it’s 5 €…”\n2,plain\n".encode("cp1252"))
    (message,) = messages(read(path))
    assert message.endswith(
        "not utf-8 but look like cp1252 (Windows); give --encoding cp1252 or save it as UTF-8"
    )
    for encoding in ("cp1252", "latin-1", "iso-8859-1"):
        manifest = read(path, encoding=encoding)
        assert manifest.table["text"].to_pylist() == ["“it’s 5 €…”", "plain"]
        assert any("read as cp1252" in note for note in manifest.notes) == (encoding != "cp1252")
    latin = tmp_path / "l.csv"
    latin.write_bytes("text\ncafé\n".encode("latin-1"))
    assert not any("cp1252" in note for note in read(latin, encoding="latin-1").notes)


def test_ids_in_a_stores_own_spelling() -> None:
    known = pa.chunked_array([["12", "1.0", "cafe\u0301.jpg", "caf\u00e9", "007"]])
    given = ["12.0", "1.0", "caf\u00e9.jpg", " caf\u00e9", "007", "7", "NA", None]
    found = as_known(pa.chunked_array([given], pa.string()), known).to_pylist()
    assert found == ["12", "1.0", "cafe\u0301.jpg", "caf\u00e9", "007", "7", None, None]
