"""Gallery of near-duplicates: static pages that work offline, with everything they need inside.

Pages are bounded: by groups, by members, and with them by bytes. What is left out for its number is counted where it is
missing. The folder appears whole; in its usual place, inside the results, it goes when a new search replaces them.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from .. import __version__
from ..embed.thumbnails import Thumbnail, ThumbnailPool, shrink
from ..errors import StoreError, UsageError, count_of
from ..store.files import publish_folder
from ..store.store import Store
from ..web.render import Card, labels_of, render
from .gallery_groups import (
    INDIRECT,
    Choice,
    Group,
    Item,
    Member,
    Selection,
    image_of,
    pages,
    read_groups,
    read_items,
    select,
    similarity,
)
from .judgements import JUDGED
from .pair_graph import HASHES, Duplicates, search_name
from .results import KINDS

#: Members on a page, unless a single group has more; at the usual 320 pixels a side some 3 MB.
PAGE_MEMBERS = 160

#: Pixels of a thumbnail's longest side unless asked for; larger ones make for fewer on a page.
_SIDE = 320

#: Orientations, as a page tells them.
TURNED = {
    "mirror": "mirrored",
    "rotate_180": "turned by 180°",
    "flip": "upside down, mirrored",
    "transpose": "turned by 90° left, mirrored",
    "rotate_90": "turned by 90° right",
    "transverse": "turned by 90° right, mirrored",
    "rotate_270": "turned by 90° left",
}

#: Groups whose items are looked up at once.
_LOOKUP = 2000

#: Pages of whose keepers the index shows pictures, how many of each, and how large.
_STRIPS, _STRIP, _STRIP_SIDE = 100, 5, 64

#: Characters of a text that are shown and compared.
_TEXT_LIMIT = 600

_MARKER = "gallery.json"

#: Page of the variants: its file, and how many sets and members of each it shows.
_VARIANTS, _SETS, _SET_MEMBERS = "variants.html", 100, 24


@dataclass(frozen=True)
class Gallery:
    """A written gallery: the path of its ``index.html``, and ``gallery.json`` with its counts and bytes."""

    path: Path
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Property:
    """A property of a picture: its value, its `change` against the kept one's, or whether it simply `differs`."""

    name: str
    value: str
    change: str | None = None
    differs: bool = False


@dataclass(frozen=True, slots=True)
class ComparedText:
    """A text in pieces, each with whether it is not in the kept one's, and a remark on the whole."""

    words: Sequence[tuple[str, bool]] = ()
    remark: str = ""
    differs: bool = False


def write_gallery(
    store: Store | str | Path,
    name: str | None = None,
    *,
    out: str | Path | None = None,
    choice: Choice | None = None,
    per_page: int = 24,
    side: int = _SIDE,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Gallery:
    """Write the duplicates that a search found as pages to look at.

    They go to `out`, ``STORE/dups/<name>/gallery`` unless given, in place of an earlier gallery: at most `per_page`
    groups a page, with pictures of `side` pixels. A UsageError says that `out` holds other things, a StoreError that
    there are no such results, or that they were replaced meanwhile. `progress` is called with members done and in all.
    """
    store = Store.of(store)
    choice = choice or Choice()
    if not 1 <= per_page <= 1000:
        raise UsageError(f"a page holds 1 to 1000 groups, not {per_page}")
    if not 32 <= side <= 2048:
        raise UsageError(f"a thumbnail has 32 to 2048 pixels a side, not {side}")
    inside = Duplicates.open(store, name).path
    name = inside.name
    folder = inside / "gallery" if out is None else _outside(out)
    try:
        # Inside the results no folder above is made: a search that replaces them meanwhile takes this one along.
        with publish_folder(folder, parents=out is not None, sums=False) as temp:
            found = Duplicates.open(store, name)
            selection = select(found.clusters(), choice)
            variants = found.variants()
            if Duplicates.open(store, name).summary != found.summary:
                raise FileNotFoundError
            summary = _write(
                temp, store, found.summary, selection, variants, per_page, side, threads, progress
            )
    except FileNotFoundError as error:
        if out is not None and error.filename and Path(error.filename).is_relative_to(folder.parent):
            raise StoreError(f"cannot write {folder}: {error.strerror}") from error
        raise StoreError(
            f"the duplicates {name!r} were replaced while their gallery was written, or {folder} is gone; run it again"
        ) from error
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror or error}") from error
    return Gallery(folder / "index.html", summary)


def _write(
    temp: Path,
    store: Store,
    search: dict[str, Any],
    selection: Selection,
    variants: pa.Table,
    per_page: int,
    side: int,
    threads: int | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    counts = [len(rows) for rows in selection.rows]
    parts = pages(counts, per_page, max(2, PAGE_MEMBERS * _SIDE**2 // max(side, _SIDE) ** 2))
    looked_up = (slice(start, start + _LOOKUP) for start in range(0, len(selection), _LOOKUP))
    groups = itertools.chain.from_iterable(
        read_groups(store, selection, part, search["parameters"]) for part in looked_up
    )
    overview = search_overview(search, selection)
    done, weight, index = 0, 0, []

    def step(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, sum(counts))

    with ThumbnailPool(side, threads) as pictures:
        for number, part in enumerate(parts, 1):
            shown = [next(groups) for _ in range(part.stop - part.start)]
            members = [member for group in shown for member in group.members]
            taken = pictures.take([image_of(member.item) for member in members], step)
            text = gallery_page(
                search,
                shown,
                taken,
                number=number,
                total=len(parts),
                all_groups=len(selection),
                overview=overview if len(parts) == 1 else None,
            )
            weight += (temp / _page_name(number, len(parts))).write_bytes(text.encode())
            if len(parts) == 1:
                continue
            keepers = [one for one, member in zip(taken, members, strict=True) if member.keeper and one]
            strip = (shrink(one, _STRIP_SIDE) for one in keepers) if number <= _STRIPS else ()
            index.append(
                {
                    "href": _page_name(number, len(parts)),
                    "groups": len(shown),
                    "members": len(members),
                    "chained": sum(group.chained for group in shown),
                    "least": min((g.min_cosine for g in shown if g.min_cosine is not None), default=None),
                    "strip": list(itertools.islice(filter(None, strip), _STRIP)),
                }
            )
        if len(parts) > 1:
            text = render(
                "gallery_index.html",
                title=gallery_title(search),
                search=search,
                overview=overview,
                pages=index,
                all_groups=len(selection),
            )
            weight += (temp / "index.html").write_bytes(text.encode())
        if len(variants):
            text = _variants_page(store, search, variants, pictures)
            weight += (temp / _VARIANTS).write_bytes(text.encode())
        made = pictures.made
    summary = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "created_by": f"icehouse {__version__}",
        "duplicates": search["name"],
        "found_at": search["created_at"],
        "groups": len(selection),
        "groups_left_out": search["groups"]["total"] - len(selection),
        "members": sum(counts),
        "members_left_out": int(selection.filtered.sum() + selection.capped.sum()),
        "pictures": made,
        "pages": len(parts),
        "bytes": weight,
    }
    (temp / _MARKER).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return summary


def _variants_page(store: Store, search: dict[str, Any], variants: pa.Table, pictures: ThumbnailPool) -> str:
    """Page of the sets of variants, the first of them and of their members."""
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in variants.to_pylist():
        rows.setdefault(row["variants"], []).append(row)
    shown = {number: rows[number][:_SET_MEMBERS] for number in list(rows)[:_SETS]}
    items = read_items(store, pa.array([row["item_id"] for found in shown.values() for row in found]))
    sets = []
    for number, found in shown.items():
        known = [items.get(row["item_id"]) for row in found]
        taken = pictures.take([image_of(item) for item in known])
        cards = [
            {
                **row,
                "card": Card(
                    row["item_id"],
                    picture,
                    text=None if item is None else item.text,
                    labels=labels_of(_labels(item)),
                    path=None if item is None else item.path,
                ),
            }
            for row, item, picture in zip(found, known, taken, strict=True)
        ]
        sets.append({"number": number, "size": len(rows[number]), "cards": cards})
    title = f"{gallery_title(search)}: variants"
    return render("variants.html", title=title, search=search, overview=None, sets=sets, total=len(rows))


def gallery_page(
    search: dict[str, Any],
    groups: Sequence[Group],
    pictures: Sequence[Thumbnail | None],
    *,
    number: int = 1,
    total: int = 1,
    all_groups: int | None = None,
    overview: dict[str, Any] | None = None,
) -> str:
    """Page `number` of `total` of a gallery.

    `search` is the ``summary.json`` of the search, `pictures` has one for each member of `groups` (None without an image),
    `all_groups` is how many groups all pages have, and `overview` is what the only page tells of the search as a whole.
    """
    links = {
        "number": number,
        "total": total,
        "index": "index.html",
        "previous": _page_name(number - 1, total) if number > 1 else None,
        "next": _page_name(number + 1, total) if number < total else None,
    }
    return render(
        "gallery.html",
        title=gallery_title(search) + (f", page {number}" if total > 1 else ""),
        overview=overview,
        links=links if total > 1 else None,
        page=f"{_page_name(number, total)}/{total}",
        all_groups=len(groups) if all_groups is None else all_groups,
        **gallery_data(search, groups, pictures),
    )


def gallery_data(
    search: dict[str, Any], groups: Sequence[Group], pictures: Sequence[Thumbnail | None]
) -> dict[str, Any]:
    """Content of a page about some groups: how members were found, by `kinds`, and `groups` with a card for each member."""
    rule = search["parameters"]
    texts = rule["content"] == "text_sha256"
    taken = iter(pictures)
    return {
        "search": search,
        "kinds": {
            "exact": "equal text" if texts else "equal bytes",
            "perceptual": "perceptual hash",
            "embedding": "embedding",
            **({"variant": "other words"} if rule.get("variants") == "drop" or search.get("judged") else {}),
            INDIRECT: "by way of others",
            **({JUDGED: "judged by people"} if search.get("judged") else {}),
        },
        "groups": [_group_data(group, taken, rule["cosine"]) for group in groups],
    }


def _group_data(group: Group, pictures: Iterator[Thumbnail | None], least: float | None) -> dict[str, Any]:
    left_out = []
    if group.capped:
        left_out.append(
            f"and {group.capped:,} more, see clusters.parquet; shown are those least like the kept one"
        )
    if group.filtered:
        left_out.append(f"{count_of(group.filtered, 'member')} left out by what was asked for")
    return {
        **vars(group),
        "score": float(similarity(group.min_cosine, group.max_hamming)),
        "members": [
            _member_data(member, group.members[0], next(pictures), least) for member in group.members
        ],
        "left_out": left_out,
    }


def _member_data(
    member: Member, keeper: Member, taken: Thumbnail | None, least: float | None
) -> dict[str, Any]:
    """Card of a member, as data; `least` is the threshold of the search."""
    item, base = member.item, None if member.keeper else keeper.item
    copied = None
    if member.same_file_as is not None:
        copied = ("same file as", member.same_file_as)
    elif member.copy_of is not None and member.copy_of != keeper.item_id:
        copied = ("copy of", member.copy_of)
    name = str(item.path if item is not None and item.path else member.item_id)
    return {
        "card": Card(
            member.item_id,
            taken,
            alt=f"{'Kept' if member.keeper else 'Duplicate'}: {name}",
            labels=labels_of(_labels(item), None if base is None else _labels(base)),
            path=None if item is None else item.path,
            meter=None if member.keeper else _meter(member.cosine, least),
        ),
        "kind": "keeper" if member.keeper else member.kind,
        "cosine": member.cosine,
        "hamming": member.hamming,
        "turned": None if member.orientation is None else TURNED.get(member.orientation, member.orientation),
        "copied": copied,
        "properties": [] if item is None else list(_properties(item, base, taken)),
        "text": ComparedText(remark="no longer in the store") if item is None else _text(item, base),
    }


def _labels(item: Item | None) -> dict[str, object]:
    return {} if item is None else {"split": item.split, **item.labels}


def _meter(cosine: float | None, least: float | None) -> float | None:
    if cosine is None:
        return None
    # A third is for what lies below the threshold: twice as far away as it.
    floor = 0.0 if least is None else 1 - 1.5 * (1 - least)
    return min(max((cosine - floor) / max(1 - floor, 1e-9), 0.0), 1.0)


def _properties(item: Item, base: Item | None, taken: Thumbnail | None) -> Iterator[Property]:
    """Size, weight and format of a picture, with their `change` against the kept one's."""
    if item.width and item.height:
        change = None
        other_size = base is not None and (base.width, base.height) != (item.width, item.height)
        if base is not None and base.width and base.height and other_size:
            change = _change(item.width * item.height / (base.width * base.height))
        yield Property("pixels", f"{item.width:,} × {item.height:,}", change)
    if item.bytes is not None and item.width:
        kept = None if base is None else base.bytes
        change = _change(item.bytes / kept) if kept and kept != item.bytes else None
        yield Property("file", _bytes(item.bytes), change)
    if item.format:
        other = base is not None and base.format is not None and base.format != item.format
        yield Property("format", item.format, differs=other)
    if taken is not None and taken.changed:
        yield Property("note", "", "the file has changed since it was embedded")


def _text(item: Item, base: Item | None) -> ComparedText:
    theirs = None if base is None else base.text
    if not item.text:
        return ComparedText(remark="no text" if theirs else "", differs=True)
    if base is not None and base.text_sha256 is not None and base.text_sha256 == item.text_sha256:
        return ComparedText(remark="same text")
    text = " ".join(item.text.split())
    end = "…" if len(text) > _TEXT_LIMIT else ""
    whole = [(text[:_TEXT_LIMIT] + end, False)]
    if not theirs:
        return ComparedText(whole)
    words = _compared(text, " ".join(theirs.split()))
    if words is None:
        return ComparedText(whole, "another text", True)
    return ComparedText([*words, (end, False)])


def _compared(text: str, base: str) -> list[tuple[str, bool]] | None:
    """Pieces of `text`, each with whether `base` lacks it; None if those are most and it is another text."""
    ours, theirs = (re.findall(r"\s*\S+", value[:_TEXT_LIMIT]) for value in (text, base))
    # Shouting is no other text.
    bare, base_bare = ([word.strip().casefold() for word in words] for words in (ours, theirs))
    matcher = difflib.SequenceMatcher(None, bare, base_bare, autojunk=False)
    if sum(block.size for block in matcher.get_matching_blocks()) < 0.3 * len(ours):
        return None
    pieces: list[tuple[str, bool]] = []
    for change, start, stop, _, _ in matcher.get_opcodes():
        words = "".join(ours[start:stop])
        if words and change == "equal":
            pieces.append((words, False))
        elif words:
            bare_words = words.lstrip()
            pieces += [(words[: len(words) - len(bare_words)], False), (bare_words, True)]
    return pieces


def _bytes(size: int) -> str:
    value, units = float(size), ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" or value >= 100 else f"{value:.3g} {units[0]}"


def _change(ratio: float) -> str:
    if ratio >= 2:
        return f"{ratio:.2g}×"
    change = 100 * (ratio - 1)
    return f"{'+' if change > 0 else '−'}{abs(change):.0f}%" if abs(change) >= 0.5 else "±0%"


def search_overview(search: dict[str, Any], selection: Selection) -> dict[str, Any]:
    """Summary of the search as a whole."""
    groups, matching, shown = search["groups"], selection.matching, len(selection)
    notes = list(search.get("notes", ()))
    if matching < groups["total"]:
        notes.append(f"{matching:,} of {count_of(groups['total'], 'group')} shown: only what was asked for.")
    if shown < matching:
        notes.append(f"The first {shown:,} of {count_of(matching, 'group')} shown; clusters.parquet has all.")
    figures = {
        "items compared": search["items"],
        "groups": groups["total"],
        "items in groups": groups["items"],
        "could be dropped": search["dropped"],
        "chained groups": groups["chained"],
        **{f"{kind} pairs": search["pairs"]["by_kind"].get(kind, 0) for kind in KINDS},
    }
    sets = search.get("variants", {}).get("sets", 0)
    return {"figures": figures, "notes": notes, "variants": sets}


def gallery_title(search: dict[str, Any]) -> str:
    """Title of a page about a search."""
    name = search.get("name", HASHES)
    usual = (HASHES, search_name(search["parameters"]["feature"]))
    return "Near-duplicates" if name in usual else f"Near-duplicates: {name}"


def _page_name(number: int, total: int) -> str:
    """File name of a page, numbered from 1; where there is only one it is the index."""
    return "index.html" if total == 1 else f"page-{number:04d}.html"


def _outside(out: str | Path) -> Path:
    """Folder for a gallery, if nothing else would be lost in it."""
    folder = Path(out).resolve()
    if folder.is_dir():
        names = {entry.name for entry in folder.iterdir()}
        strange = sorted(
            n for n in names if n not in ("index.html", _MARKER, _VARIANTS) and not n.startswith("page-")
        )
        if names and (strange or _MARKER not in names):
            what = f" ({strange[0]})" if strange else ""
            raise UsageError(f"{folder} holds other things{what} and would be replaced; give a new folder")
    elif folder.exists():
        raise UsageError(f"{folder} is a file; give a folder")
    return folder
