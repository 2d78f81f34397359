"""A real browser: two annotators label by keyboard, an adjudicator decides; light, dark and on a phone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from icehouse.serve.label_table import set_task
from icehouse.serve.labelling import Desk
from page_audit import SCREENS, audit, browser_page, tab_through
from served import make_store, running

pytestmark = pytest.mark.slow


def begin(page: Any, url: str, name: str, view: str = "queue") -> None:
    page.goto(f"{url}/label?task=light&view={view}")
    page.fill("[name=annotator]", name)
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-desk] .progress-told")


def shown(page: Any) -> str:
    return str(page.locator("[data-item]").get_attribute("data-item"))


def press(page: Any, key: str) -> str:
    """Press a key and wait for the answer; the item that is shown then."""
    with page.expect_response(lambda answer: answer.request.method == "POST"):
        page.keyboard.press(key)
    page.wait_for_selector("[data-desk]:not([aria-busy])")
    return shown(page) if page.locator("[data-item]").count() else ""


def picture(page: Any, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"label-{name}.png"), full_page=True)


def test_two_annotators_by_keyboard(tmp_path: Path) -> None:
    store = make_store(tmp_path, rows=24)
    set_task(store, "light", classes=("day", "dark"), votes=2, instructions="Is it bright or dark outside?")
    with running(store.path) as url:
        with browser_page(url) as ann, ann.context.browser.new_context().new_page() as bob:
            begin(ann, url, "Ann")
            begin(bob, url, "Bob")
            first = shown(ann)
            assert press(ann, "1") != first
            assert press(ann, "u") == first  # undo shows it again
            assert press(ann, "s") != first  # skipped
            assert press(ann, "u") == first
            for _ in range(9):
                item = shown(ann)
                press(ann, "1" if int(item[1:]) % 2 == 0 else "2")
            bob.reload()  # the name is kept
            bob.wait_for_selector("[data-item]")
            assert shown(bob) == first  # what Ann has begun comes first
            press(bob, "2" if int(first[1:]) % 2 == 0 else "1")  # a disagreement
            for _ in range(8):
                item = shown(bob)
                press(bob, "1" if int(item[1:]) % 2 == 0 else "2")
            bob.keyboard.press("x")
            audit(bob)
            assert tab_through(bob) > 5
            picture(bob, "queue")
            begin_page = ann
            begin_page.get_by_role("button", name="Change").click()
            begin_page.goto(f"{url}/label?task=light&view=adjudicate")
            begin_page.wait_for_selector("[data-item]")
            assert shown(begin_page) == first
            assert "Bob" in begin_page.locator(".choices").inner_text()
            picture(begin_page, "adjudicate")
            assert press(begin_page, "1") == ""
            begin_page.reload()
            begin_page.wait_for_selector("[data-status] table")
            assert "by an adjudicator" in begin_page.locator("[data-status]").inner_text()
            audit(begin_page)
        desk = Desk(store, "light")
        assert desk.decided()[first].by == "adjudicator"
        assert len(desk.found.votes) == 9
        assert {len(votes) for votes in desk.found.votes.values()} == {2}
        for screen in SCREENS:
            with browser_page(url, screen) as page:
                begin(page, url, f"Cem on {screen}")
                audit(page)
                picture(page, screen)
                page.keyboard.press("Tab")
                press(page, "2")
                audit(page)


def test_double_clicks_reloads_and_names_of_strangers(tmp_path: Path) -> None:
    store = make_store(tmp_path, rows=24)
    set_task(store, "light", classes=("day", "dark", "<b onclick=alert(1)>"), votes=2)
    name = "<script>alert(1)</script>"
    with running(store.path) as url, browser_page(url) as page:
        begin(page, url, name)
        first = shown(page)
        page.locator("[data-class=day]").dblclick(delay=120)
        page.wait_for_selector(f"[data-item]:not([data-item='{first}'])")
        page.wait_for_timeout(300)
        votes = Desk(store, "light").found.votes
        assert {unit: [*who] for unit, who in votes.items()} == {first: [name]}
        second = shown(page)
        page.reload()
        page.wait_for_selector("[data-item]")
        assert shown(page) == second  # nothing was said of it yet
        press(page, "2")
        page.goto(f"{url}/runs")
        page.go_back()
        page.wait_for_selector("[data-item]")
        assert shown(page) not in (first, second)
        assert name in page.locator("[data-status] table").inner_text()
        assert len(Desk(store, "light").found.votes) == 2
