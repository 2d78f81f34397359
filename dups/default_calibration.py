"""Calibration that a search makes for itself, of the vectors and hashes that are there: no changed copy is encoded.

It has the map, the local measure and the bits of hashes that prove something; `icehouse dups calibrate` has these too, and
knows how many copies they find. It is kept in the store's cache, as is what each content was held against, so that a search
after some more contents have come costs little; so are near pairs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..errors import CorruptError, IcehouseError, StoreError, UsageError
from ..store.files import (
    UNREADABLE_ARRAYS,
    check_stamp,
    checked_name,
    keep_arrays,
    publish,
    publish_folder,
    publish_sealed,
    stamp,
    unseal,
)
from ..store.store import Store
from .calibration import (
    Calibration,
    apply_map,
    bits_radius,
    fit_bits,
    fit_map,
    fit_tail,
    largest_cosines,
    tail_size,
)
from .confirm import Find
from .hashing import ViewHashes
from .join import RowSet
from .local_scaling import MIN_REFERENCE, LocalMeasure, Neighbourhoods, fit_local, reference_rows

#: Of the identity in the covariance, see `icehouse.dups.calibration.fit_map`; few vectors have no use for less.
_SHRINKAGE = 0.4

#: Contents that the map is fitted to.
_MAX_FITTED = 20_000

#: Pairs that the bits of hashes are judged by; and how many vectors are taken out at once: more leave the processor's cache.
_PAIRS, _AT_ONCE = 100_000, 512

#: With more contents than the calibration has seen, or fewer, by this share it is made anew.
_GROWTH = 0.2

#: Where neighbourhoods cannot be told, copies are so many times nearer than the nearest tenth of all pairs.
_NEARER = 4.0
_LEAST_COSINE = 0.9

#: Levels of 256 by which thumbnails of one picture that was saved or scaled again differ on average, at most.
SAME_LEVELS = 3.0

#: Contents for each false pair that may be expected where nobody has looked at what is found.
_CONTENTS_A_FALSE_PAIR = 500

_FILE = "neighbourhoods.npz"
_MAPPED, _KINDS = "mapped.json", ("keys", "units", "squares")

#: Bytes of mapped vectors beyond which none are kept.
MOST_MAPPED = 1 << 28
#: Share of new contents up to which they are mapped again by the next search: to write all takes longer.
_UNKEPT = 0.05
_ROWS = 8192  # vectors that are mapped at once


def careful_expected(n: int) -> float:
    """False pairs, at most 1, that a search without a calibration lets be expected among `n` contents.

    >>> careful_expected(250), careful_expected(100_000)
    (0.5, 1.0)
    """
    return min(max(n, 1) / _CONTENTS_A_FALSE_PAIR, 1.0)


@dataclass(frozen=True)
class DefaultMap:
    """The map that a search fits to its contents, see `icehouse.dups.calibration.fit_map`."""

    mean: np.ndarray
    matrix: np.ndarray | None
    rows: int  # contents that it was fitted to

    @classmethod
    def of(cls, take: Callable[[np.ndarray], np.ndarray], order: np.ndarray) -> DefaultMap:
        """Fit it to contents in some order, of which `take` gives the vectors."""
        some = np.sort(np.random.default_rng(7).permutation(len(order))[:_MAX_FITTED])
        return cls(*fit_map(take(order[some]), _SHRINKAGE), len(some))


def map_beforehand(
    store: Store, feature: str, take: Callable[[np.ndarray], np.ndarray], digests: np.ndarray
) -> DefaultMap | None:
    """Fit the map of contents to be compared, and keep their vectors after it, for which no views are needed.

    `take` gives the vectors of some of them. None where an earlier search has a calibration that holds, or none can be made.
    """
    n = len(digests)
    if n < MIN_REFERENCE or known_calibration(store, feature, n, viewed=True) is not None:
        return None
    try:
        fitted = DefaultMap.of(take, np.argsort(digests))
    except UsageError:
        return None
    shape = n, len(fitted.mean)
    if 4 * shape[0] * shape[1] <= MOST_MAPPED:
        room = np.empty(shape, np.float32)
        mapped_vectors(store, feature, take, digests, fitted.mean, fitted.matrix, room, True)
    return fitted


def default_calibration(
    store: Store,
    feature: str,
    vectors: Callable[[], np.ndarray],
    digests: np.ndarray,
    hashes: np.ndarray | None,
    views: ViewHashes | None,
    *,
    keep: bool = True,
    unseen: bool = False,
    fitted: DefaultMap | None = None,
) -> Calibration | None:
    """Make the calibration of some contents, or take the one of an earlier search if it still holds.

    `vectors` gives their vectors (n, d), `digests` are their contents, `hashes` uint64 (n,) those that say something and 0
    elsewhere, None where texts are compared. `unseen` and `fitted` as `fit_calibration` takes them. None where there are too
    few contents, or their vectors tell nothing apart.
    """
    n = len(digests)
    if n < MIN_REFERENCE:
        return None
    held = known_calibration(store, feature, n, viewed=views is not None, unseen=unseen) if keep else None
    if held is not None:
        return held
    fingerprint = str(store.feature_table(feature).spec.get("fingerprint"))
    # By digest, so that it does not depend on how the contents are ranked.
    order = np.argsort(digests)
    try:
        made = fit_calibration(
            feature, fingerprint, vectors(), order, hashes, views, unseen=unseen, fitted=fitted
        )
    except UsageError:
        return None
    if keep:
        with contextlib.suppress(OSError), publish_folder(_folder(store, feature, unseen=unseen)) as temp:
            made.write(temp)
    return made


def known_calibration(
    store: Store, feature: str, n: int, *, viewed: bool, unseen: bool = False
) -> Calibration | None:
    """The calibration of an earlier search, with views if these are `viewed`, if it still holds for `n` contents."""
    with contextlib.suppress(IcehouseError):
        held = Calibration.read(_folder(store, feature, unseen=unseen))
        if (
            held.fingerprint == str(store.feature_table(feature).spec.get("fingerprint"))
            and held.local is not None
            and (held.local.hashes is not None) == viewed
            and abs(n - held.local.rows) <= _GROWTH * held.local.rows
        ):
            return held
    return None


def fit_calibration(
    feature: str,
    fingerprint: str,
    X: np.ndarray,
    order: np.ndarray,
    hashes: np.ndarray | None,
    views: ViewHashes | None,
    *,
    unseen: bool = False,
    fitted: DefaultMap | None = None,
) -> Calibration:
    """Fit the map, the local measure, and the bits of hashes to contents taken in some order.

    A map holds the contents that it was fitted to farther apart than others. For contents that are `unseen` yet, it is
    fitted to every other one, and what is left tells what they will look like. `fitted` is the map of all, if it is known.
    """
    mapped, order = (order[::2], order[1::2]) if unseen else (order, order)
    fitted = fitted or DefaultMap.of(X.__getitem__, mapped)
    mean, matrix = fitted.mean, fitted.matrix
    local, rows = fit_measure(X, order, mean, matrix, views)
    units, seen = local.units, None if views is None else views.subset(rows)
    total = len(units) * (len(units) - 1) // 2
    i, j, cosine = largest_cosines(units, 2 * tail_size(total) + 1000)
    beside = local.neighbourhoods(units, seen)
    related = related_pairs(local, beside, units, None if seen is None else seen.distance(i, j), i, j)
    tail = fit_tail(cosine[~related], total - int(related.sum()))
    made = Calibration(feature, fingerprint, mean, matrix, tail, fitted.rows, local=local)
    return made if hashes is None else replace(made, bits=hash_bits(local, hashes[rows], seen, beside))


def fit_measure(
    X: np.ndarray,
    order: np.ndarray,
    mean: np.ndarray,
    matrix: np.ndarray | None,
    views: ViewHashes | None,
    labels: Mapping[tuple[int, int], bool] | None = None,
    *,
    mapped: np.ndarray | None = None,
) -> tuple[LocalMeasure, np.ndarray]:
    """Fit the local measure under a map, and give the contents that are its reference.

    `labels` tell of pairs ``i < j`` of contents whether they are copies; these are never taken for anything else. `mapped`
    are all contents after the map, where they are at hand.
    """
    rows = order[reference_rows(len(order))]
    units = apply_map(X[rows], mean, matrix) if mapped is None else mapped[rows]
    rows, units = rows[np.abs(units).sum(axis=1) > 0], units[np.abs(units).sum(axis=1) > 0]
    labelled = None
    if labels:
        at = {row: k for k, row in enumerate(rows.tolist())}
        labelled = np.zeros((len(rows), len(rows)), np.int8)
        for (a, b), same in labels.items():
            if a in at and b in at:
                labelled[at[a], at[b]] = labelled[at[b], at[a]] = 1 if same else -1
    return fit_local(units, None if views is None else views.subset(rows), len(X), labelled), rows


def hash_bits(
    local: LocalMeasure, hashes: np.ndarray, seen: ViewHashes | None, beside: Neighbourhoods | None = None
) -> dict[str, tuple[float, float]]:
    """Fit how often hashes of unrelated pictures of the reference are near; see `Calibration.bits`.

    `beside` are what the reference is held against, where that is known.
    """
    units, rng = local.units, np.random.default_rng(7)
    beside = local.neighbourhoods(units, seen) if beside is None else beside
    a, b = rng.integers(0, len(units), (2, _PAIRS))
    a, b = a[a != b], b[a != b]
    apart = None if seen is None else seen.distance(a, b)
    unrelated = ~related_pairs(local, beside, units, apart, a, b)
    a, b = a[unrelated], b[unrelated]
    one, two = hashes[a], hashes[b]
    fits = {"whole": fit_bits(np.bitwise_count(one ^ two)[(one > 0) & (two > 0)].astype(np.int64))}
    if apart is not None:
        nearest = apart[unrelated]
        fits["views"] = fit_bits(nearest[nearest <= 64].astype(np.int64))
    return {what: fit for what, fit in fits.items() if fit is not None}


def related_pairs(
    local: LocalMeasure,
    beside: Neighbourhoods,
    units: np.ndarray,
    apart: np.ndarray | None,
    i: np.ndarray,
    j: np.ndarray,
) -> np.ndarray:
    """Tell which pairs of the reference, whose nearest views are `apart` bits apart, are too near for unrelated ones."""
    told = np.empty(len(i), bool)
    for start in range(0, len(i), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        a, b = i[part], j[part]
        bits = None if apart is None else apart[part]
        cosine = np.einsum("ij,ij->i", units[a], units[b])
        told[part] = beside.evidence(a, b, cosine, bits, local.quantile) >= local.least
    return told


def near_certain_cosine(X: np.ndarray, *, careful: bool = False) -> float:
    """Cosine that hardly any set has among its unrelated pairs: for sets too small to tell what theirs have."""
    rows = np.random.default_rng(7).permutation(len(X))[:1000]
    units = apply_map(X[np.sort(rows)], np.zeros(X.shape[1]), None)
    units = units[np.abs(units).sum(axis=1) > 0]
    if len(units) < 2:
        return _LEAST_COSINE
    cosines = (units @ units.T)[np.triu_indices(len(units), 1)]
    # Of many that are all too much alike most pairs are unrelated; of few a tenth may be copies.
    share = 0.999 if careful or len(X) >= MIN_REFERENCE else 0.9
    cosine = 1 - (1 - float(np.quantile(cosines, share))) / _NEARER
    return min(max(cosine, _LEAST_COSINE), 1 - 1e-6)


def alike_cosine(near_certain: float) -> float:
    """Cosine that the nearest of all pairs have, by what `near_certain_cosine` made of it."""
    return 1 - _NEARER * (1 - near_certain)


def chance_bits(hashes: np.ndarray, views: ViewHashes | None, most: int, expected: float) -> tuple[int, int]:
    """Bits within which hashes of whole pictures and of views prove something where all pictures look alike.

    Flags, charts and drawings share near hashes by the thousand; what they have is measured on random pairs.
    """
    n = len(hashes)
    a, b = np.random.default_rng(7).integers(0, max(n, 1), (2, _PAIRS))
    a, b = a[a != b], b[a != b]
    one, two = hashes[a], hashes[b]
    whole = fit_bits(np.bitwise_count(one ^ two)[(one > 0) & (two > 0)].astype(np.int64))
    nearest = None
    if views is not None:
        apart = views.distance(a[:20_000], b[:20_000])
        nearest = fit_bits(apart[apart <= 64].astype(np.int64))
    found = [most if fit is None else bits_radius(fit, n, most, expected) for fit in (whole, nearest)]
    return max(found[0], 0), found[1]


def held_neighbourhoods(
    store: Store,
    feature: str,
    measure: LocalMeasure,
    digests: np.ndarray,
    X: np.ndarray,
    views: ViewHashes | None,
) -> Neighbourhoods:
    """Hold contents against the reference, those that were not held against it before; see `LocalMeasure.neighbourhoods`."""
    # Whether there are views is part of what a content is.
    sighted = np.zeros(len(X), bool) if views is None else views.usable.any(axis=1)
    keys = np.char.add(digests.astype("U64"), np.where(sighted, "v", "-"))
    name = measure_digest(measure)
    file = _folder(store, feature).with_name(checked_name(feature).replace("/", "-") + "." + _FILE)
    known_keys, known = np.empty(0, "U65"), np.empty((4, 0))
    with contextlib.suppress(*UNREADABLE_ARRAYS), np.load(file, allow_pickle=False) as held:
        names, values = held["keys"], held["numbers"]
        if str(held["measure"]) == name and values.shape == (4, len(names)):
            known_keys, known = names, values
    at = np.searchsorted(known_keys, keys)
    there = np.zeros(len(keys), bool)
    if len(known_keys):
        at = np.minimum(at, len(known_keys) - 1)
        there = known_keys[at] == keys
    numbers = np.empty((4, len(keys)))
    numbers[:, there] = known[:, at[there]]
    new = np.flatnonzero(~there)
    if len(new):
        made = measure.neighbourhoods(X[new], None if views is None else views.subset(new))
        numbers[:, new] = [getattr(made, field) for field in Neighbourhoods.__dataclass_fields__]
        order = np.argsort(keys)
        keep_arrays(file, measure=np.array(name), keys=keys[order], numbers=numbers[:, order])
    return Neighbourhoods(*numbers)


def mapped_vectors(
    store: Store,
    feature: str,
    take: Callable[[np.ndarray], np.ndarray],
    digests: np.ndarray,
    mean: np.ndarray,
    matrix: np.ndarray | None,
    out: np.ndarray,
    keep: bool,
) -> np.ndarray:
    """Fill `out` with what `apply_map` makes of the vectors of contents; what an earlier search has mapped is read.

    `take` gives the vectors of some of them. Gives their squared lengths, float64 (n,), as `icehouse.dups.join.RowSet` has
    them.
    """
    own = hashlib.sha256(str(store.feature_table(feature).spec.get("fingerprint")).encode())
    for part in (mean, matrix):
        own.update(b"" if part is None else np.ascontiguousarray(part).tobytes())
    of = f"{own.hexdigest()} {take(np.empty(0, np.int64)).dtype}"
    folder = store.path / "cache" / "mapped" / checked_name(feature)
    keys, known, lengths = _held_units(folder, of, out.shape[1])
    there, squares = np.zeros(len(out), bool), np.empty(len(out))
    if len(keys):
        wanted, order = digests.astype(keys.dtype), np.argsort(keys)
        at = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
        there, squares = keys[at] == wanted, lengths[at]
        for start in range(0, len(out), _ROWS):
            # Clipping nothing: any other mode would fill a buffer first.
            np.take(known, at[start : start + _ROWS], axis=0, out=out[start : start + _ROWS], mode="clip")
    new = np.flatnonzero(~there)
    for start in range(0, len(new), _ROWS):
        rows = new[start : start + _ROWS]
        out[rows] = made = apply_map(take(rows), mean, matrix)
        squares[rows] = RowSet.of(made).measure().squares
    if len(keys) and len(new) <= _UNKEPT * len(keys) and len(keys) < 2 * len(digests):
        return squares
    if keep and out.nbytes <= MOST_MAPPED:
        with contextlib.suppress(OSError, StoreError):
            _keep_units(folder, of, (digests.astype("S64"), out, squares))
    return squares


# Files are named after the map and the contents that they hold, so that two searches at a time never mix theirs.


def _keep_units(folder: Path, of: str, columns: tuple[np.ndarray, ...]) -> None:
    name = hashlib.sha256(of.encode() + columns[0].tobytes()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{kind}.npy" for kind in _KINDS]
    for file, values in zip(files, columns, strict=True):
        with publish(file) as temp, temp.open("wb") as opened:
            np.save(opened, values)
    publish_sealed(folder / _MAPPED, {"of": of, "name": name, "stamps": [stamp(file) for file in files]})
    for file in folder.glob("*.npy"):
        if file not in files:
            with contextlib.suppress(OSError):
                file.unlink()


def _held_units(folder: Path, of: str, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns `_KINDS` of contents that are kept `of` some map, the vectors mapped from disk; none where they are not."""
    with contextlib.suppress(CorruptError, OSError, ValueError, KeyError, TypeError, EOFError):
        held = unseal(json.loads((folder / _MAPPED).read_bytes()), _MAPPED)
        if held["of"] == of:
            files = [folder / f"{held['name']}.{kind}.npy" for kind in _KINDS]
            for file, known in zip(files, held["stamps"], strict=True):
                check_stamp(file, known)
            keys, units, squares = (np.load(file, mmap_mode="r") for file in files)
            if units.shape == (len(keys), dim) and len(squares) == len(keys):
                return np.array(keys), units, np.array(squares)
    return np.empty(0, "S64"), np.empty((0, dim), np.float32), np.empty(0)


def _folder(store: Store, feature: str, *, unseen: bool = False) -> Path:
    kind = "unseen" if unseen else "calibrations"
    return store.path / "cache" / kind / checked_name(feature)


def measure_digest(measure: LocalMeasure) -> str:
    """Name that a measure has by what it is made of."""
    digest = hashlib.sha256()
    for part in (measure.units, measure.hashes, measure.usable, *vars(measure.own).values()):
        if part is not None:
            digest.update(np.ascontiguousarray(part).tobytes())
    digest.update(repr(measure.least).encode())
    return digest.hexdigest()


# Near pairs depend on nothing but their two contents, which are known by digest: those of earlier searches are kept, so that
# only new contents are compared. One file for each way of comparing; one that cannot be read is made anew.

#: Pairs beyond which nothing is kept: 8 bytes each.
MAX_KEPT = 5_000_000


@dataclass(frozen=True)
class NearCache:
    """Near pairs of the contents `keys`, each once."""

    folder: Path
    keys: np.ndarray  # bytes (n,): digest, and what else a pair depends on
    keep: bool = True  # whether what is found is written; a search of a part of the items would take it from the others

    @classmethod
    def of(
        cls,
        folder: Path,
        digests: pa.Array | pa.ChunkedArray,
        views: ViewHashes | None,
        vectors: np.ndarray,
        keep: bool,
    ) -> NearCache:
        """Of contents by their digests, with their views, and the numbers of those with vectors."""
        there = np.zeros(len(digests), bool)
        there[vectors] = True
        sighted = np.zeros(len(digests), bool) if views is None else views.usable.any(axis=1)
        keys = np.char.add(np.array(digests.to_pylist(), "S64"), np.where(sighted, b"v", b"-"))
        return cls(folder, np.char.add(keys, np.where(there, b"x", b"-")), keep)

    def pairs(self, name: str, of: str, most: int, find: Find) -> tuple[np.ndarray, bool]:
        """Get what ``find(None)`` gives, looking only for pairs with contents that were not compared before."""
        held = self.recall(name, of)
        if held is None:
            codes, whole = find(None)
        else:
            codes, new = held
            if not new.any():
                return codes, True
            found, whole = find(new)
            codes = np.sort(np.concatenate([codes, found]))
            if not whole or len(codes) >= most:
                return find(None)
        if whole and len(codes) < most:
            self.remember(name, of, codes)
        return codes, whole

    def recall(self, name: str, of: str, least: float = 0.0) -> tuple[np.ndarray, np.ndarray] | None:
        """Get the codes, ascending, of pairs among contents compared before, and which are new, bool (n,).

        None if most are new, or if pairs were then found by something else than `of`, or from more than `least`.
        """
        n = len(self.keys)
        found = _read(self.folder / f"{name}.npz")
        if found is None or not n or found[4] != of or found[3] > least:
            return None
        keys, i, j, *_ = found
        order = np.argsort(self.keys)
        at = order[np.minimum(np.searchsorted(self.keys, keys, sorter=order), n - 1)]
        number = np.where(self.keys[at] == keys, at, -1)
        new = np.ones(n, bool)
        new[number[number >= 0]] = False
        if new.sum() * 2 > n:
            return None
        a, b = number[i], number[j]
        known = (a >= 0) & (b >= 0)
        a, b = a[known], b[known]
        return np.sort(np.minimum(a, b) * n + np.maximum(a, b)), new

    def remember(self, name: str, of: str, codes: np.ndarray, least: float = 0.0) -> None:
        """Keep all pairs of the contents that `of` finds from `least` on."""
        if not self.keep or len(codes) > MAX_KEPT:
            return
        file = self.folder / f"{name}.npz"
        i, j = np.divmod(codes, max(len(self.keys), 1))
        sides = {"keys": self.keys, "i": i.astype(np.int32), "j": j.astype(np.int32)}
        keep_arrays(file, **sides, least=np.array(least), of=np.array(of))


def _read(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, str] | None:
    with contextlib.suppress(*UNREADABLE_ARRAYS), np.load(file, allow_pickle=False) as held:
        keys, i, j = held["keys"], held["i"], held["j"]
        least, of = float(held["least"]), str(held["of"])
        ends = np.concatenate([i, j])
        sound = keys.dtype.kind == "S" and keys.ndim == 1 and i.shape == j.shape and ends.dtype == np.int32
        if sound and len(keys) and (not len(ends) or (ends.min() >= 0 and ends.max() < len(keys))):
            return keys, i, j, least, of
    return None
