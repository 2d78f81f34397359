"""Groups of found duplicates, chosen, ordered and looked up for people to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..embed.thumbnails import ImageFile
from ..errors import UsageError
from ..store.schema import label_columns
from ..store.store import Store
from ..store.table import Snapshot
from .groups import Files, columns_for, criteria, item_files
from .results import KINDS
from .view_table import content_shares

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
        known = (*KINDS, INDIRECT)
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
    kind = pc.index_in(clusters["kind"], value_set=pa.array(KINDS)).fill_null(len(KINDS)).to_numpy()
    cosine = _floats(clusters["cosine"])
    alike = similarity(cosine, _floats(clusters["hamming"]))
    wanted = ~keeper
    if choice.kinds is not None:
        wanted &= np.isin(np.array([*KINDS, INDIRECT])[kind], list(choice.kinds))
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
