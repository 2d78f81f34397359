"""The Label page over HTTP: routes, what is refused, hostile words, and two annotators at once."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from html_page import HOSTILE
from icehouse.data.manifest import SourceOptions
from icehouse.embed.pipeline import embed_sources
from icehouse.serve.label_table import set_task
from icehouse.serve.labelling import Desk
from icehouse.store.maintain import verify
from icehouse.store.store import Store
from PIL import Image
from served import HOST, client, make_store
from toys import ToyEncoder

pytest.importorskip("fastapi")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = make_store(tmp_path, rows=12)
    set_task(made, "light", classes=("day", "dark"), votes=2, instructions="Bright or dark?")
    return made


@pytest.fixture
def web(store: Store) -> Iterator[Any]:
    with client(store.path) as made:
        yield made


def said(web: Any, who: str, item: str, label: str | None, entry: str, **more: Any) -> Any:
    body = {"task": "light", "annotator": who, "item_id": item, "label": label, "entry_id": entry, **more}
    return web.post("/label", json=body)


def test_two_annotators_and_an_adjudicator(web: Any, store: Store) -> None:
    for who, label in [("ann", "day"), ("bob", "dark")]:
        answer = web.get("/label/item", params={"task": "light", "annotator": who}).json()
        item = answer["item"]["item_id"] if who == "ann" else item  # noqa: F821
        assert answer["item"]["item_id"] == item
        answer = said(web, who, item, label, f"{who}-1")
        assert answer.status_code == 200
        assert answer.json()["kept"] is True
        assert answer.json()["item"]["item_id"] != item
    waiting = web.get("/label/item", params={"annotator": "eve", "view": "adjudicate"}).json()
    assert waiting["item"]["item_id"] == item
    assert waiting["votes"] == [
        {"annotator": "ann", "label": "day"},
        {"annotator": "bob", "label": "dark"},
    ]
    answer = said(web, "eve", item, "day", "eve-1", view="adjudicate").json()
    assert answer["item"] is None
    status = web.get("/label/status").json()
    assert (status["decided"], status["adjudicated"], status["disputed"]) == (1, 1, 0)
    assert Desk(store, "light").decided()[item].by == "adjudicator"


def test_a_click_sent_again_is_kept_once(web: Any, store: Store) -> None:
    assert said(web, "ann", "i3", "day", "one").json()["kept"] is True
    assert said(web, "ann", "i3", "day", "one").json()["kept"] is False
    undo = {"task": "light", "annotator": "ann", "entry_id": "two"}
    for _ in range(2):
        assert web.post("/label/undo", json=undo).json()["item"]["item_id"] == "i3"
    assert len(Desk(store, "light").labels.read()) == 2
    assert web.get("/label/status").json()["labels"] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the sizes of files")
def test_a_full_disk_keeps_nobodys_word_and_says_so(web: Any, store: Store) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))  # as if nothing more fitted
    try:
        full = said(web, "ann", "i3", "day", "one")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (full.status_code, full.headers["retry-after"]) == (503, "1")
    assert "cannot write" in full.json()["detail"]
    assert web.get("/label/status").json()["labels"] == 0
    assert said(web, "ann", "i3", "day", "one").json()["kept"] is True  # the page sends it again
    assert verify(store).findings == []


def test_what_is_wrong_is_refused(web: Any, store: Store) -> None:
    for body, status in [
        ({"annotator": ""}, 422),
        ({"annotator": "x" * 1000}, 422),
        ({"annotator": "\ud800"}, 422),
        ({"annotator": "a\u202eb"}, 422),
        ({"annotator": "a\x1b[31m"}, 422),
        ({"annotator": "a" * 61}, 422),
        ({"annotator": 3}, 422),
        ({"label": "purple"}, 422),
        ({"item_id": "nobody"}, 422),
        ({"item_id": "../../etc/passwd"}, 422),
        ({"entry_id": "a b"}, 422),
        ({"entry_id": ""}, 422),
        ({"entry_id": "x" * 81}, 422),
        ({"entry_id": "x/../y"}, 422),
        ({"view": "boss"}, 422),
        ({"task": "nobody"}, 404),
        ({"task": "../items"}, 404),
        ({"more": 1}, 422),
    ]:
        given = {
            "task": "light", "annotator": "ann", "item_id": "i3", "label": "day", "entry_id": "x", **body,
        }  # fmt: skip
        # As ASCII, so that half a surrogate pair can be sent at all.
        answer = web.post("/label", content=json.dumps(given), headers={"content-type": "application/json"})
        assert answer.status_code == status, (body, answer.text)
        assert answer.json()["detail"]
    for content in (b"", b"{", b"[]", b"null", b"\x00", b"[" * 10_000):
        answer = web.post("/label", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 422, content[:10]
    big = json.dumps({"task": "light", "annotator": "x" * 30_000})
    assert web.post("/label", content=big, headers={"content-type": "application/json"}).status_code == 413
    assert web.get("/label/item", params={"annotator": "ann", "id": "nobody"}).status_code == 404
    assert web.get("/label/item", params={"annotator": " "}).status_code == 422
    assert Desk(store, "light").labels.read() == []


def test_other_sites_can_label_nothing(web: Any, store: Store) -> None:
    body = {"task": "light", "annotator": "ann", "item_id": "i3", "label": "day", "entry_id": "x"}
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        for path in ("/label", "/label/undo"):
            assert web.post(path, json=body, headers=headers).status_code == 403
    # What a form can send from elsewhere without being asked is none of it JSON.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = web.post("/label", content=json.dumps(body), headers={"content-type": kind})
        assert answer.status_code == 415
    assert web.post("/label", json=body, headers={"origin": HOST}).status_code == 200
    assert len(Desk(store, "light").labels.read()) == 1


def test_a_token_guards_labels(store: Store) -> None:
    with client(store.path, token="secret") as web:
        assert said(web, "ann", "i3", "day", "x").status_code == 401
        assert web.get("/label/status").status_code == 401


def test_words_of_strangers_are_text(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), "green").save(tmp_path / "green.png")
    evil = [*HOSTILE, "<img src=x onerror=alert(1)>"]
    rows = [{"id": f"{word} {i}", "image": "green.png", "text": word} for i, word in enumerate(evil)]
    (tmp_path / "posts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    embed_sources(
        [tmp_path / "posts.jsonl"], tmp_path / "store", encoder=ToyEncoder(), options=SourceOptions()
    )
    store = Store.open(tmp_path / "store")
    set_task(store, "evil", classes=("<script>alert(1)</script>", "b"), instructions=evil[0], votes=1)
    with client(store.path, headers={"accept": "text/html"}) as web:
        name = "<script>alert(2)</script>"
        fragment = {"x-fragment": "desk"}
        for row in rows:
            asked = {"annotator": name, "id": row["id"]}
            html = web.get("/label/item", params=asked, headers=fragment).text
            assert "<script>alert" not in html
            assert "<img src=x" not in html
            answer = web.post(
                "/label",
                json={"task": "evil", "annotator": name, "item_id": row["id"], "label": "b", "entry_id": f"e{len(html)}"},
            )  # fmt: skip
            assert answer.status_code == 200
        html = web.get("/label").text
        assert "&lt;script&gt;alert(2)&lt;/script&gt;" in html
        assert "<script>alert" not in html


def test_without_a_task_the_page_says_how_to_begin(tmp_path: Path) -> None:
    store = make_store(tmp_path, rows=12)
    with client(store.path, headers={"accept": "text/html"}) as web:
        assert "icehouse label --classes" in web.get("/label").text
        assert web.get("/label/status").status_code == 404
        set_task(store, "one", classes=("a", "b"))  # while the server runs
        assert "data-desk" in web.get("/label").text
        set_task(store, "two", classes=("a", "b"))
        html = web.get("/label").text
        assert "/label?task=two" in html
        assert web.get("/label?task=two").text.count("data-desk") == 1


@pytest.mark.slow
def test_a_killed_server_loses_no_label(store: Store) -> None:
    command = [sys.executable, "-m", "icehouse", "label", str(store.path), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        lines = iter(server.stderr.readline, "")
        line = next(line for line in lines if "the page is at" in line)
        url = line.split("the page is at ")[1].split("label?")[0]
        for number in range(40):  # enough for parts to be merged
            body = {
                "task": "light",
                "annotator": f"p{number % 4}",
                "item_id": f"i{number % 12}",
                "label": "day",
                "entry_id": f"e{number}",
            }
            sent = urllib.request.Request(
                f"{url}label", json.dumps(body).encode(), {"content-type": "application/json"}
            )
            with urllib.request.urlopen(sent, timeout=60) as answer:
                assert json.load(answer)["kept"] is True
    finally:
        server.kill()
        server.wait()
        server.stderr.close()
    kept = Desk(Store.open(store.path), "light").labels.read()
    assert sorted(entry.entry_id for entry in kept) == sorted(f"e{number}" for number in range(40))
