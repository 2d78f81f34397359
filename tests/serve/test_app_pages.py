"""The application's pages, as HTML: what they show, filter and link to, and that nothing of a user's data is markup."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from html_page import HOSTILE
from icehouse.embed.captions.caption_table import import_captions
from icehouse.embed.pipeline import embed_sources
from icehouse.heads.runs import Run
from icehouse.heads.trainer import train
from icehouse.serve.app import catalog
from icehouse.serve.query import search
from icehouse.store.store import Store
from PIL import Image
from served import HTML, client, make_store
from toys import ToyEncoder


class Elements(HTMLParser):
    """Elements and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def links(self, start: str) -> list[str]:
        return [a["href"] for tag, a in self.found if tag == "a" and a.get("href", "").startswith(start)]


def items_of(answer: Any) -> list[str]:
    """Ids of the cards of a page, in their order."""
    assert answer.status_code == 200, answer.text
    return re.findall(r'<span class="id"><a href="/item\?id=(\w+)">', answer.text)


@pytest.fixture(scope="module")
def web(work: Path) -> Iterator[Any]:
    with client(work / "store", headers=HTML) as made:
        assert made.problem is None
        yield made


def test_every_section_of_the_navigation_is_there(web: Any) -> None:
    sections = Elements(web.get("/").text).links("/")
    assert {"/", "/browse", "/runs"} <= {*sections}
    for path in sections:
        page = web.get(path)
        assert page.status_code == 200, path
        assert page.text.count('aria-current="page"') == 1, path


def test_the_grid_pages_through_the_store(web: Any) -> None:
    first, second = items_of(web.get("/browse")), items_of(web.get("/browse?page=2"))
    assert first + second == [f"i{i}" for i in range(60)]
    assert 'rel="next"' in web.get("/browse").text
    assert 'rel="next"' not in web.get("/browse?page=2").text
    for odd in ("0", "-1", "x", "²", "99999999999999999999"):
        assert web.get("/browse", params={"page": odd}).status_code == 200


@pytest.mark.parametrize(
    ("asked", "meets"),
    [
        ({"is.label": "dark", "is.split": "test"}, lambda i: i % 2 == 1 and i // 2 % 4 == 3),
        ({"contains": "NUMBER1"}, lambda i: str(i).startswith("1")),
        ({"where": "text like '%number7' or item_id = 'i3'"}, lambda i: i in (3, 7)),
        ({"where": "label = 'day'", "contains": "9"}, lambda i: i % 2 == 0 and "9" in str(i)),
    ],
)
def test_conditions_choose(web: Any, asked: dict[str, str], meets: Any) -> None:
    assert items_of(web.get("/browse", params=asked)) == [f"i{i}" for i in range(60) if meets(i)][:48]


def test_searches_rank_as_the_library_does(work: Path, web: Any) -> None:
    want = search(work / "store", text="sun number8", k=48, encoder=ToyEncoder()).hits
    assert items_of(web.get("/browse", params={"q": "sun number8"})) == [hit.item_id for hit in want]
    looks = search(work / "store", item="i5", feature="toy-a/image/pooled", k=48).hits
    assert items_of(web.get("/browse?like=i5")) == [hit.item_id for hit in looks]
    means = search(work / "store", item="i5", feature="toy-a/image/joint", k=48).hits
    assert items_of(web.get("/browse?like=i5&by=meaning")) == [hit.item_id for hit in means]
    dark = search(work / "store", item="i5", feature="toy-a/image/pooled", k=48, where="label = 'dark'").hits
    assert items_of(web.get("/browse?like=i5&is.label=dark")) == [hit.item_id for hit in dark]
    assert web.get("/browse?like=nobody").status_code == 404


def test_a_picture_that_is_uploaded_ranks_page_after_page(work: Path, web: Any) -> None:
    file = work / "images" / "11.png"
    sent = web.post("/browse", files={"image": file.read_bytes()}, follow_redirects=False)
    assert sent.status_code == 303  # so that the page can be turned, reloaded and gone back to
    there = sent.headers["location"]
    want = search(work / "store", image=file, feature="toy-a/image/pooled", k=60, encoder=ToyEncoder()).hits
    assert want[0].item_id == "i11"
    first, second = items_of(web.get(there)), items_of(web.get(f"{there}&page=2"))
    assert first + second == [hit.item_id for hit in want]
    assert items_of(web.get(f"{there}&is.label=day")) == [
        hit.item_id for hit in want if int(hit.item_id[1:]) % 2 == 0
    ]
    means = search(work / "store", image=file, feature="toy-a/image/joint", k=48, encoder=ToyEncoder()).hits
    page = Elements(web.get(there).text)
    meaning = next(link for link in page.links("/browse?") if "by=meaning" in link and "picture=" in link)
    assert items_of(web.get(meaning)) == [hit.item_id for hit in means]
    shown = next(a["src"] for tag, a in page.found if a.get("src", "").startswith("/browse/picture"))
    assert web.get(shown).content.startswith(b"RIFF")
    words = web.post("/browse", data={"text": "sun number8"}, follow_redirects=False)
    assert words.headers["location"] == "/browse?q=sun+number8"
    for gone in ("/browse?picture=other", "/browse/picture?name=other"):
        assert "choose it again" in web.get(gone).text
    assert web.get("/browse?picture=other").status_code == 422


def test_a_form_that_cannot_be_answered_is_told_on_a_page(work: Path, web: Any) -> None:
    broken = (work / "images" / "11.png").read_bytes()[:200]
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'
    sends = {"accept": "text/html", "sec-fetch-mode": "navigate", "sec-fetch-site": "same-origin"}
    for data, why in ((broken, "damaged PNG"), (svg, "SVG"), (b"", "empty")):
        answer = web.post("/browse", files={"image": ("meme.png", data, "image/png")}, headers=sends)
        assert answer.status_code == 422
        assert re.search(f'role="alert">.*{why}', answer.text), answer.text[-800:]
        assert 'name="where"' in answer.text
    answer = web.post("/browse", files={"other": b"x"}, headers=sends)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "text/html; charset=utf-8")
    large = {**sends, "content-length": str(2**40), "content-type": "multipart/form-data; boundary=x"}
    answer = web.post("/browse", content=b"x", headers=large)
    assert (answer.status_code, answer.headers["content-type"]) == (413, "text/html; charset=utf-8")
    assert "larger than 64 MB" in answer.text


def test_captions_stand_beside_their_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path, 8)
    sha = store.items.read(["image_sha256"])["image_sha256"].to_pylist()
    with client(store.path, headers=HTML) as web:
        assert 'class="caption"' not in web.get("/item?id=i1").text
        for name, said in (("default", "a <script>alert(1)</script> cat"), ("other", "no cat")):
            rows = [{"image_sha256": each, "caption": f"{said} {i}"} for i, each in enumerate(sha[:3])]
            (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
            import_captions(store, tmp_path / "captions.jsonl", name=name)
        monkeypatch.setattr(catalog, "_LOOK_S", 0)  # what came meanwhile is looked for once a second
        item = web.get("/item?id=i1").text
        assert "a &lt;script&gt;alert(1)&lt;/script&gt; cat 1" in item
        assert "no cat 1" in item
        assert "a &lt;script&gt;alert(1)&lt;/script&gt; cat 2" in web.get("/browse").text
        assert "no cat" not in web.get("/browse").text  # a card has room for one
        told = web.get("/items/i2").json()["captions"]
        assert told == {"default": "a <script>alert(1)</script> cat 2", "other": "no cat 2"}
        assert web.get("/items/i5").json()["captions"] == {}


def test_a_wrong_condition_stays_in_the_form(web: Any) -> None:
    answer = web.get("/browse", params={"where": "nocolumn = 'x'"})
    assert answer.status_code == 422
    assert "nocolumn = &#39;x&#39;" in answer.text
    assert 'role="alert"' in answer.text


def test_mistakes_of_a_run_are_those_of_its_predictions(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    run = train(store, "knn", inputs="text", label="third")  # of words that tell nothing of it
    wrong = [row for row in run.predictions().to_pylist() if row["y"] != row["predicted"]]
    assert wrong
    with client(store.path, headers=HTML) as web:
        page = web.get("/browse", params={"run": run.run_id})
        assert sorted(items_of(page)) == sorted(row["item_id"] for row in wrong)
        assert f"predicted {wrong[0]['predicted']}" in page.text
        right = items_of(web.get("/browse", params={"run": run.run_id, "outcome": "right"}))
        assert len(right) == len(run.predictions()) - len(wrong)


def test_an_item_is_shown_with_what_is_like_it(web: Any) -> None:
    page = web.get("/item?id=i6")
    assert "sun number6" in page.text
    assert "Looks alike" in page.text
    assert "Means alike" in page.text
    assert len(items_of(page)) == 12
    assert web.get("/item?id=nobody").status_code == 404
    assert "no such item" in web.get("/item?id=nobody").text


def test_an_answer_is_shown_with_bars_steps_and_cards(work: Path, web: Any) -> None:
    files = {"image": (work / "images" / "04.png").read_bytes()}
    whole = web.post("/try", files=files, data={"text": "sun number4"})
    part = web.post("/try", files=files, data={"text": "sun number4"}, headers={"x-fragment": "answer"})
    assert part.text.strip() in whole.text
    for words in (
        "What each input contributed",
        "Near-duplicates in the store",
        "Nearest in the store",
        "day",
    ):
        assert words in part.text
    lacking = web.post("/try", data={"text": "sun"}, headers={"x-fragment": "answer"})
    assert lacking.status_code == 422
    assert "needs an image and a text" in lacking.text
    broken = web.post("/try", files={"image": b"nothing"}, data={"text": "sun"})
    assert broken.status_code == 422


def test_runs_and_their_reports(work: Path, web: Any) -> None:
    run = Run.load(work / "store", "latest")
    page = web.get("/runs")
    assert run.run_id in page.text
    report = web.get(f"/runs/{run.run_id}/report")
    if (run.path / "report.html").exists():
        assert report.status_code == 200
    assert report.headers["content-security-policy"].startswith("sandbox;") or report.status_code == 404
    assert web.get(f"/runs/{run.run_id}/explain?id=i7").status_code == 200
    for name in ("..", "%2e%2e", "../../tables", f"{run.run_id}/../{run.run_id}", "latest"):
        assert web.get(f"/runs/{name}/report").status_code == 404, name


def test_a_run_that_is_deleted_while_it_answers_costs_no_page(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    picture = base64.b64encode((tmp_path / "images" / "03.png").read_bytes()).decode()
    with client(store.path, headers=HTML) as web:
        (run,) = web.app.state.served.runs
        before = web.post("/predict", json={"text": "night number3", "image": picture}).json()
        (store.path / "runs" / run).rename(tmp_path / "gone")
        after = web.post("/predict?explain=true", json={"text": "night number3", "image": picture}).json()
        assert after["probabilities"] == before["probabilities"]
        item = web.get("/item?id=i3")
        assert item.status_code == 200
        assert run in item.text
        for path in ("/", "/runs", "/browse", "/map"):
            assert web.get(path).status_code == 200, path
        for path in (f"/runs/{run}/report", f"/runs/{run}/explain?id=i3"):
            assert web.get(path).status_code == 404, path
        assert web.get(f"/browse?run={run}").status_code == 422


def test_strangers_words_are_never_markup(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), "green").save(tmp_path / "green.png")
    rows = [
        {"id": f"{evil} {i}", "image": "green.png", "text": evil, "label": evil, evil: evil, "split": "train"}
        for i, evil in enumerate(HOSTILE)
    ]
    rows = [{**row, **dict.fromkeys(HOSTILE[:2], row["text"])} for row in rows]
    for row in rows:
        for name in HOSTILE[2:]:
            row.pop(name, None)
    (tmp_path / "posts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    embed_sources([tmp_path / "posts.jsonl"], tmp_path / "store", encoder=ToyEncoder())
    store = Store.open(tmp_path / "store")
    assert store.items.rows == len(HOSTILE)
    with client(store.path, headers=HTML) as web:
        pages = [web.get("/browse"), web.get("/runs")]
        for row in rows:
            pages.append(web.get("/item", params={"id": row["id"]}))
            pages.append(
                web.get("/browse", params={"q": row["text"], "contains": row["text"], "where": row["text"]})
            )
            pages.append(web.get("/browse", params={"like": row["id"]}))
            pages.append(web.get("/item", params={"id": row["text"] + "none"}))
        for page in pages:
            found = Elements(page.text)
            for tag, attributes in found.found:
                assert not [name for name in attributes if name.startswith("on")], attributes
                assert tag not in ("iframe", "object", "embed", "base"), tag
                if tag == "script":
                    assert attributes["src"].startswith("/static/")
                for name in ("href", "src", "action"):
                    assert attributes.get(name, "/").startswith(("/", "#main", "data:,")), attributes
        shown = "".join(Elements(pages[0].text).texts)
        assert all(evil in shown or " ".join(evil.split()) in shown for evil in HOSTILE)


def test_a_picture_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (30, 20), "green").save(tmp_path / "images" / "a&b<c>.png")
    embed_sources([tmp_path / "images"], tmp_path / "store", encoder=ToyEncoder())
    (tmp_path / "images" / "a&b<c>.png").unlink()
    with client(tmp_path / "store") as web:
        told = web.get("/picture", params={"id": "a&b<c>.png"})
        assert told.headers["content-type"] == "image/svg+xml"
        assert "the file is gone" in told.text
        assert web.get("/picture", params={"id": "../../etc/passwd"}).status_code == 404
