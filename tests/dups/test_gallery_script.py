"""The gallery's script in a browser: filters, order, judgements. Without one only what it works on is tested."""

from __future__ import annotations

import csv
import html
import inspect
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from galleries import csv_rows, entry, filled, near
from html_page import HtmlPage
from icehouse.dups.apply import apply_judgements
from icehouse.dups.find import find_duplicates
from icehouse.dups.gallery import write_gallery
from icehouse.dups.review_commands import gallery
from toys import picture

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
IDS = ["<b>kept</b>", 'q"uote, \u202egpj', "line\nbreak \x7f", "\u0430\u0431\u0432", "copy"]

SETUP = """
const tools = document.querySelector(".tools");
const told = () => tools.querySelector("output").textContent;
const field = (name) => tools.querySelector(`[name="${name}"]`);
const set = (name, value) => {
  field(name).value = value;
  field(name).dispatchEvent(new Event("input", { bubbles: true }));
  return told();
};
const ids = () => Array.from(document.querySelectorAll(".member:not([hidden])"))
  .filter((member) => member.offsetParent).map((member) => JSON.parse(member.dataset.id));
let saved = "";
const Real = window.Blob;
window.Blob = function (parts, options) { saved = parts.join(""); return new Real(parts, options); };
HTMLAnchorElement.prototype.click = () => {};  // a browser without a window waits for ever for where to save
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A group of five: three farther and farther from the kept one, and a copy; and a group of two, less alike."""
    root = tmp_path_factory.mktemp("pictures")
    for k in range(4):
        picture(k, 400 - 40 * k, 300 - 30 * k).save(root / f"{k}.png")
    shutil.copy2(root / "0.png", root / "4.png")
    picture(9, 320, 240).save(root / "5.png")
    picture(9, 160, 120).save(root / "6.png")
    items = [entry(root / f"{k}.png", name) for k, name in enumerate([*IDS, "large", "small"])]
    store = filled(root / "store", items, near([0, 4, 9, 14, 0, 100, 117]))
    find_duplicates(store, rule=0.95, views=False)
    return write_gallery(store).path


def test_ids_are_there_as_they_are(page: Path) -> None:
    members = HtmlPage(page).all("li", "member")
    assert {json.loads(member["data-id"]) for member in members} == {*IDS, "large", "small"}


def test_the_command_makes_what_the_library_makes() -> None:
    ours = inspect.signature(gallery).parameters
    library = inspect.signature(write_gallery).parameters
    assert ours["thumbnail"].default == library["side"].default
    assert ours["per_page"].default == library["per_page"].default


def ask(page: Path, folder: Path, script: str, address: str = "", *, tools: bool = True) -> Any:
    """What `script` returns, run in the browser after the page's own one; the policy would forbid it and is left out."""
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text(encoding="utf-8"))
    run = f"document.title = JSON.stringify((() => {{ {SETUP if tools else ''} {script} }})())"
    copy = folder / "page.html"
    copy.write_text(text.replace("</body>", f"<script>{run}</script></body>"), encoding="utf-8")
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
        "--dump-dom", f"{copy.as_uri()}{address}",
    ]  # fmt: skip
    try:
        dumped = subprocess.run(command, capture_output=True, text=True, timeout=600).stdout
    except subprocess.TimeoutExpired:
        dumped = ""
    if "<title>" not in dumped:
        pytest.skip("the browser does not start here")
    found = re.search(r"<title>(.*?)</title>", dumped, re.DOTALL)
    assert found is not None
    return json.loads(html.unescape(found[1]))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_filters_in_a_browser(page: Path, tmp_path: Path) -> None:
    kept, near_one, far, farthest, copy = IDS
    first, cosine, words, nothing, kind, address, size, score = ask(
        page,
        tmp_path,
        """
        const first = told();
        set("min", "0.98"); const cosine = ids(); set("min", "");
        set("q", "BREAK line"); const words = ids(); set("q", "");
        const nothing = [set("q", "cosine"), set("q", "flip")]; set("q", "");
        field("kind").click(); const kind = [ids(), location.hash];
        document.querySelector("[name=reset]").click();
        const order = () => Array.from(document.querySelectorAll(".group"), (group) => Number(group.dataset.size));
        set("sort", "size"); const size = order(); set("sort", "score");
        return [first, cosine, words, nothing, ...kind, size, order()];
        """,
    )
    assert first == "2 of 2 groups, 5 duplicates on this page"
    assert set(cosine) == {kept, near_one, far, copy}
    assert set(words) == {kept, near_one, far, farthest, copy}
    assert nothing == ["0 of 2 groups, 0 duplicates on this page"] * 2
    assert copy not in kind
    assert set(kind) == {kept, near_one, far, farthest, "large", "small"}
    assert address == "#?kind=perceptual.embedding.indirect"
    assert size == [5, 2]
    assert score == [2, 5]
    (later,) = ask(page, tmp_path, "return [ids()]", "#?max=0.98")
    assert set(later) == {kept, farthest, "large", "small"}


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_judgements_in_a_browser(page: Path, tmp_path: Path) -> None:
    kept, near_one, far, farthest, _ = IDS
    script = """
        const of = (id) => Array.from(document.querySelectorAll(".member")).find((m) => JSON.parse(m.dataset.id) === id);
        const press = (id, css) => of(id).querySelector(css).click();
        """
    names = json.dumps(IDS)
    equal, to_judge, judged, flipped, text = ask(
        page,
        tmp_path,
        f"const [kept, near, far, farthest, copy] = {names}; {script}"
        """
        const equal = of(copy).querySelector(".yes") === null;
        press(near, ".yes"); press(far, ".no"); press(farthest, ".yes"); press(farthest, ".yes");
        set("judged", "no"); const to_judge = ids(); set("judged", "yes"); const judged = ids(); set("judged", "");
        const image = of(far).querySelector("img"), before = image.src, of_kept = of(kept).querySelector("img").src;
        press(far, ".flip"); const flipped = [image.src === of_kept];
        press(far, ".flip"); flipped.push(image.src === before);
        field("save").click();
        return [equal, to_judge, judged, flipped, saved];
        """,
    )
    assert equal
    assert set(to_judge) == {kept, farthest, "large", "small"}
    assert set(judged) == {kept, near_one, far}
    assert flipped == [True, True]
    # As in a browser that is opened again.
    again, count = ask(page, tmp_path, "field('save').click(); return [saved, field('save').textContent]")
    assert again == text
    assert count == "Save 2 judged"
    path = tmp_path / "judged.csv"
    path.write_text(text, encoding="utf-8", newline="")
    assert [tuple(row.values()) for row in csv_rows(path)] == [
        (kept, near_one, "1", ""),
        (kept, far, "0", ""),
    ]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_keys_bulk_actions_and_undo_in_a_browser(page: Path, tmp_path: Path) -> None:
    kept, near_one, far, farthest, copy = IDS
    told = ask(
        page,
        tmp_path,
        f"const [kept, near, far, farthest, copy] = {json.dumps(IDS)};"
        """
        const of = (id) => Array.from(document.querySelectorAll(".member")).find((m) => JSON.parse(m.dataset.id) === id);
        const at = () => document.activeElement.dataset.id && JSON.parse(document.activeElement.dataset.id);
        const key = (name, shiftKey = false) => document.activeElement.dispatchEvent(
          new KeyboardEvent("keydown", { key: name, shiftKey, bubbles: true, cancelable: true }));
        const rows = () => {
          saved = "";
          if (!field("save").disabled) field("save").click();
          return saved.split("\\r\\n").slice(1, -1).length;
        };
        const progress = () => tools.querySelector(".progress-told").textContent;
        const out = { walk: [], start: progress() };
        key("j"); out.walk.push(at()); key("j"); out.walk.push(at()); key("h"); out.walk.push(at());
        key("ArrowDown"); out.walk.push(at()); key("ArrowUp"); out.walk.push(at());
        const first = of(out.walk[0]), image = first.querySelector("img"), src = image.src;
        key(" "); out.flipped = image.src !== src; key(" "); out.back = image.src === src;
        key("y"); out.next = at(); key("n"); out.third = at();
        out.pressed = [out.walk[0], out.walk[1]].map((id) => [".yes", ".no"].map(
          (css) => of(id).querySelector(css).getAttribute("aria-pressed")));
        out.two = rows();
        key("u"); out.one = rows();
        key("u"); key("u"); out.none = field("save").disabled;
        key("a"); out.exact = rows(); out.exactText = saved;
        of(far).focus(); key("g"); out.group = rows(); out.after = progress();
        of(far).focus(); key("k"); field("save").click(); out.keep = saved;
        out.chosen = [of(far).className, of(kept).className];
        key("u"); field("save").click(); out.unkept = saved;
        of(far).focus(); key("G", true); field("save").click(); out.all = saved;
        field("q").focus(); key("u"); field("save").click(); out.typed = saved === out.all;
        document.activeElement.blur();
        key("?"); const help = document.querySelector("dialog.keys"); out.help = help.open;
        help.querySelector("button").click(); out.closed = !help.open;
        return out;
        """,
    )
    assert told["start"] == "0 of 2 groups judged"
    first, second = told["walk"][:2]
    assert told["walk"] == [first, second, first, second, first]
    assert first != second
    assert told["flipped"]
    assert told["back"]
    assert (told["next"], told["third"] not in (first, second)) == (second, True)
    assert told["pressed"] == [["true", "false"], ["false", "true"]]
    assert (told["two"], told["one"], told["none"]) == (2, 1, True)
    assert told["exact"] == 1
    assert list(csv.reader(told["exactText"].splitlines()))[-1][:3] == [kept, copy, "1"]
    assert told["group"] == 4
    assert told["after"] == "1 of 2 groups judged"

    def judged(text: str) -> dict[str, tuple[str, str]]:
        path = tmp_path / "read.csv"
        path.write_text(text, encoding="utf-8", newline="")
        return {row["b"]: (row["label"], row["keep"]) for row in csv_rows(path)}

    assert judged(told["keep"])[far] == ("1", far)
    assert "chosen" in told["chosen"][0]
    assert "replaced" in told["chosen"][1]
    assert judged(told["unkept"])[far] == ("1", "")
    # Equal bytes are no different pictures.
    assert judged(told["all"]) == {
        near_one: ("0", ""), far: ("0", ""), farthest: ("0", ""), copy: ("1", ""),
    }  # fmt: skip
    assert told["typed"]
    assert told["help"]
    assert told["closed"]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_judgements_are_loaded_and_applied(page: Path, tmp_path: Path) -> None:
    """What a page saves, `apply` takes; and a page goes on from a file, the odd ids and all."""
    kept, near_one, far, _, _ = IDS
    quoted = [value.replace('"', '""') for value in (kept, near_one, far)]
    saved = (
        f'a,b,label,keep\r\n"{quoted[0]}","{quoted[1]}",0,\r\n"{quoted[0]}","{quoted[2]}",1,"{quoted[2]}"\r\n'
    )
    text, progress = ask(
        page,
        tmp_path,
        f"const text = {json.dumps(saved)};"
        """
        const transfer = new DataTransfer();
        const file = new File([text], "judged.csv");
        file.text = () => ({ then: (use) => use(text) });  // at once, since this script does not wait
        Object.defineProperty(field("file"), "files", { value: [file] });
        field("file").dispatchEvent(new Event("change"));
        field("save").click();
        return [saved, tools.querySelector(".progress-told").textContent];
        """,
    )
    assert text == saved
    assert progress == "0 of 2 groups judged"
    path = tmp_path / "judged.csv"
    path.write_text(text, encoding="utf-8", newline="")
    store = page.parents[3]
    try:
        done = apply_judgements(store, path)
        assert done.problems == []
        rows = {row["item_id"]: row for row in done.search.clusters().to_pylist()}
        assert rows[far]["keeper"]
        assert near_one not in rows or rows[near_one]["group"] != rows[far]["group"]
    finally:
        apply_judgements(store, undo=True)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_a_file_that_a_spreadsheet_wrote_again_is_loaded(page: Path, tmp_path: Path) -> None:
    """Semicolons, other columns and words, ends the other way round; what cannot be used is counted, not called loaded."""
    kept, near_one, far, farthest, _ = (name.replace('"', '""') for name in IDS)
    rows = [
        "sep=;",
        "note;label;keep;b;a",
        f'"seen; twice";1.0;;"{near_one}";"{kept}"',
        f';FALSE;;"{kept}";"{far}"',  # the kept one stands last
        f';yes;"{farthest}";"{kept}";"{farthest}"',
        f';perhaps;;"{far}";"{kept}"',
        ";1;;;",
        "",
    ]
    told, pressed, chosen, saved = ask(
        page,
        tmp_path,
        f"const text = {json.dumps(chr(0xFEFF) + (chr(13) + chr(10)).join(rows))};"
        f"const names = {json.dumps(IDS)};"
        """
        const file = new File([text], "judged.csv");
        file.text = () => ({ then: (use) => use(text) });
        Object.defineProperty(field("file"), "files", { value: [file] });
        field("file").dispatchEvent(new Event("change"));
        const said = told();
        const of = (id) => Array.from(document.querySelectorAll(".member")).find((m) => JSON.parse(m.dataset.id) === id);
        const pressed = names.slice(1, 4).map((id) => [".yes", ".no"].map(
          (css) => of(id).querySelector(css).getAttribute("aria-pressed")));
        field("save").click();
        return [said, pressed, of(names[3]).classList.contains("chosen"), saved];
        """,
    )
    assert told == "3 judgements loaded; 2 rows left out: without two ids and a label of 1 or 0"
    assert pressed == [["true", "false"], ["false", "true"], ["true", "false"]]
    assert chosen
    path = tmp_path / "judged.csv"
    path.write_text(saved, encoding="utf-8", newline="")
    assert [tuple(row.values()) for row in csv_rows(path)] == [
        (IDS[0], IDS[1], "1", ""), (IDS[2], IDS[0], "0", ""), (IDS[3], IDS[0], "1", IDS[3]),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_progress_over_pages(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    items = []
    for k in range(6):
        picture(k // 2, 200 - 60 * (k % 2), 150 - 45 * (k % 2)).save(root / f"{k}.png")
        items.append(entry(root / f"{k}.png", f"item {k}"))
    store = filled(tmp_path / "store", items, near([0, 3, 40, 43, 80, 83]))
    find_duplicates(store, rule=0.95, views=False)
    index = write_gallery(store, per_page=1).path
    first = index.with_name("page-0001.html")
    yes = 'document.querySelector(".member:not(.kept) .yes").click(); field("save").click();'
    told = 'tools.querySelector(".progress-told").textContent'
    # One file stands for all pages: the address of a page decides what a browser keeps for it.
    (tmp_path / "browser").mkdir()
    assert ask(first, tmp_path / "browser", f"{yes} return {told}") == "1 of 3 groups judged"
    second = index.with_name("page-0002.html")
    saved, progress = ask(second, tmp_path / "browser", f"{yes} return [saved, {told}]")
    assert progress == "2 of 3 groups judged"
    assert len(saved.splitlines()) == 3
    shown = ask(
        index,
        tmp_path / "browser",
        """
        return [document.querySelector(".progress-told").textContent,
          Array.from(document.querySelectorAll(".album .judged"), (one) => one.hidden ? "" : one.textContent)];
        """,
        tools=False,
    )
    assert shown == ["2 of 3 groups judged", ["1 of 1 judged", "1 of 1 judged", ""]]
