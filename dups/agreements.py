"""Agreements of pairs in doubt: measured in their files, kept by digest, and how much of it copies are asked for.

Hashes and embeddings leave pairs that may be one picture or two that are alike. Their pictures are registered, see
`icehouse.dups.registration`: those of a store in processes, in an order in which each picture is read once, and those of a
stream as they come. Among pictures that all look alike unrelated ones agree more, so that more is asked of copies.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..data.images import decode_content
from ..store.files import UNREADABLE_ARRAYS, keep_arrays
from ..store.store import Store
from .processes import measured
from .registration import FRAME, Picture, agreement

#: Changes whenever other agreements would come of the same files.
REGISTRATION_VERSION = 3

#: Agreement that copies have at least, in sets where unrelated pictures hardly agree, and where they agree as neighbouring
#: wafers do. Which it is, is told by a quantile of pairs that are no copies, and how far it lies above chance.
LOOSE, STRICT = 0.5, 0.845
_UNRELATED, _CHANCE, _STEEPER, FEWEST_PAIRS = 0.6, 0.05, 1.65, 20

#: Times the evidence of a pair that is one whatever its pixels say: a slant may keep pictures from being registered.
BEYOND_DOUBT = 2.0
#: Agreement from which on pictures that do not agree enough are told as variants all the same.
VAGUE = 0.35
#: Where copies are asked for less, as much evidence as a pair needs by itself lets them agree less.
TELLING = 0.6

_FILE = "agreements.npz"

#: Pairs whose agreement is kept, and pictures that are held at once.
_KEPT, _HELD = 500_000, 48

#: Of a stream: pictures that are held, at 200 KB at most; pairs whose agreement is known; and how many of these tell how far
#: its unrelated pictures agree.
_LATEST, _PAIRS, _RECORD = 256, 8192, 300

#: Agreement that copies in a stream are asked for before its pairs tell how far unrelated ones agree.
_UNTOLD = 0.75


def least_agreement(values: np.ndarray, evidence: np.ndarray) -> float:
    """Agreement that copies are asked for, by what pairs in doubt have, and their evidence; `LOOSE` to `STRICT`.

    Those of less evidence than most that agree less than copies do are mostly unrelated: the more these agree, the more
    copies are asked for. Copies that were changed much are among them, so that it is not their highest values that tell.
    """
    unrelated = values[(values < STRICT) & (evidence <= np.median(evidence))] if len(values) else values
    if len(unrelated) < FEWEST_PAIRS:
        return LOOSE
    beyond = max(float(np.quantile(unrelated, _UNRELATED)) - _CHANCE, 0.0)
    return min(LOOSE + _STEEPER * beyond, STRICT)


def decide(
    agreed: np.ndarray, evidence: np.ndarray, asked: float | None, agreeing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Tell which pairs in doubt are one picture by how far they `agreed`, and which are alike with nothing to decide it.

    NaN is what could not be read. `agreeing` is asked of copies, and `asked` is the evidence of a pair; None where a rule
    knows none.
    """
    least, enough = np.full(len(agreed), agreeing), np.ones(len(agreed), bool)
    if asked is not None:
        enough = evidence >= asked
        if agreeing < TELLING:
            # Where unrelated pictures hardly agree, what stands out as a pair does may do so with much drawn over it.
            least *= np.clip(BEYOND_DOUBT - evidence / asked, 0, 1)
    same = agreed >= least
    return same, ~same & enough & (np.isnan(agreed) | (agreed >= VAGUE))


#: Gives the digests of some contents, and the files that they are in; None where there is none.
Sources = Callable[[np.ndarray], tuple[list[str], list[str | None]]]


class Agreements:
    """Agreements of the pictures of contents: files are read when one is asked for, and answers kept by digest."""

    @classmethod
    def of_store(
        cls,
        store: Store,
        digests: pa.Array,
        files: Callable[[np.ndarray], pa.Array],
        threads: int | None,
    ) -> Agreements:
        """Of contents by their `digests` and what gives their `files`, kept in a store's cache."""
        return cls(
            lambda numbers: (digests.take(pa.array(numbers)).to_pylist(), files(numbers).to_pylist()),
            store.path / "cache" / _FILE,
            threads,
        )

    def __init__(self, sources: Sources, file: Path | None = None, threads: int | None = None) -> None:
        self.sources, self.file, self.threads = sources, file, threads
        self._known: dict[str, float] | None = None
        self._new = False

    def subset(self, numbers: np.ndarray) -> Agreements:
        """Those of the contents `numbers`, renumbered from 0."""
        made = Agreements(lambda of: self.sources(numbers[of]), None, self.threads)
        made._known = self._answers()
        return made

    def of(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """The `agreement` of the pictures of each pair, float64 (m,); NaN where one cannot be read as it was embedded."""
        if not len(i):
            return np.empty(0)
        known = self._answers()
        numbers, at = np.unique(np.concatenate([i, j]), return_inverse=True)
        digests, files = self.sources(numbers)
        file_of = dict(zip(digests, files, strict=True))
        left, right = at[: len(i)], at[len(i) :]
        keys = [
            (min(digests[a], digests[b]), max(digests[a], digests[b]))
            for a, b in zip(left.tolist(), right.tolist(), strict=True)
        ]
        if todo := sorted({key for key in keys if _key(*key) not in known}):
            self._new = True
            parts = [
                [((one, file_of[one]), (two, file_of[two])) for one, two in part]
                for part in _near_together(todo)
            ]
            for part, found in zip(parts, measured(_compared, parts, self.threads), strict=True):
                known.update(
                    (_key(one[0], two[0]), value) for (one, two), value in zip(part, found, strict=True)
                )
            _read_once.cache_clear()
        return np.array([known[_key(*key)] for key in keys])

    def _answers(self) -> dict[str, float]:
        if self._known is None:
            self._known = {}
            if self.file is not None:
                with contextlib.suppress(*UNREADABLE_ARRAYS), np.load(self.file, allow_pickle=False) as held:
                    keys, values = held["keys"], held["values"]
                    if int(held["version"]) == REGISTRATION_VERSION and keys.shape == values.shape:
                        self._known = dict(zip(keys.astype("U64").tolist(), values.tolist(), strict=True))
        return self._known

    def keep(self) -> None:
        """Write what is known, if any is new; what could not be read is asked again."""
        if self.file is None or not self._new:
            return
        known = {key: value for key, value in self._answers().items() if not np.isnan(value)}
        kept = dict(list(known.items())[-_KEPT:])
        keys, values = np.array(list(kept), "S64"), np.array(list(kept.values()), np.float64)
        keep_arrays(self.file, version=np.array(REGISTRATION_VERSION), keys=keys, values=values)


def _key(one: str, two: str) -> str:
    return one[:32] + two[:32]


def _near_together(pairs: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Pairs in such an order, in parts, that those of one picture come soon after one another, and it is read once."""
    beside: dict[str, list[str]] = {}
    for one, two in pairs:
        beside.setdefault(one, []).append(two)
        beside.setdefault(two, []).append(one)
    # Breadth first, from each picture that none before it led to.
    rank: dict[str, int] = {}
    waiting: deque[str] = deque()
    for start in beside:
        waiting.append(start)
        while waiting:
            name = waiting.popleft()
            if name not in rank:
                rank[name] = len(rank)
                waiting.extend(other for other in beside[name] if other not in rank)
    parts: dict[int, list[tuple[str, str]]] = {}
    for pair in sorted(pairs, key=lambda pair: sorted(rank[name] for name in pair)[::-1]):
        parts.setdefault(max(rank[name] for name in pair), []).append(pair)
    return list(parts.values())


#: A content's digest, and the file it is in; None where there is none.
Source = tuple[str, str | None]


def _compared(pairs: list[tuple[Source, Source]]) -> list[float]:
    found = []
    for pair in pairs:
        one, two = (_read_once(*source) for source in pair)
        found.append(float("nan") if one is None or two is None else round(agreement(one, two), 4))
    return found


def _read(digest: str, file: str | None) -> Picture | None:
    """The picture of a file; None if it is gone, unreadable, or not what it was."""
    image = decode_content(digest, file, FRAME)
    return None if image is None else Picture.of(image)


_read_once = lru_cache(_HELD)(_read)


class StreamPictures:
    """Pictures of a stream's contents: read from their files, or of the latest those that came without one."""

    def __init__(self, asked: float | None = None) -> None:
        """`asked` is the agreement of copies, where a search has told it."""
        self._asked = asked
        self._held: OrderedDict[str, Picture] = OrderedDict()
        self._known: OrderedDict[str, float] = OrderedDict()
        #: Agreements of the latest pairs, and their evidence.
        self.record: deque[tuple[float, float]] = deque(maxlen=_RECORD)

    def keep(self, digest: str, grey: np.ndarray) -> None:
        """Hold the picture of a content, uint8 as `Picture` has it, for a while."""
        self._hold(digest, Picture(grey))

    def agreement(self, one: tuple[str, str | None], two: tuple[str, str | None], evidence: float) -> float:
        """The `agreement` of two contents, each a digest and its file; NaN where one cannot be read as it was."""
        # One order, so that it does not matter which came first.
        one, two = sorted((one, two), key=lambda side: side[0])
        key = _key(one[0], two[0])
        if key not in self._known:
            first, second = self._picture(*one), self._picture(*two)
            if first is None or second is None:
                return float("nan")
            value = round(agreement(first, second), 4)
            first.strip()
            second.strip()
            self.record.append((value, round(evidence, 4)))
            self._known[key] = value
            while len(self._known) > _PAIRS:
                self._known.popitem(last=False)
        return self._known[key]

    @property
    def least(self) -> float:
        """Agreement that copies are asked for, see `least_agreement`; what few pairs tell is not enough to ask for less."""
        if self._asked is not None or not self.record:
            return _UNTOLD if self._asked is None else self._asked
        values, evidence = np.array(self.record).T
        told = least_agreement(values, evidence)
        return told if len(self.record) >= 4 * FEWEST_PAIRS else max(told, _UNTOLD)

    def restore(self, record: Iterable[tuple[float, float]]) -> None:
        """Take the `record` of an earlier run."""
        self.record.extend((float(value), float(evidence)) for value, evidence in record)

    def _picture(self, digest: str, file: str | None) -> Picture | None:
        if digest not in self._held:
            found = _read(digest, file)
            if found is None:
                return None
            self._hold(digest, found)
        self._held.move_to_end(digest)
        return self._held[digest]

    def _hold(self, digest: str, picture: Picture) -> None:
        self._held[digest] = picture
        self._held.move_to_end(digest)
        while len(self._held) > _LATEST:
            self._held.popitem(last=False)
