"""Embedding of captions, and of the columns of structured ones as numbers.

The modality is ``caption`` for the captions named "default", ``caption-NAME`` for others. A vector belongs to a picture,
as the caption does; where posts' texts went into the prompt, a caption belongs to a picture and a text, and its vectors
are kept by item. A caption longer than the encoder's context is pooled over its sentences.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...data.text import check_cleaning, clean, text_sha256
from ...errors import CaptionError
from ...store.schema import FAILURES, vector_type
from ...store.store import Store
from ...store.table import Table
from ..encoder import Encoder
from ..extract import Encoded, Extractor, Failure, Work
from ..pipeline import DEFAULT_OUTPUTS, FIELDS, choose_encoder
from ..tables import OWN_CONTENTS, FeatureTables, append_features, feature_spec
from .caption_table import DEFAULT_NAME, STAGE, caption_key, captions_of, with_texts
from .questions import COLUMNS, DAMAGE, SENTIMENT, USELESS, split_flags
from .stats import view_of

# The feature is ``fields/caption-fields/numbers`` (``fields/caption-NAME-fields/numbers``), and no encoder has a part in it.
# Which objects have a place is settled when it is first written, and kept in its provenance: a number means the same later.


#: How columns become numbers; part of the provenance.
VERSION = "fields-v1"

#: Most objects that have a place of their own, and the fewest captions that must name one.
MOST_OBJECTS = 64
MIN_CAPTIONS = 2

_OUTPUT = "numbers"


@dataclass(frozen=True)
class Keys:
    """Keys of caption vectors: the `column`, and for each caption's key its values there, `owners`.

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
    """Counts of vectors from structured caption columns: `written` now, `known` before.

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
    """Name of each number of a vector."""
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
            "captions": _told(table),
            "numbers": field_names(()),
            "objects": vocabulary,
        },
        offers=[_OUTPUT],
    )
    schema = _schema(keyed.column, spec["dim"], spec["dtype"])
    target = store.ensure_feature_table(feature, {**spec, "probe": {}}, schema)

    todo = keyed.missing(store, [feature], rows)
    if todo:
        owners, captions = zip(*((o, key) for key, some in todo.items() for o in some), strict=True)
        X = fields_of([rows[key] for key in captions], vocabulary)
        append_features(target, owners, [X], {"caption_key": pa.array(captions, pa.string())})
    report.written, report.known = len(todo), len(rows) - len(todo)
    report.numbers, report.objects = spec["dim"], len(vocabulary)
    placed = set(vocabulary)
    named = [word in placed for row in rows.values() for word in _words(row["objects"])]
    report.covered = float(np.mean(named)) if named else None
    return report


def _told(captions: Table) -> dict[str, Any]:
    """What the provenance of features tells of the captions that they are made of."""
    return {"name": captions.spec["name"], "fingerprint": captions.spec["fingerprint"]}


def _schema(key: str, dim: int, dtype: str, *more: pa.Field) -> pa.Schema:
    """Columns of features of captions: what they are kept by, at items the caption's key, `more`, the vector."""
    tag = [pa.field("caption_key", pa.string())] if key == "item_id" else []
    vector = pa.field("vector", vector_type(dim, dtype), nullable=False)
    return pa.schema([pa.field(key, pa.string(), nullable=False), *tag, *more, vector])


def _one_of(x: np.ndarray, levels: Sequence[str], value: str | None) -> None:
    """One place a level, the last for everything else."""
    x[levels.index(value) if value in levels else len(levels)] = 1


def _words(objects: Sequence[str] | None) -> list[str]:
    """Objects as they are counted: once each, letter case and white space aside."""
    plain = (" ".join(unicodedata.normalize("NFKC", name).casefold().split()) for name in objects or ())
    return list(dict.fromkeys(word for word in plain if word))


#: How long captions become vectors; part of the provenance.
POOLING = "sentences-v1"

#: Captions that are packed, encoded and committed together.
CHUNK = 2048

Progress = Callable[[int, int, str], None]
Count = Callable[[Sequence[str]], np.ndarray]


@dataclass
class CaptionFeatures:
    """Outcome of one `embed_captions` call.

    Of the table's `captions`, those that had their vectors (`known`), were `embedded` now, were left out by their flags
    (`useless`), or could not be taken by the encoder (`failed`). Of those embedded, how many did not fit the encoder's
    context and were `pooled` over sentences. `fields`: what became of their columns, if they are structured.
    """

    store: str
    name: str
    encoder: str
    captions: int = 0
    known: int = 0
    embedded: int = 0
    useless: int = 0
    pooled: int = 0
    failed: int = 0
    fields: FieldsReport | None = None
    features: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


def modality_of(name: str) -> str:
    """Modality of the captions of that name, in a feature's name and as an input of heads.

    >>> modality_of("default"), modality_of("crisis")
    ('caption', 'caption-crisis')
    """
    return "caption" if name == DEFAULT_NAME else f"caption-{name}"


def embed_captions(
    store: Store | str | Path,
    captions: str = DEFAULT_NAME,
    *,
    encoder: str | Encoder = "auto",
    name: str | None = None,
    cleaning: str | None = None,
    dtype: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> CaptionFeatures:
    """Embed whatever captions of that name have no vectors yet, with an encoder's text tower.

    The options are those of `icehouse.embed.pipeline.embed_sources`. Raises `CaptionError` if there are no such captions, or
    none can be used, `SpaceError` if there are vectors by another encoder, of other captions, or cleaned in another way.
    """
    begun = time.perf_counter()
    check_cleaning(cleaning)
    store = Store.of(store)
    table = captions_of(store, captions)
    chosen = choose_encoder(encoder, store, [], device=device, precision=precision)
    folder, name = name, name or chosen.name
    report = CaptionFeatures(str(store.path), captions, chosen.id)
    keyed = Keys.of(store, table)
    texts = _useful(table)
    report.captions = table.rows
    report.useless = table.rows - len(texts)
    modality = modality_of(captions)
    todo = keyed.missing(store, [f"{name}/{modality}/{output}" for output in DEFAULT_OUTPUTS], texts)
    report.known = len(texts) - len(todo)
    if not texts:
        view = view_of(store, captions)
        see = f'; see `icehouse sql "select flags, count(*) from {view} group by flags"`' if view else ""
        raise CaptionError(f"the captions {captions!r} of {store.path} hold none that can be embedded{see}")
    # First, since no encoder is needed for them.
    report.fields = write_fields(store, table, name=folder, dtype=dtype)
    if todo:
        model = chosen.load(device=device, precision=precision)
        tables = _CaptionTables(
            store, name, model, table, keyed.column, texts, cleaning=cleaning, dtype=dtype
        )
        tables.write(todo, report, batch_size or model.batch_size, progress)
    report.features = [f for f in store.feature_names() if f.startswith(f"{name}/{modality}/")]
    report.features += [report.fields.feature] if report.fields else []
    report.seconds = round(time.perf_counter() - begun, 3)
    return report


def _useful(table: Table) -> dict[str, str]:
    """Captions that say something about their picture, by their key."""
    return {
        row["caption_key"]: row["caption"]
        for row in table.read(["caption_key", "caption", "flags"]).to_pylist()
        if (row["caption"] or "").strip() and not set(USELESS) & set(split_flags(row["flags"]))
    }


class _CaptionTables(FeatureTables):
    """Feature tables of captions: a text tower's, kept by picture or by item, with the captions in their provenance."""

    def __init__(
        self,
        store: Store,
        name: str,
        encoder: Encoder,
        captions: Table,
        key: str,
        texts: Mapping[str, str],
        *,
        cleaning: str | None,
        dtype: str | None,
    ) -> None:
        self.modality = modality_of(captions.spec["name"])
        super().__init__(
            store,
            name,
            encoder.id,
            outputs=DEFAULT_OUTPUTS,
            cleaning=cleaning,
            dtype=dtype,
            modalities=(self.modality,),
        )
        self.texts = texts
        self._key = key
        self._about = {"pooling": POOLING, "captions": _told(captions)}
        self._by_sha = {text_sha256(text): text for text in islice(texts.values(), 4 * OWN_CONTENTS)}
        if not any(o.modality == "text" and o.name in DEFAULT_OUTPUTS for o in encoder.outputs):
            raise CaptionError(f"{encoder.id} has no text tower, which captions need")
        self.admit(encoder, [])
        self.open(self.modality)

    def pieces(self, text: str) -> list[str]:
        """A caption as the encoder takes it: pieces that fit its context, cleaned."""
        parts = pack(text, self.encoder.context_length, self.encoder.count_tokens)
        return [piece for part in parts if (piece := clean(part, self.cleaning))]

    def key(self, modality: str) -> str:
        """Name of the column that the vectors are kept by."""
        return self._key

    def provenance(self, modality: str, output: str) -> dict[str, Any]:
        """Provenance of caption vectors: the text tower's, the pooling of long captions, and the captions' own."""
        return super().provenance(modality, output) | self._about

    def schema(self, modality: str, output: str) -> pa.Schema:
        """Columns: key, at items the caption's key, number of pieces, vector."""
        return _schema(self._key, self.dim(modality, output), self.dtype, pa.field("pieces", pa.int16()))

    def own_contents(self, modality: str) -> dict[str, Any]:
        """First pieces of a few captions, by the sha256 of the whole."""
        first = {key: self.stored_content(modality, key) for key in islice(self._by_sha, OWN_CONTENTS)}
        return {key: piece for key, piece in first.items() if piece}

    def stored_content(self, modality: str, key: str) -> Any:
        """First piece of the caption with that sha256, or None."""
        return next(iter(self.pieces(self._by_sha.get(key, ""))), None)

    def write(
        self,
        todo: Mapping[str, list[str]],
        report: CaptionFeatures,
        batch_size: int,
        progress: Progress | None,
    ) -> None:
        """Encode and commit, some thousand captions at a time; `todo`: key of a caption -> what its vector is kept by."""
        outputs = self.outputs(self.modality)
        done = 0
        remaining = iter(todo.items())
        while chunk := dict(islice(remaining, CHUNK)):
            pieces = {key: self.pieces(self.texts[key]) for key in chunk}
            vectors, failures = self._encode(
                [piece for some in pieces.values() for piece in some], batch_size
            )
            rows: list[tuple[str, str, int]] = []
            pooled: dict[str, list[np.ndarray]] = {output: [] for output in outputs}
            for caption, some in pieces.items():
                owners = chunk[caption]
                lost = [piece for piece in some if text_sha256(piece) not in vectors]
                if lost or not some:
                    report.failed += 1
                    self._record(owners[0], failures.get(lost[0]) if lost else None)
                    continue
                report.embedded += 1
                report.pooled += len(some) > 1
                found = [vectors[text_sha256(piece)] for piece in some]
                weights = self.encoder.count_tokens(some).astype(np.float64)
                rows += [(owner, caption, len(some)) for owner in owners]
                for output in outputs:
                    vector = _pool([v[output] for v in found], weights, unit=output == "joint")
                    pooled[output] += [vector] * len(owners)
            if rows:
                kept_by, captions, counts = zip(*rows, strict=True)
                columns = {"caption_key": pa.array(captions), "pieces": pa.array(counts, pa.int16())}
                for output in outputs:
                    values = [np.stack(pooled[output]).astype(np.float32)]
                    append_features(self.table(self.modality, output), kept_by, values, columns)
            done += len(chunk)
            if progress:
                progress(done, len(todo), "captions")

    def _encode(
        self, pieces: Iterable[str], batch_size: int
    ) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Failure]]:
        """Vectors of each distinct piece, by its sha256 and output, and by piece why there are none."""
        extractor = Extractor(
            self.encoder,
            text_outputs=self.outputs(self.modality),
            batch_size=batch_size,
            dtype=self.dtype,
        )
        vectors: dict[str, dict[str, np.ndarray]] = {}
        failures: dict[str, Failure] = {}
        for event in extractor.run(Work(piece, None, piece) for piece in dict.fromkeys(pieces)):
            if isinstance(event, Failure):
                failures[event.item_id] = event
            elif isinstance(event, Encoded):
                for i, key in enumerate(event.keys):
                    vectors[key] = {output: np.asarray(values)[i] for output, values in event.outputs.items()}
        return vectors, failures

    def _record(self, owner: str, failure: Failure | None) -> None:
        """Put a caption that the encoder could not take into the log of failures, once."""
        items = self.store.items.read(["item_id", self._key])
        item_id = items.filter(pc.equal(items[self._key], owner))["item_id"][0].as_py()
        log = self.store.failures.read(["item_id", "stage", "encoder"])
        row = {"item_id": item_id, "stage": STAGE, "encoder": self.name}
        if row in log.to_pylist():
            return
        row["error"] = failure.error if failure else "EmptyCaption"
        row["message"] = failure.message if failure else "nothing is left of the caption after cleaning"
        self.store.failures.append(pa.Table.from_pylist([{**row, "at": datetime.now(UTC)}], schema=FAILURES))


def _pool(vectors: Sequence[np.ndarray], weights: np.ndarray, *, unit: bool) -> np.ndarray:
    """Mean of the pieces' vectors, weighted by their tokens; brought back to unit length where the pieces have it."""
    if len(vectors) == 1:
        return vectors[0]
    stacked = np.stack(vectors).astype(np.float64)
    mean: np.ndarray = weights @ stacked / weights.sum()
    norms = np.linalg.norm(stacked, axis=1)
    if unit or np.allclose(norms, 1.0, atol=1e-3):
        mean = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return mean.astype(np.float32)


# Long captions: cut at the context's end, a vector would know the beginning only. The pieces' vectors are averaged, each
# weighted by its tokens (Zhang et al. 2024, arXiv 2403.15378, find that CLIP makes little of more than some 20 at a time).

# A sentence ends with its mark and whatever quotes or brackets close after it; in scripts without spaces, with its mark.
_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])")


def split_sentences(text: str) -> list[str]:
    """Sentences of a text, in order; nothing but white space is lost.

    >>> split_sentences("A street. It is flooded! Two cars")
    ['A street.', 'It is flooded!', 'Two cars']
    """
    pieces: list[str] = []
    # Line by line: a pattern that looked for a line's end past blanks would take quadratic time on blanks alone.
    for line in text.split("\n"):
        at = 0
        for found in _END.finditer(line):
            # Closing marks belong to the sentence, the space after them to nobody.
            pieces.append(line[at : found.start() + len(found.group().rstrip())])
            at = found.end()
        pieces.append(line[at:])
    return [piece.strip() for piece in pieces if piece.strip()]


def pack(text: str, limit: int, count: Count) -> list[str]:
    """Pieces of at most `limit` tokens, as `count` counts them, that make up a text: sentences, else words, else characters.

    One where the text fits as it is; none for a text without content.
    """
    text = text.strip()
    if not text:
        return []
    if int(count([text])[0]) <= limit:
        return [" ".join(text.split())]
    joined: list[str] = []
    for sentence in split_sentences(text):
        for piece in _split_to_fit(" ".join(sentence.split()), limit, count):
            longer = f"{joined[-1]} {piece}" if joined else piece
            if joined and int(count([longer])[0]) <= limit:
                joined[-1] = longer
            else:
                joined.append(piece)
    return joined


def _split_to_fit(sentence: str, limit: int, count: Count) -> list[str]:
    """Halve a sentence, at a space if there is one, until each part fits."""
    if len(sentence) <= 1 or int(count([sentence])[0]) <= limit:
        return [sentence]
    middle = len(sentence) // 2
    left, right = sentence.rfind(" ", 0, middle + 1), sentence.find(" ", middle)
    places = [place for place in (left, right) if place > 0]
    cut = min(places, key=lambda place: abs(place - middle)) if places else middle
    halves = (sentence[:cut].strip(), sentence[cut:].strip())
    return [piece for half in halves if half for piece in _split_to_fit(half, limit, count)]
