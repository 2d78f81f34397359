"""Judgements of near-duplicates by people: a CSV of them, the store's record by content, and groups changed by them.

Every file that is applied becomes one record in ``STORE/judgements/``, with who applied it, when, and what it says. A record
is never changed or removed; undoing one is a further record. What counts is the latest judgement of each pair among the
records that were not undone. Pairs are known by the SHA-256 of their contents, so that they hold again for renamed
files, other rows and later searches.
"""

from __future__ import annotations

import getpass
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..data.labels import as_known, lost_digits, normalise
from ..data.readers import read_rows
from ..errors import CorruptError, SourceError, StoreError, UsageError, count_of
from ..store.files import file_sha256, hold, publish, read_json, seal, unseal
from ..store.store import Store
from .groups import group_pairs
from .results import Measured, RankedItems, cluster_table

_FORMAT = 1

_YES = frozenset({"1", "1.0", "true", "yes", "y", "duplicate", "same"})
_NO = frozenset({"0", "0.0", "false", "no", "n", "different", "other"})


@dataclass(frozen=True)
class JudgedFile:
    """Judgements of a file, by item; only the ids have been looked up."""

    path: Path
    pairs: dict[tuple[str, str], bool]  # whether two items, the lower id first, are duplicates
    keep: list[str]  # items to keep, in the order of the rows
    problems: list[str]  # rows that were left out, each with its number, and why


@dataclass(frozen=True)
class Judged:
    """Judgements that count, by content: `pairs` (the lower SHA-256 first), and items to `keep`, latest last."""

    pairs: dict[tuple[str, str], bool] = field(default_factory=dict)
    keep: list[tuple[str, str]] = field(default_factory=list)  # content, item id
    #: content to the id under which it was judged, for messages
    names: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.pairs or self.keep)


@dataclass
class Regrouped:
    """Groups after judgements: each content's keeper, int64 (n,), and what the judgements did."""

    keeper: np.ndarray
    #: int64 (m, 2): judged pairs of contents that are here, ``i < j``
    same: np.ndarray
    different: np.ndarray
    kept: dict[int, str]  # content to the item that stands for it
    #: int64 (n,): equal for contents that were judged duplicates of one another, -1 for the others
    linked: np.ndarray
    conflicts: list[str] = field(default_factory=list)
    missing: int = 0  # judgements of contents that are not here

    @property
    def applied(self) -> int:
        """Number of judgements that counted."""
        return len(self.same) + len(self.different) + len(self.kept)

    def summary(self) -> dict[str, Any]:
        """JSON values, for ``summary.json``."""
        return {
            "applied": self.applied,
            "duplicate": len(self.same),
            "different": len(self.different),
            "keep": len(self.kept),
            "not_here": self.missing,
            "conflicts": self.conflicts,
            "notes": [self.note(), *self.conflicts],
        }

    def note(self) -> str:
        """One sentence for a user."""
        told = (
            f"{count_of(self.applied, 'judgement')} applied: {len(self.same)} duplicate, {len(self.different)} different, "
            f"{len(self.kept)} to keep"
        )
        return told + (
            f"; {count_of(self.missing, 'is', 'are')} of contents that are not here" if self.missing else ""
        )


def is_duplicate(label: str) -> bool | None:
    """Judgement of a pair by a label; None if it is none.

    >>> is_duplicate("1"), is_duplicate("No"), is_duplicate("perhaps")
    (True, False, None)
    """
    word = label.strip().lower()
    return True if word in _YES else False if word in _NO else None


def read_pairs(
    path: Path, optional: Sequence[str], known: pa.ChunkedArray | None
) -> tuple[set[str], list[str], list[tuple[Any, ...]]]:
    """Read a table of pairs of items, whose ids come in the spelling of those `known`.

    Gives the columns that there are, lines that cannot be read, and of each row its number (the header is row 1), why its
    ids cannot be what they were, and its `a`, `b`, `label` and `keep`, None where there is none.
    """
    rows = read_rows(path, lambda header: [n for n in ("a", "b", *optional) if n in header.columns])
    names = rows.table.column_names
    lost: dict[int, str] = {}
    cells: dict[str, list[str | None]] = {n: [None] * len(rows.numbers) for n in ("a", "b", "label", "keep")}
    for name in names:
        column = rows.table[name]
        if name != "label":
            lost |= lost_digits(column)
        plain = name == "label" or known is None
        cells[name] = (normalise(column) if plain else as_known(column, known)).to_pylist()
    numbers = [int(number) + 1 for number in rows.numbers]
    told = zip(numbers, map(lost.get, range(len(numbers))), *cells.values(), strict=True)
    return set(names), [f"{path}, {bad.where}: {bad.message}" for bad in rows.bad], list(told)


def read_judged(path: str | Path, known: pa.ChunkedArray) -> JudgedFile:
    """Read a table (CSV, TSV, JSON Lines, Parquet) with `a`, `b`, `label` (1 or 0) and perhaps `keep` (a or b, to be kept).

    `known` are the ids of the store. A row that cannot be used costs only itself; a SourceError says that none can be.
    """
    path = Path(path)
    names, problems, rows = read_pairs(path, ("label", "keep"), known)
    if not {"a", "b"} <= names or not names & {"label", "keep"}:
        raise SourceError(
            f"{path} needs the columns a and b (item ids), and label (1 or 0), keep (an item id) or both; the gallery's "
            "Save writes them"
        )
    ids = set(known.to_pylist())
    pairs: dict[tuple[str, str], bool] = {}
    first: dict[tuple[str, str], int] = {}
    contradicted: set[tuple[str, str]] = set()
    keep: dict[str, None] = {}
    for number, lost, a, b, label, kept in rows:
        reason = lost or _why_not(a, b, label, kept, ids)
        if reason is not None:
            problems.append(f"{path}, row {number}: {reason}")
            continue
        if label is not None:
            pair, same = (min(a, b), max(a, b)), bool(is_duplicate(label))
            if pairs.setdefault(pair, same) is not same:
                problems.append(
                    f"{path}, rows {first[pair]} and {number}: {a!r} and {b!r} are judged duplicates and different; "
                    "neither counts"
                )
                contradicted.add(pair)
            first.setdefault(pair, number)
        if kept is not None:
            keep.pop(kept, None)
            keep[kept] = None
    for pair in contradicted:
        del pairs[pair]
    if not pairs and not keep:
        why = problems[0] if problems else f"{path} has no rows"
        raise SourceError(f"no judgement of {path} can be used: {why}")
    return JudgedFile(path, pairs, list(keep), problems)


def _why_not(a: str | None, b: str | None, label: str | None, kept: str | None, ids: set[str]) -> str | None:
    """Why a row cannot be used; None if it can."""
    if not a or not b:
        return "needs two item ids, a and b"
    if a == b:
        return f"{a!r} is judged against itself"
    if unknown := [name for name in (a, b) if name not in ids]:
        return f"the store has no item {unknown[0]!r}"
    if label is None and kept is None:
        return "needs a label (1 or 0) or an item to keep"
    if label is not None and is_duplicate(label) is None:
        return f"the label is 1 or 0, not {label!r}"
    if kept is not None and kept not in (a, b):
        return f"keep is one of the two items, not {kept!r}"
    if kept is not None and label is not None and not is_duplicate(label):
        return f"{kept!r} is to be kept in place of an item that is judged different"
    return None


def record_judgements(
    store: Store, read: JudgedFile, key: str, *, by: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Append a file's judgements to the store's; gives the record, and what was not used or changes an earlier one.

    `key` is the column of items with the contents: ``image_sha256`` or ``text_sha256``. The same file again is no new
    record, unless a later one says something else of the same.
    """
    items = store.items.read(["item_id", key])
    content = dict(zip(items["item_id"].to_pylist(), items[key].cast(pa.string()).to_pylist(), strict=True))
    what, told = key.removesuffix("_sha256"), []
    pairs = []
    for (a, b), same in read.pairs.items():
        x, y = content.get(a), content.get(b)
        if x is None or y is None:
            told.append(f"{read.path}: {a!r} and {b!r}: one of them has no {what} now; not applied")
        elif x == y and not same:
            told.append(f"{read.path}: {a!r} and {b!r} are equal, byte for byte: not different; not applied")
        elif x != y:
            pairs.append({"a": x, "b": y, "id_a": a, "id_b": b, "duplicate": same})
    keep = [{"content": content[item], "id": item} for item in read.keep if content.get(item) is not None]
    told += [
        f"{read.path}: {item!r} has no {what} now; not applied"
        for item in read.keep
        if content.get(item) is None
    ]
    digest = file_sha256(read.path)
    folder = store.path / "judgements"
    folder.mkdir(exist_ok=True)
    with hold(folder):
        records = read_records(store)
        gone = _undone(records)
        counting = [
            one
            for one in records
            if one["kind"] == "judgements" and one["number"] not in gone and one["content"] == key
        ]
        earlier = next((one for one in reversed(counting) if one["sha256_of_file"] == digest), None)
        if earlier is not None and not _overruled(
            earlier, [one for one in counting if one["number"] > earlier["number"]]
        ):
            return earlier, told
        before = active_judgements(store, key, records)
        for pair in pairs:
            was = before.pairs.get(_ordered(pair["a"], pair["b"]))
            if was is not None and was is not pair["duplicate"]:
                words = ("different", "a duplicate")
                told.append(
                    f"{pair['id_a']!r} and {pair['id_b']!r}: judged {words[was]} before, {words[pair['duplicate']]} now; "
                    "the later judgement counts"
                )
        said = {
            "file": read.path.name,
            "sha256_of_file": digest,
            "content": key,
            "pairs": pairs,
            "keep": keep,
        }
        record = _append(folder, len(records) + 1, "judgements", by, **said)
    return record, told


def _overruled(record: dict[str, Any], later: Iterable[dict[str, Any]]) -> bool:
    """Whether later records judge a pair of this one otherwise, or keep something else."""
    said = {_ordered(pair["a"], pair["b"]): pair["duplicate"] for pair in record["pairs"]}
    keep = {(kept["content"], kept["id"]) for kept in record["keep"]}
    for other in later:
        pairs = {_ordered(pair["a"], pair["b"]): pair["duplicate"] for pair in other["pairs"]}
        if any(pairs.get(pair, same) is not same for pair, same in said.items()):
            return True
        if keep and not {(kept["content"], kept["id"]) for kept in other["keep"]} <= keep:
            return True
    return False


def undo_judgements(
    store: Store, key: str, file: str | Path | None = None, *, by: str | None = None
) -> dict[str, Any]:
    """Undo the latest record of judgements, or that of `file`, by a further record; gives the one that no longer counts.

    `key` says of which contents, as in `record_judgements`: those of others are left alone.
    """
    folder = store.path / "judgements"
    if not folder.is_dir():
        raise UsageError(
            f"{store.path} has no judgements to undo; `icehouse dups apply judged.csv` adds some"
        )
    with hold(folder):
        records = read_records(store)
        gone = _undone(records)
        left = [
            record
            for record in records
            if record["kind"] == "judgements" and record["number"] not in gone and record["content"] == key
        ]
        if file is not None:
            path = Path(file)
            digest = file_sha256(path) if path.is_file() else None
            named = [record for record in left if digest is not None and record["sha256_of_file"] == digest]
            named = named or [record for record in left if record["file"] == path.name]
            if not named:
                names = ", ".join(dict.fromkeys(record["file"] for record in left)) or "none"
                raise UsageError(f"no judgements of {path} count; there are those of: {names}")
            left = named
        if not left:
            what = {"image_sha256": "pictures", "text_sha256": "texts"}.get(key, key)
            raise UsageError(
                f"{store.path} has no judgements of {what} that count, so there is nothing to undo"
            )
        last = left[-1]
        _append(folder, len(records) + 1, "undo", by, undoes=last["number"])
    return last


def read_records(store: Store) -> list[dict[str, Any]]:
    """All records, oldest first; a CorruptError names one that is damaged."""
    folder = store.path / "judgements"
    records = []
    for path in sorted(folder.glob("[0-9]*.json")):
        try:
            record = unseal(read_json(folder, path.name), path.name)
            if record["format"] > _FORMAT:
                raise StoreError(f"{path} is of a later icehouse: update it")
            if record["kind"] == "judgements":
                for pair in record["pairs"]:
                    pair["a"], pair["b"], pair["duplicate"], pair["id_a"], pair["id_b"]
                for kept in record["keep"]:
                    kept["content"], kept["id"]
            record["number"], record["at"], record["kind"]
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptError(
                f"{path} is damaged ({error}): restore it from a backup, or remove it with its judgements"
            ) from error
        records.append(record)
    return records


def active_judgements(store: Store, key: str, records: Sequence[dict[str, Any]] | None = None) -> Judged:
    """Judgements of contents of one kind that count: the latest of each pair, of records that were not undone."""
    records = read_records(store) if records is None else records
    gone = _undone(records)
    judged = Judged()
    for record in records:
        if record["kind"] != "judgements" or record["number"] in gone or record["content"] != key:
            continue
        for pair in record["pairs"]:
            judged.pairs[_ordered(pair["a"], pair["b"])] = bool(pair["duplicate"])
            judged.names[pair["a"]], judged.names[pair["b"]] = pair["id_a"], pair["id_b"]
        for kept in record["keep"]:
            chosen = (kept["content"], kept["id"])
            if chosen in judged.keep:
                judged.keep.remove(chosen)
            judged.keep.append(chosen)
            judged.names.setdefault(*chosen)
    return judged


def _undone(records: Iterable[dict[str, Any]]) -> set[int]:
    return {record["undoes"] for record in records if record["kind"] == "undo"}


def _append(folder: Path, number: int, kind: str, by: str | None, **said: Any) -> dict[str, Any]:
    """Write a further record; gives it."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"format": _FORMAT, "kind": kind, "number": number, "at": at, "by": by or _user(), **said}
    name = f"{number:06d}.json"
    if (folder / name).exists():
        raise StoreError(
            f"{folder / name} is in the way: numbers of judgements have a gap; move it elsewhere"
        )
    text = json.dumps(seal(record, name), indent=1, ensure_ascii=True)
    try:
        with publish(folder / name) as temp:
            temp.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror or error}") from error
    return record


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"


def _ordered(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)


def regroup(
    keeper: np.ndarray,
    i: np.ndarray,
    j: np.ndarray,
    judged: Judged,
    contents: Sequence[str],
    *,
    method: str,
    barred: np.ndarray | None = None,
) -> Regrouped:
    """Change groups of contents by judgements.

    Contents are numbered by preference, as everywhere; `keeper` (n,) has each one's keeper as found, ``i < j`` (m,) the
    pairs found, `contents` (n,) the SHA-256 of each, and `barred` the codes ``i * n + j`` of pairs that no group may
    hold unless people say so. Groups that no judgement concerns stay as they are. "Different" takes the lesser of
    two members out of their group; what left is grouped anew, or taken by another keeper. "Duplicate" brings a content
    that is in another group to the better one's; where both lead groups, these become one. Where judgements
    contradict each other, contents stay apart, and it is told.
    """
    n = len(keeper)
    number = {sha: k for k, sha in enumerate(contents)}
    same: list[tuple[int, int]] = []
    different: list[tuple[int, int]] = []
    missing = 0
    for (one, other), duplicate in judged.pairs.items():
        x, y = number.get(one), number.get(other)
        if x is None or y is None:
            missing += 1
        else:
            (same if duplicate else different).append((min(x, y), max(x, y)))
    kept = {number[sha]: item for sha, item in judged.keep if sha in number}
    missing += sum(sha not in number for sha, _ in judged.keep)
    result = Regrouped(
        keeper.copy(), _rows(same), _rows(different), kept, np.full(n, -1, np.int64), missing=missing
    )

    def name(content: int) -> str:
        return repr(judged.names.get(contents[content], contents[content][:12]))

    apart = _apart(sorted(different))
    linked = _Linked(same, apart)
    for a, b, p, q in linked.contradictions:
        result.conflicts.append(
            f"{name(a)} and {name(b)} are judged duplicates, which makes {name(p)} and {name(q)} duplicates, judged "
            "different: these stay apart"
        )
    for place, members in enumerate(linked.parts()):
        result.linked[members] = place
        _bring_together(result.keeper, members, method)
    edges = _Edges(n, i, j, result, method, barred)
    _take_apart(result.keeper, linked, apart, edges)
    chosen: dict[int, int] = {}
    for content in kept:
        group = int(result.keeper[content])
        if group in chosen:
            result.conflicts.append(
                f"{name(chosen[group])} and {name(content)} are in one group, and both were to be kept: the later, "
                f"{name(content)}, is"
            )
        chosen[group] = content
    for group, content in chosen.items():
        result.keeper[result.keeper == group] = content
    return result


def _rows(pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


#: Contents that were judged different from each one.
_Apart = Mapping[int, set[int]]


def _apart(pairs: Iterable[tuple[int, int]]) -> _Apart:
    found: dict[int, set[int]] = {}
    for a, b in pairs:
        found.setdefault(a, set()).add(b)
        found.setdefault(b, set()).add(a)
    return found


def _clash(one: Iterable[int], other: set[int], apart: _Apart) -> tuple[int, int] | None:
    """A pair of the two sets that was judged different."""
    return next(((x, y) for x in one for y in apart.get(x, ()) if y in other), None)


class _Linked:
    """Contents that were judged duplicates, as far as no judgement contradicts what follows from them."""

    def __init__(self, pairs: Iterable[tuple[int, int]], apart: _Apart) -> None:
        self._part: dict[int, set[int]] = {}
        self.contradictions: list[tuple[int, int, int, int]] = []
        for a, b in sorted(pairs):
            one, other = self.of(a), self.of(b)
            if one is other:
                continue
            if (clash := _clash(one, other, apart)) is not None:
                self.contradictions.append((a, b, *clash))
                continue
            one |= other
            for member in one:
                self._part[member] = one

    def of(self, content: int) -> set[int]:
        """All contents that were judged duplicates of this one, itself among them."""
        return self._part.setdefault(content, {content})

    def parts(self) -> list[list[int]]:
        """Sets of several such contents, each ascending."""
        found = {id(part): part for part in self._part.values() if len(part) > 1}
        return sorted(sorted(part) for part in found.values())


def _bring_together(keeper: np.ndarray, members: list[int], method: str) -> None:
    """Put contents that were judged duplicates, ascending, into one group.

    Components become one. Of stars and cliques no member is farther from its keeper than one pair that was found: members
    go to a keeper, and where several lead groups these become one.
    """
    groups = sorted({int(keeper[member]) for member in members})
    if len(groups) == 1:
        return
    leads = groups if method == "components" else [member for member in members if keeper[member] == member]
    target = int(keeper[(leads or members)[0]])
    for lead in leads[1:]:
        keeper[keeper == lead] = target
    keeper[members] = target
    if target in members and members[0] < target:
        # One of those that are the same is the better file.
        keeper[keeper == target] = members[0]


@dataclass
class _Edges:
    """Pairs that groups may be made of: those found, without what was judged different, and what was judged a duplicate."""

    n: int
    i: np.ndarray
    j: np.ndarray
    judged: Regrouped
    method: str
    barred: np.ndarray | None

    def __post_init__(self) -> None:
        codes = self.i * self.n + self.j
        codes = codes[~np.isin(codes, self._codes(self.judged.different))]
        self.found = np.unique(codes)
        self.all = np.union1d(self.found, self._codes(self.judged.same))

    def _codes(self, pairs: np.ndarray) -> np.ndarray:
        codes: np.ndarray = pairs[:, 0] * self.n + pairs[:, 1]
        return codes

    def group(self, members: np.ndarray) -> np.ndarray:
        """Keepers of some contents, ascending, by the pairs among them."""
        i, j = np.divmod(self.all, max(self.n, 1))
        inside = np.isin(i, members) & np.isin(j, members)
        ends = np.searchsorted(members, np.stack([i[inside], j[inside]]))
        keepers: np.ndarray = members[group_pairs(len(members), ends[0], ends[1], self.method)]
        return keepers

    def found_with(self, content: int) -> np.ndarray:
        """Contents that were found to be like this one, ascending."""
        i, j = np.divmod(self.found, max(self.n, 1))
        return np.sort(np.concatenate([i[j == content], j[i == content]]))

    def bars(self, one: Iterable[int], other: Iterable[int]) -> bool:
        """Whether no group may hold both."""
        if self.barred is None or not len(self.barred):
            return False
        pairs = np.array([sorted(pair) for pair in itertools.product(one, other)], np.int64).reshape(-1, 2)
        return bool(np.isin(self._codes(pairs), self.barred).any())


def _take_apart(keeper: np.ndarray, linked: _Linked, apart: _Apart, edges: _Edges) -> None:
    """Take one of two contents that were judged different out of their group; those taken out are grouped anew."""
    leaving: set[int] = set()

    def drop(contents: Iterable[int]) -> None:
        for content in contents:
            keeper[content] = content
            leaving.add(content)

    for (
        a,
        b,
    ) in edges.judged.different.tolist():  # ascending, so that the better content's judgements come first
        if keeper[a] != keeper[b]:
            continue
        lead = int(keeper[a])
        drop(linked.of(a if lead in linked.of(b) else b))
        if edges.method == "components":
            # What the group held by way of those that left does not belong to it any more.
            rest = np.flatnonzero(keeper == lead)
            drop(rest[edges.group(rest) != lead].tolist())
    if not leaving:
        return
    out = np.array(sorted(leaving))
    again = dict(zip(out.tolist(), edges.group(out).tolist(), strict=True))
    # Whole sets of judged duplicates move, and only to where nothing was judged different from them.
    groups: dict[int, set[int]] = {}
    for best in out.tolist():
        part = linked.of(best)
        if best != min(part):
            continue
        wanted = again[best]
        wanted = best if wanted == best else int(keeper[wanted])
        held = groups.get(wanted, set())
        if _clash(part, held, apart) is not None or edges.bars(part, held):
            wanted = best
        groups.setdefault(wanted, set()).update(part)
        keeper[sorted(part)] = wanted
    # What is left alone may be like another keeper, which had been the second choice.
    for lead, members in groups.items():
        if members != linked.of(lead):
            continue
        for other in edges.found_with(lead).tolist():
            held = set(np.flatnonzero(keeper == other).tolist()) if keeper[other] == other else set()
            free = held and other not in leaving and _clash(members, held, apart) is None
            if free and not edges.bars(members, held):
                keeper[sorted(members)] = other
                break


#: The kind of a pair, or of a member of a group, that no stage found, and people judged a duplicate.
JUDGED = "judged"

#: Pairs that a search found and people judged different, and the groups as found; both only where judgements count.
DIFFERENT, AS_FOUND = "different.parquet", "as-found.parquet"


def content_pairs(table: pa.Table | pa.RecordBatch, ranked: RankedItems) -> tuple[np.ndarray, np.ndarray]:
    """Numbers ``i <= j`` of the contents of pairs of items."""
    a, b = content_ends(table, ranked)
    return np.minimum(a, b), np.maximum(a, b)


def content_ends(table: pa.Table | pa.RecordBatch, ranked: RankedItems) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the contents of `id_a` and of `id_b`."""
    a, b = (
        ranked.content[pc.index_in(table[name], value_set=ranked.ids).to_numpy(zero_copy_only=False)]
        for name in ("id_a", "id_b")
    )
    return a, b


def judge_groups(
    folder: Path,
    ranked: RankedItems,
    keeper: np.ndarray,
    contents: Measured,
    shas: Sequence[str],
    judged: Judged,
    method: str,
    variants: str,
    why: Mapping[int, str] | None = None,
) -> tuple[Regrouped, RankedItems]:
    """Apply judgements to the results in `folder`: ``pairs.parquet`` is there as found, and `keeper` as found.

    Writes what was found beside it, and gives the groups, and the items with those to keep as the best of their contents.
    """
    as_found = cluster_table(ranked, keeper, contents, np.arange(len(ranked.ids)), why=why)
    pq.write_table(as_found, folder / AS_FOUND, compression="zstd")
    n = len(keeper)
    pairs = pq.read_table(folder / "pairs.parquet", columns=["id_a", "id_b", "kind"])
    i, j = content_pairs(pairs, ranked)
    variant = pc.equal(pairs["kind"], "variant").to_numpy() & (variants == "keep")
    variant = (variant | pc.equal(pairs["kind"], "container").to_numpy()) & (i < j)
    plain = (i < j) & ~variant
    del pairs
    changed = regroup(
        keeper, i[plain], j[plain], judged, shas, method=method, barred=i[variant] * n + j[variant]
    )
    _split_pairs(folder, ranked, changed, contents)
    best = ranked.best.copy()
    number = {item: row for row, item in enumerate(ranked.ids.to_pylist())} if changed.kept else {}
    for content, item in changed.kept.items():
        row = number.get(item)
        if row is not None and ranked.content[row] == content:
            best[content] = row
    return changed, replace(ranked, best=best)


def _split_pairs(folder: Path, ranked: RankedItems, changed: Regrouped, contents: Measured) -> None:
    """Move pairs that were judged different out of ``pairs.parquet``, and add those that only people call duplicates."""
    n = len(changed.keeper)
    different, same = (pairs[:, 0] * n + pairs[:, 1] for pairs in (changed.different, changed.same))
    rest = folder / "pairs-judged.parquet"
    found = np.zeros(len(same), bool)
    with pq.ParquetFile(folder / "pairs.parquet") as file:
        schema = file.schema_arrow
        with (
            pq.ParquetWriter(folder / DIFFERENT, schema, compression="zstd") as apart,
            pq.ParquetWriter(rest, schema, compression="zstd") as writer,
        ):
            for batch in file.iter_batches():
                i, j = content_pairs(batch, ranked)
                out = np.isin(i * n + j, different)
                found |= np.isin(same, i * n + j)
                for target, mask in ((apart, out), (writer, ~out)):
                    if mask.any():
                        target.write_batch(batch.filter(pa.array(mask)))
            if not found.all():
                writer.write_table(_judged_rows(ranked, changed.same[~found], contents, schema))
    rest.replace(folder / "pairs.parquet")


def _judged_rows(ranked: RankedItems, pairs: np.ndarray, contents: Measured, schema: pa.Schema) -> pa.Table:
    """Rows of ``pairs.parquet`` for pairs of contents that no stage found."""
    measured = contents.judge(pairs[:, 0], pairs[:, 1])
    a, b = ranked.best[pairs[:, 0]], ranked.best[pairs[:, 1]]
    turned = ranked.alphabet[a] > ranked.alphabet[b]
    no = pa.array(np.zeros(len(pairs), bool))
    values = {
        "id_a": ranked.ids.take(pa.array(np.where(turned, b, a))),
        "id_b": ranked.ids.take(pa.array(np.where(turned, a, b))),
        "kind": pa.array([JUDGED] * len(pairs)),
        "exact": no,
        "perceptual": no,
        "embedding": no,
        "hamming": pa.array(measured.hamming.clip(0).astype(np.uint8), mask=measured.hamming < 0),
        "cosine": pa.array(measured.cosine, mask=np.isnan(measured.cosine)),
    }
    return pa.table(
        [values[f.name] if f.name in values else pa.nulls(len(pairs), f.type) for f in schema], schema=schema
    )


def mark_judged(clusters: pa.Table, ranked: RankedItems, changed: Regrouped) -> pa.Table:
    """Give members that are with their keeper by a judgement alone the kind `JUDGED`."""
    rows = pc.index_in(clusters["item_id"], value_set=ranked.ids).to_numpy()
    content = ranked.content[rows]
    linked = changed.linked[content]
    by_hand = (linked >= 0) & (linked == changed.linked[changed.keeper[content]])
    unfound = pc.fill_null(pc.equal(clusters["kind"], "variant"), True)
    unfound = pc.and_(unfound, pc.invert(clusters["keeper"]))
    kind = pc.if_else(pc.and_(unfound, pa.array(by_hand)), pa.scalar(JUDGED), clusters["kind"])
    return clusters.set_column(clusters.schema.get_field_index("kind"), clusters.schema.field("kind"), kind)


def found_pairs(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Pairs as a search found them, whatever was judged since."""
    for name in ("pairs.parquet", DIFFERENT):
        if (path / name).exists():
            with pq.ParquetFile(path / name) as file:
                for batch in file.iter_batches(columns=[*dict.fromkeys([*columns, "kind"])]):
                    yield batch.filter(pc.not_equal(batch["kind"], JUDGED)).select(list(columns))
