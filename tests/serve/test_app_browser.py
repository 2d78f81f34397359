"""A real browser walks through the application: upload, search, keyboard, dark, phone; strangers' words run nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from html_page import HOSTILE
from icehouse.embed.pipeline import embed_sources
from page_audit import SCREENS, audit, browser_page, tab_through
from PIL import Image
from served import running
from toys import ToyEncoder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(work: Path) -> Iterator[str]:
    with running(work / "store") as made:
        yield made


@pytest.mark.parametrize("screen", list(SCREENS))
def test_every_page_can_be_read_and_walked(url: str, work: Path, screen: str) -> None:
    with browser_page(url, screen, allowed=("422", "404")) as page:
        paths = ["/browse?q=sun", "/browse?is.label=dark&page=1", "/item?id=i7", "/runs", "/item?id=none"]
        for path in [*paths, "/browse?where=label%20%3D"]:
            page.goto(url + path)
            audit(page)
        page.goto(url)
        for number, link in enumerate(page.locator("nav.sections a").all()):
            assert link.is_visible()
            page.goto(url + link.get_attribute("href"))
            audit(page)
            assert tab_through(page) >= 4, number


def test_a_picture_and_a_text_are_tried(url: str, work: Path) -> None:
    with browser_page(url, allowed=("422",)) as page:
        page.goto(url)
        page.set_input_files("input[name=image]", work / "images" / "06.png")
        page.locator(".drop img").wait_for()  # which fails where it does not come to be seen
        page.fill("#text", "sun number6")
        page.click("button.main")
        page.wait_for_selector("[data-answer] .bars")
        assert "day" in page.locator("[data-answer] h2").first.inner_text()
        assert page.locator("[data-answer] .badge.exact").count() >= 1
        audit(page)
        page.fill("#text", "")
        page.click("button[type=reset]")
        page.fill("#text", "sun alone")
        page.keyboard.press("Tab")
        page.click("button.main")
        page.wait_for_selector("[role=alert]")
        assert "needs an image and a text" in page.locator("[role=alert]").inner_text()
        audit(page)


def test_a_picture_is_dropped(url: str, work: Path) -> None:
    drop = """async ([bytes]) => {
      const list = new DataTransfer();
      list.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
      document.dispatchEvent(new DragEvent("drop", { dataTransfer: list, bubbles: true, cancelable: true }));
    }"""
    with browser_page(url) as page:
        page.goto(url)
        page.evaluate(drop, [list((work / "images" / "03.png").read_bytes())])
        page.fill("#text", "night number3")
        page.click("button.main")
        page.wait_for_selector("[data-answer] .bars")
        assert "dark" in page.locator("[data-answer] h2").first.inner_text()


def test_a_picture_searches(url: str, work: Path) -> None:
    with browser_page(url) as page:
        page.goto(f"{url}/browse")
        page.set_input_files("input[type=file]", work / "images" / "09.png")
        page.get_by_role("button", name="Search", exact=True).click()
        page.wait_for_selector(".score")
        assert page.locator(".card .id a").first.inner_text() == "i9"
        audit(page)


def test_search_and_follow_by_keyboard(url: str) -> None:
    with browser_page(url) as page:
        page.goto(f"{url}/browse")
        page.keyboard.press("/")
        page.keyboard.type("sun number8")
        page.keyboard.press("Enter")
        page.wait_for_url("**/browse?q=sun*")
        first = page.locator(".card .id a").first
        name = first.inner_text()
        first.focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/item?id=*")
        assert page.locator("h1").inner_text() == name
        page.locator("a.all").first.click()
        page.wait_for_url("**/browse?like=*")
        assert page.locator(".card").count() == 48
        page.get_by_role("link", name="Next").click()
        page.wait_for_url("**page=2*")
        assert page.locator(".card").count() == 11
        page.goto(f"{url}/runs")
        page.get_by_role("link", name="mistakes").first.click()
        page.wait_for_url("**/browse?run=*")


def test_strangers_words_run_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), "green").save(tmp_path / "green.png")
    evil = [
        *HOSTILE,
        "<img src=x onerror=alert(1)>",
        "<a href=javascript:alert(1)>x</a>",
        "<style>*{display:none}</style>",
    ]
    rows = [
        {"id": f"{word} {i}", "image": "green.png", "text": word, "label": word}
        for i, word in enumerate(evil)
    ]
    (tmp_path / "posts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    embed_sources([tmp_path / "posts.jsonl"], tmp_path / "store", encoder=ToyEncoder())
    with running(tmp_path / "store") as url, browser_page(url, allowed=("422",)) as page:
        page.goto(f"{url}/browse")
        shown = page.locator("main").inner_text()
        assert all(" ".join(word.split()) in shown for word in evil)
        for link in [a.get_attribute("href") for a in page.locator(".card .id a").all()]:
            page.goto(url + link)
            assert page.locator("h1").is_visible()
        for word in evil[:3]:
            page.goto(f"{url}/browse")
            page.fill("[name=contains]", word)
            page.fill("[name=where]", word)
            page.click("button.main")
            page.wait_for_selector("[role=alert]")


def test_the_policy_blocks_what_would_slip_through(url: str) -> None:
    inject = """() => new Promise((done) => {
      addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
      const script = document.createElement("script");
      script.textContent = "document.title = 'ran'";
      document.body.append(script);
      setTimeout(() => done(document.title), 1000);
    })"""
    with browser_page(url, allowed=("Content Security Policy",)) as page:
        page.goto(url)
        assert page.evaluate(inject) == "script-src-elem"
        assert page.title() != "ran"


def test_a_browser_logs_in(work: Path) -> None:
    with running(work / "store", token="open sesame") as url, browser_page(url, allowed=("401",)) as page:
        page.goto(f"{url}/browse")
        page.wait_for_url("**/login")
        audit(page)
        page.fill("[name=token]", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("[role=alert]")
        page.fill("[name=token]", "open sesame")
        page.keyboard.press("Enter")
        page.wait_for_url(f"{url}/")
        page.goto(f"{url}/browse")
        assert page.locator(".card").count() == 48
        assert (
            page.locator(".card img").first.evaluate(
                "(image) => image.decode().then(() => image.naturalWidth)"
            )
            == 24
        )
