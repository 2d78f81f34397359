from __future__ import annotations

import csv
import unicodedata
from pathlib import Path

import pytest
from icehouse.data.manifest import Manifest, SourceOptions, read_sources
from icehouse.data.paths import why_missing
from icehouse.errors import SourceError
from sources import write

NFD = unicodedata.normalize("NFD", "images/café.jpg")
FILES = (
    *[
        "images/a.jpg",
        "images/b.png",
        "images/b.jpg",
        "images/IMG_1.JPG",
        "images/only.webp",
        "images/images/deep.jpg",
    ],
    *("images/x y.jpg", "images/café.jpg", "images/100%25.jpg", "images/note.txt", "images/tail .jpg"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        write(tmp_path / "d" / name)
    return tmp_path / "d"


def read(folder: Path, *images: str, name: str = "list.csv", root: Path | None = None) -> Manifest:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "text"], *([image, "t"] for image in images)])
    return read_sources([path], options=SourceOptions(root=root))


@pytest.mark.parametrize(
    ("raw", "path", "how"),
    [
        ("images\\a.jpg", "images/a.jpg", "backslashes"),
        (".\\images\\a.jpg", "images/a.jpg", "backslashes"),
        ("C:\\Users\\me\\d\\images\\a.jpg", "images/a.jpg", "the end of a path from elsewhere"),
        ("\\\\server\\share\\images\\a.jpg", "images/a.jpg", "the end of a path from elsewhere"),
        ("/home/bob/d/images/a.jpg", "images/a.jpg", "the end of a path from elsewhere"),
        ("/images/a.jpg", "images/a.jpg", "the end of a path from elsewhere"),
        ("file:///nowhere/images/a.jpg", "images/a.jpg", "a file:// URL and the end of a path"),
        ("file:///C:/x/images/x%20y.jpg", "images/x y.jpg", "a file:// URL and the end of a path"),
        ("file:images/a.jpg", "images/a.jpg", "a file:// URL"),
        (NFD, "images/café.jpg", "another Unicode form"),
        ("images/caf%C3%A9.jpg", "images/café.jpg", "percent-encoding"),
        ("images/cafe%CC%81.jpg", "images/café.jpg", "percent-encoding and another Unicode form"),
        ("images/100%25.jpg", "images/100%25.jpg", None),
        ("images/a", "images/a.jpg", "a suffix left out"),
        ("images/only", "images/only.webp", "a suffix left out"),
        ("images/img_1.jpg", "images/IMG_1.JPG", "another case of letters"),
        ("IMAGES/A.JPG", "images/a.jpg", "another case of letters"),
        ("images/x+y.jpg", "images/x y.jpg", "plus signs for blanks"),
        ("images/a.jpg?raw=true", "images/a.jpg", "a URL's query"),
        ("images/a&#46;jpg", "images/a.jpg", "HTML references"),
        (" images/a.jpg ", "images/a.jpg", "blanks or quotes"),
        ("'images/a.jpg'", "images/a.jpg", "blanks or quotes"),
        ("\u201cimages/a.jpg\u201d\u200b", "images/a.jpg", "blanks or quotes"),
        ("\ufeffimages/a.jpg", "images/a.jpg", "blanks or quotes"),
        ("images/a.jpg#top", "images/a.jpg", "a URL's query"),
        ("images/a.jpg.", "images/a.jpg", "a full stop at its end"),
        ("~/d/images/a.jpg", "images/a.jpg", "the end of a path from elsewhere"),
        ("~bob/images/a.jpg", "images/a.jpg", "the end of a path from elsewhere"),
        ("images/tail .jpg", "images/tail .jpg", None),
        ("./images//a.jpg", "images/a.jpg", None),
        ("images/images/a.jpg", "images/a.jpg", "a folder named twice"),
        ("images/deep.jpg", "images/images/deep.jpg", "once too little"),
        ("d/images/a.jpg", "images/a.jpg", "a folder named twice"),
        ("../d/images/a.jpg", "images/a.jpg", None),
    ],
)
def test_one_file_fits(folder: Path, raw: str, path: str, how: str | None) -> None:
    manifest = read(folder, raw)
    assert manifest.table["path"].to_pylist() == manifest.table["item_id"].to_pylist() == [path]
    said = [note for note in manifest.notes if "understood by" in note]
    if how is None:
        assert said == []
    else:
        assert how in said[0]
        assert said[0].startswith("list.csv: 1 image path understood by ")
        assert repr(path) in said[0]


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("images/b", "2 files would fit: 'b.jpg', 'b.png'"),
        ("images/only.jpg", "'only.webp' is there: another suffix"),
        ("images/nothing.jpg", ""),
        ("images/no%20thing+.jpg", ""),
        ("images/note", ""),
        ("pictures/a.jpg", "there is no folder 'pictures' in "),
        ("images/a.jpg/x.jpg", "images/a.jpg is not a folder"),
    ],
)
def test_what_fits_no_file_stays_and_says_why(folder: Path, raw: str, why: str) -> None:
    manifest = read(folder, raw, "images/a.jpg")
    assert manifest.table["path"].to_pylist() == [raw, "images/a.jpg"]
    assert why in why_missing(folder / raw)
    assert bool(why) == bool(why_missing(folder / raw))
    if raw == "images/b":
        assert any(
            "1 image path fits several files: 'images/b' may be 'images/b.jpg' or 'images/b.png'" in n
            for n in manifest.notes
        )


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("images", "names a folder"),
        ("images/", "names a folder"),
        ("C:\\x\\images\\none.jpg", "where no file ends like it"),
        ("/home/bob/none.jpg", "where no file ends like it"),
        ("data:image/png;base64,AAAA", "holds the image itself"),
        ("/9j/" + "4AAQSkZJRgABAQAAAQABAAD" * 4, "holds the image itself"),
        ("~/none.jpg", "where no file ends like it"),
        ("https://x.org/a.jpg", "is a URL; download"),
        ("s3://bucket/a.jpg", "is a URL; download"),
        ("../none.jpg", "leads out of"),
    ],
)
def test_what_cannot_be_below_the_root_is_refused(folder: Path, raw: str, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        read(folder, raw)


def test_a_guess_never_takes_a_file_that_another_row_names(folder: Path) -> None:
    manifest = read(folder, "images/A.jpg", "images/a.jpg")
    assert manifest.table["path"].to_pylist() == ["images/A.jpg", "images/a.jpg"]
    (folder / "1.jpg").touch()
    with pytest.raises(SourceError, match=r"'1\.jpg' would fit, and '/h/test/1\.jpg' names that"):
        read(folder, "/h/train/1.jpg", "/h/test/1.jpg")
    manifest = read(folder, "images\\a.jpg", "images/a.jpg", "/home/x/images/b.jpg", "/home/x/images/b.png")
    assert manifest.table["path"].to_pylist() == ["images/a.jpg", "images/b.jpg", "images/b.png"]


def test_a_link_to_itself_costs_no_neighbour(folder: Path) -> None:
    (folder / "images" / "loop.jpg").symlink_to("loop.jpg")
    assert read(folder, "IMAGES/A", "images/loop").table["path"].to_pylist() == [
        "images/a.jpg",
        "images/loop.jpg",
    ]
    assert "another suffix" in why_missing(folder / "images" / "only.jpg")


def test_files_that_came_since_are_seen(folder: Path) -> None:
    assert read(folder, "images/new").table["path"].to_pylist() == ["images/new"]
    (folder / "images" / "new.jpg").touch()
    assert read(folder, "images/new").table["path"].to_pylist() == ["images/new.jpg"]


@pytest.mark.parametrize("raw", ["a.jpg", "images/a.jpg", "../images/a.jpg"])
def test_the_advice_about_the_root_works(folder: Path, raw: str) -> None:
    """What a message says is done, until it says nothing more, and the image is found."""
    root: Path | None = None
    for _ in range(3):
        try:
            manifest = read(folder, raw, name="notes/list.csv", root=root)
        except SourceError as error:
            root = Path(str(error).rpartition("give --root ")[2])
            continue
        advice = [note for note in manifest.notes if "--root" in note]
        if not advice:
            break
        root = Path(advice[0].rpartition("give --root ")[2])
    (row,) = manifest.table.to_pylist()
    assert (Path(row["root"]) / row["path"]).samefile(folder / "images" / "a.jpg")
