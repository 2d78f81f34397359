from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
import pytest
from icehouse.data.images import decode
from icehouse.data.manifest import Manifest
from icehouse.errors import SourceError, UsageError
from sources import by_id, column, notes, read, write, write_rows


def rows(manifest: Manifest) -> dict[str, tuple[str | None, ...]]:
    names = ("text", "split", *manifest.labels)
    return {row["item_id"]: tuple(row[name] for name in names) for row in manifest.table.to_pylist()}


@pytest.fixture(params=["csv", "jsonl", "parquet"])
def hf(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A data set as `load_dataset("imagefolder")` takes it, file names the same in both splits."""
    for split, names in (("train", "ab"), ("test", "cd")):
        folder = tmp_path / "hf" / split
        folder.mkdir(parents=True)
        for i, _ in enumerate(names):
            (folder / f"{i}.jpg").touch()
        records = [{"file_name": f"{i}.jpg", "text": f"say {n}", "label": n} for i, n in enumerate(names)]
        write_rows(folder / f"metadata.{request.param}", records)
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
    assert "not the folders'" in notes(read(hf, labels_from_folders=True))


def test_ids_are_paths_though_there_are_numbers(tmp_path: Path) -> None:
    """Each split counts from 1, and a column `image` holds something else."""
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "0.jpg").touch()
        write_rows(
            tmp_path / split / "metadata.csv",
            [{"id": 1, "image": "portrait", "file_name": "0.jpg", "text": split}],
        )
    assert rows(read(tmp_path)) == {"test/0.jpg": ("test", "test"), "train/0.jpg": ("train", "train")}
    assert read(tmp_path / "test" / "metadata.csv", id_column="id").table["item_id"].to_pylist() == ["1"]


def test_what_the_metadata_does_not_name_is_taken_without(hf: Path) -> None:
    (hf / "train" / "more.jpg").touch()
    manifest = read(hf)
    assert rows(manifest) == {"train/more.jpg": (None, "train", None), **WHOLE}
    assert "1 image that no metadata file names, such as train/more.jpg" in notes(manifest)


def test_splits_and_labels_from_folders_alone(tmp_path: Path) -> None:
    for name in ("train/1.jpg", "val/1.jpg"):
        write(tmp_path / name)
    manifest = read(tmp_path, labels_from_folders=True)
    assert rows(manifest) == {"train/1.jpg": (None, "train", None), "val/1.jpg": (None, "dev", None)}
    assert "no sub-folders in its splits, so no labels" in notes(manifest)
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
        write(tmp_path / name)
    assert [row[1:] for row in rows(read(tmp_path, labels_from_folders=True)).values()] == expected


def test_one_metadata_file_for_all_folders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "1.jpg").touch()
    records = [
        {"file_name": f"{split}/1.jpg", "caption": split, "split": "train"} for split in ("train", "test")
    ]
    path = write_rows(tmp_path / "metadata.csv", records)
    expected = {"train/1.jpg": ("train", "train"), "test/1.jpg": ("test", "train")}
    assert rows(read(tmp_path)) == rows(read(path)) == rows(read(tmp_path, path)) == expected
    assert read(tmp_path).from_folders == {}
    assert rows(read(tmp_path, text_column="split"))["test/1.jpg"][0] == "train"
    with pytest.raises(UsageError, match="no column 'nothing'"):
        read(tmp_path, text_column="nothing")


def test_images_by_other_columns_of_file_names(tmp_path: Path) -> None:
    for i in (1, 2):
        (tmp_path / f"{i}.jpg").touch()
    path = write_rows(tmp_path / "metadata.jsonl", [{"file_names": ["1.jpg", "2.jpg"], "text": "a"}])
    assert column(read(tmp_path), "text") == ["a", "a"]
    path.unlink()
    write_rows(
        tmp_path / "metadata.csv", [{"left_file_name": "1.jpg", "right_file_name": "2.jpg", "text": "a"}]
    )
    manifest = read(tmp_path)
    assert by_id(manifest, "text") == {
        "1.jpg": "a",
        "2.jpg": None,
    }
    assert "column 'right_file_name' looks like image paths" in notes(manifest)
    write_rows(tmp_path / "metadata.csv", [{"Photo": "1.jpg", "text": "a"}])
    assert "--image-column Photo reads it" in notes(read(tmp_path))


def test_folders_tell_the_splits_that_rows_lack(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for i in (1, 2):
        (tmp_path / "train" / f"{i}.jpg").touch()
    records = [{"file_name": "1.jpg", "split": "val"}, {"file_name": "2.jpg", "split": ""}]
    write_rows(tmp_path / "train" / "metadata.csv", records)
    assert column(read(tmp_path), "split") == ["dev", "train"]


def test_tables_beside_images_and_respelt_labels_are_told(tmp_path: Path) -> None:
    for name in ("a.csv", "b.parquet"):
        (tmp_path / name).write_text("x\n")
    with pytest.raises(SourceError, match=r"it holds a\.csv, b\.parquet: give those files"):
        read(tmp_path)
    (tmp_path / "cat ").mkdir()
    (tmp_path / "cat " / "1.jpg").touch()
    said = notes(read(tmp_path, labels_from_folders=True))
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


def test_netpbm_files_are_images_with_or_without_a_suffix(tmp_path: Path) -> None:
    pixels = bytes(range(48))
    names = ["a.ppm", "b.pgm", "c.pbm", "d.pnm", "E.PGM", "no_suffix"]
    for name in names:
        kind = {"a.ppm": b"P6 # c\n4\n#d\n4\n255\n", "c.pbm": b"P4\n8 6\n"}.get(
            name, b"P5 # c\n8\n#d\n6\n255\n"
        )
        (tmp_path / name).write_bytes(kind + pixels)
    manifest = read(tmp_path)
    assert sorted(column(manifest, "item_id")) == sorted(names)
    for name in names:
        assert decode((tmp_path / name).read_bytes()).format == "PPM"
