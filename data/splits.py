"""Split names, and splits made from a seed.

A split depends on the ids, the labels and the seed, never on the order of the rows: units are put in the order of a keyed
hash of their ids, so the same item lands in the same place on any machine and in any version of Python.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from ..errors import UsageError

__all__ = [
    "DEFAULT_RATIOS",
    "canonical_split",
    "check_lengths",
    "is_split_name",
    "shares_of",
    "stratified_split",
]

#: 80% to learn from, 10% to choose on, 10% to report.
DEFAULT_RATIOS: Mapping[str, float] = MappingProxyType({"train": 0.8, "dev": 0.1, "test": 0.1})

_CANONICAL = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "development": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
    "testing": "test",
}


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
    """Assign every item to a split, class by class, with whole groups together.

    Parameters
    ----------
    ids : sequence of str, length n
        Unique item ids.
    labels : sequence of str or None, length n, optional
        Classes to keep in proportion; None is a class of its own.
    ratios : mapping of str to float, default train .8, dev .1, test .1
        Share of each split; not negative, together 1.
    seed : int, default 0
        Another seed, another split.
    groups : sequence of hashable or None, length n, optional
        Items of one group (near-duplicates, one author) never part; None is a group of its own. A group counts for the
        class that most of its items have.

    Returns
    -------
    numpy.ndarray of str, shape (n,)
        Split of each item, in the order of `ids`.

    Raises
    ------
    UsageError
        If ids repeat, lengths differ, or the ratios are not shares of one.

    Notes
    -----
    A class too small for its shares still goes as far as it can: one unit (item or group) is for train (the largest
    share), the second for test (of equal shares, the later named), the third for dev; from three on, each split
    gets one at least.

    Examples
    --------
    >>> stratified_split(["a", "b", "c", "d"], ["x", "x", "y", "y"], {"train": 0.5, "test": 0.5}).tolist()
    ['test', 'train', 'train', 'test']
    """
    n = len(ids)
    check_lengths(ids, n, labels, groups)
    names, shares = shares_of(ratios)

    members: dict[tuple[bool, Hashable], list[int]] = defaultdict(list)
    for i in range(n):
        group = None if groups is None else groups[i]
        members[(False, ids[i]) if group is None else (True, group)].append(i)

    classes: dict[str | None, list[tuple[int, bytes, list[int]]]] = defaultdict(list)
    for unit in members.values():
        label = None if labels is None else _majority([labels[i] for i in unit])
        key = min(ids[i] for i in unit)
        digest = hashlib.blake2b(f"{seed}\0{key}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
        classes[label].append((-len(unit), digest, unit))

    result = np.empty(n, dtype=f"<U{max(map(len, names))}")
    for units in classes.values():
        units.sort()  # large groups first: the small ones then even out what is left
        for (_, _, unit), split in zip(units, _assign([-size for size, _, _ in units], shares), strict=True):
            result[unit] = names[split]
    return result


def check_lengths(
    ids: Sequence[str],
    n: int,
    labels: Sequence[str | None] | None,
    groups: Sequence[Hashable | None] | None,
) -> None:
    """Refuse ids that repeat, and labels or groups that are not one an id."""
    for what, values in (("labels", labels), ("groups", groups)):
        if values is not None and len(values) != n:
            raise UsageError(f"{len(values)} {what} for {n} ids: give one for each item")
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
