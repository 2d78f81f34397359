"""Samples: labelled rows of a store with their features, aligned by item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from ..data.labels import near_identical
from ..data.splits import canonical_split
from ..errors import HeadError, UsageError, count_of, unknown_name
from .inputs import Inputs, StoredTokens, Tokens

if TYPE_CHECKING:
    import pyarrow as pa

    from ..store.store import Store
    from ..store.vectors import TokenStates, Vectors

#: What to do with an item that lacks an input: leave it out, or keep it (for heads that can take it).
Missing: TypeAlias = Literal["drop", "keep"]

# Which output of an encoder an input stands for unless one is named: probes do best before the projection
# into the joint space.
_PREFERRED = ("pooled", "joint")


@dataclass(frozen=True)
class Samples:
    """Rows of a store, aligned by item."""

    ids: np.ndarray  # (n,) item ids, in the order of the table `items`
    X: Inputs
    y: np.ndarray | None  # (n,) labels, if a label was asked for
    split: np.ndarray  # (n,) by its one name ("val" is "dev"); None for an item without
    features: dict[str, str]  # input to feature name
    specs: dict[str, dict[str, Any]]  # input to the spec of its feature table
    content: dict[str, np.ndarray]  # input to (n,) content hashes: equal hashes are copies
    # Input to the number of items that would have been rows, had they had it; one that lacks two counts in both.
    left_out: dict[str, int]
    vanished: int = 0  # items that are left out for being marked `missing`

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> Samples:
        """Some of the rows: `rows` holds indices or is a mask."""
        return replace(
            self,
            ids=self.ids[rows],
            X=self.X[rows],
            y=None if self.y is None else self.y[rows],
            split=self.split[rows],
            content={name: column[rows] for name, column in self.content.items()},
        )

    def of(self, ids: Sequence[str]) -> Samples:
        """The rows of some items, in the order of `ids`; those that are not there are left out."""
        place = {item: row for row, item in enumerate(self.ids.tolist())}
        return self.take(np.array([place[item] for item in ids if item in place], np.intp))

    def select(self, names: Sequence[str]) -> Samples:
        """The same rows with some of their inputs."""

        def some(of: Mapping[str, Any]) -> dict[str, Any]:
            return {name: of[name] for name in names}

        return replace(
            self,
            X=self.X.select(names),
            features=some(self.features),
            specs=some(self.specs),
            content=some(self.content),
            left_out=some(self.left_out),
        )

    def require_finite(self) -> None:
        """Name the item whose features cannot be used, where a head could only give its row."""
        for name, rows in self.X.bad_rows().items():
            raise HeadError(
                f"{self.features[name]} has NaN or infinity for {count_of(len(rows), 'item')}, "
                f"first {self.ids[rows[0]]!r}: embed them again"
            )

    @property
    def labels(self) -> np.ndarray:
        """`y`, for rows that were loaded with a label."""
        if self.y is None:
            raise HeadError("these rows were loaded without a label")
        return self.y


def parse_inputs(inputs: str | Sequence[str] | Mapping[str, str] | None, store: Store) -> dict[str, str]:
    """Feature of each input, by input name (the modality, unless named or used twice).

    An input is a feature (``mini/image/pooled``), a part of one that fits a single feature (``image``, ``image/joint``,
    ``mini/image``; `pooled` before `joint`, and `tokens` only by name), or ``name=feature``; None takes every modality.
    """
    known = store.feature_names()
    if not known:
        raise UsageError(f"{store.path} has no features yet; make some with `icehouse embed`")
    if inputs is None:
        inputs = list(dict.fromkeys(name.split("/")[1] for name in known))
    if isinstance(inputs, Mapping):
        asked = [(str(name), str(feature)) for name, feature in inputs.items()]
    else:
        pieces = inputs.replace("+", ",").split(",") if isinstance(inputs, str) else list(inputs)
        asked = []
        for piece in (piece.strip() for piece in pieces):
            name, equals, feature = piece.partition("=")
            asked.append((name.strip(), feature.strip()) if equals else ("", piece))
    if not asked or not all(feature for _, feature in asked):
        raise UsageError(f"inputs {inputs!r} name nothing; there are: {', '.join(known)}")

    found = [(name, _find(feature, known)) for name, feature in asked]
    modality = Counter(feature.split("/")[1] for name, feature in found if not name)
    named: dict[str, str] = {}
    for name, feature in found:
        kind = feature.split("/")[1]
        name = name or (kind if modality[kind] == 1 else feature)
        if name in named:
            raise UsageError(
                f"input {name!r} is given twice ({named[name]} and {feature}); name one: other={feature}"
            )
        named[name] = feature
    return named


def _find(asked: str, known: Sequence[str]) -> str:
    """The one feature that `asked` stands for: all of its name, or a part of it that holds the modality."""
    fitting: dict[str, str] = {}  # output to feature
    encoders: set[str] = set()
    for name in known:
        encoder, modality, output = name.split("/")
        if asked == name:
            return name
        if asked in (modality, f"{encoder}/{modality}", f"{modality}/{output}"):
            fitting[output] = name
            encoders.add(encoder)
    if len(encoders) > 1:
        choices = ", ".join(f"{encoder}/{asked}" for encoder in sorted(encoders))
        raise UsageError(f"input {asked!r} could be of several encoders; say which: {choices}")
    preferred = [output for output in (*_PREFERRED, *fitting) if output in fitting]
    if len(fitting) == 1 or (fitting and preferred[0] in _PREFERRED):
        return fitting[preferred[0]]
    if fitting:
        raise UsageError(f"input {asked!r} could be any of {', '.join(fitting.values())}; say which")
    words = {part for name in known for part in (name, name.split("/")[1])}
    near = get_close_matches(asked, sorted(words), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    if asked == "caption":
        hint += " (`icehouse caption`, then `icehouse embed --captions default`, make some)"
    raise UsageError(f"no feature fits the input {asked!r}{hint}; there are: {', '.join(known)}")


def load_samples(
    store: Store,
    inputs: Mapping[str, str],
    *,
    label: str | None = None,
    where: str | None = None,
    split_column: str = "split",
    missing: Missing = "drop",
) -> Samples:
    """Load features and labels, aligned by item.

    `label` leaves out items without one, `missing="drop"` those that lack an input, and `where` (SQL) what it says: items
    marked ``missing`` stay out unless it names that column. HeadError if a column does not exist or no item is left.
    """
    wanted = [split_column] if label is None else [split_column, label]
    keys = {name: str(store.feature_table(feature).spec["key"]) for name, feature in inputs.items()}
    items, vanished = _items(store, [*wanted, *keys.values()], where)
    if label is not None:
        import pyarrow.compute as pc

        labelled = pc.is_valid(items[label])
        items = items.filter(labelled)
    if len(items) == 0:
        gone = (
            f"; {count_of(vanished, 'vanished item counts', 'vanished items count')} only where a condition names `missing`"
            if vanished
            else ""
        )
        raise HeadError(_why_nothing(label, where) + gone)

    found: dict[str, Vectors | TokenStates] = {}
    rows: dict[str, np.ndarray] = {}
    specs = {}
    for name, feature in inputs.items():
        table = store.feature_table(feature)
        specs[name] = table.spec
        tokens = "tokens" in table.snapshot().schema.names
        found[name] = store.tokens(feature) if tokens else store.vectors(feature)
        rows[name] = _row_numbers(items[keys[name]], found[name].keys)
    have = {name: index >= 0 for name, index in rows.items()}
    together = np.logical_and if missing == "drop" else np.logical_or
    kept = together.reduce(list(have.values()))
    if not kept.any():
        lacking = ", ".join(f"{feature} (of {int(have[name].sum())})" for name, feature in inputs.items())
        raise HeadError(
            f"none of {count_of(len(items), 'item')} has all of the features {lacking}: embed them, or choose other inputs"
        )

    arrays = {name: _gather(found[name], rows[name][kept]) for name in inputs}
    present = {name: mask[kept] for name, mask in have.items() if not mask[kept].all()}
    items = items.filter(kept)
    return Samples(
        ids=_column(items, "item_id"),
        X=Inputs(arrays, present),
        y=None if label is None else np.array(items[label].to_pylist(), dtype=str),
        split=np.array(
            [None if s is None else canonical_split(str(s)) for s in items[split_column].to_pylist()], object
        ),
        features=dict(inputs),
        specs=specs,
        content={name: _column(items, key) for name, key in keys.items()},
        left_out={name: int((~mask).sum()) for name, mask in have.items()},
        vanished=vanished,
    )


def check_labels(store: Store, label: str, *, where: str | None = None, strict: bool = False) -> list[str]:
    """Warning about labels that are nearly the same, if any; HeadError instead if `strict`."""
    if label not in store.items.snapshot().schema.names:
        return []  # what is fitted says so, after it has looked at its own arguments
    labels = _items(store, [label], where)[0][label].drop_null()
    found = label_notes(label, [str(value) for value in labels.to_pylist()])
    if found and strict:
        raise HeadError(f"--strict-labels: {found[0]}")
    return found


def label_notes(label: str, values: Sequence[str]) -> list[str]:
    """A line on labels that are nearly the same, or nothing."""
    similar = near_identical(Counter(values))
    if not similar:
        return []
    more = f" and {len(similar) - 5} more" if len(similar) > 5 else ""
    line = f"{label!r} has classes that are nearly the same, and heads learn them as different ones: "
    line += "; ".join(similar[:5]) + more
    return [f"{line}; make them one in the source, or bring corrected ones with `icehouse join`"]


def _items(store: Store, columns: Sequence[str], where: str | None) -> tuple[pa.Table, int]:
    """`item_id` and `columns` of the items that meet `where`, in the table's order; how many vanished ones are left out."""
    from ..store.schema import check_single, label_columns

    schema = store.items.snapshot().schema
    for column in columns:
        if column not in schema.names:
            there = ", ".join(label_columns(schema))
            near = get_close_matches(column, schema.names, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            remedy = f"there are: {there}" if there else "there are none yet; add some with `icehouse join`"
            raise unknown_name(HeadError(f"no label column {column!r} in items{hint}; {remedy}"))
        check_single(schema, column)
    return store.present_items(columns, where)


def _row_numbers(wanted: pa.ChunkedArray, keys: pa.ChunkedArray) -> np.ndarray:
    """Row of each of `wanted` among `keys`, -1 where it is not there."""
    import pyarrow.compute as pc

    index = pc.index_in(wanted, value_set=keys, skip_nulls=True)
    return np.asarray(pc.fill_null(index, -1).to_numpy(), np.intp)


def _gather(found: Vectors | TokenStates, rows: np.ndarray) -> np.ndarray | Tokens:
    """Features of `rows`: vectors as float32, zero where a row is -1; token states where they lie."""
    from ..store.vectors import Vectors, take_float32

    absent = rows < 0
    if isinstance(found, Vectors):
        X = np.zeros((len(rows), found.X.shape[1]), np.float32)
        X[~absent] = take_float32(found.X, rows[~absent])
        return X
    starts, lengths = np.zeros((2, len(rows)), np.int64)
    starts[~absent], lengths[~absent] = found.starts[rows[~absent]], found.lengths[rows[~absent]]
    return StoredTokens(found.states, starts, lengths)


def _column(table: pa.Table, name: str) -> np.ndarray:
    return np.array(table[name].to_pylist(), dtype=object)


def _why_nothing(label: str | None, where: str | None) -> str:
    what = "the store has no items" if label is None and where is None else "no item"
    if label is not None:
        what += f" has a label {label!r}"
    if where is not None:
        what += f"{' and' if label else ''} meets the condition {where!r}"
    return what
