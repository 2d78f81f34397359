from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from icehouse.data.manifest import Manifest, SourceOptions, read_sources
from icehouse.errors import SourceError, UsageError


def read(*sources: Path, **options: Any) -> Manifest:
    return read_sources(sources, options=SourceOptions(**options))


def rows(manifest: Manifest) -> dict[str, tuple[str | None, ...]]:
    names = ("text", "split", *manifest.labels)
    return {row["item_id"]: tuple(row[name] for name in names) for row in manifest.table.to_pylist()}


def column(manifest: Manifest, name: str) -> list[Any]:
    return manifest.table[name].to_pylist()


def write_metadata(folder: Path, kind: str, records: list[dict[str, Any]]) -> Path:
    path = folder / f"metadata.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        lines = [",".join(records[0]), *(",".join(map(str, record.values())) for record in records)]
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(params=["csv", "jsonl", "parquet"])
def hf(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A data set as `load_dataset("imagefolder")` takes it, file names the same in both splits."""
    for split, names in (("train", "ab"), ("test", "cd")):
        folder = tmp_path / "hf" / split
        folder.mkdir(parents=True)
        for i, _ in enumerate(names):
            (folder / f"{i}.jpg").touch()
        records = [{"file_name": f"{i}.jpg", "text": f"say {n}", "label": n} for i, n in enumerate(names)]
        write_metadata(folder, request.param, records)
    return tmp_path / "hf"


WHOLE = {
    "train/0.jpg": ("say a", "train", "a"),
    "train/1.jpg": ("say b", "train", "b"),
    "test/0.jpg": ("say c", "test", "c"),
    "test/1.jpg": ("say d", "test", "d"),
}


def test_all_ways_to_name_the_set_give_the_same_items(hf: Path) -> None:
    files = [next((hf / split).glob("metadata.*")) for split in ("train", "test")]
    for manifest in (read(hf), read(*files), read(*files, root=hf), read(hf / "train", hf / "test", root=hf)):
        assert rows(manifest) == WHOLE
        assert set(manifest.table["root"].to_pylist()) == {hf.as_posix()}
        assert manifest.rejected.num_rows == 0
        assert pc.all(manifest.from_folders["split"]).as_py()
    one_at_a_time = rows(read(files[0])) | rows(read(files[1], split="test"))
    assert one_at_a_time == WHOLE
    assert read(files[1], split="test").from_folders == {}
    assert rows(read(hf, labels_from_folders=True)) == WHOLE
    assert any("not the folders'" in note for note in read(hf, labels_from_folders=True).notes)


def test_ids_are_paths_though_there_are_numbers(tmp_path: Path) -> None:
    """Each split counts from 1, and a column `image` holds something else."""
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "0.jpg").touch()
        write_metadata(
            tmp_path / split, "csv", [{"id": 1, "image": "portrait", "file_name": "0.jpg", "text": split}]
        )
    assert rows(read(tmp_path)) == {"test/0.jpg": ("test", "test"), "train/0.jpg": ("train", "train")}
    assert read(tmp_path / "test" / "metadata.csv", id_column="id").table["item_id"].to_pylist() == ["1"]


def test_what_the_metadata_does_not_name_is_taken_without(hf: Path) -> None:
    (hf / "train" / "more.jpg").touch()
    manifest = read(hf)
    assert rows(manifest) == {"train/more.jpg": (None, "train", None), **WHOLE}
    assert any(
        "1 image that no metadata file names, such as train/more.jpg" in note for note in manifest.notes
    )


def test_splits_and_labels_from_folders_alone(tmp_path: Path) -> None:
    for name in ("train/1.jpg", "val/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    manifest = read(tmp_path, labels_from_folders=True)
    assert rows(manifest) == {"train/1.jpg": (None, "train", None), "val/1.jpg": (None, "dev", None)}
    assert any("no sub-folders in its splits, so no labels" in note for note in manifest.notes)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "1.jpg").touch()
    assert [split for _, split, _ in rows(read(tmp_path, labels_from_folders=True)).values()] == [None] * 3


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("images/train/cat/1.jpg", "images/val/dog/1.jpg"), [("train", "cat"), ("dev", "dog")]),
        (("images/train/1.jpg", "images/val/1.jpg"), [("train", None), ("dev", None)]),
        (("cat/train/1.jpg", "dog/test/1.jpg"), [("train", "cat"), ("test", "dog")]),
        (
            ("Train/cat/1.jpg", "Validation/dog/1.jpg", "cover.jpg"),
            [("train", "cat"), ("dev", "dog"), (None, None)],
        ),
        (("train/1.jpg", "plane/1.jpg"), [(None, "plane"), (None, "train")]),
    ],
)
def test_where_splits_and_classes_are(
    tmp_path: Path, names: tuple[str, ...], expected: list[tuple[str | None, str | None]]
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [row[1:] for row in rows(read(tmp_path, labels_from_folders=True)).values()] == expected


def test_one_metadata_file_for_all_folders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "1.jpg").touch()
    records = [
        {"file_name": f"{split}/1.jpg", "caption": split, "split": "train"} for split in ("train", "test")
    ]
    path = write_metadata(tmp_path, "csv", records)
    expected = {"train/1.jpg": ("train", "train"), "test/1.jpg": ("test", "train")}
    assert rows(read(tmp_path)) == rows(read(path)) == rows(read(tmp_path, path)) == expected
    assert read(tmp_path).from_folders == {}
    assert rows(read(tmp_path, text_column="split"))["test/1.jpg"][0] == "train"
    with pytest.raises(UsageError, match="no column 'nothing'"):
        read(tmp_path, text_column="nothing")


def test_images_by_other_columns_of_file_names(tmp_path: Path) -> None:
    for i in (1, 2):
        (tmp_path / f"{i}.jpg").touch()
    path = write_metadata(tmp_path, "jsonl", [{"file_names": ["1.jpg", "2.jpg"], "text": "a"}])
    assert column(read(tmp_path), "text") == ["a", "a"]
    path.unlink()
    write_metadata(tmp_path, "csv", [{"left_file_name": "1.jpg", "right_file_name": "2.jpg", "text": "a"}])
    manifest = read(tmp_path)
    assert dict(zip(column(manifest, "path"), column(manifest, "text"), strict=True)) == {
        "1.jpg": "a",
        "2.jpg": None,
    }
    assert any("column 'right_file_name' looks like image paths" in note for note in manifest.notes)
    write_metadata(tmp_path, "csv", [{"Photo": "1.jpg", "text": "a"}])
    assert any("--image-column Photo reads it" in note for note in read(tmp_path).notes)


def test_folders_tell_the_splits_that_rows_lack(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for i in (1, 2):
        (tmp_path / "train" / f"{i}.jpg").touch()
    records = [{"file_name": "1.jpg", "split": "val"}, {"file_name": "2.jpg", "split": ""}]
    write_metadata(tmp_path / "train", "csv", records)
    assert column(read(tmp_path), "split") == ["dev", "train"]


def test_tables_beside_images_and_respelt_labels_are_told(tmp_path: Path) -> None:
    for name in ("a.csv", "b.parquet"):
        (tmp_path / name).write_text("x\n")
    with pytest.raises(SourceError, match=r"it holds a\.csv, b\.parquet: give those files"):
        read(tmp_path)
    (tmp_path / "cat ").mkdir()
    (tmp_path / "cat " / "1.jpg").touch()
    said = "\n".join(read(tmp_path, labels_from_folders=True).notes)
    assert "a.csv, b.parquet not read: an annotation file is a source of its own" in said
    assert "labels of folders: 1 in their usual spelling: 'cat ' is 'cat'" in said


def test_metadata_that_cannot_be_used_costs_no_image(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    (tmp_path / "metadata.csv").write_text("id,text\n1,a\n")
    manifest = read(tmp_path)
    assert list(rows(manifest)) == ["1.jpg"]
    assert "names no image in a column such as file_name" in manifest.rejected["message"][0].as_py()
    (tmp_path / "metadata.csv").write_text("file_name,text\n2.jpg,a\n")
    assert list(rows(read(tmp_path))) == ["1.jpg"]
    assert "names none of the images in" in read(tmp_path).rejected["message"][0].as_py()
    (tmp_path / "metadata.csv").write_text("file_name,text\n1.jpg,a\n../../2.jpg,b\n,c\n")
    manifest = read(tmp_path)
    assert list(rows(manifest)) == ["1.jpg", "metadata:3"]
    assert "leads out of" in manifest.rejected["message"][0].as_py()
