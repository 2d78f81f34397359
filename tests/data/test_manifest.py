from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from icehouse.data.manifest import read_sources
from icehouse.data.rows import REJECTED_SCHEMA, RESERVED
from icehouse.errors import IcehouseError, SourceError, UsageError
from sources import by_id, column, ids, messages, notes, parquet, read, write, write_rows


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    names = "cat/b.jpg cat/a.PNG dog/x.jpeg top.webp dir.jpg/in.gif .hidden/h.jpg .h.jpg notes.txt"
    for name in names.split():
        write(folder / name)
    return folder


def test_folder(photos: Path) -> None:
    manifest = read(photos)
    assert ids(manifest) == ["cat/a.PNG", "cat/b.jpg", "dir.jpg/in.gif", "dog/x.jpeg", "top.webp"]
    assert column(manifest, "path") == ids(manifest)
    assert set(column(manifest, "root")) == {photos.as_posix()}
    assert manifest.table.column_names == ["item_id", "path", "root", "source", "text", "split"]
    assert {str(kind) for kind in manifest.table.schema.types} == {"string"}
    assert manifest.labels == ()
    assert "1 file without" in notes(manifest)


def test_labels_from_folders(photos: Path) -> None:
    manifest = read(photos, labels_from_folders=True, split="train")
    assert column(manifest, "label") == ["cat", "cat", "dir.jpg", "dog", None]
    assert set(column(manifest, "split")) == {"train"}
    assert manifest.labels == ("label",)


def test_root_makes_the_ids(photos: Path, tmp_path: Path) -> None:
    manifest = read(photos / "cat", photos / "dog", root=photos)
    assert ids(manifest) == ["cat/a.PNG", "cat/b.jpg", "dog/x.jpeg"]
    with pytest.raises(UsageError, match="not inside --root"):
        read(photos, root=photos / "cat")


def test_several_folders_with_the_same_names(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a" / "1.jpg").parent, write(tmp_path / "b" / "1.jpg").parent
    write(second / "2.jpg")
    manifest = read(first, second)
    assert ids(manifest) == ["1.jpg", "2.jpg"]
    (message,) = messages(manifest)
    assert (first / "1.jpg").as_posix() in message
    assert (second / "1.jpg").as_posix() in message
    assert f"--root {tmp_path.as_posix()}" in message
    assert manifest.rejected["item_id"].to_pylist() == ["b/1.jpg"]


def test_folder_in_a_folder_is_read_once(photos: Path) -> None:
    manifest = read(photos / "cat", photos)
    assert ids(manifest) == ids(read(photos))
    assert "lies in" in notes(manifest)


def test_links(photos: Path) -> None:
    try:
        (photos / "broken.jpg").symlink_to("nowhere.jpg")
        (photos / "cat" / "up").symlink_to("..")
        (photos / "a-cat").symlink_to("cat")
        (photos / "linked.jpg").symlink_to("cat/b.jpg")
        (photos / "self.jpg").symlink_to("self.jpg")
    except OSError:
        pytest.skip("no links here")
    manifest = read(photos)
    # The broken link stays: reading it will say so. Linked folders show what is there already.
    assert ids(manifest) == [
        *("broken.jpg", "cat/a.PNG", "cat/b.jpg", "dir.jpg/in.gif", "dog/x.jpeg", "linked.jpg", "top.webp")
    ]
    assert manifest.rejected["path"].to_pylist() == ["self.jpg"]
    with pytest.raises(SourceError, match="broken link"):
        read(photos / "broken.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipe_and_undecodable_name(photos: Path) -> None:
    os.mkfifo(photos / "pipe.jpg")
    try:
        write(Path(os.fsdecode(os.fsencode(photos) + b"/\xff.jpg")))
    except OSError:
        pytest.skip("names must be Unicode here")
    manifest = read(photos)
    assert len(ids(manifest)) == 5
    assert manifest.rejected["path"].to_pylist() == ["\\xff.jpg", "pipe.jpg"]


def test_unreadable_folder_costs_only_itself(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("cat"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    manifest = read(photos)
    assert ids(manifest) == ["dir.jpg/in.gif", "dog/x.jpeg", "top.webp"]
    assert "Permission denied" in messages(manifest)[0]


JPEG = b"\xff\xd8\xff\xe0 the rest of a picture"


def test_an_image_is_known_by_its_bytes(tmp_path: Path) -> None:
    """What a CSV may name, a folder may hold."""
    named = ["0.jfif", "1.PJPEG", "2.pjp", "3.apng", "4.mpo", "5.dib", "6.ppm", "7.heif"]
    sniffed = ["a.jpg_large", "b.jpg_orig", "c", "d.jpeg~", "e.jpg.bak", "f.thm", "g.txt", "h.jp2"]
    for name in (*named, *sniffed, "zero.jpg"):
        write(tmp_path / name, JPEG if name in sniffed else b"")
    for name in ("x.nef", "._a.jpg", ".DS_Store", "__MACOSX/z.jpg", ".thumbs/t.jpg"):
        write(tmp_path / name, JPEG)
    write(tmp_path / "readme.md", "P1 is a task")
    manifest = read(tmp_path)
    assert ids(manifest) == [*named, *sniffed, "zero.jpg"]
    said = notes(manifest)
    assert "8 images known by their bytes (" in said
    assert "2 files without an image's suffix or bytes left out (.md, .nef)" in said
    assert "2 hidden or of a Mac's archive left out (.thumbs, __MACOSX)" in said
    write(tmp_path / "list.csv", "image\n" + "".join(f"{name}\n" for name in named + sniffed))
    assert ids(read(tmp_path / "list.csv")) == [*named, *sniffed]
    assert ids(read(tmp_path / "c", tmp_path / "0.jfif")) == ["c", "0.jfif"]


def test_image_files(photos: Path) -> None:
    manifest = read(photos / "cat" / "b.jpg", photos / "top.webp")
    assert ids(manifest) == ["b.jpg", "top.webp"]
    assert column(manifest, "root") == [(photos / "cat").as_posix(), photos.as_posix()]
    assert ids(read(photos / "cat" / "b.jpg", root=photos)) == ["cat/b.jpg"]


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.csv", "", "is empty"),
        ("header.csv", "text\n", "a header and no rows"),
        ("x.csv.gz", "x", "unpack it first"),
        ("film.mp4", b"\0\0\0\x18ftypmp42" + b"\0" * 20, r"film\.mp4 is a video"),
        *(
            (name, LFS, "is a Git LFS pointer, not the file: run `git lfs pull`")
            for name in ("l.csv", "l.parquet", "l.jsonl")
        ),
        ("lfs.bin", LFS, "is a Git LFS pointer, not the picture: run `git lfs pull`"),
    ],
)
def test_files_that_are_no_source(tmp_path: Path, name: str, content: str | bytes, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        read(write(tmp_path / name, content))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no images found in .*\.avif, .*\.webp"):
        read(tmp_path)
    write(tmp_path / "jxl" / "a.jxl", b"\xff\x0a\0")
    with pytest.raises(SourceError, match=r"no images found in .*; a\.jxl is JPEG XL"):
        read(tmp_path / "jxl")
    write(tmp_path / "posts.csv", "text\nx\n")
    for name, says in (
        ("", r"it holds posts\.csv"),
        ("nope", "does not exist"),
        ("POSTS.csv", r"'posts\.csv' would fit, by another case"),
    ):
        with pytest.raises(SourceError, match=says):
            read(tmp_path / name)
    with pytest.raises(UsageError, match="no source"):
        read()


def test_columns_are_guessed_and_said(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.csv", "Item_ID,File_Name,caption,label,split,likes\n7,a.jpg,hi,x,val,3\n8,,there,,,4\n"
    )
    manifest = read(path)
    assert manifest.table.drop(["root", "source"]).to_pylist() == [
        {"item_id": "7", "path": "a.jpg", "text": "hi", "split": "dev", "label": "x"},
        {"item_id": "8", "path": None, "text": "there", "split": None, "label": None},
    ]
    assert column(manifest, "root") == [tmp_path.as_posix(), None]
    (note,) = [note for note in manifest.notes if "taken by their names" in note]
    for part in ("image = File_Name", "text = caption", "id = Item_ID", "label = label", "split = split"):
        assert part in note
    assert "'val' is 'dev'" in notes(manifest)


def test_columns_given(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "key,pic,words,kind,event,a=b\nk1,a.jpg,hi,x,flood,z\n")
    manifest = read(
        path,
        id_column="key",
        image_column="pic",
        text_column="words",
        label_columns=("class=kind", "a=b"),
        meta_columns=["event"],
        split="Validation",
    )
    item = manifest.table.to_pylist()[0]
    assert manifest.labels == ("class", "a=b", "event")
    assert (item["item_id"], item["path"], item["text"], item["class"]) == ("k1", "a.jpg", "hi", "x")
    assert (item["a=b"], item["event"], item["split"]) == ("z", "flood", "dev")


def test_ids_without_an_id_column(tmp_path: Path) -> None:
    path = write(tmp_path / "posts.csv", "image,text\n./img//a.jpg,x\n,only text\nimg/../b.jpg,\n")
    assert ids(read(path)) == ["img/a.jpg", "posts:2", "b.jpg"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"text_column": "txt"}, r"no column 'txt'.*did you mean 'text'\?.*'id', 'text', 'label'"),
        ({"label_columns": ["Label"]}, r"did you mean 'label'"),
        ({"label_columns": ["x=nothing"]}, "no column 'nothing'"),
        ({"label_columns": ["=label"]}, "name is missing"),
        ({"label_columns": ["label", "LABEL=text"]}, "two columns"),
        ({"label_columns": "label"}, "sequence of names"),
        ({"split": "train", "split_column": "label"}, "give one of them"),
        ({"split": " "}, "needs a name"),
        ({"root": "nowhere"}, "not a folder"),
        ({"encoding": "klingon"}, "unknown encoding"),
        ({"encoding": "base64"}, "unknown encoding"),
        ({"quotes": "single"}, "auto, csv or literal"),
        ({"labels_from_folders": True}, "needs a folder of images"),
    ],
)
def test_wrong_usage(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    path = write(tmp_path / "p.csv", "id,text,label\n1,x,y\n")
    with pytest.raises(UsageError, match=match):
        read(path, **options)


def test_columns_that_nobody_has(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(UsageError, match="--text-column needs an annotation file"):
        read(photos, text_column="text")
    with pytest.raises(SourceError, match=r"'foo', 'bar'; give --image-column or --text-column"):
        read(write(tmp_path / "p.csv", "foo,bar\n1,2\n"))


def test_labels_cannot_shadow_the_items_table(tmp_path: Path) -> None:
    for name in (*RESERVED, "Path"):
        with pytest.raises(UsageError, match="cannot be called"):
            read(write(tmp_path / "p.csv", f"caption,{name}_\n1,2\n"), meta_columns=[f"{name}={name}_"])


def test_bad_rows_cost_only_themselves(tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.csv",
        b"\xef\xbb\xbfid,image,text,label\n"
        b"1,a.jpg,good,x\n"
        b"2,short\n"
        b"3,../c.jpg,escapes,x\n"
        b"4,/etc/passwd,escapes,x\n"
        b'5,b.jpg,"two\nlines, ""quoted""",x\n'
        b"6,,,x\n"
        b",k.jpg,no id,x\n"
        b"7,d.jpg,caf\xe9,x\n"
        b"8,e\x00.jpg,nul in path,x\n"
        b"9,f.jpg,nul\x00in text\x1b[0m,x\n"
        b"10,http://x.org/a.jpg,url,x\n"
        b"11,folder/,folder,x\n"
        b"1,a.jpg,good,x\n"
        b"1,a.jpg,other text,x\n"
        b"12,one,too,many,x\n"
        b"13,z.jpg,last,x\n",
    )
    manifest = read(path)
    assert by_id(manifest, "text") == {
        "1": "good",
        "5": 'two\nlines, "quoted"',
        "9": "nul\0in text\x1b[0m",
        "13": "last",
    }
    assert manifest.rejected.schema == REJECTED_SCHEMA
    assert set(manifest.rejected["stage"].to_pylist()) == {"manifest"}
    found = "\n".join(messages(manifest))
    for part in (
        "line 3: 2 fields where the header has 4",
        "row 3: the image's path '../c.jpg' leads out of",
        "row 4: the image's path '/etc/passwd' is outside",
        "row 6: neither an image nor a text",
        "row 7: no id in column 'id'",
        "line 10: holds bytes that are not utf-8; if the file is in another encoding, give --encoding latin-1",
        "row 9: the image's path 'e\\x00.jpg' holds a NUL byte",
        "is a URL; download",
        "names a folder",
        f"row 14: id '1' is taken by {path}, row 1, which differs in text",
        "line 17: 5 fields",
    ):
        assert part in found
    assert len(messages(manifest)) == 11
    assert not any("\n" in message for message in messages(manifest))
    assert "1 identical row" in notes(manifest)


def test_encodings(tmp_path: Path) -> None:
    text = "text\ncafé\nété\n"
    latin = write(tmp_path / "l.csv", text.encode("latin-1"))
    with pytest.raises(SourceError, match=r"not one of its 2 rows.*--encoding latin-1"):
        read(latin)
    assert column(read(latin, encoding="latin-1"), "text") == ["café", "été"]
    assert column(read(write(tmp_path / "u16.csv", text.encode("utf-16"))), "text") == ["café", "été"]
    plain = write(tmp_path / "u16le.csv", text.encode("utf-16-le"))
    with pytest.raises(SourceError, match="BOM"):
        read(plain, encoding="utf-16")


def test_a_quote_never_closed_costs_one_row(tmp_path: Path) -> None:
    rows = "".join(f"{i},text {i}\n" for i in range(2, 50))
    manifest = read(write(tmp_path / "q.csv", f'id,text\n1,"open\n{rows}'))
    assert ids(manifest) == [str(i) for i in range(2, 50)]
    assert messages(manifest) == [f"{tmp_path / 'q.csv'}, line 2: a quote is never closed"]


def test_rereading_is_bounded(tmp_path: Path) -> None:
    # Every line opens a quote that runs to the end: reading on from each would take n * n / 2 lines.
    path = write(tmp_path / "q.csv", "x,text\nok,fine\n" + 'x","\n' * 30_000)
    assert ids(read(path)) == ["q:1"]


def test_long_values(tmp_path: Path) -> None:
    long = "a" * 1_000_000
    manifest = read(write(tmp_path / "l.csv", f"image,text\n,{long}\n{long},t\nb.jpg,t\n"))
    assert column(manifest, "text") == [long, "t"]
    assert "1000000 characters long" in messages(manifest)[0]
    assert max(len(value) for row in manifest.rejected.to_pylist() for value in row.values() if value) < 1000


def test_absolute_paths_below_the_root(tmp_path: Path) -> None:
    path = write(tmp_path / "sub" / "p.csv", f"image\n{tmp_path}/img/a.jpg\n")
    with pytest.raises(SourceError, match="--root"):
        read(path)
    manifest = read(path, root=tmp_path)
    assert column(manifest, "path") == ["img/a.jpg"]
    assert "none of the first images" in notes(manifest)
    write(tmp_path / "img" / "a.jpg")
    assert "none of the first images" not in notes(read(path, root=tmp_path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('id\ttext\n1\t"a" b\n2\t"whole"\n', ['"a" b', '"whole"']),
        (
            'id\ttext\n1\t"a ""b"""\n2\t"two\nlines\tand tab"\n3\tplain\n',
            ['a "b"', "two\nlines\tand tab", "plain"],
        ),
        ('id\ttext\n1\t"open\n2\tx\n', ['"open', "x"]),
        ("id\ttext\r\n1\ta\r\n\r\n2\tb\r\n", ["a", "b"]),
        ("id\ttext\r1\ta\r2\tb\r", ["a", "b"]),
        ("id\ttext\n1\ta\rb\x0bc\u2028d\n", ["a\rb\x0bc\u2028d"]),
    ],
)
def test_tsv(tmp_path: Path, content: str, expected: list[str]) -> None:
    assert column(read(write(tmp_path / "t.tsv", content)), "text") == expected


def test_tsv_quotes_can_be_forced(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", 'id\ttext\n1\t"whole"\n')
    assert column(read(path), "text") == ["whole"]
    assert column(read(path, quotes="literal"), "text") == ['"whole"']


@pytest.mark.parametrize(
    "content",
    [
        "sep=;\r\nid;text\r\n1;hi, you\r\n",
        "id;text;a,b;c,d;e,f\n1;hi, you;2;3;4\n",
        "id|text\n1|hi, you\n",
        'id,text,"x;y;z"\n1,"hi, you",2\n',
        'id,text,extra\n1,too,many,fields\n2,few\n1,"hi, you",2\n',
    ],
)
def test_separators_are_known_by_the_first_rows(tmp_path: Path, content: str) -> None:
    manifest = read(write(tmp_path / "s.csv", content))
    assert by_id(manifest, "text") == {"1": "hi, you"}
    assert ("separated by semicolons" in notes(manifest)) == content.startswith(("id;", "sep=;"))


@pytest.mark.parametrize("order", ["le", "be"])
def test_the_remedy_for_utf_16_works(tmp_path: Path, order: str) -> None:
    path = write(tmp_path / "u.csv", "id,text\n1,a\n".encode(f"utf-16-{order}"))
    with pytest.raises(SourceError, match="give --encoding ") as error:
        read(path)
    assert ids(read(path, encoding=str(error.value).rpartition(" ")[2])) == ["1"]


def test_keys_that_come_twice_are_refused(tmp_path: Path) -> None:
    lines = '{"id":1,"text":"a","label":"x"," label ":"y"}\n{"id":2,"text":"b","label":"x","label":"x"}\n'
    manifest = read(write(tmp_path / "j.jsonl", lines))
    assert ids(manifest) == ["2"]
    assert "line 1: has the key 'label' twice, with different values" in messages(manifest)[0]


def test_jsonl(tmp_path: Path) -> None:
    path = write(
        tmp_path / "j.jsonl",
        b'\xef\xbb\xbf{"id": 1, "text": "a", "label": 1.0, "more": {"x": [1]}}\n\n{broken\n[1]\n'
        b'{"id": 2, "text": "\\ud800"}\n{"id": 3, "img": "x.png", "label": true}\n'
        b'{"id": 12345678901234567890, "text": "big", "label": null}\n' + b"[" * 100_000 + b"\n"
        b'{"id": 5, "text": "\xe9"}\n{"id": 6, "text": "late", "label": NaN, "new": "n"}\n',
    )
    manifest = read(path, meta_columns=["new"])
    assert ids(manifest) == ["1", "3", "12345678901234567890", "6"]
    assert column(manifest, "label") == ["1", "true", None, None]
    assert column(manifest, "new") == [None, None, None, "n"]
    found = "\n".join(messages(manifest))
    for part in (
        "line 3: not JSON",
        "line 4: not a JSON object",
        "line 5: holds half",
        "line 8: nested",
        "line 9: holds bytes",
    ):
        assert part in found
    with pytest.raises(UsageError, match=r"'more'.*holds nested values"):
        read(path, text_column="more")
    with pytest.raises(SourceError, match="one JSON array"):
        read(write(tmp_path / "a.json", "[]"))
    with pytest.raises(SourceError, match="no line is a JSON object"):
        read(write(tmp_path / "b.jsonl", "hello\n"))


def test_parquet(tmp_path: Path) -> None:
    words = pa.array(["a", "b", "c"]).dictionary_encode()
    odd = {"raw": [b"\xff"] * 3, "deep": [{"x": {"y": 1}}] * 3}
    numbers = {"n": [1, 2, 3], "share": [0.5, 1.0, float("nan")], "flag": [True, None, False]}
    path = parquet(tmp_path / "p.parquet", id=[1.0, 2.0, None], text=words, **numbers, **odd)
    manifest = read(path, label_columns=list(numbers))
    assert ids(manifest) == ["1", "2"]
    assert [column(manifest, name) for name in numbers] == [["1", "2"], ["0.5", "1"], ["true", None]]
    assert "no id" in messages(manifest)[0]
    for name in ("raw", "deep"):
        with pytest.raises(UsageError, match="holds"):
            read(path, image_column=name)
    with pytest.raises(SourceError, match="not a Parquet file"):
        read(write(tmp_path / "bad.parquet", b"PAR1 nothing PAR1"))


def test_parquet_with_broken_strings(tmp_path: Path) -> None:
    raw = pa.array([b"a", b"\xff", b"c"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    manifest = read(parquet(tmp_path / "p.parquet", text=text))
    assert by_id(manifest, "text") == {"p:1": "a", "p:3": "c"}
    assert "row 2: holds bytes" in messages(manifest)[0]


cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(deadline=None, max_examples=120, suppress_health_check=list(HealthCheck))
@given(
    texts=st.lists(
        st.one_of(cells, st.sampled_from(['"', '""', '"a"', "\t", "\r\n", ",", ";", "\0"])),
        min_size=1,
        max_size=6,
    ),
    kind=st.sampled_from(["csv", "tsv", "all.tsv", "jsonl", "parquet"]),
)
def test_what_a_writer_wrote_is_read_back(tmp_path: Path, texts: list[str], kind: str) -> None:
    path = tmp_path / f"t.{kind}"
    # A first row with quotes: in a TSV they show that this one's quotes enclose fields.
    texts = ['first, "quoted"', *texts]
    if kind == "all.tsv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
            writer.writerows([["id", "text"], *enumerate(texts)])
    else:
        write_rows(path, [{"id": i, "text": text} for i, text in enumerate(texts)])
    manifest = read(path)
    expected = {str(i): text for i, text in enumerate(texts) if text.strip()}
    assert by_id(manifest, "text") == expected
    assert len(messages(manifest)) == len(texts) - len(expected)


@settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(
    body=st.lists(
        st.sampled_from(
            [b'"', b",", b"\n", b"\r", b"\t", b"\0", b"\xff", b"a", b'{"text":', b"}", b"[", b"1"]
        ),
        max_size=25,
    ),
    kind=st.sampled_from(["csv", "tsv", "jsonl", "parquet"]),
    encoding=st.sampled_from([None, "latin-1", "utf-16-le", "utf-8"]),
)
def test_any_bytes_give_rows_or_one_line(
    tmp_path: Path, body: list[bytes], kind: str, encoding: str | None
) -> None:
    path = write(tmp_path / f"f.{kind}", b"text,label\n" + b"".join(body))
    message = ""
    try:
        manifest = read(path, encoding=encoding)
        assert len(set(ids(manifest))) == len(ids(manifest)) > 0
    except IcehouseError as error:
        message = str(error)
    assert "\n" not in message


def test_a_file_under_two_ids_is_told_with_the_remedy(photos: Path, tmp_path: Path) -> None:
    name = ids(read(photos))[0]
    path = write(tmp_path / "p.csv", f"image,label\n{photos.name}/{name},x\n")
    (said,) = [note for note in read(photos, path).notes if "under two ids" in note]
    assert said.startswith(f"1 file under two ids each, such as {name!r} and ")
    manifest = read(photos, path, root=said.split("--root ")[1].removesuffix(" makes them one item each"))
    assert "under two ids" not in notes(manifest)
    assert len(manifest.table) == len(read(photos).table)


def test_files_and_folders_mixed(photos: Path, tmp_path: Path) -> None:
    first = write(tmp_path / "one.csv", "id,text,label\n1,x,a\n")
    second = write(tmp_path / "two.jsonl", '{"id": 2, "text": "y", "mood": "b"}\n')
    with pytest.raises(UsageError, match=r"two\.jsonl has no column 'label'"):
        read(first, second, label_columns=["label"])
    manifest = read(first, photos, second)
    assert ids(manifest)[0] == "1"
    assert ids(manifest)[-1] == "2"
    assert len(ids(manifest)) == 7
    assert column(manifest, "label")[-1] is None


def test_a_folder_and_its_annotations_are_one_item_each(photos: Path) -> None:
    path = write(photos / "labels.csv", "image,label\ncat/b.jpg,cat\nother.jpg,x\n")
    for sources in ([photos, path], [path, photos]):
        manifest = read(*sources)
        labels = by_id(manifest, "label")
        assert len(labels) == 6
        assert labels["cat/b.jpg"] == "cat"
        assert labels["top.webp"] is None
        assert manifest.rejected.num_rows == 0


def test_colliding_ids_name_both_sources(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", "id,text,label\n1,x,l\n2,y,l\n")
    second = write(tmp_path / "b.csv", "id,text,label\n1,x,l\n2,z,l\n3,new,l\n")
    manifest = read(first, second)
    assert by_id(manifest, "text") == {"1": "x", "2": "y", "3": "new"}
    (message,) = messages(manifest)
    assert message.startswith(
        f"{second}, row 2: id '2' is taken by {first}, row 2, which differs in text; ids must be"
    )
    assert manifest.rejected["item_id"].to_pylist() == ["b:2"]


def test_files_of_one_name(tmp_path: Path) -> None:
    manifest = read(
        write(tmp_path / "a" / "p.csv", "text\nx\n"), write(tmp_path / "b" / "p.csv", "text\ny\nz\n")
    )
    assert by_id(manifest, "text") == {"p:1": "x", "p:2": "z"}
    assert manifest.rejected["item_id"].to_pylist() == ["b/p:1"]


def test_ids_are_strings_in_one_spelling(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "id,text\n1,a\n01,b\n2.0,c\n 3,d\nA,e\na,f\né,g\n1.0,a\ne\u0301,h\n")
    manifest = read(path)
    assert ids(manifest) == ["1", "01", "2", "3", "A", "a", "é"]
    assert messages(manifest) == [
        (
            f"{path}, row 9: id 'é' is taken by {path}, row 7, which differs in text; ids must be unique; --id-column names "
            "another column"
        )
    ]


def test_a_source_named_twice_and_one_that_is_no_list(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "text\na\n")
    manifest = read(path, path)
    assert ids(manifest) == ["p:1"]
    assert "2 times" in notes(manifest)
    assert ids(read_sources(str(path))) == ids(read_sources(path)) == ids(read_sources([path]))


@pytest.mark.slow
def test_many_rows(tmp_path: Path) -> None:
    path = write(
        tmp_path / "many.csv", "image,text\n" + "".join(f"{i}.jpg,text {i}\n" for i in range(20_000))
    )
    manifest = read(path)
    assert ids(manifest) == [f"{i}.jpg" for i in range(20_000)]
