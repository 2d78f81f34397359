"""Captions made elsewhere."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from caption_stores import Lab, captions
from icehouse.embed.captions.caption_table import import_captions
from icehouse.errors import CaptionError, SourceError, SpaceError
from icehouse.store.store import Store


def images(store: Store) -> dict[str, str]:
    return {row["item_id"]: row["image_sha256"] for row in store.items.read().to_pylist()}


def write(path: Path, rows: list[dict[str, str | None]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("item_id", "item_id"),
        ("image", "path"),
        ("path", "absolute"),
        ("sha256", "sha256"),
        ("id", "file name"),
    ],
)
def test_keys_are_found(suffix: str, column: str, kind: str, lab: Lab, tmp_path: Path) -> None:
    store = lab.store(4)
    by_id = images(store)
    spell = {
        "item_id": lambda i: i,
        "path": lambda i: f"./{i}.png",
        "absolute": lambda i: str(tmp_path / "pictures" / f"{i}.png"),
        "sha256": lambda i: by_id[i].upper(),
        "file name": lambda i: f"elsewhere/{i}.png",
    }[kind]
    names = sorted(i for i in by_id if i != "copy")
    rows: list[dict[str, str | None]] = [{column: spell(i), "caption": f"picture {i}"} for i in names]
    rows.append({column: spell(names[0]) + "x", "caption": "of nothing"})
    report = import_captions(store, write(tmp_path / f"made{suffix}", rows))
    assert (report.rows, report.imported, report.unmatched) == (5, 4, 1)
    assert report.unmatched_rows == [spell(names[0]) + "x"]
    assert captions(store) == {by_id[i]: f"picture {i}" for i in names}
    provenance = store.table("captions/default").spec["provenance"]
    assert provenance["imported"]["file"] == f"made{suffix}"
    assert len(provenance["imported"]["sha256"]) == 64


def test_again_and_after_the_store_has_grown(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(3)
    by_id = images(store)
    rows: list[dict[str, str | None]] = [{"item_id": i, "caption": i} for i in (*by_id, "later")]
    file = write(tmp_path / "made.jsonl", rows)
    assert import_captions(store, file).imported == 3
    store.items.append(pa.table({"item_id": ["later"], "image_sha256": ["f" * 64]}))
    report = import_captions(store, file)
    assert (report.imported, report.known, report.unmatched) == (1, 3, 0)


def test_odd_rows_are_told(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(2)
    rows: list[dict[str, str | None]] = [
        {"item_id": "0000", "caption": "one"},
        {"item_id": "0000", "caption": "other"},
        {"item_id": "0001", "caption": None},
        {"item_id": "copy", "caption": "the the the the"},
    ]
    report = import_captions(store, write(tmp_path / "made.jsonl", rows))
    assert (report.imported, report.conflicting, report.unmatched_rows) == (2, 1, ["0001 (no caption)"])
    (row,) = store.query("select * from captions_default where flags != ''").to_pylist()
    assert (row["flags"], row["model"], row["tokens"]) == ("repeating", None, None)


def test_what_fits_several_pictures_tells_none(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(2)
    other = {"item_id": ["other"], "path": ["0000.png"], "root": ["/elsewhere"], "image_sha256": ["e" * 64]}
    store.items.append(pa.table(other))
    rows: list[dict[str, str | None]] = [
        {"path": "0000.png", "caption": "which?"},
        {"path": "0001.png", "caption": "this one"},
    ]
    report = import_captions(store, write(tmp_path / "made.jsonl", rows))
    assert (report.imported, report.unmatched_rows) == (1, ["0000.png (fits several pictures)"])
    assert captions(store) == {images(store)["0001"]: "this one"}
    with pytest.raises(CaptionError, match=r"path \(path\) fits several pictures in every row; give item_id"):
        import_captions(store, write(tmp_path / "unclear.jsonl", rows[:1]), name="unclear")
    # Written in full, it fits one of them; a copy of a picture under another root is the same picture.
    rows = [{"path": "/elsewhere/0000.png", "caption": "that one"}]
    import_captions(store, write(tmp_path / "full.jsonl", rows), name="full")
    assert captions(store, "full") == {"e" * 64: "that one"}
    copy = {"item_id": ["twin"], "path": ["0001.png"], "root": ["/elsewhere"]}
    store.items.append(pa.table({**copy, "image_sha256": [images(store)["0001"]]}))
    assert import_captions(store, tmp_path / "made.jsonl").known == 1


def test_what_cannot_be_imported(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(1)
    with pytest.raises(CaptionError, match="no column of captions"):
        import_captions(store, write(tmp_path / "a.jsonl", [{"item_id": "0000", "words": "x"}]))
    with pytest.raises(CaptionError, match="no column tells which pictures"):
        import_captions(store, write(tmp_path / "b.jsonl", [{"item_id": "nobody", "caption": "x"}]))
    with pytest.raises(SourceError):
        import_captions(store, tmp_path / "none.jsonl")
    assert "captions/default" not in store.table_names()


def test_files_and_models_do_not_mix(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(2)
    first = write(tmp_path / "a.jsonl", [{"item_id": "0000", "caption": "one"}])
    second = write(tmp_path / "b.jsonl", [{"item_id": "0001", "caption": "two"}])
    import_captions(store, first)
    with pytest.raises(SpaceError, match=r"import of a.jsonl .* do not mix with those by import of b.jsonl"):
        import_captions(store, second)
    with pytest.raises(SpaceError, match=r"import of a.jsonl .* do not mix with those by llava:7b"):
        lab.caption(store)
    import_captions(store, second, name="b")
    assert captions(store, "b") == {images(store)["0001"]: "two"}


def test_rows_that_cannot_be_read_are_counted(lab: Lab, tmp_path: Path) -> None:
    store = lab.store(2)
    rows: list[dict[str, str | None]] = [{"item_id": i, "caption": f"about {i}"} for i in ("0000", "0001")]
    file = write(tmp_path / "made.jsonl", rows)
    file.write_text(file.read_text() + "{broken\n")
    report = import_captions(store, file)
    assert (report.rows, report.unmatched) == (3, 1)
    assert report.unmatched_rows[0].startswith("line 3: not JSON")
    file.write_text("{broken\n")
    with pytest.raises(SourceError, match="line 1: not JSON"):
        import_captions(store, file)
