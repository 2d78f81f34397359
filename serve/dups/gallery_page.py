"""HTML of the duplicates' gallery: groups side by side, the keeper first, what differs from it marked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...store.dups.write import KINDS
from ..html import escape, page, user_text
from ..sheet import frame
from .gallery_look import SCRIPT, STYLE
from .groups import INDIRECT, Group, Item, Member
from .pictures import Taken

__all__ = ["PageCard", "gallery_page", "group_html", "index_page", "page_name"]

_TEXT_LIMIT = 600
_ID_LIMIT = 160

_KINDS = {
    "exact": "equal bytes",
    "perceptual": "perceptual hash",
    "embedding": "embedding",
    INDIRECT: "by way of others",
}

_UNITS = ("B", "kB", "MB", "GB")


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
    """Make a page of groups, each as `group_html` made it.

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
    body = "\n".join(groups) if groups else '<p class="none">No group of duplicates matches.</p>'
    tools = _tools() if groups else ""
    title = _title(summary) + (f", page {number}" if total > 1 else "")
    return page(
        title,
        f'{head}{nav}{tools}\n<div class="groups">\n{body}\n</div>\n{nav}{_foot(summary)}',
        kicker="icehouse dups",
        about=_about(summary),
        style=STYLE,
        script=SCRIPT,
    )


def index_page(summary: dict[str, Any], cards: Sequence[PageCard], *, matching: int, shown: int) -> str:
    """Make the page that leads to all others."""
    links = []
    for card in cards:
        told = f"{_count(card.groups, 'group')}, {_count(card.items, 'item')} shown"
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
        _title(summary), body + _foot(summary), kicker="icehouse dups", about=_about(summary), style=STYLE
    )


def group_html(group: Group, pictures: Sequence[Taken | None], *, cosine: float | None = None) -> str:
    """Make the section of a group.

    Parameters
    ----------
    group : Group
    pictures : sequence of Taken or None
        One a member; None where it has no image.
    cosine : float, optional
        Least cosine of the search, at which the meter of a member stands at a third.
    """
    keeper = group.members[0]
    facts = [f'<span class="chip">{_count(group.size, "item")}</span>']
    if group.min_cosine is not None:
        facts.append(
            f'<span class="chip" title="cosine of the two least alike"><b>least alike</b>{group.min_cosine:.3f}</span>'
        )
    if group.max_hamming is not None:
        facts.append(
            f'<span class="chip" title="bits of 64, between any two"><b>at most</b>{_count(group.max_hamming, "bit")}</span>'
        )
    if group.chained:
        facts.append(
            '<span class="warn" title="Two members are farther apart than two steps of the threshold can bring them">'
            "⚠ chained: some members are unlike</span>"
        )
    if group.sampled:
        facts.append(
            '<span class="chip" title="Too many contents to compare every two: these are of those least like the keeper">'
            "sampled</span>"
        )
    why = f'<p class="why"><b>Kept:</b> {user_text(group.why, limit=80)}</p>' if group.why else ""
    kept, *cards = (
        _member(member, keeper, taken, cosine) for member, taken in zip(group.members, pictures, strict=True)
    )
    others = "\n".join(cards)
    score = "" if group.min_cosine is None else f"{group.min_cosine:.6f}"
    css = "group" + (" pair" if len(group.members) == 2 else "") + (" is-chained" if group.chained else "")
    return (
        f'<section class="{css}" id="g{group.number}" '
        f'aria-labelledby="h{group.number}" data-number="{group.number}" data-size="{group.size}" '
        f'data-score="{score}" data-chained="{int(group.chained)}">\n'
        f'<header><h2 id="h{group.number}">Group {group.number:,}</h2>{"".join(facts)}{why}</header>\n'
        f'<div class="sides">\n<ul class="members">\n{kept}\n</ul>\n<ol class="members">\n{others}\n</ol>\n</div>'
        f"{_more(group)}\n</section>"
    )


def _member(member: Member, keeper: Member, taken: Taken | None, least: float | None) -> str:
    item, base = member.item, keeper.item
    kind = "keeper" if member.keeper else str(member.kind)
    score = "" if member.cosine is None or member.keeper else f"{member.cosine:.6f}"
    parts = [
        f'<li class="tile member{" kept" if member.keeper else ""}" data-kind="{kind}" data-cosine="{score}">'
    ]
    if taken is not None:
        role = "Kept" if member.keeper else "Duplicate"
        name = str(item.path if item is not None and item.path else member.item_id)[:_ID_LIMIT]
        parts.append(f'<div class="frame">{frame(taken.thumbnail, f"{role}: {name}")}</div>')
    if not member.keeper:
        parts.append(_meter(member, least))
    parts.append('<div class="facts"><div class="head">')
    if member.keeper:
        parts.append('<span class="badge keep">✓ keep</span>')
    else:
        parts.append(f'<span class="badge {kind}">{escape(_KINDS.get(kind, kind))}</span>')
        parts.append(f'<span class="scores">{_scores(member)}</span>')
    parts.append(f'</div><span class="id">{user_text(member.item_id, limit=_ID_LIMIT)}</span>')
    if member.copy_of is not None and member.copy_of != keeper.item_id:
        parts.append(f'<p class="copy">copy of {user_text(member.copy_of, limit=_ID_LIMIT)}</p>')
    if item is None:
        parts.append('<p class="same">no longer in the store</p>')
    else:
        parts.append(_facts(item, None if member.keeper else base, taken))
        parts.append(_text(item, None if member.keeper else base))
        parts.append(_chips(item, None if member.keeper else base))
        if item.path and item.path != member.item_id:
            parts.append(f'<div class="path mono">{user_text(item.path, limit=300)}</div>')
    parts.append("</div></li>")
    return "".join(parts)


def _meter(member: Member, least: float | None) -> str:
    if member.cosine is None:
        return ""
    # A third is for what lies below the threshold: twice as far away as it.
    floor = 0.0 if least is None else 1 - 1.5 * (1 - least)
    share = min(max((member.cosine - floor) / max(1 - floor, 1e-9), 0.0), 1.0)
    return f'<div class="meter"><i style="width:{100 * share:.1f}%"></i></div>'


def _scores(member: Member) -> str:
    told = []
    if member.cosine is not None:
        told.append(f'<span title="cosine to the keeper">cosine <b>{member.cosine:.3f}</b></span>')
    if member.hamming is not None:
        told.append(
            f'<span title="bits of 64 in which the hashes differ">{_count(member.hamming, "bit")}</span>'
        )
    return " · ".join(told)


def _facts(item: Item, base: Item | None, taken: Taken | None) -> str:
    rows = []
    if item.width and item.height:
        told = f"{item.width:,} × {item.height:,}"
        if (
            base is not None
            and base.width
            and base.height
            and (base.width, base.height) != (item.width, item.height)
        ):
            ratio = item.width * item.height / (base.width * base.height)
            told += _diff(_change(ratio))
        rows.append(("pixels", told))
    if item.bytes is not None and item.width:
        told = _weight(item.bytes)
        if base is not None and base.bytes and base.bytes != item.bytes:
            told += _diff(_change(item.bytes / base.bytes))
        rows.append(("file", told))
    if item.format:
        differs = base is not None and base.format is not None and base.format != item.format
        name = user_text(item.format, limit=20)
        rows.append(
            (
                "format",
                f'<span class="diff" title="another format than the keeper">{name}</span>'
                if differs
                else name,
            )
        )
    if taken is not None and taken.changed:
        rows.append(("note", '<span class="diff">the file has changed since it was embedded</span>'))
    if not rows:
        return ""
    return '<dl class="sheet">' + "".join(f"<dt>{name}</dt><dd>{told}</dd>" for name, told in rows) + "</dl>"


def _text(item: Item, base: Item | None) -> str:
    if not item.text:
        return (
            '<p class="same"><span class="diff">no text</span></p>' if base is not None and base.text else ""
        )
    if base is not None and base.text_sha256 is not None and base.text_sha256 == item.text_sha256:
        return '<p class="same">same text</p>'
    if base is None or not base.text:
        return user_text(_flat(item.text), limit=_TEXT_LIMIT, tag="p", css="said")
    return f'<p dir="auto" class="said">{_marked(_flat(item.text), _flat(base.text))}</p>'


def _marked(text: str, base: str) -> str:
    """`text` with the words marked that `base` has not."""
    tail = "…" if len(text) > _TEXT_LIMIT else ""
    ours, theirs = (re.findall(r"\s*\S+", value[:_TEXT_LIMIT]) for value in (text, base))
    # Shouting is no other text.
    bare, base_bare = ([word.strip().casefold() for word in words] for words in (ours, theirs))
    matcher = difflib.SequenceMatcher(None, bare, base_bare, autojunk=False)
    parts = []
    for change, start, stop, _, _ in matcher.get_opcodes():
        words = "".join(ours[start:stop])
        if not words:
            continue
        lead = words[: len(words) - len(words.lstrip())]
        parts.append(escape(words) if change == "equal" else f"{lead}<mark>{escape(words.lstrip())}</mark>")
    return "".join(parts) + tail


def _chips(item: Item, base: Item | None) -> str:
    named = {"split": item.split, **item.labels}
    known = {} if base is None else {"split": base.split, **base.labels}
    chips = []
    for name, value in named.items():
        if value in (None, ""):
            continue
        differs = base is not None and known.get(name) != value
        css = "chip diff" if differs else "chip"
        note = ' title="another than the keeper\'s"' if differs else ""
        chips.append(
            f'<span class="{css}"{note}><b>{user_text(name, limit=40)}</b>{user_text(value, limit=80)}</span>'
        )
    return f'<div class="chips">{"".join(chips)}</div>' if chips else ""


def _diff(told: str) -> str:
    return f' <span class="diff" title="against the kept one">{told}</span>'


def _more(group: Group) -> str:
    told = []
    if group.capped:
        told.append(
            f"and {group.capped:,} more, see clusters.parquet; shown are those least like the kept one"
        )
    if group.filtered:
        told.append(f"{_count(group.filtered, 'member')} left out by what was asked for")
    return f'\n<p class="more">{"; ".join(told)}.</p>' if told else ""


def _title(summary: dict[str, Any]) -> str:
    name = summary.get("name", "default")
    return "Near-duplicates" if name == "default" else f"Near-duplicates: {name}"


def _about(summary: dict[str, Any]) -> str:
    rule = summary["parameters"]
    told = []
    if rule["feature"] is not None:
        cosine = f"{rule['cosine']:.4f}".rstrip("0")
        told.append(
            f"<code>{escape(rule['feature'])}</code> at cosine ≥ {cosine} ({escape(rule['cosine_from'])})"
        )
    if rule["hamming"] is not None:
        told.append(f"perceptual hashes within {_count(rule['hamming'], 'bit')}")
    told += [f"{escape(rule['grouping'])} groups", f"keeper: {escape(rule['keeper'])}"]
    return "; ".join(told) + "."


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


def _tools() -> str:
    boxes = "".join(
        f'<label><input type="checkbox" name="kind" value="{kind}" checked>{words}</label>'
        for kind, words in _KINDS.items()
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
<label class="field"><span class="name">Order</span><select name="sort">{options}</select></label>
<button type="button">Reset</button>
<output aria-live="polite"></output>
</div>"""


def _foot(summary: dict[str, Any]) -> str:
    return (
        f"<footer>Searched {escape(summary['created_at'])} by {escape(summary['created_by'])}. "
        "Nothing was deleted; drop.csv and clusters.parquet have the whole of it.</footer>"
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _weight(size: int) -> str:
    value = float(size)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"
        value /= 1000
    return ""


def _change(ratio: float) -> str:
    if ratio >= 2:
        return f"{ratio:.2g}×"
    change = 100 * (ratio - 1)
    return f"{'+' if change > 0 else '−'}{abs(change):.0f}%" if abs(change) >= 0.5 else "±0%"


def _flat(text: str) -> str:
    return " ".join(text.split())
