"""The map's page: points and colours as bytes, chosen items' cards, hostile addresses; and a browser on 100,000 points."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from icehouse.dups.find import find_duplicates
from icehouse.embed.captions.caption_table import import_captions
from icehouse.heads.runs import Run
from icehouse.heads.trainer import predict_items
from icehouse.serve.app.map_page import NONE, categories, packed
from icehouse.serve.projection import list_maps, make_map, read_map
from icehouse.store.store import Store
from page_audit import audit, browser_page, tab_through
from served import HTML, client, make_store, running


def unpack(body: bytes) -> tuple[dict[str, Any], bytes]:
    """Head and arrays of an answer, read as the script reads them."""
    size = int.from_bytes(body[:4], "little")
    assert size % 4 == 0
    return json.loads(body[4 : 4 + size]), body[4 + size :]


def points_of(body: bytes) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    head, rest = unpack(body)
    rows = np.frombuffer(rest, "<u4", head["n"])
    xy = np.frombuffer(rest, "<f4", 2 * head["n"], 4 * head["n"]).reshape(-1, 2)
    assert len(rest) == 12 * head["n"]
    return head, rows, xy


def colours_of(web: Any, by: str) -> tuple[dict[str, Any], np.ndarray]:
    answer = web.get("/map/colours", params={"by": by})
    assert answer.status_code == 200, answer.text
    head, rest = unpack(answer.content)
    return head, np.frombuffer(rest, "<u2")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = make_store(tmp_path_factory.mktemp("map"))
    find_duplicates(made, feature=None)
    make_map(made, method="pca", clusters=3)
    return made


@pytest.fixture(scope="module")
def web(store: Store) -> Iterator[Any]:
    with client(store.path) as made:
        yield made


def test_every_item_is_a_point_where_the_map_says(store: Store, web: Any) -> None:
    head, rows, xy = points_of(web.get("/map/points").content)
    items = store.items.read(["item_id", "image_sha256"])
    drawn = read_map(store, store_feature(store))
    place = dict(zip(drawn.keys.to_pylist(), drawn.xy.tolist(), strict=True))
    assert head["n"] == 60
    assert rows.tolist() == list(range(60))
    assert xy.tolist() == [place[key] for key in items["image_sha256"].to_pylist()]
    assert xy[58].tolist() == xy[0].tolist()  # a copy shares the point of its content


def store_feature(store: Store) -> str:
    return list_maps(store)[0]


def test_colours_are_the_items_own(store: Store, web: Any) -> None:
    items = store.items.read(["item_id", "label", "split"])
    for by, column in (("is.label", "label"), ("is.split", "split")):
        head, codes = colours_of(web, by)
        names = [each["name"] for each in head["categories"]]
        assert [names[code] for code in codes] == items[column].to_pylist()
        assert sum(each["count"] for each in head["categories"]) == 60
    predicted = predict_items(store, run := Run.load(store, "latest"))
    head, codes = colours_of(web, f"run.{run.run_id}")
    names = [each["name"] for each in head["categories"]]
    told = dict(zip(predicted["item_id"].to_pylist(), predicted["predicted"].to_pylist(), strict=True))
    assert [names[code] for code in codes] == [told[item] for item in items["item_id"].to_pylist()]
    head, codes = colours_of(web, "cluster")
    assert head["categories"][0]["name"] == "cluster 1"
    assert head["none"] == 0


def test_duplicates_have_the_colour_of_their_group(store: Store, web: Any) -> None:
    name = next(path.parent.name for path in (store.path / "dups").glob("*/summary.json"))
    head, codes = colours_of(web, f"dups.{name}")
    assert codes[0] == codes[58] != NONE
    assert codes[1] == codes[59] != codes[0]
    assert head["none"] == int((codes == NONE).sum())


def test_the_commonest_categories_have_a_colour_and_the_rest_share_one() -> None:
    values = [f"v{i}" for i in range(12) for _ in range(20 - i)] + [None]
    names, codes = categories(values)
    assert names == [*(f"v{i}" for i in range(8)), "4 others"]
    assert codes.tolist() == [min(int(value[1:]), 8) if value else NONE for value in values]
    assert categories([])[0] == []
    assert unpack(packed({"a": "é"}, np.arange(3, dtype="<u2")))[0] == {"a": "é"}


def test_bytes_are_sent_once(web: Any) -> None:
    for path in ("/map/points", "/map/colours?by=cluster", "/map/colours?by=is.label"):
        first = web.get(path)
        again = web.get(path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert web.get(path, headers={"if-none-match": '"other"'}).content == first.content


def test_chosen_points_have_cards(store: Store, web: Any) -> None:
    version = unpack(web.get("/map/points").content)[0]["version"]
    answer = web.get("/map/items", params={"version": version, "rows": "3,58"})
    assert answer.status_code == 200
    assert 'href="/item?id=i3"' in answer.text
    assert 'href="/item?id=i58"' in answer.text
    assert answer.text.count('class="id"') == 2
    assert "<html" not in answer.text
    assert web.get("/map/items", params={"version": "old", "rows": "3"}).status_code == 409


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        ("", 422),
        ("-1", 422),
        ("1e3", 422),
        ("²", 422),
        ("60", 404),
        ("999999999999", 404),
        (",".join("1" * 13), 422),
        ("1" * 999, 422),
    ],
)
def test_odd_rows_are_refused(web: Any, rows: str, status: int) -> None:
    version = unpack(web.get("/map/points").content)[0]["version"]
    assert web.get("/map/items", params={"version": version, "rows": rows}).status_code == status


def test_odd_addresses_are_refused(web: Any) -> None:
    for path in ("/map", "/map/points", "/map/colours?by=cluster", "/map/items?rows=1&version=x"):
        joint = "&" if "?" in path else "?"
        for name in ("../../items", "items", "..", "\x00", "%00", "<script>", "x" * 300):
            answer = web.get(f"{path}{joint}", params={**_query(path), "map": name}, headers=HTML)
            assert answer.status_code == 404, (path, name)
            assert "<script>" not in answer.text
    for by in ("", "is.", "is.item_id", "is.path", "dups.../x", "run.", "run.../../x", "none.x", "\x00"):
        assert web.get("/map/colours", params={"by": by}).status_code == 404, by


def _query(path: str) -> dict[str, str]:
    return dict(each.split("=") for each in path.partition("?")[2].split("&") if each)


def test_the_page_says_how_a_map_is_made_and_what_it_lacks(tmp_path: Path) -> None:
    made = make_store(tmp_path)
    with client(made.path, headers=HTML) as web:
        assert "icehouse map" in web.get("/map").text
        assert web.get("/map/points").status_code == 404
        make_map(made, method="pca")
        assert "not on the map" not in web.get("/map").text
        before = web.get("/map/points")
        feature = store_feature(made)
        drawn = read_map(made, feature)
        made.table(f"maps/{feature}").delete(drawn.spec["key"], drawn.keys.to_pylist()[:2])
        after = web.get("/map").text
        assert "not on the map" in after
        answer = web.get("/map/points", headers={"if-none-match": before.headers["etag"]})
        assert answer.status_code == 200
        assert points_of(answer.content)[0]["n"] < 60


def test_points_go_with_the_items_they_were_of(tmp_path: Path) -> None:
    made = make_store(tmp_path)
    make_map(made, method="pca")
    with client(made.path) as web:
        for thread in threading.enumerate():
            if thread.name == "icehouse-load":  # it reads the items beforehand
                thread.join()
        assert web.get("/map/points").status_code == 200
        state = web.app.state.served
        before = weakref.ref(state.catalog)
        made.items.delete("item_id", ["i3"])
        for _ in range(3):  # threads that answer forget the last request with the next one
            assert points_of(web.get("/map/points").content)[0]["n"] == 59
        gc.collect()
        assert before() is None


# A browser


def big_store(folder: Path, n: int = 100_000) -> tuple[Store, np.ndarray]:
    """A store of items with no file, whose map is given; and the coordinates, by row."""
    rng = np.random.default_rng(1)
    store = Store.create(folder / "store")
    keys = [f"{i:064x}" for i in range(n)]
    kind = rng.integers(0, 10, n)
    rows = pa.table(
        {
            "item_id": [f"p{i}" for i in range(n)],
            "text": [f"post {i}" for i in range(n)],
            "text_sha256": keys,
            "missing": np.zeros(n, bool),
            "kind": pa.array([f"kind {k}" for k in kind.tolist()]),
        }
    )
    store.items.append(rows)
    angle = 2 * np.pi * kind / 10
    xy = np.stack([np.cos(angle), np.sin(angle)], axis=1) * 4 + rng.normal(size=(n, 2))
    xy = xy.astype(np.float32)
    fields = [("text_sha256", pa.string()), ("x", pa.float32()), ("y", pa.float32()), ("cluster", pa.int32())]
    kept = store.ensure_table("maps/toy/text/joint", pa.schema(fields), {"key": "text_sha256"})
    kept.append(pa.table([keys, xy[:, 0], xy[:, 1], kind.astype(np.int32)], schema=pa.schema(fields)))
    return store, xy


def inside(polygon: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Points inside a polygon, by the number of edges that a ray crosses."""
    x, y = xy.astype(np.float64).T
    odd = np.zeros(len(xy), bool)
    for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, 1, axis=0), strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            odd ^= ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return odd


COLLECT = """() => { const canvas = document.querySelector("canvas[data-map]"); window.got = [];
  canvas.addEventListener("chosen", (event) => window.got.push(event.detail.rows)); }"""


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, np.ndarray, Path]]:
    """Address of the served store, coordinates by row, and a folder for pictures of the pages."""
    folder = tmp_path_factory.mktemp("big")
    store, xy = big_store(folder)
    with running(store.path) as url:
        yield url, xy, folder


def until(page: Any, condition: str) -> None:
    """Wait for a condition; Playwright's own way evaluates a string in the page, which its policy forbids."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {condition}")


def opened(page: Any, url: str) -> tuple[Any, Any]:
    """The map, drawn; its canvas and the canvas's place on the page."""
    page.goto(f"{url}/map")
    page.wait_for_selector("canvas[data-ready]")
    until(page, "document.querySelector('canvas[data-map]').dataset.frames > 0")
    page.evaluate(COLLECT)
    canvas = page.locator("canvas[data-map]")
    canvas.scroll_into_view_if_needed()
    return canvas, canvas.bounding_box()


def to_map(canvas: Any, points: np.ndarray) -> np.ndarray:
    """Coordinates on the map of points of the canvas, in CSS pixels without the border."""
    scale, left, top = map(float, canvas.get_attribute("data-view").split())
    return np.stack([(points[:, 0] - left) / scale, (top - points[:, 1]) / scale], axis=1)


@pytest.mark.slow
def test_a_lasso_among_a_hundred_thousand_points(big: tuple[str, np.ndarray, Path]) -> None:
    url, xy, folder = big
    with browser_page(url) as page:
        canvas, frame = opened(page, url)
        page.check("input[value=lasso]")
        w, h = frame["width"], frame["height"]
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        star = np.where(np.arange(24) % 2, 0.18, 0.4)
        line = np.round(
            np.stack([w * (0.5 + star * np.cos(angles)), h * (0.5 + star * np.sin(angles))], axis=1)
        )
        page.mouse.move(frame["x"] + 1 + line[0, 0], frame["y"] + 1 + line[0, 1])
        page.mouse.down()
        before = int(canvas.get_attribute("data-frames"))
        for x, y in line[1:]:
            page.mouse.move(frame["x"] + 1 + x, frame["y"] + 1 + y)
            page.evaluate("() => new Promise(requestAnimationFrame)")
        assert int(canvas.get_attribute("data-frames")) - before >= 12
        page.mouse.up()
        until(page, "window.got.length === 1")
        expected = np.flatnonzero(inside(to_map(canvas, line), xy))
        assert 5_000 < len(expected) < 95_000
        assert page.evaluate("window.got[0]") == expected.tolist()
        page.wait_for_selector("[data-items] .card")
        assert page.locator("[data-items] .card .id a").all_inner_texts() == [f"p{i}" for i in expected[:12]]
        page.get_by_role("button", name="Next", exact=True).click()
        until(page, f"document.querySelector('[data-items] .id')?.innerText.includes('p{expected[12]}')")
        audit(page)
        page.screenshot(path=str(folder / "lasso.png"))


@pytest.mark.slow
@pytest.mark.parametrize("screen", ["dark", "phone"])
def test_the_map_is_moved_chosen_and_followed(big: tuple[str, np.ndarray, Path], screen: str) -> None:
    url, xy, folder = big
    with browser_page(url, screen) as page:
        canvas, frame = opened(page, url)
        audit(page)
        assert tab_through(page) >= 10
        colours = page.evaluate(
            """() => { const c = document.querySelector("canvas[data-map]");
            const all = new Uint32Array(c.getContext("2d").getImageData(0, 0, c.width, c.height).data.buffer);
            return new Set(all).size; }"""
        )
        assert colours >= 9
        canvas.focus()
        page.keyboard.press("Shift+Enter")
        until(page, "window.got.length === 1")
        assert len(page.evaluate("window.got[0]")) == len(xy)
        page.keyboard.press("Escape")
        until(page, "window.got.length === 2")
        frames = int(canvas.get_attribute("data-frames"))
        for key in ("+", "+", "ArrowLeft", "ArrowUp", "-"):
            page.keyboard.press(key)
            page.evaluate("() => new Promise(requestAnimationFrame)")
            page.evaluate("() => new Promise(requestAnimationFrame)")
        assert int(canvas.get_attribute("data-frames")) >= frames + 4
        page.keyboard.press("0")
        legend = page.locator("[data-legend] button").first
        count = int(legend.locator(".num").inner_text().replace(",", ""))
        legend.click()
        assert legend.get_attribute("aria-pressed") == "false"
        canvas.focus()
        seen = page.evaluate("window.got.length")
        page.keyboard.press("Shift+Enter")
        until(page, f"window.got.length === {seen + 1}")
        assert len(page.evaluate("window.got.at(-1)")) == len(xy) - count
        legend.click()
        page.check("input[value=box]")
        page.keyboard.press("Escape")
        page.screenshot(path=str(folder / f"{screen}.png"), full_page=True)
        canvas.scroll_into_view_if_needed()
        frame = canvas.bounding_box()
        corners = np.round(np.array([[0.3, 0.35], [0.62, 0.6]]) * [frame["width"], frame["height"]])
        page.mouse.move(frame["x"] + 1 + corners[0, 0], frame["y"] + 1 + corners[0, 1])
        page.mouse.down()
        page.mouse.move(frame["x"] + 1 + corners[1, 0], frame["y"] + 1 + corners[1, 1], steps=3)
        seen = page.evaluate("window.got.length")
        page.mouse.up()
        until(page, f"window.got.length === {seen + 1}")
        (x0, y1), (x1, y0) = to_map(canvas, corners)
        chosen = (xy[:, 0] >= x0) & (xy[:, 0] <= x1) & (xy[:, 1] >= y0) & (xy[:, 1] <= y1)
        assert page.evaluate("window.got.at(-1)") == np.flatnonzero(chosen).tolist()
        link = page.locator("[data-items] .id a").first
        link.wait_for()
        link.click()
        page.wait_for_url("**/item?id=p*")


@pytest.mark.slow
def test_fingers_move_and_pinch(big: tuple[str, np.ndarray, Path]) -> None:
    url, _, _ = big
    touch = """(fingers) => { const canvas = document.querySelector("canvas[data-map]");
      const frame = canvas.getBoundingClientRect();
      const send = (type, id, x, y) => canvas.dispatchEvent(new PointerEvent(type, { pointerId: id, pointerType: "touch",
        clientX: frame.left + x, clientY: frame.top + y, bubbles: true, isPrimary: id === 1 }));
      canvas.setPointerCapture = () => {};
      for (const [type, id, x, y] of fingers) send(type, id, x, y);
      return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(canvas.dataset.view)))); }"""
    with browser_page(url, "phone") as page:
        canvas, _ = opened(page, url)
        scale, left, top = map(float, canvas.get_attribute("data-view").split())
        moved = page.evaluate(
            touch, [["pointerdown", 1, 100, 100], ["pointermove", 1, 140, 90], ["pointerup", 1, 140, 90]]
        )
        assert np.allclose([float(v) for v in moved.split()], [scale, left + 40, top - 10])
        pinched = page.evaluate(
            touch,
            [
                ["pointerdown", 1, 100, 100], ["pointerdown", 2, 200, 100], ["pointermove", 2, 300, 100],
                ["pointerup", 1, 100, 100], ["pointerup", 2, 300, 100],
            ],
        )  # fmt: skip
        assert np.isclose(float(pinched.split()[0]), 2 * scale)
        assert page.evaluate("window.got.length") == 0


@pytest.mark.slow
def test_a_mouse_that_rests_on_a_point_sees_its_item(tmp_path: Path) -> None:
    store = make_store(tmp_path, 8)
    make_map(store, method="pca", clusters=0)
    sha = store.items.read(["image_sha256"])["image_sha256"].to_pylist()
    said = "a cat <script>alert(1)</script>"
    rows = [json.dumps({"image_sha256": each, "caption": said}) for each in sha]
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    import_captions(store, tmp_path / "captions.jsonl")
    with running(store.path) as url, browser_page(url) as page:
        canvas, frame = opened(page, url)
        _, numbers, xy = points_of(page.request.get(f"{url}/map/points").body())
        scale, left, top = map(float, canvas.get_attribute("data-view").split())
        at = (
            frame["x"] + 1 + left + float(xy[3, 0]) * scale,
            frame["y"] + 1 + top - float(xy[3, 1]) * scale,
        )
        page.mouse.move(*at)
        tip = page.locator("[data-tip]")
        page.wait_for_selector("[data-tip] .card")
        assert f"i{numbers[3]}" in tip.inner_text()
        assert said in tip.inner_text()
        assert tab_through(page) >= 10  # nothing in it takes the focus
        audit(page)
        page.mouse.move(frame["x"] + 3, frame["y"] + 3)
        assert not tip.is_visible()
        assert page.evaluate("window.got.length") == 0
