"""Label conflicts: near-duplicates and byte copies with different labels, as a list and as a page.

Of copies of one content the best item of each label stands for all with it, and of two contents the best labelled items: one
contradiction is told once, however many copies there are. Variants, pictures that say something else, are told apart: the
confounders of a data set are meant to have another label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..embed.thumbnails import ImageFile, ThumbnailPool
from ..errors import UsageError, unknown_name
from ..store.files import publish_text
from ..store.schema import check_single, label_columns
from ..store.store import Store
from ..web.render import Card, Label, render
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

#: Characters of a text in the list, and of one on the page; pairs on a page whose thumbnails are made at once.
_TEXT_CHARS, _SHOWN_CHARS, _AT_ONCE = 2000, 600, 64


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
    """Find near-duplicates and byte copies with different labels.

    Parameters
    ----------
    store : Store, str or Path
    name : str, optional
        Of the search; see `icehouse.dups.pair_graph.Duplicates.open`.
    label : str, optional
        Column of `items`; ``label`` unless given. Letter case and blanks around a value make no other label.

    Returns
    -------
    Conflicts

    Raises
    ------
    UsageError
        If there is no such column, or it holds several values an item.
    StoreError
        If there is no such search.
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
    rows: list[dict[str, np.ndarray]] = [_rows(copies, "exact")]
    compared = dict.fromkeys(KINDS, 0)
    compared["exact"] = compared_copies
    for batch in found.pair_batches(["id_a", "id_b", "kind", "hamming", "cosine"]):
        kinds = pc.index_in(batch["kind"], value_set=pa.array(KINDS)).to_numpy()
        a, b = (reps[pc.index_in(batch[side], value_set=ids).to_numpy()] for side in ("id_a", "id_b"))
        there = (a >= 0) & (b >= 0) & (kinds > 0) & (kinds != KINDS.index("container"))
        for kind, count in zip(*np.unique(kinds[there], return_counts=True), strict=True):
            compared[KINDS[kind]] += int(count)
        held = np.flatnonzero(there & (labels[a] != labels[b]))
        rows.append(
            {
                "a": a[held],
                "b": b[held],
                "kind": kinds[held],
                **{
                    k: batch[k].cast(pa.float64()).to_numpy(zero_copy_only=False)[held]
                    for k in ("hamming", "cosine")
                },
            }
        )
    told = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
    order = np.lexsort((told["b"], told["a"], told["hamming"], -np.nan_to_num(told["cosine"]), told["kind"]))
    a, b = (pa.array(told[side][order].astype(np.int64)) for side in ("a", "b"))
    short = pc.utf8_slice_codeunits(texts, 0, _TEXT_CHARS)
    hamming, cosine = (told[name][order] for name in ("hamming", "cosine"))
    columns = [
        *(ids.take(side) for side in (a, b)),
        *(values.take(side) for side in (a, b)),
        pa.array(np.array(KINDS)[told["kind"][order].astype(np.int64)], pa.string()),
        pa.array(np.nan_to_num(hamming).astype(np.uint8), mask=np.isnan(hamming)),
        pa.array(cosine, mask=np.isnan(cosine)),
        *(short.take(side) for side in (a, b)),
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


def _rows(pairs: list[tuple[int, int]], kind: str) -> dict[str, np.ndarray]:
    ends = np.array(pairs, np.int64).reshape(-1, 2)
    nothing = np.full(len(ends), np.nan)
    return {
        "a": ends[:, 0],
        "b": ends[:, 1],
        "kind": np.full(len(ends), KINDS.index(kind)),
        "hamming": nothing,
        "cosine": nothing,
    }


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
    wanted = pa.chunked_array([*shown["id_a"].chunks, *shown["id_b"].chunks], pa.string()).unique()
    columns = ["item_id", "path", "root", "image_sha256", "bytes", "mtime_ns", "split"]
    items = store.items.read(columns)
    items = items.filter(pc.is_in(items["item_id"], value_set=wanted))
    known = {row["item_id"]: row for row in items.to_pylist()}
    pairs = list(_page_pairs(shown.to_pylist(), known, conflicts.label, side, progress))
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


def _page_pairs(
    pairs: list[dict[str, Any]],
    known: dict[str, dict[str, Any]],
    label: str,
    side: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[dict[str, Any]]:
    done = 0
    with ThumbnailPool(side) as pictures:
        for start in range(0, len(pairs), _AT_ONCE):
            part = pairs[start : start + _AT_ONCE]
            ends = [(pair, pair[f"id_{end}"], end) for pair in part for end in ("a", "b")]
            taken = pictures.take([_file(known.get(item)) for _, item, _ in ends])
            cards = []
            for (pair, item, end), picture in zip(ends, taken, strict=True):
                row = known.get(item, {})
                labels = [Label(label, pair[f"label_{end}"], differs=True)]
                if row.get("split") and label != "split":
                    labels.append(Label("split", row["split"]))
                text = pair[f"text_{end}"]
                cards.append(
                    Card(
                        item,
                        picture,
                        text=None if text is None else text[:_SHOWN_CHARS],
                        labels=labels,
                        path=row.get("path"),
                    )
                )
            for place, pair in enumerate(part):
                yield {**pair, "cards": cards[2 * place : 2 * place + 2]}
            done += len(part)
            if progress is not None:
                progress(done, len(pairs))


def _file(row: dict[str, Any] | None) -> ImageFile | None:
    if row is None or row["path"] is None or row["root"] is None:
        return None
    return ImageFile(Path(row["root"]) / row["path"], row["image_sha256"], row["bytes"], row["mtime_ns"])
