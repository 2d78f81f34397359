"""Split names, splits made from a seed, splits that keep whole groups together, and such groups.

A split never depends on the order of the rows: units are put in the order of a keyed hash of their ids.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from ..errors import UsageError, count_of

#: 80% to learn from, 10% to choose on, 10% to report.
DEFAULT_RATIOS: Mapping[str, float] = MappingProxyType({"train": 0.8, "dev": 0.1, "test": 0.1})

#: Share of each class that is held out of train where there is no dev split.
HELD_OUT = 0.2

_CANONICAL = dict.fromkeys(("train", "training"), "train") | dict.fromkeys(("test", "testing"), "test")
_CANONICAL |= dict.fromkeys(("dev", "development", "val", "valid", "validation"), "dev")


def canonical_split(name: str) -> str:
    """The split's one name: "val" and "Validation" are "dev"; a name not known stays as it is.

    >>> canonical_split("Validation"), canonical_split("test_unseen")
    ('dev', 'test_unseen')
    """
    return _CANONICAL.get(name.strip().lower(), name)


def is_split_name(name: str) -> bool:
    """Whether this is a spelling of train, dev or test."""
    return name.strip().lower() in _CANONICAL


def stratified_split(
    ids: Sequence[str],
    labels: Sequence[str | None] | None = None,
    ratios: Mapping[str, float] = DEFAULT_RATIOS,
    seed: int = 0,
    groups: Sequence[Hashable | None] | None = None,
) -> np.ndarray:
    """Split of each item, in the order of `ids`: class by class, with whole groups together.

    None is a class, or a group, of its own; a group counts for the class that most of its items have. A class too small for
    its shares goes as far as it can: its first unit (item or group) is for train (the largest share), the second for test
    (of equal shares, the later named), the third for dev; from three on, each split gets one at least. UsageError: ids
    repeat, lengths differ, or the ratios are not shares of one.

    >>> stratified_split(["a", "b", "c", "d"], ["x", "x", "y", "y"], {"train": 0.5, "test": 0.5}).tolist()
    ['test', 'train', 'train', 'test']
    """
    n = len(ids)
    check_lengths(ids, n, labels, groups)
    names, shares = shares_of(ratios)

    classes: dict[str | None, list[list[int]]] = defaultdict(list)
    for unit in _units(ids, groups, seed):  # large groups first: the small ones then even out what is left
        classes[None if labels is None else _majority([labels[i] for i in unit])].append(unit)
    result = np.empty(n, dtype=f"<U{max(map(len, names))}")
    for units in classes.values():
        for unit, split in zip(units, _assign([len(unit) for unit in units], shares), strict=True):
            result[unit] = names[split]
    return result


def _units(ids: Sequence[str], groups: Sequence[Hashable | None] | None, seed: int) -> list[list[int]]:
    """Rows of each group, and of each item without one: the largest first, else by a keyed hash of their first id."""
    members: dict[tuple[bool, Hashable], list[int]] = defaultdict(list)
    for i, name in enumerate(ids):
        group = None if groups is None else groups[i]
        members[(False, name) if group is None else (True, group)].append(i)

    def order(unit: list[int]) -> tuple[int, bytes]:
        key = f"{seed}\0{min(ids[i] for i in unit)}".encode("utf-8", "surrogatepass")
        return -len(unit), hashlib.blake2b(key, digest_size=16).digest()

    return sorted(members.values(), key=order)


def check_lengths(
    ids: Sequence[str],
    n: int,
    labels: Sequence[str | None] | None,
    groups: Sequence[Hashable | None] | None,
) -> None:
    """Refuse ids that repeat, and labels or groups that are not one an id."""
    for what, values in (("label", labels), ("group", groups)):
        if values is not None and len(values) != n:
            raise UsageError(f"{count_of(len(values), what)} for {count_of(n, 'id')}: give one for each item")
    if len(set(ids)) != n:
        twice, times = Counter(ids).most_common(1)[0]
        raise UsageError(f"id {twice!r} is there {times} times: a split needs unique ids")


def shares_of(ratios: Mapping[str, float]) -> tuple[list[str], list[float]]:
    """Names and shares of the splits that get items, by priority: larger first, of equal ones the later named."""
    values = list(ratios.values())
    if not values or any(not math.isfinite(v) or v < 0 for v in values) or abs(sum(values) - 1) > 1e-6:
        raise UsageError(f"ratios {dict(ratios)} are not shares of 1, such as train=0.8, dev=0.1, test=0.1")
    order = sorted(
        ((share, place, name) for place, (name, share) in enumerate(ratios.items()) if share > 0),
        reverse=True,
    )
    return [name for _, _, name in order], [share for share, _, _ in order]


def _majority(values: list[str | None]) -> str | None:
    counts = Counter(values)
    most = max(counts.values())
    tied = [value for value, count in counts.items() if count == most]
    return min((value for value in tied if value is not None), default=None)


def _assign(sizes: list[int], shares: list[float]) -> list[int]:
    """Split (an index into `shares`) of each unit: always the one that lacks most, then none left empty if units suffice."""
    total = sum(sizes)
    lacking = [share * total for share in shares]
    assigned = []
    for size in sizes:
        # Rounding keeps a tie a tie: 0.1 * 30 - 2 and 0.1 * 20 - 1 must not be decided by their last bit.
        split = max(range(len(shares)), key=lambda s: (round(lacking[s], 9), -s))
        lacking[split] -= size
        assigned.append(split)
    held = Counter(assigned)
    for split in range(len(shares)):
        if held[split]:
            continue
        donor = max(range(len(shares)), key=lambda s: (held[s], -s))
        if held[donor] < 2:
            break
        unit = max(i for i, s in enumerate(assigned) if s == donor)  # the smallest: units come by size
        assigned[unit] = split
        held[donor] -= 1
        held[split] += 1
    return assigned


# Groups go one by one, the largest first, each to the split where it brings the classes nearest to their shares. With groups
# of one item this is Webster's apportionment of seats, class by class; with others it is a greedy descent on the chi-square
# distance between what each split has of each class and what it should have, in the spirit of Sechidis et al., "On the
# stratification of multi-label data" (2011), and of scikit-learn's `StratifiedGroupKFold`.
#
# A group that is larger than a whole split should be cannot go there: it goes to the split with the largest share.


def held_out(
    y: np.ndarray,
    *,
    ids: Sequence[str] | np.ndarray | None = None,
    groups: np.ndarray | None = None,
    share: float = HELD_OUT,
    seed: int = 0,
) -> np.ndarray | None:
    """Rows to hold out, bool (n,): about `share` of every class, whole groups only; None if a class would lose all rows.

    Which rows follows from `seed` and their `ids` (their numbers by default).
    """
    names = [str(i) for i in range(len(y))] if ids is None else list(ids)
    shares = {"train": 1 - share, "dev": share}
    split = stratified_split(
        names, [str(label) for label in y.tolist()], shares, seed, None if groups is None else groups.tolist()
    )
    part = split == "dev"
    return part if part.any() and set(y[~part].tolist()) == set(y.tolist()) else None


def folds(y: np.ndarray, count: int, *, groups: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Fold of each row, 0 to `count` - 1: classes in proportion, rows of one group in one fold; a fold may be empty."""
    groups = np.arange(len(y)) if groups is None else groups
    _, first, unit = np.unique(groups, return_index=True, return_inverse=True)
    # By their first row, however they are numbered.
    unit, first = np.argsort(np.argsort(first))[unit], np.sort(first)
    rng = np.random.default_rng(seed)
    fold = np.empty(len(first), np.intp)
    start = 0
    for label in np.unique(y):
        units = rng.permutation(np.flatnonzero(y[first] == label))
        # Classes start at different folds, so that small ones do not all miss the same one.
        fold[units] = (start + np.arange(len(units))) % count
        start += len(units)
    return fold[unit]


def grouped_split(
    ids: Sequence[str],
    groups: Sequence[Hashable | None],
    labels: Sequence[str | None] | None = None,
    ratios: Mapping[str, float] = DEFAULT_RATIOS,
    seed: int = 0,
) -> np.ndarray:
    """Split of each item, in the order of `ids`: whole groups together, each class as near to its shares as groups permit.

    None is a class, or a group, of its own; a group may have items of several classes. The order of the items decides
    nothing. UsageError: as by `stratified_split`, or where a split remains empty because every group is larger than it.

    >>> grouped_split(["a", "b", "c", "d"], ["x", "x", None, None], ratios={"train": 0.5, "test": 0.5}).tolist()
    ['train', 'train', 'test', 'test']
    """
    n = len(ids)
    check_lengths(ids, n, labels, groups)
    names, shares = _train_first(ratios)
    units = _units(ids, groups, seed)
    classes = [Counter(None if labels is None else labels[i] for i in unit) for unit in units]
    targets = _targets(classes, shares)
    room = [n if s == 0 else max(1, math.ceil(round(share * n, 6))) for s, share in enumerate(shares)]

    result = np.empty(n, dtype=f"<U{max(map(len, names))}")
    held: list[Counter[str | None]] = [Counter() for _ in shares]
    assigned: list[list[int]] = [[] for _ in shares]
    for place, (unit, counts) in enumerate(zip(units, classes, strict=True)):
        fitting = [s for s in range(len(shares)) if len(unit) <= room[s]]
        # Rounding keeps a tie a tie; of equal splits the first has the larger share.
        split = min(fitting, key=lambda s: (round(_worse(counts, held[s], targets[s]), 9), s))
        held[split].update(counts)
        assigned[split].append(place)
    _fill_empty(assigned, units, room, names)
    for split, places in enumerate(assigned):
        for place in places:
            result[units[place]] = names[split]
    return result


def _train_first(ratios: Mapping[str, float]) -> tuple[list[str], list[float]]:
    """Names and shares by priority; of several largest shares the first named leads, since it is to take the giants."""
    names, shares = shares_of(ratios)
    lead = max(place for place, share in enumerate(shares) if share == shares[0])
    order = [lead, *(place for place in range(len(names)) if place != lead)]
    return [names[place] for place in order], [shares[place] for place in order]


def _targets(
    classes: Sequence[Counter[str | None]], shares: Sequence[float]
) -> list[dict[str | None, float]]:
    """Items that each split should have of each class: its share, but one at least as far as the class has groups."""
    total: Counter[str | None] = Counter()
    units: Counter[str | None] = Counter()
    for counts in classes:
        total.update(counts)
        units.update(counts.keys())
    targets: list[dict[str | None, float]] = [{} for _ in shares]
    for label, count in total.items():
        wanted = [share * count for share in shares]
        for s in range(1, min(units[label], len(shares))):
            raised = max(0.0, 1.0 - wanted[s])
            wanted[s] += raised
            wanted[0] -= raised
        for s, value in enumerate(wanted):
            # A class of one or two groups has none for the last splits; never quite nothing, for the division.
            targets[s][label] = max(value if s < units[label] else 0.0, 0.05)
    return targets


def _worse(
    counts: Mapping[str | None, int], held: Mapping[str | None, int], target: Mapping[str | None, float]
) -> float:
    """Rise of the chi-square distance when a group joins a split: less than nothing if the split lacks such items."""
    return sum(
        count * (2 * (held.get(label, 0) - target[label]) + count) / target[label]
        for label, count in counts.items()
    )


def _fill_empty(
    assigned: list[list[int]],
    units: Sequence[list[int]],
    room: Sequence[int],
    names: Sequence[str],
) -> None:
    """Give a split that has nothing the smallest group of those that have several."""
    for split in range(1, len(assigned)):
        donors = [places for places in assigned if len(places) > 1]
        if assigned[split] or len(units) < len(assigned) or not donors:
            continue
        donor = max(donors, key=lambda places: places[-1])
        size = len(units[donor[-1]])
        if size > room[split]:
            raise UsageError(
                f"no group is small enough for {names[split]!r}, which is to have "
                f"{count_of(room[split], 'item')}: the smallest that "
                f"can be spared has {size}; choose other ratios, or keep less together"
            )
        assigned[split].append(donor.pop())


def connected(n: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Number of each row's connected component, int (n,), where edges join ``i[k]`` and ``j[k]``."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(i), bool), (i, j)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1])


def groups_of(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Number of each row's group, int (n,): rows that share a value in any column are in one group.

    Columns are of objects, of which None joins nothing, or of int, of which -1 joins nothing.
    """
    sources, targets = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for column in columns:
        objects = column.dtype == object
        there = np.flatnonzero([value is not None for value in column.tolist()] if objects else column >= 0)
        values = column[there].astype(str) if objects else column[there]
        _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
        sources.append(there)
        targets.append(there[first][inverse])
    return connected(len(columns[0]), np.concatenate(sources), np.concatenate(targets))
