"""Rows of annotation files to items: what each is called, where its image is, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import SourceError
from .columns import Columns, choose_columns
from .paths import locate_images
from .pieces import Piece, Rejected, absolute, items_table, short, show
from .readers import Rows, read_rows
from .splits import canonical_split

if TYPE_CHECKING:
    from .manifest import SourceOptions
    from .presets import Preset

__all__ = ["read_annotations"]

_NULL = pa.scalar(None, pa.string())


def read_annotations(
    path: Path,
    root: str | None,
    options: SourceOptions,
    preset: Preset | None = None,
    task: str | None = None,
    start: str | None = None,
) -> Piece:
    """Read one annotation file.

    Parameters
    ----------
    path : Path
    root : str or None
        Absolute folder of the images; None for the file's own.
    options : SourceOptions
    preset : Preset, optional
    task : str, optional
        Name labels and splits after this task of the preset.
    start : str, optional
        Absolute folder that image paths start from, where that is not the root, which ids start from.
    """
    chosen = Columns()

    def choose(columns: Sequence[str], unusable: Mapping[str, str]) -> Sequence[str]:
        nonlocal chosen
        chosen = choose_columns(path, columns, unusable, options, preset)
        return chosen.wanted()

    quotes = options.quotes
    if quotes == "auto" and preset is not None and path.suffix.lower() == ".tsv":
        quotes = preset.quotes
    rows = read_rows(path, choose, encoding=options.encoding, quotes=quotes)
    if not len(rows.numbers) and not rows.bad:
        raise SourceError(f"{path} has a header and no rows")
    notes = [*rows.notes, *chosen.notes]
    root = root or absolute(path.parent)
    n = len(rows.numbers)

    handles = _strings([f"{path.stem}:{number}" for number in rows.numbers])
    text = _strings([None] * n)
    for name in chosen.texts:
        text = pc.coalesce(text, _not_blank(rows.table[name]))
    raw = _not_blank(rows.table[chosen.image]) if chosen.image is not None else _strings([None] * n)
    located = locate_images(raw, root, (start or root, absolute(path.parent)))
    image, reasons = located.paths, located.reasons
    notes += [f"{path.name}: {note}" for note in located.notes]
    # Without the file's name: said once for a root, not once a file.
    notes += [] if located.advice is None else [located.advice]
    given = _not_empty(rows.table[chosen.id]) if chosen.id is not None else None
    split, kept = _labels_and_split(path, rows, chosen, options, preset, task, notes)

    # The first reason stands: a bad path says more than what follows from it.
    if given is not None:
        reasons = _also(reasons, pc.is_null(given), f"no id in column {chosen.id!r}")
    reasons = _also(reasons, pc.and_(pc.is_null(raw), pc.is_null(text)), "neither an image nor a text")
    rejected: list[Rejected] = [
        (f"{path.stem}:{bad.number}", None, f"{path}, {bad.where}: {bad.message}") for bad in rows.bad
    ]
    names = handles if given is None else pc.coalesce(given, handles)
    for i, reason in sorted(reasons.items()):
        shown = raw[i].as_py()
        where = f"{path}, row {rows.numbers[i]}: {reason}"
        rejected.append((short(names[i].as_py()), None if shown is None else short(shown), where))

    ids = pc.coalesce(image, handles) if given is None else given
    there = pc.if_else(pc.is_valid(image), root, _NULL)
    table = items_table(ids, image, there, absolute(path), text, split, kept)
    keep = np.ones(n, bool)
    keep[list(reasons)] = False
    if reasons:
        table = table.filter(pa.array(keep))
    return Piece(str(path), table, rows.numbers[keep], rejected, notes)


def _labels_and_split(
    path: Path,
    rows: Rows,
    chosen: Columns,
    options: SourceOptions,
    preset: Preset | None,
    task: str | None,
    notes: list[str],
) -> tuple[pa.ChunkedArray | str | None, dict[str, pa.ChunkedArray]]:
    """The split of the rows, and the columns kept beside."""
    kept = {name: _not_empty(rows.table[column]) for name, column in chosen.kept.items()}
    if preset is not None and not options.label_columns:
        for derived in preset.derived:
            if derived.column in kept and derived.task in (None, preset.task_of(path.stem)):
                kept[derived.name] = _merge_classes(kept[derived.column], derived.merged)

    split: pa.ChunkedArray | str | None
    if chosen.split is not None:
        split = _canonical(_not_empty(rows.table[chosen.split]), path.name, notes)
    elif options.split is not None:
        split = canonical_split(options.split)
    else:
        split = preset.split_of(path.stem) if preset is not None else None
        if split is None and preset is not None:
            notes.append(f"{path.name}: its name tells no split; --split or --split-column does")
    if task is None:
        return split, kept

    named = {
        task + name.removeprefix("label") if name.startswith("label") else name: c for name, c in kept.items()
    }
    if options.split is not None or split is None:
        return split, named
    column = _strings([split] * len(rows.numbers)) if isinstance(split, str) else split
    return None, named | {f"split_{task}": column}


def _strings(values: Sequence[str | None]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.string())])


def _not_empty(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(column, ""), _NULL, column)


def _not_blank(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), _NULL, column)


def _also(reasons: dict[int, str], mask: pa.ChunkedArray, reason: str) -> dict[int, str]:
    return dict.fromkeys(np.flatnonzero(mask.to_numpy()).tolist(), reason) | reasons


def _merge_classes(column: pa.ChunkedArray, merged: Mapping[str, str]) -> pa.ChunkedArray:
    place = pc.index_in(column, value_set=pa.array(list(merged), pa.string()))
    return pc.coalesce(pc.take(pa.array(list(merged.values()), pa.string()), place), column)


def _canonical(column: pa.ChunkedArray, name: str, notes: list[str]) -> pa.ChunkedArray:
    """Splits by their one name ("val" is "dev"), with a note where that changed one."""
    values = pc.unique(column).drop_null()
    names = [canonical_split(value) for value in values.to_pylist()]
    changed = [f"{show(a)} is {b!r}" for a, b in zip(values.to_pylist(), names, strict=True) if a != b]
    if not changed:
        return column
    notes.append(f"{name}: splits by their usual names: {', '.join(changed[:5])}")
    return pc.take(pa.array(names, pa.string()), pc.index_in(column, value_set=values))
