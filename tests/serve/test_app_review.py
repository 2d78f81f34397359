"""The page of duplicates: contradicting labels first, judgements applied to the store and undone, as on the command line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icehouse.dups.find import find_duplicates
from icehouse.dups.gallery import write_gallery
from icehouse.dups.judgements import read_records
from icehouse.dups.pair_graph import Duplicates
from icehouse.embed.pipeline import embed_sources
from icehouse.store.store import Store
from page_audit import audit, browser_page
from PIL import Image
from served import HTML, client, running
from toys import ToyEncoder


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures, of which 0 to 3 come again as BMP; that of 2 has another label than 2."""
    tmp_path = tmp_path_factory.mktemp("review")
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(3)
    lines = ["id,image,text,label"]
    for i in range(8):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8))
        picture = small.resize((96, 96), Image.Resampling.BICUBIC)
        picture.save(tmp_path / "images" / f"{i}.png")
        lines.append(f"p{i},images/{i}.png,words {i},calm")
        if i < 4:
            picture.save(tmp_path / "images" / f"{i}.bmp")
            lines.append(f"q{i},images/{i}.bmp,words {i},{'fire' if i == 2 else ' Calm'}")
    (tmp_path / "posts.csv").write_text("\n".join(lines) + "\n")
    embed_sources([tmp_path / "posts.csv"], tmp_path / "store", encoder=ToyEncoder(), dtype="float32")
    find_duplicates(Store.open(tmp_path / "store"), feature=None)
    return tmp_path / "store"


@pytest.fixture
def store(searched: Path, tmp_path: Path) -> Store:
    return Store.open(shutil.copytree(searched, tmp_path / "store"))


def test_a_search_by_evidence_is_shown(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(3)
    for i in range(120):
        picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).resize((64, 64))
        picture.save(tmp_path / "images" / f"{i}.png")
        if i < 2:
            picture.save(tmp_path / "images" / f"{i}.bmp")
    embed_sources([tmp_path / "images"], tmp_path / "store", encoder=ToyEncoder())
    found = find_duplicates(tmp_path / "store")
    rule = found.summary["parameters"]
    assert rule["cosine"] is None
    assert rule["evidence"] > 0
    write_gallery(tmp_path / "store", out=tmp_path / "gallery")
    offline = (tmp_path / "gallery" / "index.html").read_text()
    with client(tmp_path / "store", headers=HTML) as web:
        answer = web.get("/duplicates")
    assert answer.status_code == 200
    for html in (answer.text, offline):
        assert f"at evidence ≥ {rule['evidence']:.1f} (default)" in html


def test_a_search_that_is_made_meanwhile_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer's note says to run `icehouse dups find`: whoever does so need not start the server again."""
    monkeypatch.setattr("icehouse.serve.app.state._LOOK_S", 0.0)
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(3)
    for i in range(230):
        picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).resize((64, 64))
        picture.save(tmp_path / "images" / f"{i}.png")
    embed_sources([tmp_path / "images"], tmp_path / "store", encoder=ToyEncoder())
    image = (tmp_path / "images" / "7.png").read_bytes()
    with client(tmp_path / "store") as web:
        before = web.post("/duplicates", files={"image": image}).json()
        assert "after `icehouse dups find`" in before["note"]
        assert web.app.state.served.catalog is web.app.state.served.catalog
        find_duplicates(tmp_path / "store")
        after = web.post("/duplicates", files={"image": image}).json()
        assert "after `icehouse dups find`" not in after["note"]
        assert "stand out" in after["note"]
        assert [each["item_id"] for each in after["duplicates"]] == ["7.png"]


def groups(html: str) -> list[set[str]]:
    """Ids of each group of a page, in its order."""
    parts = html.split('<section class="group')[1:]
    return [set(re.findall(r'href="/item\?id=(\w+)"', part)) for part in parts]


def test_contradicting_labels_come_first(store: Store) -> None:
    with client(store.path, headers=HTML) as web:
        page = web.get("/duplicates").text
        assert sorted(map(sorted, groups(page))) == [[f"p{i}", f"q{i}"] for i in range(4)]
        assert groups(page)[0] == {"p2", "q2"}
        assert page.count("labels differ: ") == 1
        assert "1 group has different values" in page
        for first in ("chained", "score", "size", "group", "nonsense"):
            assert len(groups(web.get(f"/duplicates?first={first}").text)) == 4
        assert web.get("/duplicates?search=nothing").status_code == 404
        assert web.get("/duplicates?page=99").status_code == 200


def test_judgements_are_applied_and_undone(store: Store) -> None:
    csv = "a,b,label,keep\r\np2,q2,0,\r\np1,q1,1,q1\r\n"
    with client(store.path, headers=HTML) as web:
        before = set(Duplicates.open(store).clusters(["item_id"])["item_id"].to_pylist())
        answer = web.post("/duplicates/apply?by=Ada", content=csv, headers={"content-type": "text/csv"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["judged"]["applied"] == 3
        found = Duplicates.open(store)
        clusters = {row["item_id"]: row for row in found.clusters().to_pylist()}
        assert {"p2", "q2"}.isdisjoint(clusters)
        assert clusters["q1"]["keeper"]
        assert [record["by"] for record in read_records(store)] == ["Ada"]
        page = web.get("/duplicates").text
        assert {"p2", "q2"} not in groups(page)
        assert "Undo last applied" in page
        assert "Ada" in page
        assert web.post("/duplicates/undo").status_code == 200
        assert set(Duplicates.open(store).clusters(["item_id"])["item_id"].to_pylist()) == before
        assert web.post("/duplicates/undo").status_code == 422
        assert "Undo last applied" not in web.get("/duplicates").text


@pytest.mark.parametrize(
    "body", [b"", b"a,b\n", b"\xff\xfe\x00", b"a,b,label\nx,y,1\n", b"a,b,label\np1,q1,perhaps\n"]
)
def test_judgements_that_say_nothing_are_refused(store: Store, body: bytes) -> None:
    with client(store.path) as web:
        answer = web.post("/duplicates/apply", content=body, headers={"content-type": "text/csv"})
        assert answer.status_code == 422
        assert "\n" not in answer.json()["detail"]
        assert web.post("/duplicates/apply", content=body).status_code == 415
        elsewhere = {"content-type": "text/csv", "origin": "http://evil.example"}
        assert web.post("/duplicates/apply", content=body, headers=elsewhere).status_code == 403
        assert web.post("/duplicates/undo", headers={"sec-fetch-site": "cross-site"}).status_code == 403
        assert read_records(store) == []


def test_what_could_not_be_applied_is_told_by_the_name_of_the_file(store: Store) -> None:
    csv = "a,b,label,keep\r\np2,q2,0,\r\nnobody,q1,1,\r\n"
    with client(store.path) as web:
        answer = web.post("/duplicates/apply", content=csv, headers={"content-type": "text/csv"}).json()
        assert answer["problems"] == ["judged.csv, row 3: the store has no item 'nobody'"]
        refused = web.post(
            "/duplicates/apply", content="a,b,label\nx,y,1\n", headers={"content-type": "text/csv"}
        )
        assert refused.json()["detail"] == (
            "no judgement of judged.csv can be used: judged.csv, row 2: the store has no item 'x'"
        )


def test_labels_of_several_values_are_no_contradiction(tmp_path: Path) -> None:
    """As `icehouse dups find` has it: only a column of one value an item can contradict itself."""
    picture = Image.fromarray(np.random.default_rng(3).integers(0, 256, (48, 48, 3)).astype(np.uint8))
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "b.bmp")
    lines = [
        '{"id": "a", "image": "a.png", "label": ["fire", "smoke"]}',
        '{"id": "b", "image": "b.bmp", "label": ["calm"]}',
    ]
    (tmp_path / "posts.jsonl").write_text("\n".join(lines) + "\n")
    embed_sources([tmp_path / "posts.jsonl"], tmp_path / "store", encoder=ToyEncoder())
    find_duplicates(Store.open(tmp_path / "store"), feature=None)
    with client(tmp_path / "store", headers=HTML) as web:
        answer = web.get("/duplicates")
        assert answer.status_code == 200
        assert groups(answer.text) == [{"a", "b"}]
        assert "labels differ" not in answer.text
        browse = web.get("/browse").text
        assert "fire, smoke" in browse
        assert all(f'value="{name}"' in browse or f">{name}<" in browse for name in ("fire", "smoke", "calm"))
        chosen = web.get("/browse?is.label=smoke").text
        assert "/item?id=a" in chosen
        assert "/item?id=b" not in chosen
        for address in ("/item?id=a", "/", "/items/a", "/map", "/search?text=fire"):
            assert web.get(address).status_code < 500, address


def test_lists_are_taken_away_by_name_alone(store: Store) -> None:
    with client(store.path) as web:
        path = Duplicates.open(store).path
        assert web.get("/duplicates/file?name=drop.csv").content == (path / "drop.csv").read_bytes()
        for name in ("summary.json", "../../icehouse.json", "..", "pairs.parquet"):
            assert web.get("/duplicates/file", params={"name": name}).status_code == 404


def test_without_a_search_the_page_says_what_to_do(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    embed_sources([tmp_path / "a.png"], tmp_path / "store", encoder=ToyEncoder())
    with client(tmp_path / "store", headers=HTML) as web:
        assert "icehouse dups find" in web.get("/duplicates").text
        assert web.post("/duplicates/undo").status_code == 422


@pytest.mark.slow
def test_groups_are_judged_in_a_browser(store: Store) -> None:
    with running(store.path) as url:
        for screen in ("dark", "phone"):
            with browser_page(url, screen) as page:
                page.goto(f"{url}/duplicates")
                audit(page)
        with browser_page(url) as page:
            page.goto(f"{url}/duplicates")
            page.keyboard.press("j")
            page.keyboard.press("n")
            page.keyboard.press("y")
            page.keyboard.press("u")
            page.keyboard.press("k")
            audit(page)
            flip = page.get_by_role("button", name="flip").first
            before = page.locator(".member img").nth(1).get_attribute("src")
            flip.click()
            assert page.locator(".member img").nth(1).get_attribute("src") != before
            with page.expect_navigation():
                page.get_by_role("button", name="Apply").click()
            assert page.locator(".group").count() == 3
            assert page.get_by_role("button", name="Apply").is_disabled()
            with page.expect_navigation():
                page.get_by_role("button", name="Undo last applied").click()
            assert page.locator(".group").count() == 4
            # Whoever labels here has a name, which is kept with judgements too.
            page.evaluate("localStorage.setItem('icehouse-annotator', 'Ada & Bob')")
            page.locator(".member:not(.kept) .yes").first.click()
            with page.expect_navigation():
                page.get_by_role("button", name="Apply").click()
            assert read_records(store)[-1]["by"] == "Ada & Bob"
            page.locator(".member:not(.kept) .yes").first.click()
            page.route("**/duplicates/apply*", lambda route: route.fulfill(body="<html>some proxy</html>"))
            page.get_by_role("button", name="Apply").click()
            page.get_by_text("what you judged stays in this browser").wait_for()
            assert page.get_by_role("button", name="Apply 1 judged").is_enabled()
            page.unroute("**/duplicates/apply*")
            # What is judged on another page while this one is applied stays to be applied.
            other = page.context.new_page()
            other.goto(f"{url}/duplicates")

            def meanwhile(route: Any) -> None:
                other.locator(".member:not(.kept) .no").nth(2).click()
                route.fulfill(json={"problems": []})

            page.route("**/duplicates/apply*", meanwhile)
            with page.expect_navigation():
                page.get_by_role("button", name="Apply").click()
            assert page.get_by_role("button", name="Apply 1 judged").is_enabled()
            other.locator(".member:not(.kept) .no").nth(2).click()
            other.close()
            page.unroute("**/duplicates/apply*")
            page.reload()
            # Somebody removes an item meanwhile: what was judged of it is told, on the page that follows.
            page.locator(".member:not(.kept) .yes").first.click()
            page.route(
                "**/duplicates/apply*",
                lambda route: route.fulfill(
                    json={"problems": ["judged.csv, row 2: the store has no <i>item</i>"]}
                ),
            )
            with page.expect_navigation():
                page.get_by_role("button", name="Apply").click()
            told = page.locator("ul.notes[role=status]")
            assert told.inner_text() == "judged.csv, row 2: the store has no <i>item</i>"
            page.reload()
            assert told.count() == 0
