"""A browser for the application's pages, and checks of what it sees: names, contrast, focus, width, requests, errors."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

#: Problems of the page as it stands: controls without a name, pictures without alt, repeated ids, text of low contrast.
AUDIT = """() => {
  const found = [], seen = (e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const text = (e) => (e.textContent || "").trim();
  const name = (e) => (e.getAttribute("aria-label") || [...(e.labels || [])].map(text).join(" ") || text(e)
    || e.getAttribute("title") || [...e.querySelectorAll("img")].map((i) => i.alt).join(" ")).trim();
  const controls = "input:not([type=hidden]), select, textarea, button, a[href], [tabindex='0']";
  for (const e of document.querySelectorAll(controls))
    if (seen(e) && !e.closest("[aria-hidden=true]") && !name(e)) found.push("no name: " + e.outerHTML.slice(0, 120));
  for (const e of document.querySelectorAll("img:not([alt])")) found.push("no alt: " + e.outerHTML.slice(0, 120));
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push("repeated id: " + id);
  if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
  if (!document.documentElement.lang || !document.title || !document.querySelector("main"))
    found.push("no lang, title, main");
  if (document.documentElement.scrollWidth > innerWidth) found.push("wider than the window");
  const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => { pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data].map((v) => v / 255); };
  const over = (top, under) => top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3]));
  const ground = (e) => { const layers = [];
    for (let at = e; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), rgba("canvas").slice(0, 3)); };
  const light = (c) => c.map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const told = new Set();
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    const skipped = e.closest("script, style, [disabled], .off, option");
    if (!walker.currentNode.data.trim() || told.has(e) || !seen(e) || skipped) continue;
    told.add(e);
    const style = getComputedStyle(e), back = ground(e), front = over(rgba(style.color), back);
    const [high, low] = [light(front), light(back)].sort((a, b) => b - a), ratio = (high + 0.05) / (low + 0.05);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5))
      found.push(`contrast ${ratio.toFixed(2)}: ${text(e).slice(0, 40)} <${e.tagName} ${e.className}>`);
  }
  return found;
}"""

#: Places in the document, and whether a ring is drawn, of what the keyboard reaches.
FOCUS = """() => { const e = document.activeElement, all = [...document.querySelectorAll("*")];
  const style = getComputedStyle(e), parent = getComputedStyle(e.parentElement || e);
  return [all.indexOf(e), style.outlineStyle !== "none" || parent.outlineStyle !== "none", e.outerHTML.slice(0, 100)]; }"""

SCREENS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}


@contextlib.contextmanager
def browser_page(url: str, screen: str = "light", *, allowed: tuple[str, ...] = ()) -> Iterator[Any]:
    """A page of a real browser; skips where there is none. At its end no error was told, and no request left the host."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium")
    told: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(**SCREENS[screen]).new_page()
        page.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: told.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (told.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda asked: (
                None
                if asked.url.startswith((url, "data:", "blob:"))
                else told.append(f"left the host: {asked.url}")
            ),
        )
        try:
            yield page
        finally:
            browser.close()
    assert [line for line in told if not any(part in line for part in allowed)] == []


def audit(page: Any) -> None:
    """Fail if something on the page has no name or cannot be read, or the page is wider than the window."""
    assert page.evaluate(AUDIT) == []


def tab_through(page: Any, most: int = 40) -> int:
    """Press Tab until the focus leaves the page; fail if it jumps back or cannot be seen. How many stops there were."""
    page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
    last, stops = -1, 0
    for _ in range(most):
        page.keyboard.press("Tab")
        place, ringed, html = page.evaluate(FOCUS)
        if html.startswith("<body") or place <= last:
            break
        assert ringed, f"no sign of the focus: {html}"
        last, stops = place, stops + 1
    return stops
