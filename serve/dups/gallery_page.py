"""HTML of the duplicates' gallery: pages of groups, and the index that leads to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...store.dups.find import HASHES, search_name
from ...store.dups.write import KINDS
from ...webpage import escape, page
from .gallery_group import KIND_WORDS, count_of, kind_words
from .gallery_look import INDEX_SCRIPT, SCRIPT, STYLE

__all__ = ["PageCard", "gallery_page", "index_page", "page_name"]


@dataclass(frozen=True)
class PageCard:
    """What the index says of a page: its number from 1, its groups, and small pictures of their keepers."""

    number: int
    groups: int
    items: int
    chained: int
    least: float | None
    strip: Sequence[str]


def page_name(number: int, total: int) -> str:
    """File name of a page, numbered from 1; where there is only one it is the index."""
    return "index.html" if total == 1 else f"page-{number:04d}.html"


def gallery_page(
    summary: dict[str, Any],
    groups: Sequence[str],
    *,
    number: int = 1,
    total: int = 1,
    matching: int,
    shown: int,
) -> str:
    """Make a page of groups, each as `icehouse.serve.dups.gallery_group.group_html` made it.

    Parameters
    ----------
    summary : dict
        ``summary.json`` of the search.
    groups : sequence of str
    number, total : int
        Which page this is, from 1, of how many.
    matching, shown : int
        Groups that match what was asked for, and those of them that the gallery has.
    """
    nav = _nav(number, total)
    head = _overview(summary, matching, shown) if total == 1 else ""
    search = escape(f"{summary['created_at']} {summary['items']} {summary.get('name', 'default')}")
    body = "\n".join(groups) if groups else '<p class="none">No group of duplicates matches.</p>'
    tools = _tools(summary["parameters"]["content"] == "text_sha256") if groups else ""
    title = _title(summary) + (f", page {number}" if total > 1 else "")
    return page(
        title,
        f'{head}{nav}{tools}\n<div class="groups" data-search="{search}">\n{body}\n</div>\n{nav}{_foot(summary)}',
        kicker="icehouse dups",
        about=_about(summary),
        style=STYLE,
        script=SCRIPT,
    )


def index_page(summary: dict[str, Any], cards: Sequence[PageCard], *, matching: int, shown: int) -> str:
    """Make the page that leads to all others."""
    links = []
    for card in cards:
        told = f"{count_of(card.groups, 'group')}, {count_of(card.items, 'item')} shown"
        if card.least is not None:
            told += f", least alike {card.least:.3f}"
        flag = f' <span class="warn">⚠ {card.chained:,} chained</span>' if card.chained else ""
        strip = "".join(f'<img src="{uri}" alt="">' for uri in card.strip)
        strip = f'<span class="strip">{strip}</span>' if strip else ""
        links.append(
            f'<li><a href="{page_name(card.number, len(cards))}"><span class="name">Page {card.number:,}</span>{flag}'
            f'<span class="told">{told}</span>{strip}</a></li>'
        )
    body = f'{_overview(summary, matching, shown)}\n<ol class="album">\n' + "\n".join(links) + "\n</ol>"
    return page(
        _title(summary),
        body + _foot(summary),
        kicker="icehouse dups",
        about=_about(summary),
        style=STYLE,
        script=INDEX_SCRIPT,
    )


def _title(summary: dict[str, Any]) -> str:
    name = summary.get("name", HASHES)
    usual = (HASHES, search_name(summary["parameters"]["feature"]))
    return "Near-duplicates" if name in usual else f"Near-duplicates: {name}"


def _about(summary: dict[str, Any]) -> str:
    rule = summary["parameters"]
    told = []
    if rule["feature"] is not None:
        cosine = f"{rule['cosine']:.4f}".rstrip("0")
        told.append(
            f"<code>{escape(rule['feature'])}</code> at cosine ≥ {cosine} ({escape(rule['cosine_from'])})"
        )
    if rule["hamming"] is not None:
        told.append(_hashes(rule["hamming"], rule.get("agreement")))
    told += [f"{escape(rule['grouping'])} groups", f"keeper: {escape(rule['keeper'])}"]
    return "; ".join(told) + "."


def _hashes(bits: int, agreement: float | None) -> str:
    ways = [f"within {count_of(bits, 'bit')}"] if bits >= 0 else []
    if agreement is not None:
        ways.append(f"near and agreeing in all parts to {agreement:.3f}")
    return f"perceptual hashes {' or '.join(ways)}"


def _overview(summary: dict[str, Any], matching: int, shown: int) -> str:
    groups = summary["groups"]
    figures = {
        "items compared": summary["items"],
        "groups": groups["total"],
        "items in groups": groups["items"],
        "could be dropped": summary["dropped"],
        "chained groups": groups["chained"],
        **{f"{kind} pairs": summary["pairs"]["by_kind"].get(kind, 0) for kind in KINDS},
    }
    cells = "".join(f"<div><dt>{name}</dt><dd>{value:,}</dd></div>" for name, value in figures.items())
    notes = [escape(note) for note in summary.get("notes", ())]
    if matching < groups["total"]:
        notes.append(
            f"Shown are {matching:,} of {groups['total']:,} groups: those that match what was asked for."
        )
    if shown < matching:
        notes.append(f"Shown are the first {shown:,} of {matching:,} groups; clusters.parquet has all.")
    listed = f'<ul class="notes">{"".join(f"<li>{note}</li>" for note in notes)}</ul>' if notes else ""
    return f'<dl class="stats">{cells}</dl>{listed}'


def _nav(number: int, total: int) -> str:
    if total == 1:
        return ""

    def link(to: int, words: str, rel: str) -> str:
        if not 1 <= to <= total:
            return f'<span class="off">{words}</span>'
        return f'<a href="{page_name(to, total)}" rel="{rel}">{words}</a>'

    return (
        f'<nav class="pages" aria-label="Pages">{link(number - 1, "← Previous", "prev")}'
        f'<a href="index.html">All pages</a>{link(number + 1, "Next →", "next")}'
        f'<span class="here">page {number:,} of {total:,}</span></nav>'
    )


def _tools(texts: bool) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" name="kind" value="{kind}" checked>{kind_words(kind, texts)}</label>'
        for kind in KIND_WORDS
    )
    orders = {
        "page": "as written",
        "chained": "chained first",
        "score": "least alike first",
        "size": "largest first",
    }
    options = "".join(f'<option value="{name}">{words}</option>' for name, words in orders.items())
    return f"""
<div class="tools" role="search" aria-label="Filter the groups of this page" hidden>
<label class="field"><span class="name">Id, path, text or label</span>
<input type="search" name="q" autocomplete="off"></label>
<fieldset><legend>Found by</legend><div class="row">{boxes}</div></fieldset>
<fieldset><legend>Cosine to the kept one</legend><div class="row">
<input type="number" name="min" min="-1" max="1" step="0.005" placeholder="from" aria-label="Least cosine">
<input type="number" name="max" min="-1" max="1" step="0.005" placeholder="to" aria-label="Greatest cosine">
</div></fieldset>
<fieldset><legend>Groups</legend><div class="row"><label>
<input type="checkbox" name="chained">chained only</label></div></fieldset>
<label class="field"><span class="name">Judged by you</span><select name="judged">
<option value="">all</option><option value="no">still to judge</option><option value="yes">judged</option></select></label>
<label class="field"><span class="name">Order</span><select name="sort">{options}</select></label>
<button type="button" name="reset">Reset</button>
<button type="button" name="save" title="CSV for dups evaluate --truth and dups calibrate --pairs">Save pairs</button>
<output aria-live="polite"></output>
</div>"""


def _foot(summary: dict[str, Any]) -> str:
    return (
        f"<footer>Searched {escape(summary['created_at'])} by {escape(summary['created_by'])}. "
        "Nothing was deleted; drop.csv and clusters.parquet have the whole of it.</footer>"
    )
