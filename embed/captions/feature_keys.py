"""Which captions have no vectors yet, and what their vectors are kept by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...store.store import Store
from ...store.table import Table
from .answers import USELESS
from .table import caption_key, with_texts

__all__ = ["Caption", "Keys", "useful"]


@dataclass(frozen=True)
class Caption:
    """One caption with its key in the captions table."""

    key: str
    text: str


def useful(table: Table) -> tuple[list[Caption], int]:
    """Captions that say something, and how many do not."""
    rows, left_out = [], 0
    for row in table.read(["caption_key", "caption", "flags"]).to_pylist():
        flags = (row["flags"] or "").split(",")
        if row["caption"] and row["caption"].strip() and not set(USELESS) & set(flags):
            rows.append(Caption(row["caption_key"], row["caption"]))
        else:
            left_out += 1
    return rows, left_out


@dataclass(frozen=True)
class Keys:
    """What a vector of these captions is kept by.

    Attributes
    ----------
    column : {"image_sha256", "item_id"}
        By item where a caption belongs to a picture and a text, since no column of `items` names that pair.
    items : mapping
        caption_key -> values of that column.
    """

    column: str
    items: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, store: Store, table: Table) -> Keys:
        """Find out what the captions of a table belong to."""
        if not with_texts(table):
            keys = table.read(["caption_key"])["caption_key"].to_pylist()
            return cls("image_sha256", {key: (key,) for key in keys})
        owners: dict[str, list[str]] = {}
        for row in store.items.read(["item_id", "image_sha256", "text_sha256"]).to_pylist():
            if row["image_sha256"] is not None:
                key = caption_key(row["image_sha256"], row["text_sha256"])
                owners.setdefault(key, []).append(row["item_id"])
        return cls("item_id", owners)

    def missing(
        self, store: Store, features: Sequence[str], rows: Iterable[Caption]
    ) -> list[tuple[Caption, list[str]]]:
        """Captions with the keys for which a feature lacks their vector, or has that of another caption."""
        there = set(store.feature_names())
        columns = [self.column, *(("caption_key",) if self.column == "item_id" else ())]
        done = [
            {
                row[self.column]: row.get("caption_key")
                for row in store.feature_table(name).read(columns).to_pylist()
            }
            for name in features
            if name in there
        ]
        wanted = []
        for row in rows:
            tag = row.key if self.column == "item_id" else None
            # Absent is not None: a picture's own vectors carry no tag.
            keys = [
                key
                for key in self.items.get(row.key, ())
                if not done or any(one.get(key, "absent") != tag for one in done)
            ]
            if keys:
                wanted.append((row, keys))
        return wanted
