"""Stored captions, to look at and to count: sets by name, captions of items, random samples, statistics."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...data import image_files
from ...errors import UsageError
from ...store.sql import view_names
from ...store.store import Store
from ...store.table import Table
from .caption_table import (
    DEFAULT_NAME,
    STAGE,
    caption_key,
    captions_of,
    folder_of,
    names_of,
    plan,
    with_texts,
)
from .questions import COLUMNS, DAMAGE, FLAGS, SENTIMENT, USELESS, split_flags

_SHA = re.compile(r"[0-9a-f]{6,64}", re.IGNORECASE)
_ITEM = ["item_id", "path", "root", "image_sha256", "missing"]

#: Words of an opening: "the image shows".
OPENING = 3

#: Words of the window in which the moving type-token ratio counts.
WINDOW = 500

_WORD = re.compile(r"\w+(?:['’\-]\w+)*")
_QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}

# Words that are common in any English text, and tell nothing about what captions say.
_ENGLISH = (
    "a an and any are as at be been both but by can does for from has have he her his i in into is it its of on one or "
    "other she some that the their them then there these they this those to two up was were what where which while who "
    "with"
)
_FUNCTION_WORDS = frozenset(_ENGLISH.split())


@dataclass(frozen=True)
class CaptionSet:
    """The captions of one name, and what they were made with.

    `model` and `digest` are None for captions that were imported; `asked` is the prompt's preset, else "own prompt", or the
    imported file's name; `options` are those of the first question.
    """

    name: str
    rows: int
    model: str | None
    digest: str | None
    asked: str
    prompt: str | None
    with_text: bool
    structured: bool
    options: dict[str, Any] = field(default_factory=dict)
    servers: list[str] = field(default_factory=list)

    @property
    def maker(self) -> str:
        """Model with the beginning of its digest, or the file, in a few words."""
        if self.model is None:
            return f"imported from {self.asked}"
        return f"{self.model} ({self.digest[:12]})" if self.digest else self.model

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Shown:
    """A caption with all that is known of it, or why there is none (`problem`).

    `items` that have it, in the store's order, none if they have left the store, with their `paths` and the `files` where
    the picture is, or was; `structured`: the columns of structured captions; `text`: the post's, where it went into the
    prompt.
    """

    name: str
    image_sha256: str | None
    items: tuple[str, ...]
    paths: tuple[str, ...]
    files: tuple[Path, ...]
    caption: str | None = None
    flags: tuple[str, ...] = ()
    structured: dict[str, Any] = field(default_factory=dict)
    text: str | None = None
    tokens: int | None = None
    seconds: float | None = None
    attempts: int | None = None
    seed: int | None = None
    model: str | None = None
    host: str | None = None
    created: datetime | None = None
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = asdict(self)
        values["files"] = [str(file) for file in self.files]
        values["created"] = None if self.created is None else self.created.isoformat()
        return values


def view_of(store: Store, name: str) -> str | None:
    """Name of the view that SQL has of these captions; None where other captions have taken it ("a-b" and "a_b")."""
    names = view_names(store.table_names()).get(folder_of(name), [])
    return names[0] if names else None


def list_captions(store: Store | str | Path) -> list[CaptionSet]:
    """Tell what captions a store has, by name."""
    store = Store.of(store)
    return [_about(name, captions_of(store, name)) for name in names_of(store)]


def show_captions(store: Store | str | Path, wanted: Sequence[str], names: Sequence[str] = ()) -> list[Shown]:
    """Look up what was said of items, in the order asked for and under each of `names`, by default all.

    Each of `wanted` is an item's id, a path as the store has it or on this machine, a file's name, or at least six digits
    that a picture's sha256 begins with; the first of these that fits. Copies of a picture share its captions. Raises
    `UsageError` if nothing fits, `CaptionError` if there are no captions of that name.
    """
    store = Store.of(store)
    tables = {name: captions_of(store, name) for name in names or names_of(store) or [DEFAULT_NAME]}
    columns = [*_ITEM, "text", "text_sha256"]
    items = store.items.read(columns)
    chosen: list[dict[str, Any]] = []
    for one in wanted:
        found = _find(items, one)
        if not found:
            raise UsageError(
                f"{one!r} is neither an item's id nor a path or sha256 of a picture in {store.path}"
            )
        chosen += found
    failures = _failures(store)
    shown: dict[tuple[int, str], Shown] = {}
    for name, table in tables.items():
        texts = with_texts(table)
        by_key = {_key(row, texts) or row["item_id"]: (at, row) for at, row in reversed([*enumerate(chosen)])}
        rows = {row["caption_key"]: row for row in _rows(table, by_key)}
        copies = _copies(items, {row["image_sha256"] for row in chosen} - {None}, texts)
        for key, (at, row) in by_key.items():
            mates = copies.get(key, [row])
            if key in rows:
                shown[at, name] = _shown(name, rows[key], mates, texts)
            else:
                shown[at, name] = _without(name, row, mates, failures)
    # Items first, then names: what was said of one picture stands together.
    return [shown[place] for place in sorted(shown, key=lambda place: place[0])]


def sample_captions(
    store: Store | str | Path,
    name: str = DEFAULT_NAME,
    *,
    n: int = 20,
    seed: int = 0,
    flagged: bool = False,
) -> list[Shown]:
    """Draw at most `n` captions at random, without repetition, or only of those that carry a flag (`flagged`).

    The same seed draws the same of the same captions, in whatever order they were made.
    """
    for option, value in (("-n", n), ("--seed", seed)):
        if value < 0:
            raise UsageError(f"{option} {value}: 0 or more")
    store = Store.of(store)
    table = captions_of(store, name)
    keys = table.read(["caption_key", "flags"])
    if flagged:
        keys = keys.filter(pc.fill_null(pc.not_equal(keys["flags"], ""), False))
    ordered = sorted(keys["caption_key"].to_pylist())
    drawn = np.random.default_rng(seed).permutation(len(ordered))[:n].tolist()
    chosen = [ordered[i] for i in drawn]
    rows = {row["caption_key"]: row for row in _rows(table, chosen)}
    texts = with_texts(table)
    items = store.items.read([*_ITEM, *(("text", "text_sha256") if texts else ())])
    copies = _copies(items, {row["image_sha256"] for row in rows.values()}, texts)
    return [_shown(name, rows[key], copies.get(key, []), texts) for key in chosen]


def _about(name: str, table: Table) -> CaptionSet:
    provenance = table.spec.get("provenance") or {}
    imported = provenance.get("imported")
    return CaptionSet(
        name=name,
        rows=table.rows,
        model=None if imported else str(provenance.get("model")),
        digest=provenance.get("digest"),
        asked=str(imported.get("file")) if imported else table.spec.get("preset") or "own prompt",
        prompt=provenance.get("prompt"),
        with_text=with_texts(table),
        structured=bool(provenance.get("structured")),
        options=dict(provenance.get("options") or {}),
        servers=list(table.spec.get("servers") or ()),
    )


def _find(items: pa.Table, wanted: str) -> list[dict[str, Any]]:
    """Items that a word of the command line means."""
    by_id = items.filter(pc.equal(items["item_id"], wanted))
    if by_id.num_rows:
        return by_id.to_pylist()
    path = items["path"]
    slashed = wanted.replace("\\", "/")
    by_path = items.filter(
        pc.fill_null(pc.or_(pc.equal(path, slashed), pc.ends_with(path, f"/{slashed.lstrip('/')}")), False)
    )
    file = _file(wanted)
    if file is not None:
        # A file that lies before us is meant, whatever else has its name.
        named = items.filter(pc.fill_null(pc.ends_with(path, file.name), False)).to_pylist()
        exact = [
            row
            for row in named
            if row["root"] is not None and Path(row["root"], row["path"]).resolve() == file
        ]
        if exact:
            return exact
        same = items.filter(pc.equal(items["image_sha256"], image_files.sha256(file) or ""))
        if same.num_rows:
            return same.to_pylist()
    if by_path.num_rows:
        return by_path.to_pylist()
    if _SHA.fullmatch(wanted):
        sha = items["image_sha256"]
        return items.filter(pc.fill_null(pc.starts_with(sha, wanted.lower()), False)).to_pylist()
    return []


def _file(wanted: str) -> Path | None:
    path = Path(wanted)
    try:
        return path.resolve() if image_files.exists(path) and not path.is_dir() else None
    except (OSError, ValueError):  # a name too long for the system, or with a NUL in it
        return None


def _key(item: dict[str, Any], texts: bool) -> str | None:
    if item["image_sha256"] is None:
        return None
    return caption_key(item["image_sha256"], item["text_sha256"] if texts else None)


def _copies(items: pa.Table, shas: set[str], texts: bool) -> dict[str | None, list[dict[str, Any]]]:
    """Items with one of these pictures, by the key of their caption."""
    copies: dict[str | None, list[dict[str, Any]]] = {}
    for item in items.filter(
        pc.is_in(items["image_sha256"], value_set=pa.array(shas, pa.string()))
    ).to_pylist():
        copies.setdefault(_key(item, texts), []).append(item)
    return copies


def _rows(table: Table, keys: Iterable[str | None]) -> list[dict[str, Any]]:
    snapshot = table.snapshot()
    wanted = pa.array(list(keys), pa.string())
    found: list[dict[str, Any]] = []
    for batch in snapshot.batches():
        found += batch.filter(pc.is_in(batch["caption_key"], value_set=wanted)).to_pylist()
    return found


def _failures(store: Store) -> dict[tuple[str, str], str]:
    log = store.failures.read(["item_id", "stage", "encoder", "message"])
    ours = log.filter(pc.fill_null(pc.equal(log["stage"], STAGE), False))
    return {(row["item_id"], row["encoder"]): row["message"] for row in ours.to_pylist()}


def _where(mates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    there = [mate for mate in mates if mate["path"] is not None]
    # A file that is marked as vanished may be back, but is tried last.
    known = sorted((m for m in there if m["root"] is not None), key=lambda m: bool(m["missing"]))
    return {
        "items": tuple(mate["item_id"] for mate in mates),
        "paths": tuple(mate["path"] for mate in there),
        "files": tuple(Path(mate["root"]) / mate["path"] for mate in known),
    }


def _shown(name: str, row: dict[str, Any], mates: Sequence[dict[str, Any]], texts: bool) -> Shown:
    columns = [column for column in COLUMNS.names if column in row]
    known = ("tokens", "seconds", "attempts", "seed", "model", "host", "created")
    facts: dict[str, Any] = {column: row.get(column) for column in known}
    return Shown(
        name=name,
        image_sha256=row["image_sha256"],
        **_where(mates),
        caption=row["caption"] or "",
        flags=tuple(split_flags(row["flags"])),
        structured={column: row[column] for column in columns},
        text=mates[0]["text"] if texts and mates else None,
        **facts,
    )


def _without(
    name: str, row: dict[str, Any], mates: Sequence[dict[str, Any]], failures: dict[tuple[str, str], str]
) -> Shown:
    said = [
        failures[mate["item_id"], folder_of(name)]
        for mate in mates
        if (mate["item_id"], folder_of(name)) in failures
    ]
    if row["image_sha256"] is None:
        problem = "the item has no picture that could be read"
    else:
        problem = f"failed: {said[0]}" if said else "not captioned yet"
    return Shown(name=name, image_sha256=row["image_sha256"], **_where(mates), problem=problem)


# Statistics


@dataclass(frozen=True)
class CaptionStats:
    """Statistics of a set of captions.

    `useful` ones are neither empty nor refusing nor invalid; of `coverage`, ``orphans`` are captions whose picture is no
    item's any more. `words`, `characters`, `tokens` and `seconds` are quantiles and mean, {} of nothing;
    `tokens_per_second` is of one question at a time. In `vocabulary`, ``once`` are words that occur once, and
    ``moving_ratio`` is the mean type-token ratio of windows of 500 words, which unlike the plain one does not fall with size
    (MATTR, Covington and McFall 2010, doi:10.1080/09296171003643098). In `distinct`, ``repeated`` are captions whose text
    another one has too, white space and letter case aside.
    """

    name: str
    captions: int
    useful: int
    coverage: dict[str, Any]
    flags: dict[str, int]
    words: dict[str, float]
    characters: dict[str, float]
    attempts: dict[int, int]
    tokens: dict[str, float]
    seconds: dict[str, float]
    tokens_per_second: float | None
    vocabulary: dict[str, Any]
    common: list[dict[str, Any]] = field(default_factory=list)
    openings: list[dict[str, Any]] = field(default_factory=list)
    distinct: dict[str, Any] = field(default_factory=dict)
    structured: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def words_of(text: str) -> list[str]:
    """Words of a text in lower case; an apostrophe or a hyphen within does not end one.

    >>> words_of("Two cars, half-sunk. It's dusk")
    ['two', 'cars', 'half-sunk', "it's", 'dusk']
    """
    return _WORD.findall(text.lower())


def caption_stats(store: Store | str | Path, name: str = DEFAULT_NAME, *, top: int = 12) -> CaptionStats:
    """Count what captions are like, with `top` entries in each list of the commonest."""
    store = Store.of(store)
    table = captions_of(store, name)
    rows = table.read()
    captions = [caption or "" for caption in rows["caption"].to_pylist()]
    flags = [split_flags(one) for one in rows["flags"].to_pylist()]
    counted = Counter(flag for one in flags for flag in one)
    todo = plan(store, name, with_text=with_texts(table))
    split = [words_of(caption) for caption in captions]
    told = [words for words in split if words]
    tokens, seconds = rows["tokens"].to_pylist(), rows["seconds"].to_pylist()
    both = [(t, s) for t, s in zip(tokens, seconds, strict=True) if t is not None and s]
    attempts = Counter(n for n in rows["attempts"].to_pylist() if n is not None)
    return CaptionStats(
        name=name,
        captions=len(captions),
        useful=sum(
            bool(caption.strip()) and not set(USELESS) & set(one)
            for caption, one in zip(captions, flags, strict=True)
        ),
        coverage={
            "distinct": todo.distinct,
            "captioned": todo.done,
            "share": todo.done / todo.distinct if todo.distinct else None,
            "failed": todo.failed,
            "left": len(todo.jobs),
            "items_without_image": todo.without_image,
            "orphans": len(captions) - todo.done,
        },
        flags={**{flag: counted[flag] for flag in FLAGS}, "any": sum(bool(one) for one in flags)},
        words=_spread([len(words) for words in told]),
        characters=_spread([len(caption) for caption in captions if caption.strip()]),
        attempts=dict(sorted(attempts.items())),
        tokens=_spread([t for t in tokens if t is not None], total=True),
        seconds=_spread([s for s in seconds if s is not None], total=True),
        tokens_per_second=sum(t for t, _ in both) / sum(s for _, s in both) if both else None,
        vocabulary=_vocabulary(told),
        common=_common(told, top),
        openings=_openings(told, top),
        distinct=_repeats(captions),
        structured=_structured(rows.to_pylist(), top) if "damage" in rows.column_names else None,
    )


def _spread(values: Sequence[float], *, total: bool = False) -> dict[str, float]:
    """Quantiles and mean; {} of nothing."""
    if not values:
        return {}
    array = np.asarray(values, np.float64)
    found = dict(zip(_QUANTILES, np.quantile(array, list(_QUANTILES.values())).tolist(), strict=True))
    return {**found, "mean": float(array.mean()), **({"sum": float(array.sum())} if total else {})}


def _vocabulary(told: Sequence[Sequence[str]]) -> dict[str, Any]:
    counts = Counter(word for words in told for word in words)
    total = counts.total()
    return {
        "tokens": total,
        "types": len(counts),
        "once": sum(count == 1 for count in counts.values()),
        "type_token_ratio": len(counts) / total if total else None,
        "moving_ratio": moving_ratio(word for words in told for word in words),
    }


def moving_ratio(words: Iterable[str], window: int = WINDOW) -> float | None:
    """Mean share of distinct words in every window; None where there is not one."""
    held: deque[str] = deque()
    counts: Counter[str] = Counter()
    types, windows = 0, 0
    for word in words:
        held.append(word)
        counts[word] += 1
        if len(held) > window:
            gone = held.popleft()
            counts[gone] -= 1
            if not counts[gone]:
                del counts[gone]
        if len(held) == window:
            types += len(counts)
            windows += 1
    return types / (windows * window) if windows else None


def _common(told: Sequence[Sequence[str]], top: int) -> list[dict[str, Any]]:
    having = Counter(word for words in told for word in set(words))
    content = ((word, count) for word, count in _ranked(having) if word not in _FUNCTION_WORDS)
    return [
        {"word": word, "captions": count, "share": count / len(told)}
        for (word, count), _ in zip(content, range(top), strict=False)
    ]


def _openings(told: Sequence[Sequence[str]], top: int) -> list[dict[str, Any]]:
    begun = Counter(" ".join(words[:OPENING]) for words in told)
    return [
        {"opening": opening, "captions": count, "share": count / len(told)}
        for opening, count in _ranked(begun)[:top]
    ]


def _repeats(captions: Sequence[str]) -> dict[str, Any]:
    """Captions that are the same but for white space and letter case."""
    written: dict[str, str] = {}
    texts: Counter[str] = Counter()
    for caption in captions:
        plain = " ".join(caption.split())
        if plain:
            written.setdefault(plain.lower(), plain)
            texts[plain.lower()] += 1
    total = texts.total()
    repeated = sum(count for count in texts.values() if count > 1)
    often, times = _ranked(texts)[0] if texts else (None, 0)
    return {
        "texts": len(texts),
        "repeated": repeated,
        "share": repeated / total if total else None,
        "commonest": written[often] if often and times > 1 else None,
        "times": times if times > 1 else 0,
    }


def _structured(rows: Sequence[dict[str, Any]], top: int) -> dict[str, Any]:
    valid = [row for row in rows if row["damage"] is not None]
    objects = Counter(name for row in valid for name in {o.lower() for o in row["objects"] or ()})
    damage = Counter(row["damage"] for row in valid)
    sentiment = Counter(row["sentiment"] for row in valid)
    people = [row["people"] for row in valid if row["people"] is not None]
    return {
        "valid": len(valid),
        "damage": {level: damage[level] for level in DAMAGE},
        "sentiment": {level: sentiment[level] for level in SENTIMENT},
        "people": _spread(people),
        "with_people": sum(count > 0 for count in people),
        "with_text": sum(bool(row["visible_text"]) for row in valid),
        "objects": [{"object": name, "captions": count} for name, count in _ranked(objects)[:top]],
    }


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    """Commonest first, equals by the alphabet."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
