"""Gallery of near-duplicates: groups chosen, ordered and looked up, and static pages of them and of labels that conflict.

Pages are bounded: by groups, by members, and with them by bytes. What is left out for its number is counted where it is
missing. The folder appears whole; in its usual place, inside the results, it goes when a new search replaces them.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import __version__
from ..embed.thumbnails import ImageFile, Thumbnail, ThumbnailPool, shrink
from ..errors import StoreError, UsageError, count_of
from ..store.files import publish_folder, publish_text
from ..store.schema import Snapshot, label_columns
from ..store.store import Store
from ..web.render import Card, Label, labels_of, render
from .evaluate import Conflicts
from .groups import Files, columns_for, criteria, item_files
from .judgements import JUDGED
from .pair_graph import HASHES, PAIR_KINDS, Duplicates, search_name
from .results import KINDS
from .views import content_shares

#: The kind of a member that no stage pairs with its keeper.
INDIRECT = "indirect"

#: Orders of groups.
SORTS = ("chained", "score", "size", "group")

#: Characters of a text that are read, and of a label.
TEXT_CHARS, _LABEL_CHARS = 2000, 200

#: Characters of a text that count where the longest decides what is kept.
_WEIGHED_CHARS = 20_000


@dataclass(frozen=True)
class Choice:
    """Choice of the found groups to show.

    Members beside the keeper are shown if they are of these `kinds` and if their cosine to it is known and within the
    bounds. Groups are in one of the `SORTS`: chained ones first and then as by score; the least alike first; the
    largest first; the best keeper first. A group shows so many `members`, the keeper included: those least like it,
    different contents before copies.
    """

    kinds: frozenset[str] | None = None
    min_cosine: float | None = None
    max_cosine: float | None = None
    chained: bool = False
    sort: str = "chained"
    max_groups: int = 1000
    members: int = 48

    def __post_init__(self) -> None:
        known = (*PAIR_KINDS, INDIRECT)
        for kind in self.kinds or ():
            if kind not in known:
                raise UsageError(f"unknown kind {kind!r}; there are: {', '.join(known)}")
        if self.sort not in SORTS:
            raise UsageError(f"unknown order {self.sort!r}; there are: {', '.join(SORTS)}")
        least = -1.0 if self.min_cosine is None else self.min_cosine
        most = 1.0 if self.max_cosine is None else self.max_cosine
        if not -1 <= least <= most <= 1:
            raise UsageError(f"no cosine lies between {least:g} and {most:g}; give bounds from -1 to 1")
        if self.max_groups < 1:
            raise UsageError(f"the most groups to show are at least 1, not {self.max_groups}")
        if not 2 <= self.members <= 500:
            raise UsageError(f"a group shows 2 to 500 members, not {self.members}")


@dataclass(frozen=True)
class Selection:
    """Groups to show, in order, by rows of `clusters`; all arrays have one entry a group."""

    clusters: pa.Table
    first: np.ndarray  # where each group starts, its keeper
    second: np.ndarray  # the next best: the first of another content, or else of the keeper's copies
    rows: list[np.ndarray]  # members to show: the keeper, then the least alike first
    filtered: np.ndarray  # members that the choice leaves out
    capped: np.ndarray  # further members left out because there are too many
    matching: int  # groups that match, of which no more than asked for are shown

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Item:
    """Facts of an item in the store; `text` and labels are cut."""

    path: str | None
    root: str | None
    text: str | None
    image_sha256: str | None
    text_sha256: str | None
    width: int | None
    height: int | None
    format: str | None
    bytes: int | None
    mtime_ns: int | None
    split: str | None
    labels: dict[str, str] = field(default_factory=dict)


def image_of(item: Item | None) -> ImageFile | None:
    """An item's image file as it was embedded, if there is one."""
    if item is None or item.path is None or item.root is None:
        return None
    return ImageFile(Path(item.root) / item.path, item.image_sha256, item.bytes, item.mtime_ns)


#: Columns of an `Item` besides its labels.
_FACTS = [name for name in Item.__annotations__ if name != "labels"]


@dataclass(frozen=True)
class Member:
    """An item of a group, and how it is like the keeper.

    `item` is None where it has left the store since; `same_file_as` is another item with the very same file.
    """

    item_id: str
    keeper: bool
    kind: str | None
    hamming: int | None
    cosine: float | None
    copy_of: str | None
    item: Item | None
    same_file_as: str | None = None
    orientation: str | None = None  # how the keeper's picture has to be turned to be this one


@dataclass(frozen=True)
class Group:
    """Near-duplicates to be shown side by side, the keeper first; the figures are those of ``clusters.parquet``."""

    number: int
    size: int  # items in it, shown or not
    min_cosine: float | None
    max_hamming: int | None
    sampled: bool
    chained: bool
    members: list[Member]
    filtered: int  # members left out by choice
    capped: int  # and for their number
    why: str  # what made the keeper the keeper


def select(clusters: pa.Table, choice: Choice) -> Selection:
    """Choose groups and their members from ``clusters.parquet``: groups one after another, the keeper first."""
    keeper = clusters["keeper"].to_numpy()
    first = np.flatnonzero(keeper)
    stop = np.append(first, len(keeper))[1:]
    of = np.repeat(np.arange(len(first)), stop - first)
    known = (*PAIR_KINDS, INDIRECT)
    kind = pc.index_in(clusters["kind"], value_set=pa.array(known)).fill_null(len(PAIR_KINDS)).to_numpy()
    cosine = _floats(clusters["cosine"])
    alike = similarity(cosine, _floats(clusters["hamming"]))
    wanted = ~keeper
    if choice.kinds is not None:
        wanted &= np.isin(np.array(known)[kind], list(choice.kinds))
    if choice.min_cosine is not None:
        wanted &= cosine >= choice.min_cosine
    if choice.max_cosine is not None:
        wanted &= cosine <= choice.max_cosine
    if choice.chained:
        wanted &= clusters["chained"].to_numpy()
    counts = np.bincount(of[wanted], minlength=len(first))
    matching = np.flatnonzero(counts)
    leads = clusters.take(pa.array(first[matching]))
    score = similarity(_floats(leads["min_cosine"]), _floats(leads["max_hamming"]))
    keys = {
        "chained": [~leads["chained"].to_numpy(), score],
        "score": [score],
        "size": [-leads["size"].to_numpy()],
        "group": [],
    }[choice.sort]
    # The last key counts first; groups that tie stand as in clusters.parquet.
    order = np.lexsort([matching, *keys[::-1]])[: choice.max_groups]
    shown = matching[order]
    copy = pc.is_valid(clusters["copy_of"]).to_numpy()
    rows, second, capped = [], [], []
    for group in shown.tolist():
        members = np.arange(first[group] + 1, stop[group])
        # The first False, and where all are copies the first of them.
        second.append(members[np.argmin(copy[members])])
        members = members[wanted[members]]
        capped.append(max(0, len(members) + 1 - choice.members))
        if capped[-1]:
            by = np.lexsort([members, alike[members], -kind[members], copy[members]])
            members = members[by[: choice.members - 1]]
        members = members[np.lexsort([members, alike[members], -kind[members]])]
        rows.append(np.append(first[group], members))
    sizes = stop[shown] - first[shown]
    return Selection(
        clusters,
        first[shown],
        np.array(second, np.int64),
        rows,
        sizes - 1 - counts[shown],
        np.array(capped, np.int64),
        len(matching),
    )


def read_groups(
    store: Store, selection: Selection, part: slice, parameters: Mapping[str, Any]
) -> Iterator[Group]:
    """Look up the groups of `part` of a selection, of a search with such `parameters`."""
    rows = selection.rows[part]
    if not rows:
        return
    table = selection.clusters.take(pa.array(np.concatenate(rows)))
    members = iter(table.to_pylist())
    items = read_items(store, table["item_id"])
    rivals = np.stack([selection.first[part], selection.second[part]], axis=1)
    reasons = _reasons(store, selection.clusters["item_id"].take(pa.array(rivals.ravel())), parameters)
    left = zip(selection.filtered[part].tolist(), selection.capped[part].tolist(), strict=True)
    for chosen, why, (filtered, capped) in zip(rows, reasons, left, strict=True):
        found = [next(members) for _ in range(len(chosen))]
        head = found[0]
        yield Group(
            number=head["group"],
            **{name: head[name] for name in ("size", "min_cosine", "max_hamming", "sampled", "chained")},
            members=[
                Member(
                    **{name: row[name] for name in ("item_id", "keeper", "hamming", "cosine", "copy_of")},
                    kind=None if row["keeper"] else row["kind"] or INDIRECT,
                    item=items.get(row["item_id"]),
                    same_file_as=row.get("same_file_as"),
                    orientation=row.get("orientation"),
                )
                for row in found
            ],
            filtered=filtered,
            capped=capped,
            why=head.get("why") or why,
        )


def read_items(store: Store, ids: pa.Array | pa.ChunkedArray) -> dict[str, Item]:
    """Facts of items in the store, by id."""
    wanted = ids.unique()

    def read(snapshot: Snapshot) -> dict[str, Item]:
        labels = label_columns(snapshot.schema)
        found = {}
        for batch in snapshot.batches(["item_id", *_FACTS, *labels]):
            part = pa.table(batch.filter(pc.is_in(batch.column(0), value_set=wanted)))
            for name in ("text", *labels):
                place = part.schema.get_field_index(name)
                limit = TEXT_CHARS if name == "text" else _LABEL_CHARS
                column = pc.binary_join(part[name], ", ") if pa.types.is_list(part[name].type) else part[name]
                part = part.set_column(place, name, pc.utf8_slice_codeunits(column, 0, limit))
            for row in part.to_pylist():
                known = {name: row[name] for name in _FACTS}
                told = {name: row[name] for name in labels if row[name] not in (None, "")}
                found[row["item_id"]] = Item(**known, labels=told)
        return found

    return store.items.reading(read)


def _reasons(store: Store, pairs: pa.ChunkedArray, parameters: Mapping[str, Any]) -> list[str]:
    """In what each keeper is better than the next best; `pairs` has the ids of both in turn."""
    policy = parameters["keeper"]
    columns = list(dict.fromkeys([*columns_for(policy), "path", "root", "image_sha256"]))

    def read(snapshot: Snapshot) -> pa.Table | None:
        if set(columns) - set(snapshot.schema.names):
            return None
        wanted = pairs.unique()
        parts = []
        for batch in snapshot.batches(columns):
            part = pa.table(batch).filter(pc.is_in(batch["item_id"], value_set=wanted))
            text = part.schema.get_field_index("text")
            parts.append(
                part.set_column(text, "text", pc.utf8_slice_codeunits(part["text"], 0, _WEIGHED_CHARS))
            )
        return pa.concat_tables(parts) if parts else None

    items = store.items.reading(read)
    if items is None or not len(items):
        return [""] * (len(pairs) // 2)
    inside = files = None
    if parameters.get("margins"):
        inside = content_shares(store, items["image_sha256"].cast(pa.string()).combine_chunks())
    if parameters["content"] == "image_sha256":
        nothing = np.full(len(items), np.nan)
        files = Files.inspect(item_files(items), nothing, nothing)
    compared = criteria(items, policy, inside, files)
    framed = dict(compared).get("framed", np.zeros(len(items)))
    at = pc.index_in(pairs, value_set=items["item_id"].combine_chunks())
    places = pc.fill_null(at, -1).to_numpy().reshape(-1, 2)
    size = dict(compared)["size"]
    reasons = []
    for keeper, next_best in places.tolist():
        reason = ""
        if min(keeper, next_best) >= 0:
            for name, values in compared:
                a, b = values[keeper], values[next_best]
                if a < b or (np.isnan(b) and not np.isnan(a)):
                    image = items["width"][keeper].is_valid
                    reason = _words(name, policy, image, float(size[keeper]), float(size[next_best]))
                    if framed[keeper] < framed[next_best]:
                        reason = "no frame or band"
                    break
        reasons.append(reason)
    return reasons


def _words(name: str, policy: str, image: bool, size: float, other: float) -> str:
    if name in ("within", "quality"):
        if size == other:
            return "less compressed"
        name = "size" if size < other else "less compressed, though smaller"
    if name == "column":
        column, falling = policy.removesuffix(":desc"), policy.endswith(":desc")
        return f"{'highest' if falling else 'lowest'} {column}"
    return {
        "there": "its file is there",
        "link": "a file, not a link",
        "linked": "in no linked folder",
        "size": "larger" if image else "longer",
        "bytes": "more bytes, as large",
        "age": "older file",
        "added": "added earlier",
        "id": "the first id, equal in all else",
    }.get(name, name)


def similarity(cosine: np.ndarray | float | None, hamming: np.ndarray | float | None) -> np.ndarray:
    """Numbers to order groups by, NaN or None where one is not known: the cosine, or else what the hashes say."""
    known, bits = np.asarray(cosine, np.float64), np.asarray(hamming, np.float64)
    return np.nan_to_num(np.where(np.isnan(known), 1 - bits / 64, known), nan=1.0)


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.float64()).to_numpy()


def pages(counts: Sequence[int], per_page: int, most: int) -> list[slice]:
    """Share out groups of so many members over pages of at most `per_page` groups and `most` members (but one group)."""
    found, start, held = [], 0, 0
    for place, count in enumerate(counts):
        if place > start and (place - start >= per_page or held + count > most):
            found.append(slice(start, place))
            start, held = place, 0
        held += count
    return [*found, slice(start, len(counts))]


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

#: Pairs of conflicting labels whose thumbnails are made at once.
_PAIRS_AT_ONCE = 64

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


def conflicts_page(
    store: Store,
    conflicts: Conflicts,
    *,
    limit: int = 200,
    side: int = 320,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Page of the first `limit` contradictions, the items of each side by side; it needs no other file and no network."""
    shown = conflicts.pairs.slice(0, limit)
    items = read_items(store, pa.chunked_array([*shown["id_a"].chunks, *shown["id_b"].chunks], pa.string()))
    pairs = shown.to_pylist()
    with ThumbnailPool(side) as pictures:
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            part = pairs[start : start + _PAIRS_AT_ONCE]
            ends = [(pair, end, items.get(pair[f"id_{end}"])) for pair in part for end in ("a", "b")]
            taken = pictures.take([image_of(item) for _, _, item in ends])
            for (pair, end, item), picture in zip(ends, taken, strict=True):
                labels = [Label(conflicts.label, pair[f"label_{end}"], differs=True)]
                if item and item.split and conflicts.label != "split":
                    labels.append(Label("split", item.split))
                text = (pair[f"text_{end}"] or "")[:_TEXT_LIMIT] or None
                card = Card(
                    pair[f"id_{end}"],
                    picture,
                    text=text,
                    labels=labels,
                    path=None if item is None else item.path,
                )
                pair.setdefault("cards", []).append(card)
            if progress is not None:
                progress(start + len(part), len(pairs))
    return render(
        "conflicts.html",
        title=f"Near-duplicates with different {conflicts.label}",
        search=conflicts.found.summary,
        label=conflicts.label,
        pairs=pairs,
        total=conflicts.pairs.num_rows,
        counts=conflicts.counts,
        compared=conflicts.compared,
    )


def write_conflicts_page(path: str | Path, store: Store, conflicts: Conflicts, **how: Any) -> Path:
    """Write a `conflicts_page` to a file; a `UsageError` if that cannot be written."""
    return publish_text(path, conflicts_page(store, conflicts, **how))
