"""Looking at captions: what sets there are, what was said of an item, and some of them drawn at random."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...data import image_files
from ...errors import ImageError, UsageError
from ...store.sql import view_names
from ...store.store import Store
from ...store.table import Table
from .structured import COLUMNS
from .table import DEFAULT_NAME, STAGE, caption_key, captions_of, folder_of, names_of

__all__ = [
    "CaptionSet",
    "Shown",
    "list_captions",
    "sample_captions",
    "show_captions",
    "view_of",
    "with_texts",
]

_SHA = re.compile(r"[0-9a-f]{6,64}", re.IGNORECASE)
_ITEM = ["item_id", "path", "root", "image_sha256", "missing"]


@dataclass(frozen=True)
class CaptionSet:
    """The captions of one name, and what they were made with.

    Attributes
    ----------
    rows : int
    model, digest : str or None
        None for captions that were imported.
    asked : str
        The prompt's preset, else "own prompt"; for imported captions the file's name.
    prompt : str or None
    with_text, structured : bool
    options : dict
        Of the first question: temperature, seed, most tokens.
    servers : list of str
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
    """A caption with all that is known of it, or why there is none.

    Attributes
    ----------
    name : str
        Name of the captions.
    image_sha256 : str or None
    items : tuple of str
        Ids of the items that have this caption, in the store's order; none if they have left the store.
    paths : tuple of str
        As the items name them.
    files : tuple of Path
        Where the picture is, or was.
    caption : str or None
    flags : tuple of str
    structured : dict
        Columns of `icehouse.embed.captions.structured.COLUMNS`, where the captions have them.
    text : str or None
        The post's text, where it went into the prompt.
    tokens, seconds, attempts, seed, model, host, created
        As in the table.
    problem : str or None
        Why there is no caption.
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


def with_texts(table: Table) -> bool:
    """Whether captions of a table belong to a picture and a text, not to a picture alone."""
    return bool((table.spec.get("provenance") or {}).get("text"))


def view_of(store: Store, name: str) -> str | None:
    """Name of the view that SQL has of these captions; None where other captions have taken it ("a-b" and "a_b")."""
    names = view_names(store.table_names()).get(folder_of(name), [])
    return names[0] if names else None


def list_captions(store: Store | str | Path) -> list[CaptionSet]:
    """Tell what captions a store has, by name."""
    store = store if isinstance(store, Store) else Store.open(store)
    return [_about(name, captions_of(store, name)) for name in names_of(store)]


def show_captions(store: Store | str | Path, wanted: Sequence[str], names: Sequence[str] = ()) -> list[Shown]:
    """Look up what was said of items.

    Parameters
    ----------
    store : Store, str or Path
    wanted : sequence of str
        Each an item's id, a path as the store has it or on this machine, a file's name, or at least six digits that a
        picture's sha256 begins with; the first of these that fits. Copies of a picture share its captions.
    names : sequence of str
        Names of captions, by default all.

    Returns
    -------
    list of Shown
        In the order asked for, one for each name; several where a path fits several pictures.

    Raises
    ------
    UsageError
        If nothing in the store fits one of `wanted`.
    CaptionError
        If there are no captions of that name, or none at all.
    """
    store = store if isinstance(store, Store) else Store.open(store)
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
    shas = pa.array({row["image_sha256"] for row in chosen} - {None}, pa.string())
    copies = items.filter(pc.is_in(items["image_sha256"], value_set=shas)).to_pylist()
    failures = _failures(store)
    shown: dict[tuple[int, str], Shown] = {}
    for name, table in tables.items():
        texts = with_texts(table)
        keys = {_key(row, texts) for row in chosen} - {None}
        rows = {row["caption_key"]: row for row in _rows(table, keys)}
        told: set[str] = set()
        for at, row in enumerate(chosen):
            key = _key(row, texts)
            if (key or row["item_id"]) in told:
                continue
            told.add(key or row["item_id"])
            mates = [row] if key is None else [mate for mate in copies if _key(mate, texts) == key]
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
    """Draw captions at random, without repetition.

    Parameters
    ----------
    store : Store, str or Path
    name : str, default "default"
    n : int, default 20
        At most so many.
    seed : int, default 0
        The same seed draws the same of the same captions, in whatever order they were made.
    flagged : bool, default False
        Draw only from those that carry a flag.

    Raises
    ------
    UsageError
        If `n` or `seed` is negative.
    CaptionError
        If there are no captions of that name.
    """
    for option, value in (("-n", n), ("--seed", seed)):
        if value < 0:
            raise UsageError(f"{option} {value}: 0 or more")
    store = store if isinstance(store, Store) else Store.open(store)
    table = captions_of(store, name)
    keys = table.read(["caption_key", "flags"])
    if flagged:
        keys = keys.filter(pc.fill_null(pc.not_equal(keys["flags"], ""), False))
    ordered = sorted(keys["caption_key"].to_pylist())
    drawn = np.random.default_rng(seed).permutation(len(ordered))[:n].tolist()
    chosen = [ordered[i] for i in drawn]
    rows = {row["caption_key"]: row for row in _rows(table, chosen)}
    texts = with_texts(table)
    shas = pa.array({row["image_sha256"] for row in rows.values()}, pa.string())
    items = store.items.read([*_ITEM, *(("text", "text_sha256") if texts else ())])
    mates: dict[str | None, list[dict[str, Any]]] = {}
    for item in items.filter(pc.is_in(items["image_sha256"], value_set=shas)).to_pylist():
        mates.setdefault(_key(item, texts), []).append(item)
    return [_shown(name, rows[key], mates.get(key, []), texts) for key in chosen]


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
        same = items.filter(pc.equal(items["image_sha256"], _sha256(file)))
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


def _sha256(file: Path) -> str:
    try:
        return hashlib.sha256(image_files.read(file)[0]).hexdigest()
    except (ImageError, OSError):
        return ""


def _key(item: dict[str, Any], texts: bool) -> str | None:
    if item["image_sha256"] is None:
        return None
    return caption_key(item["image_sha256"], item["text_sha256"] if texts else None)


def _rows(table: Table, keys: Iterable[str | None]) -> list[dict[str, Any]]:
    snapshot = table.snapshot()
    wanted = pa.array(list(keys), pa.string())
    found: list[dict[str, Any]] = []
    for batch in snapshot.batches():
        found += batch.filter(pc.is_in(batch["caption_key"], value_set=wanted)).to_pylist()
    return found


def _failures(store: Store) -> dict[tuple[str, str], str]:
    ledger = store.failures.read(["item_id", "stage", "encoder", "message"])
    ours = ledger.filter(pc.fill_null(pc.equal(ledger["stage"], STAGE), False))
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
        flags=tuple(flag for flag in (row["flags"] or "").split(",") if flag),
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
