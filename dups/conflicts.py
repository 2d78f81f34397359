"""Label conflicts: near-duplicates and byte copies with different labels, as a list and as a page.

Of copies of one content the best item of each label stands for all with it, and of two contents the best labelled items: one
contradiction is told once, however many copies there are. Variants, pictures that say something else, are told apart: the
confounders of a data set are meant to have another label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..embed.thumbnails import ThumbnailPool
from ..errors import UsageError, unknown_name
from ..store.files import publish_text
from ..store.schema import check_single, label_columns
from ..store.store import Store
from ..web.render import Card, Label, render
from .gallery import TEXT_CHARS, image_of, read_items
from .pair_graph import Duplicates
from .results import KINDS, LABEL, label_codes

#: Columns of the list.
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

#: Characters of a text on the page; pairs on it whose thumbnails are made at once.
_SHOWN_CHARS, _AT_ONCE = 600, 64


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
        """Contradictions by kind."""
        counted = self.pairs["kind"].value_counts().to_pylist()
        return dict.fromkeys(KINDS, 0) | {row["values"]: row["counts"] for row in counted}

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
    items = found.items(["item_id"])
    ids = items["item_id"].combine_chunks()
    known = store.items.read(["item_id", column, "text"])
    at = pc.index_in(ids, value_set=known["item_id"].combine_chunks())
    values, texts = (known[name].combine_chunks().take(at).cast(pa.string()) for name in (column, "text"))
    labels = label_codes(values)
    reps, copies, compared_copies = _representatives(found, ids, labels)
    compared = {**dict.fromkeys(KINDS, 0), "exact": compared_copies}
    #: both items, the kind's place, the bits and the cosine of each pair
    rows = [np.array([(*pair, KINDS.index("exact"), np.nan, np.nan) for pair in copies]).reshape(-1, 5)]
    for batch in found.pair_batches(["id_a", "id_b", "kind", "hamming", "cosine"]):
        kinds = pc.index_in(batch["kind"], value_set=pa.array(KINDS)).to_numpy()
        a, b = (reps[pc.index_in(batch[side], value_set=ids).to_numpy()] for side in ("id_a", "id_b"))
        there = (a >= 0) & (b >= 0) & (kinds > 0) & (kinds != KINDS.index("container"))
        for kind, count in zip(*np.unique(kinds[there], return_counts=True), strict=True):
            compared[KINDS[kind]] += int(count)
        bits, cosines = (
            batch[name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in ("hamming", "cosine")
        )
        held = there & (labels[a] != labels[b])
        rows.append(np.stack([a, b, kinds, bits, cosines], axis=1)[held])
    a, b, kind, bits, cosine = np.concatenate(rows).T
    order = np.lexsort((b, a, bits, -np.nan_to_num(cosine), kind))
    bits, cosine = bits[order], cosine[order]
    sides = [pa.array(side[order].astype(np.int64)) for side in (a, b)]
    short = pc.utf8_slice_codeunits(texts, 0, TEXT_CHARS)
    columns = [
        *(ids.take(side) for side in sides),
        *(values.take(side) for side in sides),
        pa.array(np.array(KINDS)[kind[order].astype(np.int64)], pa.string()),
        pa.array(np.nan_to_num(bits).astype(np.uint8), mask=np.isnan(bits)),
        pa.array(cosine, mask=np.isnan(cosine)),
        *(short.take(side) for side in sides),
    ]
    return Conflicts(found, column, pa.table(columns, schema=CONFLICTS), compared, int((labels < 0).sum()))


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


def _representatives(
    found: Duplicates, ids: pa.Array, labels: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, int]], int]:
    """The first labelled item of each item's content, int64 (n,), -1 for none.

    And contradictions among copies, and how many copies were held against it.
    """
    clusters = found.clusters(["item_id", "copy_of"])
    clusters = clusters.filter(pc.is_valid(clusters["copy_of"]))
    copy, best = (pc.index_in(clusters[name], value_set=ids).to_numpy() for name in ("item_id", "copy_of"))
    reps = np.where(labels >= 0, np.arange(len(ids)), -1)
    first: dict[tuple[int, int], int] = {}
    contradictions, compared = [], 0
    # Copies stand in the order of preference, behind the best.
    for item, leader in zip(copy.tolist(), best.tolist(), strict=True):
        if labels[item] < 0:
            continue
        if reps[leader] < 0:
            reps[leader] = item
        lead = int(reps[leader])
        compared += lead != item
        if labels[item] != labels[lead] and (leader, int(labels[item])) not in first:
            first[leader, int(labels[item])] = item
            contradictions.append((lead, item))
    reps[copy] = reps[best]
    return reps, contradictions, compared


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
        for start in range(0, len(pairs), _AT_ONCE):
            part = pairs[start : start + _AT_ONCE]
            ends = [(pair, end, items.get(pair[f"id_{end}"])) for pair in part for end in ("a", "b")]
            taken = pictures.take([image_of(item) for _, _, item in ends])
            for (pair, end, item), picture in zip(ends, taken, strict=True):
                labels = [Label(conflicts.label, pair[f"label_{end}"], differs=True)]
                if item and item.split and conflicts.label != "split":
                    labels.append(Label("split", item.split))
                text = (pair[f"text_{end}"] or "")[:_SHOWN_CHARS] or None
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
