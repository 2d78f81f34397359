"""Hostile input through the front door: each gets its one line or its row in the ledger, and its neighbours are embedded."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import pytest
from icehouse.cli import app
from icehouse.embed import encoder as registry
from icehouse.store.store import Store
from toys import TOYS, make_pictures, picture
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "available", lambda: TOYS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def embed(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(app, ["embed", *arguments, "-s", "store", "-e", "toy:a", "--json"])
    assert result.exit_code == 0, result.output
    assert "Traceback" not in result.output
    report: dict[str, object] = json.loads(result.stdout)
    return report


def ledger() -> list[dict[str, str]]:
    rows: list[dict[str, str]] = Store.open("store").failures.read().to_pylist()
    assert all(row["message"] and "\n" not in row["message"] for row in rows)
    return rows


def bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(4096)))


def test_a_folder_of_trouble(here: Path) -> None:
    photos = here / "photos"
    make_pictures(photos, 5)
    whole = (photos / "0000.png").read_bytes()
    (photos / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (photos / "zero.jpg").write_bytes(b"")
    picture(77).save(photos / "really-png.png")
    (photos / "really-png.png").rename(photos / "wrong-extension.jpg")
    (photos / "page.jpg").write_text("<!DOCTYPE html><html></html>")
    (photos / "bomb.png").write_bytes(bomb())
    (photos / "broken-link.jpg").symlink_to("nowhere.jpg")
    (photos / "folder.jpg").mkdir()
    picture(78).save(photos / "folder.jpg" / "inside.png")
    (photos / "loop").symlink_to(photos, target_is_directory=True)
    os.mkfifo(photos / "pipe.jpg")
    (photos / "na\u202eme\nwith \x07.png").write_bytes(whole)
    expected = {"truncated.png", "zero.jpg", "page.jpg", "bomb.png", "broken-link.jpg", "pipe.jpg"}
    if os.geteuid() != 0:
        (photos / "unreadable.png").write_bytes(whole)
        (photos / "unreadable.png").chmod(0)
        expected.add("unreadable.png")

    report = embed("photos")
    rows = ledger()
    assert {row["item_id"] or row["path"] for row in rows} == expected
    assert report["failed"] == len(expected)
    items = Store.open("store").features("toy-a/image/joint").ids
    assert {"wrong-extension.jpg", "folder.jpg/inside.png", "0004.png"} <= set(items)
    assert "bomb" in next(row["message"] for row in rows if row["item_id"] == "bomb.png")
    again = embed("photos")
    # What nobody may read is tried again: its rights are no part of what a known failure is told by.
    assert (again["images"], again["failed"]) == (0, len(expected & {"unreadable.png"}))


def test_an_annotation_file_of_trouble(here: Path) -> None:
    make_pictures(here / "data" / "images", 3)
    picture(5).save(here / "secret.png")
    lines = [
        b"id,image,text,label",
        b"good,images/0000.png,fine words,a",
        b"ragged,images/0001.png,too,many,fields,here",
        b"latin,images/0001.png,caf\xe9,a",
        b"good,images/0002.png,the same id again,b",
        b"escape,../secret.png,look at me,a",
        b"absolute,/etc/passwd,look at me,a",
        b"nul,images/00\x0001.png,a NUL in the path,a",
        b"nultext,images/0002.png,a NUL \x00 in the text,b",
        b"large,," + b"word " * 200_000 + b",b",
        b"empty,,,b",
        b"gone,images/gone.png,words survive,a",
        b"last,images/0001.png,the last row,a",
    ]
    (here / "data" / "posts.csv").write_bytes(b"\n".join(lines) + b"\n")
    embed("data/posts.csv", "--label-column", "label")
    store = Store.open("store")
    assert set(store.features("toy-a/image/joint").ids) == {"good", "nultext", "last"}
    assert {"good", "nultext", "large", "gone", "last"} <= set(store.features("toy-a/text/joint").ids)
    told = " | ".join(row["message"] for row in ledger())
    for word in ("utf-8", "--root", "NUL", "6 fields", "unique"):
        assert word in told, f"nothing told of {word}: {told}"
    failing = {row["item_id"] for row in ledger()}
    assert "gone" in failing
    assert store.query("select text from items where item_id = 'good'")["text"].to_pylist() == ["fine words"]


def test_a_file_in_another_encoding_names_the_remedy(here: Path) -> None:
    (here / "posts.csv").write_bytes("id,text\n1,caf\xe9\n2,na\xefve\n".encode("latin-1"))
    result = CliRunner().invoke(app, ["embed", "posts.csv", "-s", "store", "-e", "toy:a"])
    assert result.exit_code == 1
    assert "--encoding" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert embed("posts.csv", "--encoding", "latin-1")["texts"] == 2


@pytest.mark.slow
def test_hostile_names_are_shown_and_never_obeyed(here: Path) -> None:
    names = ["[/neg]", "[red]x\x1b[31m", "a\x9b2J\u202eb", "[link=file:///etc/passwd]y[/link]"]
    column = "[/col]\x1b]0;title\x07\u202e"
    (here / "photos").mkdir()
    rows = []
    for i in range(24):
        name = f"{names[i % 4]}{i}.png".replace("/", "_")
        picture(i).save(here / "photos" / name)
        rows.append(
            {
                "id": f"{names[i % 4]}-{i}",
                "image": f"photos/{name}",
                "text": f"{names[i % 4]} text {i}",
                column: names[i % 2],
                "split": ["train", "train", "dev", "test"][i // 2 % 4],
            }
        )
    (here / "posts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    embed("posts.jsonl", "--image-column", "image", "--text-column", "text", "--label-column", column)
    some = rows[3]["id"]
    for arguments in (
        ["info"],
        ["sql", "select * from items"],
        ["sql", "select * from failures"],
        ["sql", 'select 1 as "[/x]\x1b[0m\u202e"'],
        ["sql", "select [/y]\x1b[31m\u202e from items"],
        ["search", "--text", "a cat"],
        ["search", "--item", some],
        ["search", "--item", f"{some}\u202e\x1b[2J[/z]"],
        ["train", "logreg", "--label", column, "--inputs", "image", "--run-name", "[/run]\x1b\u202e"],
        ["train", "logreg", "--label", column, "--inputs", "image"],
        ["runs"],
        ["evaluate", "latest"],
        ["evaluate", "[/none]\x1b[1m"],
        ["compare"],
        ["explain", "latest", some],
        ["dups", "find"],
        ["dups", "find", "--name", "[/n]\x1b"],
        ["split", "--ratios", "0.5,0.2,0.3", "--stratify", column],
        ["suggest", "-n", "2"],
        ["verify"],
        ["export", "[/f]\x1b\u202e", "-o", "x.npy"],
        ["embed", "[/nowhere]\x1b[5m\u202e", "-e", "toy:a"],
        ["train", "[/head]\x1b", "--label", column],
        ["info", "--[/option]\x1b"],
        ["[/command]\x1b\u202e"],
    ):
        for extra in ([], ["--json"]):
            result = CliRunner().invoke(app, [*arguments, "-s", "store", *extra])
            assert result.exception is None or isinstance(result.exception, SystemExit), (
                arguments,
                result.exception,
            )
            assert "unexpected" not in result.output, (arguments, result.output)
            shown = result.stdout + result.stderr
            bad = {char for char in shown if not char.isprintable() and char != "\n"}
            assert not bad, (arguments, bad)
            if extra and result.exit_code == 0 and result.stdout.strip():
                json.loads(result.stdout)
    table = CliRunner().invoke(app, ["sql", "select * from items", "-s", "store"]).stdout
    assert "[/neg]" in table
    assert "[/col]" in table
