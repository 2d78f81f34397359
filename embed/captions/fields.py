"""Structured captions as features: damage, sentiment, people, text and objects as numbers in one vector.

The feature is ``fields/caption-fields/numbers`` (``fields/caption-NAME-fields/numbers``), and no encoder has a part in it.
Which objects have a place is settled when it is first written, and kept in its provenance: a number means the same later.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ...store.schema import vector_type
from ...store.store import Store
from ...store.table import Table
from ..pipeline import FIELDS
from ..tables import append_features, feature_spec
from .answers import COLUMNS, DAMAGE, SENTIMENT
from .table import DEFAULT_NAME, caption_key, with_texts

__all__ = ["FieldsReport", "Keys", "field_names", "fields_of", "vocabulary_of", "write_fields"]

#: How columns become numbers; part of the provenance.
VERSION = "fields-v1"

#: Most objects that have a place of their own, and the fewest captions that must name one.
MOST_OBJECTS = 64
MIN_CAPTIONS = 2

_OUTPUT = "numbers"


@dataclass(frozen=True)
class Keys:
    """What a vector of these captions is kept by: `column`, and for each caption's key its values there, `owners`.

    The column is ``image_sha256``; ``item_id`` where a caption belongs to a picture and a text, since no column of `items`
    names that pair.
    """

    column: str
    owners: Mapping[str, Sequence[str]]

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

    def missing(self, store: Store, features: Sequence[str], captions: Iterable[str]) -> dict[str, list[str]]:
        """Captions, with the owners for which a feature lacks their vector, or has that of another caption."""
        there = set(store.feature_names())
        by_item = self.column == "item_id"
        columns = [self.column, *(("caption_key",) if by_item else ())]
        done = [
            {
                row[self.column]: row.get("caption_key")
                for row in store.feature_table(name).read(columns).to_pylist()
            }
            for name in features
            if name in there
        ]
        wanted = {}
        for caption in captions:
            tag = caption if by_item else None
            # Absent is not None: a picture's own vectors carry no tag.
            owners = [
                owner
                for owner in self.owners.get(caption, ())
                if not done or any(one.get(owner, "absent") != tag for one in done)
            ]
            if owners:
                wanted[caption] = owners
        return wanted


@dataclass
class FieldsReport:
    """What became of the structured columns of captions: `written` now, `known` before.

    `numbers`: width of a vector; `objects` that have a place; `covered`: share of the objects named, over all captions, that
    have one, None if no object is named.
    """

    feature: str
    written: int = 0
    known: int = 0
    numbers: int = 0
    objects: int = 0
    covered: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


def modality_of_fields(name: str) -> str:
    """Modality of the structured columns of the captions of that name.

    >>> modality_of_fields("default"), modality_of_fields("crisis")
    ('caption-fields', 'caption-crisis-fields')
    """
    return "caption-fields" if name == DEFAULT_NAME else f"caption-{name}-fields"


def vocabulary_of(objects: Iterable[Sequence[str] | None], most: int = MOST_OBJECTS) -> list[str]:
    """Objects that most captions name, the commonest first and equals by the alphabet.

    >>> vocabulary_of([["Car", "house"], ["car ", "House", "tree"]])
    ['car', 'house']
    """
    named = Counter(word for some in objects for word in _words(some))
    often = [(word, count) for word, count in named.items() if count >= MIN_CAPTIONS]
    return [word for word, _ in sorted(often, key=lambda pair: (-pair[1], pair[0]))[:most]]


def field_names(vocabulary: Sequence[str]) -> list[str]:
    """What each number of a vector is."""
    return [
        *(f"damage={level}" for level in (*DAMAGE, "unknown")),
        *(f"sentiment={level}" for level in (*SENTIMENT, "unknown")),
        *("people>0", "people=unknown", "log(1+people)"),
        *("visible_text", "log(1+words of visible_text)", "log(1+objects)"),
        *(f"object={word}" for word in vocabulary),
    ]


def fields_of(rows: Sequence[Mapping[str, Any]], vocabulary: Sequence[str]) -> np.ndarray:
    """Numbers of structured rows, float32 of shape (rows, 14 + len(vocabulary)); see `field_names`.

    A column that is null is unknown: all of them where an answer was not valid. Each number is between 0 and 1, but for the
    logarithms.
    """
    place = {word: at for at, word in enumerate(vocabulary)}
    X = np.zeros((len(rows), len(field_names(vocabulary))), np.float32)
    for x, row in zip(X, rows, strict=True):
        _one_of(x[:4], DAMAGE, row["damage"])
        _one_of(x[4:8], SENTIMENT, row["sentiment"])
        people, text, objects = row["people"], row["visible_text"] or "", _words(row["objects"])
        x[8:11] = (bool(people), people is None, np.log1p(people or 0))
        x[11:14] = (bool(text.strip()), np.log1p(len(text.split())), np.log1p(len(objects)))
        x[[14 + place[word] for word in objects if word in place]] = 1
    return X


def write_fields(
    store: Store, table: Table, *, name: str | None = None, dtype: str | None = None
) -> FieldsReport | None:
    """Write the numbers of structured captions that have none yet; None where the captions are not structured.

    `name` of the feature's folder is "fields" unless given; under another, the objects are chosen afresh. Raises
    `SpaceError` if there are numbers of that name of other captions, or made in another way.
    """
    if not set(COLUMNS.names) <= set(table.snapshot().schema.names):
        return None
    rows = {row["caption_key"]: row for row in table.read(["caption_key", *COLUMNS.names]).to_pylist()}
    folder, modality = name or FIELDS, modality_of_fields(table.spec["name"])
    feature = f"{folder}/{modality}/{_OUTPUT}"
    report = FieldsReport(feature)
    if not rows:
        return report
    keyed = Keys.of(store, table)
    have = store.feature_table(feature).spec if feature in store.feature_names() else {}
    if have:
        vocabulary = list(have["provenance"].get("objects", ()))
    else:
        vocabulary = vocabulary_of(row["objects"] for row in rows.values())
    about = table.spec
    spec = feature_spec(
        encoder=FIELDS,
        name=folder,
        modality=modality,
        output=_OUTPUT,
        dim=len(field_names(vocabulary)),
        dtype=dtype or have.get("dtype") or "float16",
        key=keyed.column,
        provenance={
            "family": FIELDS,
            "version": VERSION,
            "captions": {"name": about["name"], "fingerprint": about["fingerprint"]},
            "numbers": field_names(()),
            "objects": vocabulary,
        },
        offers=[_OUTPUT],
    )
    tag = [pa.field("caption_key", pa.string())] if keyed.column == "item_id" else []
    vector = pa.field("vector", vector_type(spec["dim"], spec["dtype"]), nullable=False)
    schema = pa.schema([pa.field(keyed.column, pa.string(), nullable=False), *tag, vector])
    target = store.ensure_feature_table(feature, {**spec, "probe": {}}, schema)

    todo = keyed.missing(store, [feature], rows)
    if todo:
        owners = [(owner, caption) for caption, some in todo.items() for owner in some]
        columns = {"caption_key": pa.array([caption for _, caption in owners], pa.string())} if tag else {}
        X = fields_of([rows[caption] for _, caption in owners], vocabulary)
        append_features(target, [owner for owner, _ in owners], [X], columns)
    report.written, report.known = len(todo), len(rows) - len(todo)
    report.numbers, report.objects = spec["dim"], len(vocabulary)
    placed = set(vocabulary)
    named = [word in placed for row in rows.values() for word in _words(row["objects"])]
    report.covered = float(np.mean(named)) if named else None
    return report


def _one_of(x: np.ndarray, levels: Sequence[str], value: str | None) -> None:
    """One place a level, the last for everything else."""
    x[levels.index(value) if value in levels else len(levels)] = 1


def _words(objects: Sequence[str] | None) -> list[str]:
    """Objects as they are counted: once each, letter case and white space aside."""
    plain = (" ".join(unicodedata.normalize("NFKC", name).casefold().split()) for name in objects or ())
    return list(dict.fromkeys(word for word in plain if word))
