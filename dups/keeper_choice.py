"""Keeper choice: the best copy of each found group, by the facts of its pictures, and in words why.

Groups are found in an order of preference that is known without opening a picture (`icehouse.dups.groups.preference`).
Only then, and only of what is in a group, files are read at full size: pictures without a copy cost nothing. The facts are
kept in the store. Of each group the member with the highest score leads; it is compared with the others, which may add to
its faults or to theirs, and again until the first one stays the first. A star is made again in that order from the same
pairs: every member is a near-duplicate of its keeper still, and what is not leaves the group and is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import __version__
from ..data.image_files import read as read_image
from ..errors import ImageError
from ..store.files import publish
from ..store.store import Store
from .pairs import Contents
from .quality import (
    BINS,
    FACTS,
    FACTS_VERSION,
    RELATIONS_VERSION,
    SMALL,
    Facts,
    Relation,
    compare,
    measure,
)
from .results import RankedItems

#: Members of a group, those preferred, that are measured: frames of a film by the thousand are as good as one another.
MAX_MEASURED = 64

_TABLE = f"hashes/facts{FACTS_VERSION}"
_SCHEMA = pa.schema(
    [
        pa.field("image_sha256", pa.string(), False),
        # None of a picture all of one colour.
        pa.field("facts", pa.list_(pa.float32(), len(FACTS))),
        pa.field("spectra", pa.list_(pa.float32(), 2 * BINS)),
        pa.field("small", pa.binary(SMALL * SMALL)),
    ]
)
_BATCH = 512
_HELD = 2000  # members of groups whose facts are held at once
_ROUNDS = 8

#: Octaves within which scores are equal.
_TIE = 0.17

#: What is said of a keeper that lacks a fault of another member.
_WORDS = {
    "enlarged": "not enlarged", "compressed": "less compressed", "again": "not compressed twice", "halos": "not sharpened",
    "palette": "all its colours", "grey": "in colour", "noise": "less noise", "framed": "no frame or band",
    "surrounded": "no frame or band", "corners": "not turned", "overlaid": "nothing laid over it",
    "cropped": "the whole picture",
}  # fmt: skip

#: Octaves from which on a difference is told, and how many are.
_TOLD, _MOST = 0.15, 3


#: Comparisons of two pictures that are kept; those of a new search go before those of earlier ones.
_MOST_RELATIONS = 200_000


class _Relations:
    """Relations of pictures that were compared, by their digests; kept in the store's disposable cache."""

    def __init__(self, store: Store) -> None:
        self.file = store.path / "cache" / "relations.json"
        self.version = f"{__version__}, {FACTS_VERSION}, {RELATIONS_VERSION}"
        self.held: dict[str, tuple[dict[str, float], dict[str, float]]] = {}
        self.used: dict[str, tuple[dict[str, float], dict[str, float]]] = {}
        self.new = False
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            read = json.loads(self.file.read_bytes())
            if read["version"] == self.version:
                self.held = {str(key): _checked(*said) for key, said in read["relations"].items()}

    def of(self, facts: Facts, a: int, b: int, digests: list[str]) -> Relation:
        """Compare two pictures by their places among the facts and the digests, unless they were compared before."""
        key = f"{digests[a]} {digests[b]}"
        said = self.held.get(key) or self.used.get(key)
        if said is None:
            made = compare(facts, a, b)
            said = _checked(made.first, made.second)
            self.new = True
        self.used[key] = said
        return Relation(*said)

    def keep(self) -> None:
        """Write them, if any is new."""
        if not self.new:
            return
        known = {**self.used, **{key: said for key, said in self.held.items() if key not in self.used}}
        kept = dict(list(known.items())[:_MOST_RELATIONS])
        text = json.dumps({"version": self.version, "relations": kept})
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with publish(self.file) as temp:
                temp.write_text(text, encoding="utf-8")


def _checked(*said: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    first, second = ({str(name): float(cost) for name, cost in one.items()} for one in said)
    return first, second


@dataclass
class Chosen:
    """Keepers of contents, int64 (n,), and why each of those that were measured was chosen, by its number."""

    keeper: np.ndarray
    why: dict[int, str] = field(default_factory=dict)


def choose_keepers(
    store: Store,
    ranked: RankedItems,
    digests: Callable[[], list[str]],
    keeper: np.ndarray,
    contents: Contents,
    standing: np.ndarray,
    *,
    star: bool,
    progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
) -> Chosen:
    """Choose the keeper of each group by the quality of its pictures.

    `digests` gives the sha256 of each content, `keeper` the groups as they were found, and `standing` int (n,) what goes
    before quality: of two contents that with the lower one is kept. With `star` every member is a neighbour of its keeper.
    """
    order = np.argsort(keeper, kind="stable")
    _, starts, counts = np.unique(keeper[order], return_index=True, return_counts=True)
    groups = [
        order[a : a + m]
        for a, m in zip(starts[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True)
    ]
    chosen = Chosen(keeper.copy())
    if not groups:
        return chosen
    wanted = np.concatenate([group[:MAX_MEASURED] for group in groups])
    known = digests()
    files = ranked.files.take(pa.array(ranked.best[wanted])).to_pylist()
    sources = dict(zip((known[number] for number in wanted.tolist()), files, strict=True))
    _make(store, sources, progress, threads)
    ages = ranked.times[ranked.best]
    held: list[np.ndarray] = []
    relations = _Relations(store)
    for place, group in enumerate(groups, 1):
        held.append(group)
        if sum(map(len, held)) < _HELD and place < len(groups):
            continue
        read = _read_facts(store, [known[i] for one in held for i in one[:MAX_MEASURED].tolist()])
        for one in held:
            measured = [known[i] for i in one[:MAX_MEASURED].tolist()]
            facts = _facts(read, measured)
            _choose(one, facts, measured, relations, contents, standing, ages, star, chosen)
        held = []
    relations.keep()
    return chosen


def _choose(
    group: np.ndarray,
    facts: Facts,
    digests: list[str],
    relations: _Relations,
    contents: Contents,
    standing: np.ndarray,
    ages: np.ndarray,
    star: bool,
    chosen: Chosen,
) -> None:
    """Choose the keeper of one group, of contents in order of preference."""
    measured = group[:MAX_MEASURED]
    base = facts.score()
    if np.isfinite(base).sum() < 2:
        return
    faults: list[dict[str, float]] = [{} for _ in measured]
    compared: set[tuple[int, int]] = set()

    def ordered() -> np.ndarray:
        score = np.round(base - np.array([sum(each.values()) for each in faults]), 6)
        # NaN goes last; equal ones stand in the order of preference.
        by = np.lexsort((np.arange(len(measured)), -score, standing[measured]))
        # What differs by less than can be measured differs by age: a copy is the younger.
        level = (standing[measured] == standing[measured[by[0]]]) & (score >= score[by[0]] - _TIE)
        oldest = (
            np.flatnonzero(level)[np.argsort(ages[measured[level]], kind="stable")[0]]
            if level.any()
            else by[0]
        )
        return np.concatenate([[oldest], by[by != oldest]])

    by = ordered()
    for _ in range(_ROUNDS):
        first = int(by[0])
        for other in by[1:].tolist():
            pair = (min(first, other), max(first, other))
            if pair in compared or not np.isfinite(base[[first, other]]).all():
                continue
            compared.add(pair)
            relation = relations.of(facts, *pair, digests)
            for place, told in zip(pair, (relation.first, relation.second), strict=True):
                for name, cost in told.items():
                    faults[place][name] = max(faults[place].get(name, 0.0), cost)
        by = ordered()
        if by[0] == first:
            break
    # Members that were not measured follow in their order.
    left = np.concatenate([measured[by], group[MAX_MEASURED:]])
    best = int(left[0])
    if np.isfinite(base[by[0]]) and (said := _reason(facts, faults, by)):
        chosen.why[best] = said
    while len(left):
        lead, others = left[0], left[1:]
        near = np.ones(len(others), bool)
        if star and len(others):
            i, j = np.minimum(lead, others), np.maximum(lead, others)
            found = contents.judge(i, j)
            joined = contents.joined(found)
            near = (found.perceptual | found.embedding) & np.isin(
                i * len(contents) + j, joined[0] * len(contents) + joined[1]
            )
        chosen.keeper[lead] = lead
        chosen.keeper[others[near]] = lead
        left = others[~near]


def _reason(facts: Facts, faults: list[dict[str, float]], by: np.ndarray) -> str:
    """In what the first is better than the others, the most telling first."""
    losses = facts.losses()
    first, others = int(by[0]), by[1:]
    effective = facts.effective()
    told: dict[str, float] = {}
    for name, words in _WORDS.items():
        of = np.array([each.get(name, 0.0) for each in faults])
        if name in losses:
            of = of + losses[name]
        more = float(np.nanmax(of[others] - of[first]))
        if more > _TOLD:
            told[words] = max(told.get(words, 0.0), more)
    second = int(others[0])
    gap = effective[first] - effective[second]
    gap -= sum(
        faults[first].get(name, 0.0) - faults[second].get(name, 0.0)
        for name in ("enlarged", "even", "surrounded")
    )
    if gap > _TOLD:
        told[f"{2**gap:.2g}× the detail"] = float(gap)
    return ", ".join(sorted(told, key=lambda words: -told[words])[:_MOST])


def _read_facts(store: Store, digests: list[str]) -> dict[str, tuple[Any, ...]]:
    """Facts, spectra and small pictures of some contents, of those that have them."""
    wanted = pa.array(digests, pa.string())
    names = _SCHEMA.names
    found: dict[str, tuple[Any, ...]] = {}
    for batch in _table(store).snapshot().batches(names, _BATCH):
        part = batch.filter(pc.is_in(batch["image_sha256"], value_set=wanted))
        part = part.filter(pc.is_valid(part["facts"]))
        if not len(part):
            continue
        facts, spectra = (
            part[name].flatten().to_numpy().reshape(len(part), -1) for name in ("facts", "spectra")
        )
        for row, (digest, small) in enumerate(
            zip(part["image_sha256"].to_pylist(), part["small"].to_pylist(), strict=True)
        ):
            found[digest] = facts[row], spectra[row], small
    return found


def _facts(read: Mapping[str, tuple[Any, ...]], digests: list[str]) -> Facts:
    table = np.full((len(digests), len(FACTS)), np.nan)
    spectra = np.zeros((len(digests), 2, BINS), np.float32)
    small = np.zeros((len(digests), SMALL, SMALL), np.uint8)
    for row, digest in enumerate(digests):
        if digest in read:
            facts, levels, pixels = read[digest]
            table[row] = facts
            spectra[row] = levels.reshape(2, BINS)
            small[row] = np.frombuffer(pixels, np.uint8).reshape(SMALL, SMALL)
    return Facts(table, spectra, small)


def _table(store: Store) -> Any:
    return store.ensure_table(_TABLE, _SCHEMA, {"kind": "facts", "key": "image_sha256"})


def _make(
    store: Store,
    sources: Mapping[str, str | None],
    progress: Callable[[int, int], None] | None,
    threads: int | None,
) -> None:
    """Measure what the store has no facts of yet; a file that is gone, or another one by now, has none."""
    table = _table(store)
    known = set(table.snapshot().read(["image_sha256"])["image_sha256"].to_pylist())
    todo = [(digest, file) for digest, file in sorted(sources.items()) if file and digest not in known]
    rows: list[dict[str, Any]] = []
    for done, row in enumerate(_measured(todo, threads), 1):
        if row is not None:
            rows.append(row)
        if len(rows) == _BATCH or done == len(todo):
            if rows:
                table.append(pa.Table.from_pylist(rows, schema=_SCHEMA), unique="image_sha256")
            rows = []
        if progress:
            progress(done, len(todo))


def _measured(todo: list[tuple[str, str]], threads: int | None) -> Iterator[dict[str, Any] | None]:
    workers = threads or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(todo), _BATCH):
            yield from pool.map(_row, todo[start : start + _BATCH])


def _row(source: tuple[str, str]) -> dict[str, Any] | None:
    digest, file = source
    try:
        data, _ = read_image(Path(file))
        if hashlib.sha256(data).hexdigest() != digest:
            return None
        found = measure(data)
    except (ImageError, OSError, ValueError):
        return None
    if found is None:
        return {"image_sha256": digest, "facts": None, "spectra": None, "small": None}
    facts, spectra, small = found
    return {
        "image_sha256": digest,
        "facts": facts.astype(np.float32),
        "spectra": spectra.ravel(),
        "small": small.tobytes(),
    }
