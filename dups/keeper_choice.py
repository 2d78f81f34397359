"""Keeper choice: the best copy of each found group, by the facts of its pictures, and in words why.

Groups are found in an order of preference that is known without opening a picture (`icehouse.dups.groups.preference`).
Only then, and only of what is in a group, files are read at full size: pictures without a copy cost nothing. The facts are
kept in the store. Of each group the member with the highest score leads; it is compared with the others, which may add to
its faults or to theirs, and again until the first one stays the first. A star is made again in that order from the same
pairs: every member is a near-duplicate of its keeper still, and what is not leaves the group and is kept.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import __version__
from ..store.files import publish
from ..store.store import Store
from ..store.table import Table
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
from .view_table import append_measured

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
    files = ranked.files_of(wanted).to_pylist()
    table = _table(store)
    measured = set(table.snapshot().read(["image_sha256"])["image_sha256"].to_pylist())
    named = zip((known[number] for number in wanted.tolist()), files, strict=True)
    todo = {digest: [Path(file)] for digest, file in named if file and digest not in measured}
    append_measured(table, _SCHEMA, todo, _facts_of, progress, threads)
    ages = ranked.times[ranked.best]
    held: list[np.ndarray] = []
    relations = _Relations(store)
    for place, group in enumerate(groups, 1):
        held.append(group)
        if sum(map(len, held)) < _HELD and place < len(groups):
            continue
        read = _read_facts(store, [known[i] for one in held for i in one[:MAX_MEASURED].tolist()])
        for one in held:
            compared = [known[i] for i in one[:MAX_MEASURED].tolist()]
            facts = Facts(*map(np.stack, zip(*(read.get(each, _UNKNOWN) for each in compared), strict=True)))
            _choose(one, facts, compared, relations, contents, standing, ages, star, chosen)
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


#: What is known of a picture that could not be measured, as the arrays of `Facts` have it.
_UNKNOWN = (
    np.full(len(FACTS), np.nan),
    np.zeros((2, BINS), np.float32),
    np.zeros((SMALL, SMALL), np.uint8),
)


def _read_facts(store: Store, digests: list[str]) -> dict[str, tuple[np.ndarray, ...]]:
    """Facts, spectra and small pictures of some contents, of those that have them."""
    wanted = pa.array(digests, pa.string())
    found: dict[str, tuple[np.ndarray, ...]] = {}
    for batch in _table(store).snapshot().batches(_SCHEMA.names, _BATCH):
        part = batch.filter(pc.is_in(batch["image_sha256"], value_set=wanted))
        for row in part.filter(pc.is_valid(part["facts"])).to_pylist():
            found[row["image_sha256"]] = (
                np.array(row["facts"]),
                np.array(row["spectra"], np.float32).reshape(2, BINS),
                np.frombuffer(row["small"], np.uint8).reshape(SMALL, SMALL),
            )
    return found


def _table(store: Store) -> Table:
    return store.ensure_table(_TABLE, _SCHEMA, {"kind": "facts", "key": "image_sha256"})


def _facts_of(data: bytes) -> dict[str, Any]:
    """A row of the table, of an image file; nothing of a picture all of one colour."""
    found = measure(data)
    if found is None:
        return {}
    facts, spectra, small = found
    return {"facts": facts.astype(np.float32), "spectra": spectra.ravel(), "small": small.tobytes()}
