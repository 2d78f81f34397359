"""A gallery of found duplicates: static pages that work offline, with everything they need inside.

Pages are bounded: by groups, by members, and with them by bytes. What is left out for its number is counted where it is
missing. The folder appears whole; in its usual place, inside the results, it goes when a new search replaces them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import StoreError, UsageError
from ...store.dups.find import Duplicates
from ...store.folders import publish_folder
from ...store.store import Store
from .gallery_group import group_html
from .gallery_page import PageCard, gallery_page, index_page, page_name
from .groups import Choice, Group, Item, Selection, pages, read_groups, select
from .pictures import Pictures, Source, mini

__all__ = ["Gallery", "write_gallery"]

#: Members on a page, unless a single group has more; at the usual 320 pixels a side some 3 MB.
PAGE_MEMBERS = 160

#: Pixels of a thumbnail's longest side unless asked for; larger ones make for fewer on a page.
_SIDE = 320

#: Groups whose items are looked up at once.
_LOOKUP = 2000

#: Pages of whose keepers the index shows pictures, how many of each, and how large.
_STRIPS, _STRIP, _STRIP_SIDE = 100, 5, 64

_MARKER = "gallery.json"


@dataclass(frozen=True)
class Gallery:
    """A written gallery.

    Attributes
    ----------
    path : Path
        ``index.html``.
    summary : dict
        ``gallery.json``: counts of groups, members and pages, and bytes.
    """

    path: Path
    summary: dict[str, Any]


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
    """Write found duplicates as pages to look at.

    Parameters
    ----------
    store : Store, str or Path
    name : str, optional
        Of the search; see `icehouse.store.dups.find.Duplicates.open`.
    out : str or Path, optional
        Folder; ``STORE/dups/<name>/gallery`` unless given. An earlier gallery there is replaced.
    choice : Choice, optional
        Which groups and members, in which order.
    per_page : int, default 24
        Most groups on a page.
    side : int, default 320
        Longest side of the embedded pictures, in pixels.
    threads : int, optional
        That make thumbnails.
    progress : callable, optional
        Called with members done and in all.

    Raises
    ------
    StoreError
        If there are no such results, or they are replaced meanwhile, or the gallery cannot be written.
    UsageError
        If an argument is out of its range, or `out` holds other things.
    """
    store = store if isinstance(store, Store) else Store.open(store)
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
            if Duplicates.open(store, name).summary != found.summary:
                raise FileNotFoundError
            summary = _write(temp, store, found.summary, selection, per_page, side, threads, progress)
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
    found: dict[str, Any],
    selection: Selection,
    per_page: int,
    side: int,
    threads: int | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    counts = [len(rows) for rows in selection.rows]
    parts = pages(counts, per_page, max(2, PAGE_MEMBERS * _SIDE**2 // max(side, _SIDE) ** 2))
    told = {"matching": selection.matching, "shown": len(selection)}
    rule = found["parameters"]
    images = rule["content"] == "image_sha256"
    groups = _lookup(store, selection, rule["keeper"], rule.get("margins", False), images)
    done, total, weight, cards = 0, sum(counts), 0, []

    def step(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    with Pictures(side, threads) as pictures:
        for number, part in enumerate(parts, 1):
            chosen = [next(groups) for _ in range(part.stop - part.start)]
            taken = pictures.take(
                [_source(member.item) for group in chosen for member in group.members], step
            )
            sections: list[str] = []
            strip: list[str] = []
            place = 0
            for group in chosen:
                own = taken[place : place + len(group.members)]
                place += len(group.members)
                sections.append(group_html(group, own, cosine=rule["cosine"], texts=not images))
                if own[0] is not None and len(strip) < _STRIP and number <= _STRIPS and len(parts) > 1:
                    strip += [uri] if (uri := mini(own[0].thumbnail, _STRIP_SIDE)) else []
            text = gallery_page(found, sections, number=number, total=len(parts), **told)
            weight += _put(temp / page_name(number, len(parts)), text)
            least = min((g.min_cosine for g in chosen if g.min_cosine is not None), default=None)
            cards.append(PageCard(number, len(chosen), place, sum(g.chained for g in chosen), least, strip))
        if len(parts) > 1:
            weight += _put(temp / "index.html", index_page(found, cards, **told))
        made = pictures.made
    summary = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "created_by": f"icehouse {__version__}",
        "duplicates": found["name"],
        "found_at": found["created_at"],
        "groups": len(selection),
        "groups_left_out": found["groups"]["total"] - len(selection),
        "members": total,
        "members_left_out": int(selection.filtered.sum() + selection.capped.sum()),
        "pictures": made,
        "pages": len(parts),
        "bytes": weight,
    }
    (temp / _MARKER).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return summary


def _lookup(store: Store, selection: Selection, policy: str, margins: bool, images: bool) -> Iterator[Group]:
    for start in range(0, len(selection), _LOOKUP):
        yield from read_groups(store, selection, slice(start, start + _LOOKUP), policy, margins, images)


def _put(path: Path, text: str) -> int:
    return path.write_bytes(text.encode())


def _source(item: Item | None) -> Source | None:
    file = None if item is None else item.file
    if item is None or file is None:
        return None
    return Source(file, item.image_sha256, item.bytes, item.mtime_ns)


def _outside(out: str | Path) -> Path:
    """Folder for a gallery, if nothing else would be lost in it."""
    folder = Path(out).resolve()
    if folder.is_dir():
        names = {entry.name for entry in folder.iterdir()}
        strange = sorted(n for n in names if n not in ("index.html", _MARKER) and not n.startswith("page-"))
        if names and (strange or _MARKER not in names):
            what = f" ({strange[0]})" if strange else ""
            raise UsageError(f"{folder} holds other things{what} and would be replaced; give a new folder")
    elif folder.exists():
        raise UsageError(f"{folder} is a file; give a folder")
    return folder
