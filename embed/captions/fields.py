"""The columns of structured captions as numbers that a head can read beside vectors.

``tables/captions/<name>`` has them as SQL likes them: words, a count, a list. Here each row becomes one vector of the
feature ``fields/caption-fields/numbers`` (``fields/caption-NAME-fields/numbers``): damage and sentiment one place a value
and one for "unknown", people and lengths as logarithms, and one place for each of the commonest objects. No encoder has a
part in it. Which objects these are is settled when the feature is first written, and kept in its provenance: a number means
the same for rows that come later.
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
from ...store.vectors import vectors_to_arrow
from ..encoder import fingerprint
from ..pipeline import FIELDS
from ..tables import library_versions
from .answers import COLUMNS, DAMAGE, SENTIMENT
from .feature_keys import Caption, Keys
from .table import DEFAULT_NAME

__all__ = [
    "LEAST",
    "MOST_OBJECTS",
    "FieldsReport",
    "field_names",
    "fields_of",
    "vocabulary_of",
    "write_fields",
]

#: How columns become numbers; part of the provenance.
VERSION = "fields-v1"

#: Most objects that have a place of their own, and the least captions that must name one.
MOST_OBJECTS = 64
LEAST = 2

_OUTPUT = "numbers"


@dataclass
class FieldsReport:
    """What became of the structured columns of captions.

    Attributes
    ----------
    feature : str
    written, known : int
        Captions whose numbers were written now, and those that had them.
    numbers : int
        Width of a vector.
    objects : int
        Objects that have a place.
    covered : float or None
        Share of the objects named, over all captions, that have one; None if no object is named.
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
    often = [(word, count) for word, count in named.items() if count >= LEAST]
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
    """Numbers of rows with the columns of `icehouse.embed.captions.answers.COLUMNS`.

    Parameters
    ----------
    rows : sequence of mapping
        A column that is null is unknown: all of them where an answer was not valid.
    vocabulary : sequence of str

    Returns
    -------
    ndarray of float32, shape (rows, 14 + len(vocabulary))
        Each between 0 and 1, but for the logarithms; see `field_names`.
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

    Parameters
    ----------
    store : Store
    table : Table
        Captions.
    name : str, optional
        Folder of the feature, by default "fields"; under another, the objects are chosen afresh.
    dtype : {"float16", "float32"}, optional
        How they are stored, by default as they already are, else float16.

    Raises
    ------
    SpaceError
        If there are numbers of that name of other captions, or made in another way.
    """
    if not set(COLUMNS.names) <= set(table.snapshot().schema.names):
        return None
    rows = table.read(["caption_key", *COLUMNS.names]).to_pylist()
    modality = modality_of_fields(table.spec["name"])
    folder = name or FIELDS
    feature = f"{folder}/{modality}/{_OUTPUT}"
    report = FieldsReport(feature)
    if not rows:
        return report
    keyed = Keys.of(store, table)
    have = store.feature_table(feature).spec if feature in store.feature_names() else None
    if have is None:
        vocabulary = vocabulary_of(row["objects"] for row in rows)
    else:
        vocabulary = list(have["provenance"].get("objects", ()))
    dtype = dtype or (have or {}).get("dtype") or "float16"
    spec = _spec(table, folder, modality, keyed.column, vocabulary, dtype)
    target = store.ensure_feature_table(feature, spec, _schema(spec))

    by_key = {row["caption_key"]: row for row in rows}
    todo = keyed.missing(store, [feature], [Caption(key, "") for key in by_key])
    if todo:
        _append(target, keyed, todo, fields_of([by_key[caption.key] for caption, _ in todo], vocabulary))
    report.written, report.known = len(todo), len(rows) - len(todo)
    report.numbers, report.objects = spec["dim"], len(vocabulary)
    placed = set(vocabulary)
    named = [word in placed for row in rows for word in _words(row["objects"])]
    report.covered = float(np.mean(named)) if named else None
    return report


def _append(target: Table, keyed: Keys, todo: Sequence[tuple[Caption, list[str]]], X: np.ndarray) -> None:
    owners = [owners for _, owners in todo]
    each = np.repeat(np.arange(len(todo)), [len(some) for some in owners])
    columns: dict[str, Any] = {keyed.column: pa.array([key for some in owners for key in some], pa.string())}
    if keyed.column == "item_id":
        columns["caption_key"] = pa.array([todo[at][0].key for at in each.tolist()], pa.string())
    columns["vector"] = vectors_to_arrow(X[each], target.spec["dtype"])
    new = pa.table(columns).cast(target.snapshot().schema)
    if keyed.column == "item_id":
        # An item whose picture or text has changed has another caption now.
        target.upsert(new, key="item_id")
    else:
        target.append(new, unique=keyed.column)


def _spec(
    table: Table, folder: str, modality: str, key: str, vocabulary: Sequence[str], dtype: str
) -> dict[str, Any]:
    about = table.spec
    provenance = {
        "family": FIELDS,
        "version": VERSION,
        "captions": {"name": about["name"], "fingerprint": about["fingerprint"]},
        "numbers": field_names(()),
        "objects": list(vocabulary),
    }
    return {
        "encoder": FIELDS,
        "name": folder,
        "modality": modality,
        "output": _OUTPUT,
        "dim": len(field_names(vocabulary)),
        "dtype": dtype,
        "key": key,
        "provenance": provenance,
        "fingerprint": fingerprint(provenance),
        "offers": [_OUTPUT],
        "probe": {},
        "versions": library_versions(),
    }


def _schema(spec: Mapping[str, Any]) -> pa.Schema:
    fields = [pa.field(spec["key"], pa.string(), nullable=False)]
    if spec["key"] == "item_id":
        fields.append(pa.field("caption_key", pa.string()))
    return pa.schema([*fields, pa.field("vector", vector_type(spec["dim"], spec["dtype"]), nullable=False)])


def _one_of(x: np.ndarray, levels: Sequence[str], value: str | None) -> None:
    """One place a level, the last for everything else."""
    x[levels.index(value) if value in levels else len(levels)] = 1


def _words(objects: Sequence[str] | None) -> list[str]:
    """Objects as they are counted: once each, letter case and white space aside."""
    plain = (" ".join(unicodedata.normalize("NFKC", name).casefold().split()) for name in objects or ())
    return list(dict.fromkeys(word for word in plain if word))
