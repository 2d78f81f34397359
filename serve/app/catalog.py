"""Catalogue of a store's items in memory: look-ups, filters, exact search, near-duplicates, pictures.

A store changes while it is served: items are embedded, labelled, removed. So a catalogue is made of one snapshot, answers
from that alone, and gives way to a new one once the table `items` has another version.
"""

from __future__ import annotations

import base64
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...dups.agreements import StreamPictures
from ...dups.calibration import apply_map
from ...dups.default_calibration import held_neighbourhoods
from ...dups.hashing import VIEWS
from ...dups.pair_graph import current_searches, default_feature
from ...dups.rule import Rule
from ...dups.views import hash_column, load_thumbs
from ...dups.window import Arrival, SlidingWindow
from ...dups.window_rules import served_rules
from ...embed.captions.caption_table import caption_key, captions_of, names_of, with_texts
from ...embed.thumbnails import Thumbnail, thumbnail
from ...errors import UsageError
from ...store.index import find_vectors
from ...store.schema import label_columns
from ...store.search import exact_candidates, float32_margin, unit_rows
from ...store.sql import names_missing, select_confined
from ...store.store import Store
from ...web.render import Card, clean, labels_of

#: Bytes of float32 vectors of a feature that are kept ready for search; larger ones are read a block at a time.
_READY = 512 * 2**20

#: Contents up to which an input is compared with all of them by the rule of `icehouse dups find`.
MAX_COMPARED = 200_000

#: Seconds for which the captions and features that are known are taken for all there are.
_LOOK_S = 1.0

#: Sides in pixels that a picture is shown in, and bytes of pictures that are kept.
SIDES = (160, 320, 720, 1440)
_KEPT = 64 * 2**20


@dataclass(frozen=True)
class Neighbour:
    """An item near an input, with its cosine."""

    row: int
    score: float


@dataclass(frozen=True)
class Duplicate:
    """An item that is a near-duplicate of an input, and what finds it: "exact", "perceptual" or "embedding"."""

    row: int
    kind: str
    hamming: int | None
    cosine: float | None


class Catalog:
    """Items of one snapshot of a store; `table` has all columns of `items`, vanished ones included."""

    def __init__(self, store: Store) -> None:
        self.store = store
        snapshot = store.items.snapshot()
        self.version = snapshot.version
        self.table: pa.Table = store.items.reading(lambda shot: shot.read()).combine_chunks()
        self.labels = label_columns(self.table.schema)
        missing = pc.fill_null(self.table["missing"], False)
        #: Rows that are not marked as vanished, in the order of the table.
        self.present: np.ndarray = np.flatnonzero(~missing.to_numpy(zero_copy_only=False))
        #: Points of maps of these items, by the map's name; kept here by their page, so that they go with the catalogue.
        self.maps: dict[str, Any] = {}
        self._features: dict[str, Feature] = {}
        self._captions: dict[str, tuple[int, bool, dict[str, str]]] = {}
        self._looked = -_LOOK_S
        self._known_features: tuple[float, list[str]] = (-_LOOK_S, [])
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.present)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.table["item_id"].to_pylist())}

    def row(self, item_id: str) -> int | None:
        """Row of an item; None if there is none."""
        return self._rows.get(item_id)

    def values(self, row: int) -> dict[str, Any]:
        """Everything that the table says of an item."""
        found: dict[str, Any] = self.table.slice(row, 1).to_pylist()[0]
        return found

    def described(self, row: int) -> dict[str, Any]:
        """Facts of an item for answers: item_id, text, path, split, labels, captions."""
        table = self.table
        texts = {name: table[name][row].as_py() for name in ("item_id", "text", "path")}
        labels = self.label_values(row)
        split = labels.pop("split", None)
        return {**texts, "split": split, "labels": labels, "captions": self.captions(row)}

    def label_values(self, row: int) -> dict[str, Any]:
        """Split and labels of an item that it has."""
        names = [name for name in ("split", *self.labels) if name in self.table.column_names]
        found = {name: self.table[name][row].as_py() for name in names}
        return {name: value for name, value in found.items() if value is not None}

    def captions(self, row: int) -> dict[str, str]:
        """What models said of an item's picture, by the name of the captions."""
        image, text = (self.table[name][row].as_py() for name in ("image_sha256", "text_sha256"))
        if image is None:
            return {}
        found = {
            name: by_key.get(caption_key(image, text if texts else None))
            for name, (_, texts, by_key) in self._all_captions().items()
        }
        return {name: said for name, said in found.items() if said}

    def _all_captions(self) -> dict[str, tuple[int, bool, dict[str, str]]]:
        """All captions: they come without a new version of the items."""
        with self._lock:
            if time.monotonic() - self._looked >= _LOOK_S:
                kept = self._captions
                self._captions = {
                    name: self._read_captions(name, kept.get(name)) for name in names_of(self.store)
                }
                self._looked = time.monotonic()
            return self._captions

    def _read_captions(
        self, name: str, kept: tuple[int, bool, dict[str, str]] | None
    ) -> tuple[int, bool, dict[str, str]]:
        table = captions_of(self.store, name)
        version = table.snapshot().version
        if kept is not None and kept[0] == version:
            return kept
        rows = table.read(["caption_key", "caption"])
        said = dict(zip(rows["caption_key"].to_pylist(), rows["caption"].to_pylist(), strict=True))
        return version, with_texts(table), said

    def file(self, row: int) -> Path | None:
        """The image's file, if the item has one."""
        path, root = self.table["path"][row].as_py(), self.table["root"][row].as_py()
        return None if path is None or root is None else Path(root) / path

    def card(self, row: int, *, side: int = 320, meter: float | None = None) -> Card:
        """An item as pages show it."""
        item, path = self.table["item_id"][row].as_py(), self.table["path"][row].as_py()
        picture = None if path is None else Thumbnail(picture_url(item, side), *self._shown_size(row, side))
        return Card(
            item,
            picture,
            alt=path or item,
            text=self.table["text"][row].as_py(),
            labels=labels_of(self.label_values(row)),
            path=path,
            meter=meter,
            caption=next(iter(self.captions(row).values()), None),
        )

    def _shown_size(self, row: int, side: int) -> tuple[int, int]:
        width, height = (self.table[name][row].as_py() or side for name in ("width", "height"))
        scale = min(1.0, side / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def select(
        self,
        *,
        where: str | None = None,
        equal: Mapping[str, str] | None = None,
        words: str | None = None,
        items: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Rows, in the order of the table, that meet all conditions; vanished ones are left out unless `where` names them.

        `where` is the SQL condition of a client, which sees the items and nothing else; `equal` are values by column,
        `words` what the text or the id contains, in any case, `items` ids to choose from.
        """
        rows = np.arange(len(self.table)) if names_missing(where) else self.present
        if items is not None:
            there = {row for item in items if (row := self.row(item)) is not None}
            rows = rows[np.isin(rows, np.fromiter(there, np.int64, len(there)))]
        for name, value in (equal or {}).items():
            if name not in ("split", *self.labels):
                raise UsageError(f"no label {name!r}; there are: {', '.join(('split', *self.labels))}")
            rows = rows[self._has(name, value)[rows]]
        if words:
            meets = np.zeros(len(self.table), bool)
            for name in ("text", "item_id"):
                found = pc.match_substring(self.table[name], words, ignore_case=True)
                meets |= pc.fill_null(found, False).to_numpy(zero_copy_only=False)
            rows = rows[meets[rows]]
        if where is not None:
            rows = rows[np.isin(rows, self._meeting(where))]
        return rows

    def _has(self, name: str, value: str) -> np.ndarray:
        """Mask of the rows with a value in a column, among others where it holds several."""
        column = self.table[name]
        if not pa.types.is_string(column.type):
            rows = column.to_pylist()
            return np.array(
                [value in map(str, v if isinstance(v, list) else [v]) and v is not None for v in rows], bool
            )
        found: np.ndarray = pc.fill_null(pc.equal(column, value), False).to_numpy(zero_copy_only=False)
        return found

    def _meeting(self, where: str) -> np.ndarray:
        if not where.strip():
            raise UsageError("the condition is empty")
        numbered = self.table.append_column("__row", pa.array(np.arange(len(self.table))))
        try:
            found = select_confined({"items": numbered}, f"SELECT __row FROM items WHERE ({where}\n)")
            rows: np.ndarray = found["__row"].to_numpy()
        except (UsageError, KeyError) as error:
            raise UsageError(f"the condition does not work on items: {error}") from None
        return rows

    def values_of(self, name: str, most: int = 200) -> list[str]:
        """Values that a label has, the commonest first; of a column of several each counts."""
        column = self.table[name].take(pa.array(self.present))
        counted = pc.value_counts(pc.list_flatten(column) if pa.types.is_list(column.type) else column)
        pairs = [(entry["counts"], entry["values"]) for entry in counted.to_pylist()]
        pairs = [(count, str(value)) for count, value in pairs if value is not None]
        return [value for _, value in sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:most]]

    def feature(self, name: str) -> Feature:
        """A feature's vectors beside these items, read when first asked for."""
        with self._lock:
            if name not in self._features:
                self._features[name] = Feature(self, name)
            return self._features[name]

    def default_features(self, *, images: bool, joint: bool) -> list[str]:
        """Features by which a query is searched, best first: among images or texts, in the joint space or as they look."""
        modality, outputs = ("image" if images else "text"), (["joint"] if joint else ["pooled", "joint"])
        return [
            name
            for output in outputs
            for name in self._feature_names()
            if name.count("/") == 2 and name.endswith(f"/{modality}/{output}")
        ]

    def vector_of(self, row: int, *, meaning: bool) -> tuple[str, np.ndarray]:
        """Feature and vector by which items like this one are found: `pooled` tells how it looks, `joint` what it means."""
        for images in (True, False):
            for name in self.default_features(images=images, joint=meaning):
                vector = self.feature(name).vector(row)
                if vector is not None:
                    return name, vector
        raise UsageError("the item has no features to compare it by: embed it with `icehouse embed`")

    def _feature_names(self) -> list[str]:
        """Features there are; the store's folders are not walked more than once a second for it."""
        asked, known = self._known_features
        if time.monotonic() - asked >= _LOOK_S:
            known = self.store.feature_names()
            self._known_features = time.monotonic(), known
        return known

    @cached_property
    def duplicates(self) -> Duplicates:
        """The items' contents, to compare inputs with."""
        return Duplicates(self)


class Feature:
    """Vectors of a feature, and the items that have each."""

    def __init__(self, catalog: Catalog, name: str) -> None:
        self.catalog, self.name = catalog, name
        table = catalog.store.feature_table(name)
        self.spec: dict[str, Any] = table.spec
        self.vectors = catalog.store.vectors(name)
        keys = catalog.table[self.spec["key"]]
        content = pc.index_in(keys, value_set=self.vectors.keys, skip_nulls=True)
        present = catalog.present
        #: Row of `vectors` of each item; -1 where it has none.
        self.content: np.ndarray = pc.fill_null(content, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        #: Items that are present and have a vector, and their contents.
        self._rows: np.ndarray = present[self.content[present] >= 0]
        self._sought: np.ndarray = np.unique(self.content[self._rows])
        X = self.vectors.X
        self._units = None
        if 4 * X.size <= _READY:
            with np.errstate(invalid="ignore"):
                self._units = np.nan_to_num(unit_rows(X[:], np.float32))

    def vector(self, row: int) -> np.ndarray | None:
        """Vector of an item, (dim,), if it has one."""
        at = int(self.content[row])
        return None if at < 0 else np.asarray(self.vectors.X[at], np.float32)

    def nearest_each(self, vectors: np.ndarray, k: int) -> list[list[Neighbour]]:
        """`nearest` of each of some vectors (n, dim): what is kept ready is read once for all of them."""
        rough: list[np.ndarray | None] = [None] * len(vectors)
        if self._units is not None and vectors.shape[1] == self._units.shape[1]:
            with np.errstate(invalid="ignore", divide="ignore"):
                rough = list(unit_rows(vectors, np.float32) @ self._units.T)
        return [
            self.nearest(vector, k, rough=cosines) for vector, cosines in zip(vectors, rough, strict=True)
        ]

    def nearest(
        self,
        vector: np.ndarray,
        k: int,
        rows: np.ndarray | None = None,
        without: int | None = None,
        rough: np.ndarray | None = None,
    ) -> list[Neighbour]:
        """The `k` items among `rows` (all that are present, unless given) nearest to a vector by cosine, best first.

        `rough` are the cosines of all contents as a product in float32 has them, if they are known.
        """
        if k < 1:
            return []
        if self._units is None and rows is None:
            hits = find_vectors(self.catalog.store, self.name, vector, k=k + 1).hits
            placed = [(self.catalog.row(hit.item_id), hit.score) for hit in hits]
            return [Neighbour(row, score) for row, score in placed if row is not None and row != without][:k]
        if rows is None and without is None:
            rows, sought = self._rows, self._sought
        else:
            rows = self._rows if rows is None else rows[self.content[rows] >= 0]
            rows = rows if without is None else rows[rows != without]
            sought = np.unique(self.content[rows])
        if not len(rows):
            return []
        query = np.asarray(vector, np.float64).reshape(1, -1)
        found, cosines = exact_candidates(self.vectors, query, k, self._promising(query, k, sought, rough))
        score = np.full(len(self.vectors.X), np.nan)
        score[found] = cosines
        scores = score[self.content[rows]]
        there = np.flatnonzero(~np.isnan(scores))
        ids = self.catalog.table["item_id"].take(pa.array(rows[there])).to_pylist()
        best = sorted(zip((-scores[there]).tolist(), ids, rows[there].tolist(), strict=True))[:k]
        return [Neighbour(row, -value) for value, _, row in best]

    def _promising(
        self, query: np.ndarray, k: int, sought: np.ndarray, rough: np.ndarray | None
    ) -> np.ndarray:
        """Contents among which the k best certainly are, by one product with the vectors that are kept ready."""
        units = self._units
        norm = float(np.linalg.norm(query))
        if units is None or len(sought) <= 4 * k or not 0 < norm < np.inf or query.shape[1] != units.shape[1]:
            return sought
        if rough is None:
            chosen = units[sought] if len(sought) < len(units) else units
            rough = chosen @ (query[0] / norm).astype(np.float32)
        elif len(sought) < len(units):
            rough = rough[sought]
        floor = np.partition(rough, -k)[-k] - 2 * float32_margin(units.shape[1])
        return sought[rough >= floor]


class Duplicates:
    """Contents of a catalogue, held as a window of the stream would hold them: one rule decides here and there."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._lock = threading.Lock()
        self._windows = {modality: self._window(modality) for modality in ("image", "text")}

    def _window(self, modality: str) -> tuple[str | None, SlidingWindow | None, str]:
        """Feature that is compared, the window of all contents, and where its rule is from."""
        catalog, store = self.catalog, self.catalog.store
        key = f"{modality}_sha256"
        rows = catalog.present
        names = ["item_id", key, *(["phash", "text"] if modality == "image" else [])]
        contents = catalog.table.select([name for name in names if name in catalog.table.column_names])
        contents = contents.take(pa.array(rows))
        contents = contents.filter(pc.is_valid(contents[key]))
        known = contents[key].to_pylist()
        if len(set(known)) > MAX_COMPARED:
            return None, None, f"more than {MAX_COMPARED:,} contents: equal bytes alone are looked for"
        try:
            feature = default_feature(store)
        except UsageError:
            feature = None
        if feature is None or f"/{modality}/" not in feature:
            found = catalog.default_features(images=modality == "image", joint=False)
            feature = found[0] if found else None
        vectors = None if feature is None else catalog.feature(feature)
        dim = None if vectors is None else int(vectors.vectors.X.shape[1])
        keys = list(dict.fromkeys(known))
        n = max(len(keys), 1)
        # Copies count as arrivals, and nothing is to be forgotten.
        window = SlidingWindow(n, rule=Rule(), dim=dim, recent=len(known) + 1)
        seen, there = self._views(keys if modality == "image" else [])
        thumbs, pictured = load_thumbs(store, pa.array(keys, pa.string())) if there.any() else (seen, there)
        columns = [name for name in ("item_id", "phash", "text") if name in contents.column_names]
        place = {sha: k for k, sha in enumerate(keys)}
        window.remember(
            [
                _arrival(catalog, sha, item, vectors, place[sha], seen, thumbs, pictured)
                for sha, item in zip(known, contents.select(columns).to_pylist(), strict=True)
            ]
        )
        held = window.held()
        viewed = bool(there.any())
        rules, notes = served_rules(store, feature, n, held, viewed=viewed)
        rule = rules.at(window)
        local, around = rule.local, None
        if feature is not None and local is not None and rule.mean is not None:
            around = np.zeros((4, len(keys)))
            at = [place[sha] for sha in held.digests.tolist()]
            units = apply_map(held.X, rule.mean, rule.matrix)
            views = held.views if viewed else None
            made = held_neighbourhoods(store, feature, local, held.digests, units, views)
            around[:, at] = [getattr(made, name) for name in made.__dataclass_fields__]
        window.go_by(rules, StreamPictures(self._agreeing(feature)), around)
        return feature, window, "; ".join(notes)

    def _views(self, digests: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of views of contents, as far as a search has made them, and which have any."""
        if not digests:
            return np.zeros((0, VIEWS), np.uint64), np.zeros(0, bool)
        return hash_column(self.catalog.store, pa.array(digests, pa.string()), "hashes")

    def _agreeing(self, feature: str | None) -> float | None:
        """How far copies agree pixel by pixel, as the last search by a feature has told it."""
        for found in current_searches(self.catalog.store):
            if found.feature == feature:
                told = found.summary.get("stages", {}).get("registered", {}).get("least")
                return None if told is None else float(told)
        return None

    @cached_property
    def looks(self) -> bool:
        """Whether views of an input's image are compared, too."""
        window = self._windows["image"][1]
        return window is not None and window.looks_at_views and bool(window.recent.any)

    def feature(self, modality: str) -> str | None:
        """Feature by which inputs of a modality are compared."""
        return self._windows[modality][0]

    def note(self, modality: str) -> str:
        """Origin of the rule."""
        return self._windows[modality][2]

    def of(self, modality: str, arrivals: Sequence[Arrival], most: int = 20) -> list[list[Duplicate]]:
        """Items that are near-duplicates of each of some contents, known by their sha256; the surest first."""
        _, window, _ = self._windows[modality]
        if window is None:
            return [
                [Duplicate(row, "exact", None, None) for row in self._items(modality, arrival.key)][:most]
                for arrival in arrivals
            ]
        with self._lock:
            judged = window.compare(arrivals)
        return [
            [
                Duplicate(row, match.kind, match.hamming, match.cosine)
                for match in result.matches
                if not match.variant
                for row in self._items(modality, match.id)
            ][:most]
            for result in judged
        ]

    def _items(self, modality: str, sha256: str) -> list[int]:
        return self._by_content[modality].get(sha256, [])

    @cached_property
    def _by_content(self) -> dict[str, dict[str, list[int]]]:
        made: dict[str, dict[str, list[int]]] = {}
        for modality in ("image", "text"):
            keys = self.catalog.table[f"{modality}_sha256"].to_pylist()
            rows: dict[str, list[int]] = {}
            for row in self.catalog.present.tolist():
                if keys[row] is not None:
                    rows.setdefault(keys[row], []).append(row)
            made[modality] = rows
        return made


def _arrival(
    catalog: Catalog,
    sha: str,
    item: dict[str, Any],
    vectors: Feature | None,
    place: int,
    seen: np.ndarray,
    thumbs: np.ndarray,
    pictured: np.ndarray,
) -> Arrival:
    """An item as a window takes it, known by its content."""
    row = catalog.row(item["item_id"])
    assert row is not None
    vector = None if vectors is None else vectors.vector(row)
    if not len(seen):
        return Arrival(sha, sha, item.get("phash"), vector)
    file = catalog.file(row)
    thumb = thumbs[place] if pictured[place] else None
    path = None if file is None else str(file)
    return Arrival(sha, sha, item["phash"], vector, None, seen[place], thumb, item.get("text"), path)


def picture_url(item_id: str, side: int = 320) -> str:
    """Address of an item's picture."""
    return f"/picture?{urlencode({'id': item_id, 'side': side})}"


class Pictures:
    """Small pictures of items, made when asked for and kept as long as there is room."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], tuple[bytes, str]] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def get(self, catalog: Catalog, row: int, side: int) -> tuple[bytes, str]:
        """A picture as WebP, or the reason why there is none as SVG; and its media type."""
        side = min((each for each in SIDES if each >= side), default=SIDES[-1])
        file = catalog.file(row)
        key = (str(file), catalog.table["image_sha256"][row].as_py(), side)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = Thumbnail(None, problem="no picture") if file is None else thumbnail(file, side=side)
        if made.uri is None:
            return _told(made.problem or "no picture"), "image/svg+xml"
        answer = base64.b64decode(made.uri.partition(",")[2]), "image/webp"
        with self._lock:
            if key not in self._kept:
                self._kept[key] = answer
                self._weight += len(answer[0])
            while self._weight > _KEPT:
                _, (old, _) = self._kept.popitem(last=False)
                self._weight -= len(old)
        return answer


def _told(problem: str) -> bytes:
    """A sentence as a picture, on a ground that suits light and dark."""
    words, lines = clean(problem)[:200].split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 34:
            lines.append("")
        lines[-1] += f" {word[:60]}"
    spans = "".join(f'<tspan x="160" dy="20">{escape(line.strip())}</tspan>' for line in lines[:7])
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="320" height="240" viewBox="0 0 320 240">'
        '<rect width="320" height="240" fill="#7f8b96" fill-opacity=".18"/>'
        f'<text y="{110 - 10 * len(lines[:7])}" font-family="sans-serif" font-size="14" fill="#7a8794" '
        f'text-anchor="middle">{spans}</text></svg>'
    ).encode()
