"""Lists, structs and pictures in annotation files."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from icehouse.data import image_files
from icehouse.data.manifest import Manifest
from icehouse.errors import ImageError, SourceError, UsageError
from PIL import Image
from sources import column, messages, notes, parquet, read, write_rows


def png(value: int, side: int = 8) -> bytes:
    pixels = np.random.default_rng(value).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = [png(i) for i in range(40)]


def pictures(manifest: Manifest) -> list[bytes]:
    places = zip(column(manifest, "root"), column(manifest, "path"), strict=True)
    return [image_files.read(Path(root) / path)[0] for root, path in places]


def test_structs_and_bytes_are_pictures(tmp_path: Path) -> None:
    cells = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(PICTURES[:3])]
    kinds = {
        "struct": pa.array(cells),
        "bytes": pa.array(PICTURES[:3], pa.binary()),
        "large": pa.array(PICTURES[:3], pa.large_binary()),
        "only bytes": pa.array([{"bytes": data} for data in PICTURES[:3]]),
    }
    for name, array in kinds.items():
        manifest = read(parquet(tmp_path / "p.parquet", image=array, label=[1.0, None, 2.0]))
        assert column(manifest, "item_id") == [f"p.parquet#image:{i}" for i in (1, 2, 3)], name
        assert column(manifest, "path") == column(manifest, "item_id")
        assert column(manifest, "root") == [tmp_path.as_posix()] * 3
        assert pictures(manifest) == PICTURES[:3]
        assert column(manifest, "label") == ["1", None, "2"]
        names = [f"{i}.png" for i in range(3)]
        assert ("image_path" in manifest.labels) == (name == "struct")
        assert name != "struct" or column(manifest, "image_path") == names


def test_structs_in_several_row_groups(tmp_path: Path) -> None:
    n = len(PICTURES)
    cells = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(PICTURES)]
    tags = [["a", f"t{i % 3}"] for i in range(n)]
    path = parquet(tmp_path / "p.parquet", row_group_size=7, image=pa.array(cells), tags=tags)
    manifest = read(path, meta_columns=["tags"])
    assert column(manifest, "image_path") == [f"{i}.png" for i in range(n)]
    assert column(manifest, "tags") == tags
    assert pictures(manifest) == PICTURES


def test_pictures_are_found_by_their_bytes(tmp_path: Path) -> None:
    odd = {"a/b:c#%": PICTURES[:2], "name": ["x.png", "y.png"], "caption": ["one", "two"]}
    manifest = read(parquet(tmp_path / "p.parquet", **odd))
    assert column(manifest, "path") == ["p.parquet#a%2Fb%3Ac%23%25:1", "p.parquet#a%2Fb%3Ac%23%25:2"]
    assert pictures(manifest) == PICTURES[:2]
    # A file's name beside the bytes is not the picture; a second column of pictures is told.
    both = {
        "path": ["x.png", "y.png"],
        "thumb": PICTURES[2:4],
        "jpg": PICTURES[:2],
        "blob": [b"\xff\x00"] * 2,
    }
    manifest = read(parquet(tmp_path / "q.parquet", **both), image_column="jpg")
    assert pictures(manifest) == PICTURES[:2]
    said = notes(manifest)
    assert "column 'thumb' holds pictures and was not read; --image-column thumb reads it" in said
    assert "column 'path' looks like image paths ('x.png') and was not read" in said
    assert "'blob' (holds raw bytes that are no pictures" in said
    assert column(read(tmp_path / "q.parquet"), "path") == ["q.parquet#thumb:1", "q.parquet#thumb:2"]


def test_bytes_may_be_text(tmp_path: Path) -> None:
    manifest = read(parquet(tmp_path / "p.parquet", text=[b"caf\xc3\xa9", b"b"], label=[b"x", b"y"]))
    assert column(manifest, "text") == ["café", "b"]
    assert column(manifest, "label") == ["x", "y"]


def test_rows_without_bytes_name_a_file_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "disk.png").write_bytes(PICTURES[9])
    cells = [{"bytes": PICTURES[0], "path": None}, {"bytes": None, "path": "disk.png"}, None]
    manifest = read(parquet(tmp_path / "p.parquet", image=pa.array(cells), text=["a", "b", "c"]))
    assert column(manifest, "path") == ["p.parquet#image:1", "disk.png", None]
    manifest = read(parquet(tmp_path / "q.parquet", image=pa.array(cells), label=["a", "b", "c"]))
    assert column(manifest, "path") == ["q.parquet#image:1", "disk.png"]
    assert "row 3: neither an image nor a text" in manifest.rejected["message"][0].as_py()
    # A struct of a path alone is that path.
    manifest = read(parquet(tmp_path / "r.parquet", image=[{"path": "disk.png", "size": 3}]))
    assert column(manifest, "path") == ["disk.png"]


def test_roots_of_pictures_inside_a_file(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "disk.png").write_bytes(PICTURES[9])
    cells = [{"bytes": PICTURES[0], "path": None}, {"bytes": None, "path": "disk.png"}]
    path = parquet(tmp_path / "p.parquet", image=pa.array(cells))
    apart = read(path, root=tmp_path / "images")
    assert column(apart, "root") == [tmp_path.as_posix(), (tmp_path / "images").as_posix()]
    assert pictures(apart) == [PICTURES[0], PICTURES[9]]
    (tmp_path / "data").mkdir()
    below = read(parquet(tmp_path / "data" / "p.parquet", image=PICTURES[:2]), root=tmp_path)
    assert column(below, "item_id") == ["data/p.parquet#image:1", "data/p.parquet#image:2"]
    assert pictures(below) == PICTURES[:2]


def test_a_list_of_pictures_is_an_item_each(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(PICTURES[7])
    lists = pa.array(
        [
            [{"bytes": PICTURES[0], "path": None}, {"bytes": PICTURES[1], "path": None}],
            [{"bytes": None, "path": "x.png"}],
            [],
            None,
        ]
    )
    path = parquet(
        tmp_path / "p.parquet", id=[5, 6, 7, 8], image=lists, text=["a", "b", "c", "d"], label=list("wxyz")
    )
    manifest = read(path)
    assert column(manifest, "item_id") == ["5#1", "5#2", "6", "7", "8"]
    assert column(manifest, "path") == ["p.parquet#image:1:1", "p.parquet#image:1:2", "x.png", None, None]
    assert column(manifest, "text") == ["a", "a", "b", "c", "d"]
    assert column(manifest, "label") == ["w", "w", "x", "y", "z"]
    assert column(manifest, "post") == ["5", "5", "6", "7", "8"]
    assert any("1 row with several pictures" in note and "ID#1" in note for note in manifest.notes)
    assert "names beside pictures in lists, if any, are not kept" in notes(manifest)
    read_back = [image_files.read(tmp_path / name)[0] for name in column(manifest, "path") if name]
    assert read_back == [PICTURES[0], PICTURES[1], PICTURES[7]]
    single = parquet(tmp_path / "q.parquet", images=pa.array([[PICTURES[0]], [PICTURES[1]]]))
    assert column(read(single, image_column="images"), "path") == [
        "q.parquet#images:1:1",
        "q.parquet#images:2:1",
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_lists_of_paths_and_labels(tmp_path: Path, suffix: str) -> None:
    rows = [
        {
            "id": "1",
            "image": ["a.jpg", "b.jpg"],
            "text": ["two", "pictures"],
            "label": ["flood", "Fire ", "flood"],
        },
        {"id": "2", "image": ["c.jpg"], "text": ["one"], "label": []},
        {"id": "3", "image": None, "text": ["none"], "label": ["1.0"]},
    ]
    path = write_rows(tmp_path / f"p.{suffix}", rows)
    manifest = read(path)
    assert column(manifest, "item_id") == ["1#1", "1#2", "2", "3"]
    assert column(manifest, "path") == ["a.jpg", "b.jpg", "c.jpg", None]
    assert column(manifest, "text") == ["two\npictures", "two\npictures", "one", "none"]
    assert column(manifest, "label") == [["flood", "Fire"], ["flood", "Fire"], [], ["1"]]
    said = notes(manifest)
    assert "'label': several values a row, kept as a list column" in said
    assert "several texts a row, which are joined" in said
    with pytest.raises(UsageError, match="'label' holds several values a row and cannot be the id"):
        read(path, id_column="label")


def test_lists_of_one_are_single_values(tmp_path: Path) -> None:
    manifest = read(parquet(tmp_path / "p.parquet", text=["a", "b"], label=pa.array([[3.0], None])))
    assert column(manifest, "label") == ["3", None]
    path = tmp_path / "p.jsonl"
    path.write_text('{"text":"a","label":["x"]}\n{"text":"b","label":"y"}\n')
    assert column(read(path), "label") == ["x", "y"]


def test_mixed_cells_of_json_lines(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "image": ["a.jpg", "b.jpg"], "label": ["x", "y"]},
        {"id": 2, "image": "c.jpg", "label": "x"},
        {"id": 3, "image": {"path": "d.jpg", "bytes": None}, "label": "x"},
        {"id": 4, "image": {"bytes": "aGVsbG8="}, "label": "x"},
        {"id": 5, "image": [["e.jpg"]], "label": "x"},
        {"id": 6, "image": "f.jpg", "label": {"name": "x"}},
        {"id": 7, "image": "g.jpg", "label": None, "meta": {"a": 1}},
    ]
    manifest = read(write_rows(tmp_path / "p.jsonl", rows))
    assert column(manifest, "item_id") == ["1#1", "1#2", "2", "3", "7"]
    assert column(manifest, "path") == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "g.jpg"]
    assert column(manifest, "label") == [["x", "y"], ["x", "y"], ["x"], ["x"], None]
    assert [message.split(": ", 1)[1] for message in messages(manifest)] == [
        "column 'image' holds a picture's bytes as text; write it to a file, or the table as Parquet",
        "column 'image' holds nested values",
        "column 'label' holds nested values (keys name)",
    ]
    assert "'meta' (holds nested values (keys a))" in notes(manifest)


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    nested = pa.array([{"a": {"b": 1}}] * 2)
    path = parquet(
        tmp_path / "p.parquet", text=["a", "b"], image=nested, label=nested, extra=[1, 2], more=nested
    )
    said = notes(read(path))
    assert "column 'image' was not read: it holds nested values (fields a)" in said
    assert "column 'label' was not read: it holds nested values (fields a)" in said
    assert "not read: 'extra', 'more' (holds nested values (fields a))" in said


@pytest.mark.parametrize(
    ("name", "cells", "told"),
    [
        (
            "Name",
            ["a.png", "b.PNG"],
            "column 'Name' looks like image paths ('a.png') and was not read; --image-column Name",
        ),
        ("url", ["https://x.org/1", "https://x.org/2"], "column 'url' holds URLs, which are not downloaded"),
        (
            "src",
            ["http://x.org/1.jpg?w=1", "http://x.org/2.png"],
            "column 'src' holds URLs, which are not downloaded",
        ),
        ("b64", ["/9j/" + "A" * 80] * 2, "column 'b64' holds pictures as base64 text"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_columns_that_look_like_images_are_told(
    tmp_path: Path, suffix: str, name: str, cells: list[str], told: str
) -> None:
    rows = [{"text": f"t{i}", name: cell} for i, cell in enumerate(cells)]
    assert told in notes(read(write_rows(tmp_path / f"p.{suffix}", rows)))
    (tmp_path / "n.csv").write_text(f"label,{name}\nx,{cells[0]}\n")
    with pytest.raises(SourceError, match=f"give --image-column or --text-column; column '{name}'"):
        read(tmp_path / "n.csv")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_columns_are_known_by_their_first_values_not_rows(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": f"t{i}", "Photo": "a.png" if i == 50 else None} for i in range(60)]
    assert "'Photo' looks like image paths ('a.png')" in notes(
        read(write_rows(tmp_path / f"p.{suffix}", rows))
    )


def test_pictures_after_failed_downloads_are_read(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet", jpg=[b"\xff no"] * 25 + [None] * 25 + PICTURES[:2])
    assert pictures(read(path))[-2:] == PICTURES[:2]


def test_pictures_as_text_are_called_that(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("image,text\niVBORw0KGgo" + "Ab+/" * 2000 + "==,t\na.png,u\n")
    manifest = read(tmp_path / "p.csv")
    assert column(manifest, "path") == ["a.png"]
    assert "holds the image itself" in manifest.rejected["message"][0].as_py()


def test_classes_have_the_names_that_the_file_keeps(tmp_path: Path) -> None:
    kind = {"_type": "ClassLabel", "names": ["cat", "dog"]}
    features = {"label": kind, "tags": {"feature": kind, "_type": "Sequence"}, "text": kind, "x": ["bad"]}
    columns = {"text": ["a", "b", "c"], "label": [1, -1, 7], "tags": [[0, 1], [1], None], "x": [1, 2, 3]}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table(columns).replace_schema_metadata(about), path)
    manifest = read(path, label_columns=["label", "tags", "x"])
    assert column(manifest, "label") == ["dog", None, "7"]
    assert column(manifest, "tags") == [["cat", "dog"], ["dog"], None]
    assert column(manifest, "text") == ["a", "b", "c"]
    assert any(
        "'label': classes by the names that the file has for them: 0 is 'cat'" in n for n in manifest.notes
    )
    for about in ({"huggingface": "[" * 100_000}, {"huggingface": "[1]"}, {"huggingface": "{"}):
        pq.write_table(pa.table(columns).replace_schema_metadata(about), path)
        assert column(read(path), "label") == ["1", "-1", "7"]


def test_names_that_are_no_text_cost_no_picture(tmp_path: Path) -> None:
    raw = pa.array([b"a.png", b"\xff.png"], pa.binary())
    names = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    cells = pa.StructArray.from_arrays([pa.array(PICTURES[:2]), names], ["bytes", "path"])
    manifest = read(parquet(tmp_path / "p.parquet", image=cells))
    assert pictures(manifest) == PICTURES[:2]
    assert manifest.labels == ()


def test_an_image_column_without_images_is_told(tmp_path: Path) -> None:
    nothing = pa.array([None, None], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    path = parquet(tmp_path / "p.parquet", image=nothing, text=["a", "b"])
    assert "p.parquet: column 'image' names no image in any row" in read(path).notes


def test_lists_written_as_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("id,text,label\n1,a,\"['x', 'y']\"\n2,b,\"['x']\"\n")
    assert any(
        "column 'label' holds lists written as text" in note for note in read(tmp_path / "p.csv").notes
    )


def test_reading_pictures_in_any_order(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet", image=PICTURES, row_group_size=7)
    for row in [*range(40), *reversed(range(40)), 3, 39, 0, 20]:
        data, status = image_files.read(image_files.address(str(path), "image", row + 1))
        assert data == PICTURES[row]
        assert status.size == len(data)
    for bad in ("image:41", "image:0", "other:1", "image:1:2"):
        with pytest.raises((ImageError, OSError)):
            image_files.read(f"{path}#{bad}")
    assert image_files.exists(f"{path}#image:40")
    assert not image_files.exists(f"{path}#image:41")
    assert not image_files.exists(f"{tmp_path}/none.parquet#image:1")
    # A changed file is another file; one that is called like an address is just a file.
    parquet(path, image=PICTURES[:1])
    assert not image_files.exists(f"{path}#image:2")
    odd = tmp_path / "p.parquet#image:1"
    odd.write_bytes(b"me")
    assert image_files.read(odd)[0] == b"me"


def test_a_file_rewritten_with_size_and_time_kept_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    sizes = set()
    for value in (1, 2):
        cell = PICTURES[0][:8] + bytes([value]) * 64
        pq.write_table(
            pa.table({"image": [cell]}),
            path,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
        )
        os.utime(path, ns=(1, 1))
        sizes.add(path.stat().st_size)
        assert image_files.read(f"{path}#image:1")[0] == cell
    assert len(sizes) == 1


def test_pictures_are_not_held_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "_HELD_BYTES", 20_000)
    large = [png(i, 40) for i in range(60)]  # 5 KB each
    path = parquet(tmp_path / "p.parquet", image=large, row_group_size=50)
    for row in (0, 30, 59, 31, 5):
        assert image_files.read(f"{path}#image:{row + 1}")[0] == large[row]
        held = next(iter(reversed(image_files._columns.values())))._held
        assert len(held) <= 2
