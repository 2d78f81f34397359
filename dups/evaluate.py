"""Evaluation of found duplicates: precision, recall and F1 against known pairs, and labels that contradict each other.

A truth without a `label` column is taken to be whole: what it lists are duplicates, so are pairs that follow from it (a is a
copy of b, b of c), and everything else is not. With a `label` column only the listed pairs are judged.

Of copies of one content the best item of each label stands for all with it, and of two contents the best labelled items: one
contradiction is told once, however many copies there are. Variants, pictures that say something else, are told apart: the
confounders of a data set are meant to have another label.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import SourceError, UsageError, unknown_name
from ..store.schema import check_single, label_columns
from ..store.store import Store
from .judgements import JUDGED, is_duplicate, read_pairs
from .pair_graph import Duplicates
from .results import KINDS, LABEL, PAIRS, STAGES, label_codes

#: Most pairs that may follow from those listed: each is held in memory.
_MAX_KNOWN = 5_000_000


@dataclass(frozen=True)
class Truth:
    """Known pairs."""

    #: ids in ascending order. `negative` is None where everything that is not positive is negative.
    positive: frozenset[tuple[str, str]]
    negative: frozenset[tuple[str, str]] | None


@dataclass(frozen=True)
class Score:
    """Precision, recall and F1 of some pairs; None where there is nothing to divide by."""

    found: int
    right: int
    missed: int
    precision: float | None
    recall: float | None
    f1: float | None

    @classmethod
    def of(cls, found: int, right: int, positives: int) -> Score:
        """Score `found` pairs of which `right` are among `positives` known ones."""
        precision = right / found if found else None
        recall = right / positives if positives else None
        f1 = 2 * right / (found + positives) if found + positives else None
        return cls(found, right, positives - right, precision, recall, f1)


def read_truth(path: str | Path, known: pa.ChunkedArray | None = None) -> Truth:
    """Read a table (CSV, TSV, JSON Lines, Parquet) of `a` and `b` (item ids), and perhaps `label` (1 or 0, yes or no).

    `known` are the ids of the store, in whose spelling the pairs come.
    """
    path = Path(path)
    names, unreadable, rows = read_pairs(path, ("label",), known)
    if not {"a", "b"} <= names or not (rows or unreadable):
        raise SourceError(
            f"{path} needs the columns a and b (item ids), and may have label; it has no rows of them"
        )
    if unreadable:
        raise SourceError(unreadable[0])
    positive: set[tuple[str, str]] = set()
    negative: set[tuple[str, str]] = set()
    for number, lost, a, b, label, _ in rows:
        if lost:
            raise SourceError(f"{path}, row {number}: {lost}")
        label = label if "label" in names else "1"
        same = is_duplicate(label or "")
        if not a or not b or same is None:
            raise SourceError(f"{path}, row {number}: needs two ids, and as a label 1 or 0, not {label!r}")
        if a != b:
            (positive if same else negative).add((min(a, b), max(a, b)))
    if both := positive & negative:
        a, b = min(both)
        raise SourceError(f"{path} labels {a!r} and {b!r} as duplicates and as none; leave one of the rows")
    if "label" in names:
        return Truth(frozenset(positive), frozenset(negative))
    return Truth(frozenset(_closed(positive)), None)


def evaluate_duplicates(found: Duplicates, truth: Truth) -> dict[str, Any]:
    """Score each stage by itself, and all of them together.

    A pair that several stages found counts for each. Copies of one content count with every pair of them, and with every
    pair of their content, though `pairs.parquet` has only those of the best copy.
    """
    named = {item for pair in truth.positive | (truth.negative or frozenset()) for item in pair}
    store = Store.open(found.path.parent.parent)
    known = set(store.items.read(["item_id"])["item_id"].to_pylist())
    if named and not named & known:
        raise SourceError(
            f"{store.path} has none of the truth's ids, such as {min(named)!r}; it has ids such as "
            f"{min(known, default='')!r}"
        )
    counts, right = _count(found, truth)
    return {
        "positives": len(truth.positive),
        "negatives": None if truth.negative is None else len(truth.negative),
        **{name: asdict(Score.of(counts[name], right[name], len(truth.positive))) for name in _SCORED},
        "unknown": sorted(named - known),
    }


#: The stages; whether any found a pair and it counts as duplicates; and whether it is of variants.
_SCORED = (*STAGES, "cascade", "variant")

#: Tables of all items that are named, each with the best item of its content and how many items have that; and of pairs of
#: contents, each once, of a content with itself for its copies, with the number of pairs of items for which it stands. A
#: collage is no duplicate of what is in it, and no mistake.
_TABLES = """
    create table item as
    select item_id, coalesce(copy_of, item_id) as content, count(*) over (partition by content) as copies
    from (select unnest([id_a, id_b]) as item_id from pairs union select unnest([a, b]) from truth
        union select item_id from clusters) left join clusters using (item_id);
    create table found as
    select least(x.content, y.content) as a, greatest(x.content, y.content) as b,
        any_value(exact) as exact, any_value(perceptual) as perceptual, any_value(embedding) as embedding,
        any_value(kind <> 'variant' or dropped) as cascade, any_value(kind = 'variant') as variant,
        any_value(if(x.content = y.content, x.copies * (x.copies - 1) // 2, x.copies * y.copies)) as pairs
    from pairs join item as x on x.item_id = id_a join item as y on y.item_id = id_b
    where kind <> 'container' group by all"""


_TRUTH = pa.schema({"a": pa.string(), "b": pa.string(), "positive": pa.bool_()})


def _count(found: Duplicates, truth: Truth) -> tuple[dict[str, int], dict[str, int]]:
    """Number of judged pairs of items that each stage found, and how many of these are right."""
    columns = ["id_a", "id_b", "kind", *STAGES]
    schema = pa.schema([PAIRS.field(name) for name in columns])
    pairs = pa.Table.from_batches(found.found_batches(columns), schema)
    dropped = found.summary["parameters"].get("variants") == "drop"
    sides = ((truth.positive, True), (truth.negative or (), False))
    known = [{"a": a, "b": b, "positive": positive} for listed, positive in sides for a, b in listed]
    with duckdb.connect() as con:
        con.register("clusters", found.clusters(["item_id", "copy_of"]))
        con.register("pairs", pairs.append_column("dropped", pa.array([dropped] * len(pairs), pa.bool_())))
        con.register("truth", pa.Table.from_pylist(known, _TRUTH))
        con.execute(_TABLES)
        judged = """
            from truth join item as x on x.item_id = truth.a join item as y on y.item_id = truth.b
            join found on found.a = least(x.content, y.content) and found.b = greatest(x.content, y.content)"""

        def totals(weight: str, of: str) -> dict[str, int]:
            sums = ", ".join(f"sum(if(found.{name}, {weight}, 0))" for name in _SCORED)
            (row,) = con.execute(f"select {sums} {of}").fetchall()
            return {name: int(total or 0) for name, total in zip(_SCORED, row, strict=True)}

        counts = totals("1", judged) if truth.negative is not None else totals("pairs", "from found")
        return counts, totals("1", f"{judged} where positive")


def _closed(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Add the pairs that follow from `pairs`."""
    from .groups import group_pairs

    ids = sorted({item for pair in pairs for item in pair})
    number = {item: k for k, item in enumerate(ids)}
    i = np.array([number[a] for a, _ in pairs], np.int64)
    j = np.array([number[b] for _, b in pairs], np.int64)
    groups: dict[int, list[str]] = {}
    for item, keeper in zip(ids, group_pairs(len(ids), i, j, "components").tolist(), strict=True):
        groups.setdefault(keeper, []).append(item)
    if (known := sum(len(group) * (len(group) - 1) // 2 for group in groups.values())) > _MAX_KNOWN:
        raise SourceError(
            f"{known:,} pairs follow from those listed, more than {_MAX_KNOWN:,}; add a label column, and only the "
            "listed ones are judged"
        )
    return {(a, b) for group in groups.values() for k, b in enumerate(group) for a in group[:k]}


#: Characters of a text in a list of contradictions.
_TEXT_CHARS = 2000

#: Columns of that list.
CONFLICTS = pa.schema(
    [
        pa.field("id_a", pa.string(), nullable=False),
        pa.field("id_b", pa.string(), nullable=False),
        pa.field("label_a", pa.string(), nullable=False),
        pa.field("label_b", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("hamming", pa.uint8()),
        pa.field("cosine", pa.float64()),
        pa.field("text_a", pa.string()),
        pa.field("text_b", pa.string()),
    ]
)


@dataclass(frozen=True)
class Conflicts:
    """Pairs of a search whose labels contradict each other; see `find_conflicts`."""

    found: Duplicates
    label: str
    #: of `CONFLICTS`: what counts as a duplicate first, by the strength of its evidence, the most alike first
    pairs: pa.Table
    compared: dict[str, int]  # pairs with two labels, by kind; copies count as they are listed
    unlabelled: int  # items of the search without a label

    @property
    def counts(self) -> dict[str, int]:
        """Contradictions by kind; `judged` where people have called pairs duplicates that no stage found."""
        counted = self.pairs["kind"].value_counts().to_pylist()
        return dict.fromkeys(self.compared, 0) | {row["values"]: row["counts"] for row in counted}

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {
            "search": self.found.name,
            "label": self.label,
            "conflicts": self.pairs.num_rows,
            "by_kind": self.counts,
            "compared": self.compared,
            "unlabelled": self.unlabelled,
            "pairs": self.pairs.to_pylist(),
        }


def find_conflicts(
    store: Store | str | Path, name: str | None = None, *, label: str | None = None
) -> Conflicts:
    """Find near-duplicates and byte copies of a search with different values of the column `label`.

    Letter case and blanks around a value make no other label. A UsageError says that there is no such column of one
    value an item.
    """
    store = Store.of(store)
    found = Duplicates.open(store, name)
    column = label_column(store, label)
    known = store.items.read(["item_id", column, "text"])
    known = known.rename_columns(["item_id", "label", "text"])
    ids = found.items(["item_id"])["item_id"]
    items = known.take(pc.index_in(ids, value_set=known["item_id"].combine_chunks()))
    labels = label_codes(items["label"].combine_chunks().cast(pa.string()))
    items = items.set_column(0, "item_id", ids).append_column("code", pa.array(labels))
    clusters = found.clusters(["item_id", "copy_of"])
    columns = ["id_a", "id_b", "kind", "hamming", "cosine"]
    pairs = pa.Table.from_batches(
        found.pair_batches(columns), pa.schema([PAIRS.field(name) for name in columns])
    )
    with duckdb.connect() as con:
        con.register("item", items.append_column("at", pa.array(np.arange(len(items)))))
        con.register("cluster", clusters.append_column("place", pa.array(np.arange(len(clusters)))))
        con.register("pair", pairs)
        con.execute(_COMPARED)
        order = [KINDS[0], JUDGED, *KINDS[1:]]
        listed = con.sql(_CONFLICTS, params={"kinds": order, "characters": _TEXT_CHARS}).to_arrow_table()
        compared = dict(con.execute("select kind, count(*) from compared group by kind").fetchall())
        copies = con.execute("select coalesce(sum(copies), 0)::bigint from lead").fetchall()[0][0]
    counts = dict.fromkeys(KINDS, 0) | compared | {"exact": copies}
    return Conflicts(
        found, column, listed.rename_columns(CONFLICTS.names).cast(CONFLICTS), counts, int((labels < 0).sum())
    )


#: Tables of labelled items, with their contents and places among its copies, which stand in the order of preference behind
#: the best; of the first of each content, which stands for it; and of pairs of these that are compared.
_COMPARED = """
    create table labelled as
    select item.*, coalesce(copy_of, item_id) as content, if(copy_of is null, -1, place) as place
    from item left join cluster using (item_id) where code >= 0;
    create table lead as
    select content, arg_min(labelled, place) as item, count(*) - 1 as copies from labelled group by content;
    create table compared as
    with content as (select item_id, coalesce(copy_of, item_id) as content from item left join cluster using (item_id))
    select a.item as a, b.item as b, kind, hamming, cosine
    from pair join content as x on x.item_id = id_a join content as y on y.item_id = id_b
        join lead as a on a.content = x.content join lead as b on b.content = y.content
    where kind in ('perceptual', 'embedding', 'variant', 'judged')"""

#: Pairs with different labels, the first copy of each other label among them.
_CONFLICTS = """
    with differing as (
        select lead.item as a, arg_min(labelled, place) as b, 'exact' as kind, null as hamming, null as cosine
        from labelled join lead using (content) where labelled.code <> lead.item.code
        group by lead.item, labelled.code
        union all from compared where a.code <> b.code)
    select a.item_id, b.item_id, a.label, b.label, kind, hamming, cosine, a.text[:$characters], b.text[:$characters]
    from differing
    order by list_position($kinds, kind), coalesce(cosine, 0) desc, hamming nulls last, a.at, b.at"""


def label_column(store: Store, label: str | None = None) -> str:
    """The column of labels that is meant: `label`, or ``label`` where there is one."""
    schema = store.items.snapshot().schema
    known = ["split", *label_columns(schema)]
    if label is None and LABEL not in known:
        raise UsageError(f"no column {LABEL!r}; name one with --label: {', '.join(known)}")
    chosen = label or LABEL
    if chosen not in known:
        raise unknown_name(UsageError(f"no column {chosen!r} of labels; there are: {', '.join(known)}"))
    check_single(schema, chosen)
    return chosen
