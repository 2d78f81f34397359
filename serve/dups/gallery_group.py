"""HTML of one group in the duplicates' gallery: side by side, the keeper first, what differs from it marked."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence

from ...webpage import escape, user_text
from ..sheet import frame
from .groups import INDIRECT, Group, Item, Member, likeness
from .pictures import Taken

__all__ = ["KIND_WORDS", "count_of", "group_html", "kind_words"]

_TEXT_LIMIT = 600
_ID_LIMIT = 160

#: What found a member, in words; of texts the first is told otherwise.
KIND_WORDS = {
    "exact": "equal bytes",
    "perceptual": "perceptual hash",
    "embedding": "embedding",
    INDIRECT: "by way of others",
}

_UNITS = ("B", "kB", "MB", "GB")


def group_html(
    group: Group, pictures: Sequence[Taken | None], *, cosine: float | None = None, texts: bool = False
) -> str:
    """Make the section of a group.

    Parameters
    ----------
    group : Group
    pictures : sequence of Taken or None
        One a member; None where it has no image.
    cosine : float, optional
        Least cosine of the search, at which the meter of a member stands at a third.
    texts : bool, default False
        Whether texts were compared, not images.
    """
    keeper = group.members[0]
    facts = [f'<span class="chip">{count_of(group.size, "item")}</span>']
    # Of two, the duplicate itself says how like they are.
    if group.min_cosine is not None and group.size > 2:
        facts.append(
            f'<span class="chip" title="cosine of the two least alike"><b>least alike</b>{group.min_cosine:.3f}</span>'
        )
    if group.max_hamming is not None and group.size > 2:
        facts.append(
            '<span class="chip" title="bits of 64, between any two"><b>at most</b>'
            f"{count_of(group.max_hamming, 'bit')}</span>"
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
        _member(member, keeper, taken, cosine, texts)
        for member, taken in zip(group.members, pictures, strict=True)
    )
    others = "\n".join(cards)
    score = f"{likeness(group.min_cosine, group.max_hamming):.6f}"
    css = "group" + (" pair" if len(group.members) == 2 else "") + (" is-chained" if group.chained else "")
    return (
        f'<section class="{css}" id="g{group.number}" '
        f'aria-labelledby="h{group.number}" data-number="{group.number}" data-size="{group.size}" '
        f'data-score="{score}" data-chained="{int(group.chained)}">\n'
        f'<header><h2 id="h{group.number}">Group {group.number:,}</h2>{"".join(facts)}{why}</header>\n'
        f'<div class="sides">\n<ul class="members">\n{kept}\n</ul>\n<ol class="members">\n{others}\n</ol>\n</div>'
        f"{_more(group)}\n</section>"
    )


def _member(member: Member, keeper: Member, taken: Taken | None, least: float | None, texts: bool) -> str:
    item, base = member.item, keeper.item
    kind = "keeper" if member.keeper else str(member.kind)
    score = "" if member.cosine is None or member.keeper else f"{member.cosine:.6f}"
    # As JSON, of printable ASCII alone: what is saved of a judgement is the id as it is, not as it is shown.
    raw_id = json.dumps(member.item_id).replace("\x7f", "\\u007f")
    css = "tile member kept" if member.keeper else "tile member"
    parts = [
        f'<li class="{css}" data-kind="{kind}" data-cosine="{score}" data-id="{escape(raw_id)}">',
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
        parts.append(f'<span class="badge {kind}">{kind_words(kind, texts)}</span>')
        parts.append(f'<span class="scores">{_scores(member)}</span>')
    parts.append(f'</div><span class="id">{user_text(member.item_id, limit=_ID_LIMIT)}</span>')
    if member.same_file_as is not None:
        parts.append(f'<p class="copy">same file as {user_text(member.same_file_as, limit=_ID_LIMIT)}</p>')
    elif member.copy_of is not None and member.copy_of != keeper.item_id:
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
            f'<span title="bits of 64 in which the hashes differ">{count_of(member.hamming, "bit")}</span>'
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
    return _marked(_flat(item.text), _flat(base.text))


def _marked(text: str, base: str) -> str:
    """A paragraph with the words of `text` marked that `base` has not; if those are most, it is another text."""
    ours, theirs = (re.findall(r"\s*\S+", value[:_TEXT_LIMIT]) for value in (text, base))
    # Shouting is no other text.
    bare, base_bare = ([word.strip().casefold() for word in words] for words in (ours, theirs))
    matcher = difflib.SequenceMatcher(None, bare, base_bare, autojunk=False)
    if sum(block.size for block in matcher.get_matching_blocks()) < 0.3 * len(ours):
        said = user_text(text, limit=_TEXT_LIMIT, tag="p", css="said")
        return f'<p class="same"><span class="diff">another text</span></p>{said}'
    parts = []
    for change, start, stop, _, _ in matcher.get_opcodes():
        words = "".join(ours[start:stop])
        lead = words[: len(words) - len(words.lstrip())]
        if words:
            parts.append(
                escape(words) if change == "equal" else f"{lead}<mark>{escape(words.lstrip())}</mark>"
            )
    tail = "…" if len(text) > _TEXT_LIMIT else ""
    return f'<p dir="auto" class="said">{"".join(parts)}{tail}</p>'


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
        told.append(f"{count_of(group.filtered, 'member')} left out by what was asked for")
    return f'\n<p class="more">{"; ".join(told)}.</p>' if told else ""


def kind_words(kind: str, texts: bool) -> str:
    """What found a member, where `texts` or else images were compared."""
    return "equal text" if texts and kind == "exact" else KIND_WORDS[kind]


def count_of(number: int, what: str) -> str:
    """Say how many: "1 item", "2 items"."""
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
