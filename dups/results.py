"""Result files of a search for duplicates, written as the pairs come.

Copies of one content (equal sha256) are pairs with the best of them, not with one another: k copies make k - 1 pairs instead
of k (k - 1) / 2, and other contents are paired with the best copy only. Nothing is lost by it, since every copy has the
pairs of its content; `clusters.parquet` says of each copy what it is a copy of.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from ..data import image_files
from ..data.images import ORIENTATIONS
from ..data.splits import connected
from ..errors import count_of, one_or_many
from ..store.sql import csv_table
from .confirm import INVERSE
from .groups import GONE, NONE, THERE, Files, deletable_files
from .hashing import distinct
from .pairs import Contents, FoundPairs, PairSearch, Spread
from .rule import Rule
from .variants import EVIDENCE

#: Stages that find pairs, the strongest evidence first.
STAGES = ("exact", "perceptual", "embedding")

#: Kinds of pairs: those of the stages, and pictures that agree while their words do not; see `icehouse.dups.variants`.
KINDS = (*STAGES, "variant", "container")

#: Column of labels unless another is named.
LABEL = "label"

#: One row a pair.
PAIRS = pa.schema(
    [
        pa.field("id_a", pa.string(), nullable=False),
        pa.field("id_b", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("exact", pa.bool_(), nullable=False),
        pa.field("perceptual", pa.bool_(), nullable=False),
        pa.field("embedding", pa.bool_(), nullable=False),
        pa.field("hamming", pa.uint8()),
        pa.field("cosine", pa.float64()),
        pa.field(
            "differs", pa.string()
        ),  # what of a variant differs: its "text", its "picture", or "detail" of it
        # How the picture of `id_a` has to be turned to be that of `id_b`; null where it has not.
        pa.field("orientation", pa.string()),
        # Of a collage and a picture in it the id of the collage.
        pa.field("container", pa.string()),
        # How much the pair stands out among its neighbours; see `icehouse.dups.local_scaling`.
        pa.field("evidence", pa.float64()),
    ]
)

#: One row an item of a group of at least two.
CLUSTERS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("group", pa.int64(), nullable=False),
        pa.field("keeper", pa.bool_(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("copy_of", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("hamming", pa.uint8()),
        pa.field("cosine", pa.float64()),
        # How the keeper's picture has to be turned to be the item's.
        pa.field("orientation", pa.string()),
        pa.field("min_cosine", pa.float64()),
        pa.field("max_hamming", pa.uint8()),
        pa.field("sampled", pa.bool_(), nullable=False),
        pa.field("chained", pa.bool_(), nullable=False),
        pa.field("same_file_as", pa.string()),
        pa.field("variants", pa.int64()),  # number of the group's set of variants in ``variants.csv``
        pa.field("why", pa.string()),  # of a keeper: in what its picture is better than the others
    ]
)

#: What is said of each group.
_SPREAD = pa.schema([CLUSTERS.field(name) for name in ("min_cosine", "max_hamming", "sampled", "chained")])

#: One row an item that is kept though its picture is like another's, as in ``variants.csv``.
VARIANTS = pa.schema(
    [
        pa.field("variants", pa.int64(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("variant_of", pa.string()),
        pa.field("differs", pa.string()),
        pa.field("hamming", pa.uint8()),
        pa.field("cosine", pa.float64()),
    ]
)

_ROWS = 500_000

#: Characters of a text in ``variants.csv``.
_TEXT_CHARS = 500


@dataclass(frozen=True)
class RankedItems:
    """Items in order of preference, and what content each has."""

    ids: pa.Array
    files: pa.Array  # absolute paths; null for an item without a file of its own, or whose text was compared
    #: float64 (n,): bytes and time of each file when it was embedded; NaN where they are not known
    sizes: np.ndarray
    times: np.ndarray
    alphabet: np.ndarray  # int64 (n,): rank of each id among all ids
    #: int64 (n,): number of the item's content, -1 if it has none; numbered as they first appear
    content: np.ndarray
    best: np.ndarray  # int64 (contents,): first item of each content

    def files_of(self, contents: np.ndarray) -> pa.Array:
        """Files of the best items of some contents."""
        return self.files.take(pa.array(self.best[contents]))

    def copies(self) -> np.ndarray:
        """Items that are a copy of one that is preferred to them."""
        items = np.flatnonzero(self.content >= 0)
        return items[self.best[self.content[items]] != items]


@dataclass
class PairWriter:
    """Writes ``pairs.parquet`` and counts."""

    ranked: RankedItems
    writer: pq.ParquetWriter
    #: pairs by their kind; pairs that each stage found, counting those that several found for each
    kinds: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(KINDS, 0)))
    stages: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(STAGES, 0)))
    #: variants by what differs
    differing: Counter[str] = field(default_factory=Counter)
    variants: list[np.ndarray] = field(default_factory=list)  # int64 (m, 2): pairs of contents
    #: pairs of which one is the other turned, by how
    orientations: Counter[str] = field(default_factory=Counter)
    labels: np.ndarray | None = None  # int64 (items,): `label_codes` of the items, if they have labels
    #: pairs with two labels, and with different ones, by kind
    labelled: Counter[str] = field(default_factory=Counter)
    conflicting: Counter[str] = field(default_factory=Counter)

    @classmethod
    @contextlib.contextmanager
    def to(cls, path: Path, ranked: RankedItems, labels: np.ndarray | None = None) -> Iterator[PairWriter]:
        """Open `path` for writing."""
        with pq.ParquetWriter(path, PAIRS, compression="zstd") as writer:
            yield cls(ranked, writer, labels=labels)

    def copies(self, contents: Contents) -> None:
        """Write the pairs of each copy with the best of its content."""
        copies = self.ranked.copies()
        for start in range(0, len(copies), _ROWS):
            items = copies[start : start + _ROWS]
            content = self.ranked.content[items]
            self._write(self.ranked.best[content], items, contents.judge(content, content), exact=True)

    def add(self, found: FoundPairs) -> None:
        """Write pairs of different contents."""
        best = self.ranked.best
        for start in range(0, len(found), _ROWS):
            part = slice(start, start + _ROWS)
            self._write(best[found.i[part]], best[found.j[part]], found.take(part), exact=False)
        differs = found.differs > 0
        if differs.any():
            self.variants.append(np.stack([found.i[differs], found.j[differs]], axis=1))
            for place, name in enumerate(EVIDENCE):
                if name is not None and (count := int((found.differs == place).sum())):
                    self.differing[name] += count

    def _write(self, a: np.ndarray, b: np.ndarray, found: FoundPairs, *, exact: bool) -> None:
        ranked = self.ranked
        outer = ranked.ids.take(pa.array(np.where(found.container == 2, b, a), mask=found.container == 0))
        swapped = ranked.alphabet[a] > ranked.alphabet[b]
        a, b = np.where(swapped, b, a), np.where(swapped, a, b)
        orientation = np.where(swapped, INVERSE[found.orientation], found.orientation)
        kind = kinds(found, exact=exact)
        columns = [
            ranked.ids.take(pa.array(a)),
            ranked.ids.take(pa.array(b)),
            pa.array(np.array(KINDS, object)[kind], pa.string()),
            pa.array(np.full(len(a), exact)),
            pa.array(found.perceptual),
            pa.array(found.embedding),
            *_measures(found),
            pa.array(np.array(EVIDENCE, object)[found.differs], pa.string()),
            _orientations(orientation),
            outer,
            pa.array(found.evidence, mask=np.isnan(found.evidence)),
        ]
        self.writer.write_table(pa.table(columns, schema=PAIRS))
        for k, name in enumerate(KINDS):
            self.kinds[name] += int((kind == k).sum())
        if self.labels is not None:
            left, right = self.labels[a], self.labels[b]
            told = (left >= 0) & (right >= 0)
            for k, name in enumerate(KINDS):
                self.labelled[name] += int((told & (kind == k)).sum())
                self.conflicting[name] += int((told & (left != right) & (kind == k)).sum())
        for k in orientation[orientation > 0].tolist():
            self.orientations[ORIENTATIONS[k]] += 1
        self.stages["exact"] += len(a) if exact else 0
        self.stages["perceptual"] += int(found.perceptual.sum())
        self.stages["embedding"] += int(found.embedding.sum())


def label_codes(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Number of each label, int64 (n,), -1 for none; letter case and blanks around a value make no other label."""
    plain = pc.utf8_lower(pc.utf8_trim_whitespace(values.cast(pa.string())))
    plain = pc.if_else(pc.equal(plain, ""), pa.scalar(None, pa.string()), plain)
    plain = plain.combine_chunks() if isinstance(plain, pa.ChunkedArray) else plain
    codes: np.ndarray = pc.fill_null(plain.dictionary_encode().indices.cast(pa.int64()), -1).to_numpy()
    return codes


def kinds(found: FoundPairs, *, exact: bool = False) -> np.ndarray:
    """Kind of each pair, as its place in `KINDS`; ``len(KINDS)`` if no stage finds it.

    It is the strongest stage's, unless the pair is of variants, or of a collage and a picture in it.
    """
    if exact:
        return np.zeros(len(found), np.int64)
    stage = np.where(found.perceptual, 1, np.where(found.embedding, 2, len(KINDS)))
    stage = np.where(found.container > 0, KINDS.index("container"), stage)
    return np.where((stage < len(STAGES)) & (found.differs > 0), KINDS.index("variant"), stage)


class Measured(Protocol):
    """Distances between contents: of a search as it runs, or as it has written them."""

    def judge(self, i: np.ndarray, j: np.ndarray) -> FoundPairs:
        """Measure pairs, whichever stage found them."""

    def spread(self, members: np.ndarray) -> Spread:
        """Tell how far the members of a group are apart, the first of which is its keeper."""


def cluster_table(
    ranked: RankedItems,
    keeper: np.ndarray,
    contents: Measured,
    same_file: np.ndarray,
    family: np.ndarray | None = None,
    why: Mapping[int, str] | None = None,
) -> pa.Table:
    """Make ``clusters.parquet``: the items of every group of at least two, best group first, keeper first.

    `family` is the number of each content's set of variants, -1 for none; `why` tells of contents why they are kept.
    """
    items = np.flatnonzero(ranked.content >= 0)
    leader = keeper[ranked.content[items]]
    sizes = np.bincount(leader, minlength=len(keeper))
    grouped = sizes[leader] > 1
    items, leader = items[grouped], leader[grouped]
    # A keeper that people chose is not the best by preference.
    order = np.lexsort((items, ranked.best[leader] != items, leader))
    items, leader = items[order], leader[order]
    leaders, group = np.unique(leader, return_inverse=True)
    content = ranked.content[items]
    is_keeper = ranked.best[leader] == items
    found = contents.judge(leader, content)
    same = content == leader
    kind = np.where(same, 0, kinds(found))
    names = pa.array([*KINDS, None], pa.string()).take(pa.array(kind))
    spreads = pa.Table.from_pylist([vars(spread) for spread in _spreads(keeper, leaders, contents)], _SPREAD)
    spreads = spreads.take(pa.array(group))
    reasons = pa.array([(why or {}).get(number) for number in content.tolist()], pa.string())
    copied, first = ranked.best[content], same_file[items]
    hamming, cosine = _measures(found)
    columns = [
        ranked.ids.take(pa.array(items)),
        pa.array(group),
        pa.array(is_keeper),
        pa.array(sizes[leader]),
        ranked.ids.take(pa.array(copied, mask=copied == items)),
        pc.if_else(pa.array(is_keeper), pa.scalar(None, pa.string()), names),
        hamming,
        cosine,
        _orientations(found.orientation),
        *spreads.columns,
        ranked.ids.take(pa.array(first, mask=first == items)),
        pa.nulls(len(items), pa.int64())
        if family is None
        else pa.array(family[leader], mask=family[leader] < 0),
        pc.if_else(pa.array(is_keeper), reasons, pa.scalar(None, pa.string())),
    ]
    return pa.table(columns, schema=CLUSTERS)


def group_counts(clusters: pa.Table) -> dict[str, int]:
    """Counts of groups for ``summary.json``."""
    leads = clusters.filter(clusters["keeper"])
    return {
        "total": leads.num_rows,
        "items": clusters.num_rows,
        "largest": pc.max(leads["size"]).as_py() or 0,
        "chained": int(pc.sum(leads["chained"]).as_py() or 0),
        "sampled": int(pc.sum(leads["sampled"]).as_py() or 0),
    }


def write_items(folder: Path, ranked: RankedItems, digests: pa.ChunkedArray, contents: Contents) -> None:
    """Write ``items.parquet``: what was looked at, by id, whether there was a vector to compare it by, and its rank.

    Items are ranked by preference, from 0: the lower of two is the better keeper.
    """
    held = np.zeros(len(ranked.best), bool)
    held[contents.with_vector] = True
    there = ranked.content >= 0
    vector = np.zeros(len(ranked.ids), bool)
    vector[there] = held[ranked.content[there]]
    table = pa.table(
        {
            "item_id": ranked.ids,
            "content": digests.cast(pa.string()),
            "vector": vector,
            "rank": np.arange(len(ranked.ids)),
        }
    )
    pq.write_table(
        table.take(pa.array(np.argsort(ranked.alphabet))), folder / "items.parquet", compression="zstd"
    )


#: Where more of all pairs of contents are near-duplicates, or one group holds more of all contents, and more than so many,
#: the set looks alike to the measure. 60 pictures with 23 copies of each have 1.5% of all pairs.
_PLAUSIBLE_PAIRS, _PLAUSIBLE_GROUP, _SMALL = 0.02, 0.2, 100


def implausible(pairs: int, contents: int, largest: int) -> str:
    """Say that so many contents are alike that hardly all of them are duplicates, and what to do; empty where they are not.

    `pairs` were found among `contents`, without byte copies and variants, and the largest group has `largest` contents.
    """
    share = pairs / max(contents * (contents - 1) / 2, 1)
    if contents <= _SMALL or (
        share <= _PLAUSIBLE_PAIRS and largest <= max(_PLAUSIBLE_GROUP * contents, _SMALL)
    ):
        return ""
    what = (
        f"{share:.1%} of all pairs"
        if share > _PLAUSIBLE_PAIRS
        else f"{largest} of {contents} contents in one group"
    )
    return (
        f"{what} would be near-duplicates: this set looks alike, and hardly all of them are. So there is no keep.csv and no "
        "drop.csv: look at the pairs with `icehouse dups gallery`, run `icehouse dups calibrate` or ask for fewer "
        "(--expected-false-pairs 0.1, a higher --threshold); --yes-drop writes the lists all the same"
    )


def withhold_lists(folder: Path) -> None:
    """Take back what `write_lists` wrote."""
    for name in ("keep.csv", "drop.csv"):
        (folder / name).unlink(missing_ok=True)


def write_lists(
    folder: Path, ranked: RankedItems, clusters: pa.Table, files: Files
) -> tuple[int, int, list[str]]:
    """Write ``keep.csv`` and ``drop.csv``, which share out all items between them, but those whose file is gone.

    A member of a group is dropped if its file and its keeper's are there as they were embedded, and no item that is kept has
    the same file. Where no file can be seen at all, the lists go by the items alone.

    Gives how many are kept and dropped, and notes on what is kept for its file's sake and what is not listed.
    """
    notes = []
    member = clusters.filter(pc.invert(clusters["keeper"]))
    leads = clusters.filter(clusters["keeper"])
    leads = leads.take(pc.index_in(member["group"], value_set=leads["group"]))
    rows, keepers = (
        pc.index_in(part["item_id"], value_set=ranked.ids).to_numpy() for part in (member, leads)
    )
    state, goes = files.state, np.ones(len(rows), bool)
    listed = np.ones(len(ranked.ids), bool)
    if files.any_found:
        listed = state != GONE
        sound = np.isin(state, (THERE, NONE))
        goes = sound[rows] & sound[keepers]
        if gone := int((~listed).sum()):
            notes.append(
                f"{count_of(gone, 'item is', 'items are')} in neither list, with no file any more; "
                "`icehouse embed` marks such items"
            )
        if unsure := int((~goes & listed[rows]).sum()):
            notes.append(
                f"{count_of(unsure, 'duplicate is', 'duplicates are')} kept: the file, or the keeper's, is "
                "no longer the one that was embedded; "
                "run `icehouse embed`, and this search again"
            )
    elif files.paths:
        notes.append(
            f"none of {count_of(files.paths, 'file')} can be seen here: the lists go by what was embedded, "
            "and do not know of links"
        )
    moving = _holding_more(
        ranked.files, rows, keepers, goes & ~pc.equal(member["kind"], "exact").fill_null(False).to_numpy()
    )
    if many := int(moving.sum()):
        goes &= ~moving
        notes.append(
            f"{count_of(many, 'duplicate is', 'duplicates are')} kept: animations, or files of several pages, whose keeper "
            "has fewer; one picture of each was compared"
        )
    # An item that shares its file with one that is kept is kept.
    stays = listed.copy()
    stays[rows[goes]] = False
    held = np.isin(files.number, files.number[stays & (files.number >= 0)])
    goes &= ~held[rows]
    stays |= held
    first = files.first()
    if several := int((first != np.arange(len(first))).sum()):
        notes.append(
            f"{count_of(several, 'item is', 'items are')} a further name of, or a link to, another item's "
            "file: see same_file_as in clusters.parquet"
        )
    listed_files = deletable_files(ranked.files)
    staying = np.flatnonzero(stays)
    ids = ranked.ids.take(pa.array(staying))
    same = ranked.ids.take(pa.array(first, mask=first == np.arange(len(first))))
    at = pc.index_in(ids, value_set=clusters["item_id"])
    kept = pa.table(
        {
            "item_id": ids,
            "file": listed_files.take(pa.array(staying)),
            "group": clusters["group"].take(at),
            "size": pc.fill_null(clusters["size"].take(at), 1),
            "same_file_as": same.take(pa.array(staying)),
        }
    )
    _write_csv(kept, folder / "keep.csv")
    chosen = pa.array(np.flatnonzero(goes))
    member = member.take(chosen)
    dropped = pa.table(
        {
            "item_id": member["item_id"],
            "file": listed_files.take(pa.array(rows[goes])),
            "keeper": leads["item_id"].take(chosen),
            **{name: member[name] for name in ("group", "kind", "hamming", "cosine", "same_file_as")},
        }
    )
    _write_csv(dropped, folder / "drop.csv")
    return kept.num_rows, dropped.num_rows, notes


def _holding_more(files: pa.Array, rows: np.ndarray, keepers: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Mask of the pairs of a member and its keeper, of those `asked`, of which the member's file holds more pictures."""
    found = np.zeros(len(rows), bool)
    at = np.flatnonzero(asked)
    ends = (files.take(pa.array(side[at])).to_pylist() for side in (rows, keepers))
    for place, file, keeper in zip(at.tolist(), *ends, strict=True):
        if file is not None and (several := image_files.frames(file)) > 1:
            found[place] = keeper is None or several > image_files.frames(keeper)
    return found


def write_variants(
    folder: Path,
    ranked: RankedItems,
    keeper: np.ndarray,
    contents: Measured,
    pairs: Sequence[np.ndarray],
    texts: pa.Array | None,
) -> tuple[np.ndarray, int]:
    """Write ``variants.csv`` and ``variants.parquet``: what is kept since it says something else than another like it.

    One row for each keeper, or item without a group, that variants link; a set of them begins with its best, and the others
    are told beside the best of those that they are linked to. `pairs` are those of contents, `texts` of the items. Gives
    the number of each content's set, int64 (n,), -1 for none, and how many items are listed.
    """
    n = len(keeper)
    family = np.full(n, -1, np.int64)
    linked = np.concatenate([np.empty((0, 2), np.int64), *pairs])
    ends = np.sort(keeper[linked], axis=1)
    codes = distinct(ends[ends[:, 0] != ends[:, 1]] @ np.array([n, 1]))
    i, j = np.divmod(codes, max(n, 1))
    held = np.unique(np.concatenate([i, j]))
    if len(held):
        number = connected(len(held), np.searchsorted(held, i), np.searchsorted(held, j))
        # Sets in the order of their best members.
        _, first, back = np.unique(number, return_index=True, return_inverse=True)
        family[held] = np.argsort(np.argsort(first))[back]
    family = np.where(family[keeper] >= 0, family[keeper], -1)
    order = held[np.lexsort((held, family[held]))]
    # Codes ascend, so that the first pair of each second one is with the best that it is linked to.
    second, at = np.unique(j, return_index=True)
    beside = np.full(n, -1, np.int64)
    beside[second] = i[at]
    there = beside[order] >= 0
    found = contents.judge(np.where(there, beside[order], order), order)
    items = ranked.best[order]
    hamming, cosine = _measures(found)
    none = pa.array(~there)
    table = pa.table(
        {
            "variants": family[order],
            "item_id": ranked.ids.take(pa.array(items)),
            "file": ranked.files.take(pa.array(items)),
            "variant_of": ranked.ids.take(pa.array(ranked.best[beside[order]], mask=~there)),
            "differs": pa.array(np.array(EVIDENCE, object)[found.differs], pa.string()),
            "hamming": pc.if_else(none, pa.scalar(None, hamming.type), hamming),
            "cosine": pc.if_else(none, pa.scalar(None, cosine.type), cosine),
            "text": pa.nulls(len(items), pa.string())
            if texts is None
            else pc.utf8_slice_codeunits(texts.take(pa.array(items)), 0, _TEXT_CHARS),
        }
    )
    _write_csv(table, folder / "variants.csv")
    pq.write_table(
        table.drop_columns(["file", "text"]).cast(VARIANTS), folder / "variants.parquet", compression="zstd"
    )
    return family, len(order)


def _measures(found: FoundPairs) -> tuple[pa.Array, pa.Array]:
    hamming = pa.array(found.hamming.clip(0).astype(np.uint8), mask=found.hamming < 0)
    return hamming, pa.array(found.cosine, mask=np.isnan(found.cosine))


def _orientations(orientation: np.ndarray) -> pa.Array:
    """Names of orientations, null for upright."""
    return pa.array([None, *ORIENTATIONS[1:]], pa.string()).take(pa.array(orientation))


def _spreads(keeper: np.ndarray, leaders: np.ndarray, contents: Measured) -> list[Spread]:
    """Largest distances between the contents of each group."""
    order = np.argsort(keeper, kind="stable")
    starts = np.searchsorted(keeper[order], leaders)
    stops = np.searchsorted(keeper[order], leaders, side="right")
    # Most groups are two contents, or one with its copies: as far apart as these, and no chain.
    ends = contents.judge(order[starts], order[stops - 1])
    hamming, cosine = (measure.to_pylist() for measure in _measures(ends))
    return [
        contents.spread(_keeper_first(order[start:stop], leaders[k]))
        if stop - start > 2
        else Spread(cosine[k], hamming[k])
        for k, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True))
    ]


def _keeper_first(members: np.ndarray, keeper: int) -> np.ndarray:
    return members if members[0] == keeper else np.append(keeper, members[members != keeper])


def lacking(contents: Contents, items: pa.Table, key: str, feature: str | None) -> list[str]:
    """Tell what cannot be compared, for want of content or of a vector."""
    if not len(items):
        return ["there is no item to compare"]
    told, what = [], key.removesuffix("_sha256")
    if blank := items[key].null_count:
        told.append(f"{blank} of {count_of(len(items), 'item')} without {what}: not compared, and kept")
    same = int(contents.blank.sum())
    if same:
        told.append(
            f"{same} of {count_of(len(contents), 'image')} {one_or_many(same, 'is', 'are')} blank, all of one "
            "colour: only exact copies match"
        )
    if feature is None:
        return told
    if bare := len(contents) - len(contents.with_vector) - same:
        told.append(
            f"{bare} of {count_of(len(contents), 'content')} without a vector of {feature}: not compared by it; "
            "`icehouse embed` makes the missing ones"
        )
    if contents.rows is not None and (useless := len(contents.rows.unusable)):
        told.append(
            f"{useless} of {count_of(len(contents.rows), 'vector')} of {feature} zero or not finite: no match for anything"
        )
    return told


def search_notes(rule: Rule, feature: str | None, search: PairSearch, whole: bool) -> list[str]:
    """Tell how the stages went, once all pairs are read; `whole` says whether the groups are."""
    told = []
    if feature is None:
        told.append("no embedding stage: no feature")
    told += search.engine.notes
    if search.stats.get("views", {}).get("left_out"):
        told.append("parts of images were not compared: too many of them resemble each other")
    if search.capped:
        groups = "the groups are whole all the same" if whole else "groups led by the others may lack members"
        told.append(
            f"stopped at {count_of(search.max_pairs, 'pair')}: {search.complete} of "
            f"{count_of(len(search.contents), 'content')}, those preferred "
            f"as keepers, have all theirs, and {groups}; raise --max-pairs or the threshold for the rest"
        )
    perceptual: Mapping[str, Any] = search.stats.get("perceptual", {})
    if mute := perceptual.get("uninformative"):
        told.append(
            f"{mute} of {count_of(perceptual['hashes'], 'perceptual hash', 'perceptual hashes')} "
            f"{one_or_many(mute, 'says', 'say')} nothing (flat or almost empty images): left to the other stages"
        )
    return told


def between_copies(ranked: RankedItems) -> int:
    """Pairs that there are among copies of one content, of which those with the best copy are written."""
    counts = np.bincount(ranked.content[ranked.content >= 0])
    return int((counts * (counts - 1) // 2).sum())


def _write_csv(table: pa.Table, file: Path) -> None:
    pcsv.write_csv(csv_table(table), file)
