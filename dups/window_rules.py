"""Rules of a sliding window: thresholds by a calibration, or by what has come so far, for as many contents as are held.

An arrival is compared with what is held, so that false matches are counted among the pairs of so many contents, rounded up
to a power of two. Where there is no calibration, a stream makes one of its own first contents, at the sizes `FITTED_AT`;
before the first of these only near-certain pairs count.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import UsageError, count_of
from ..store.files import write_sums
from ..store.store import Store
from .agreements import BEYOND_DOUBT, STRICT, StreamPictures, decide
from .calibration import Calibration, apply_map, false_pairs_text
from .default_calibration import (
    alike_cosine,
    careful_expected,
    default_calibration,
    fit_calibration,
    known_calibration,
)
from .hashing import BITS, MAX_RADIUS, ViewHashes, blank_hashes, informative, view_radius
from .local_scaling import RADIUS
from .rule import DEFAULT_HAMMING, DEFAULT_SOURCE, Rule, calibrated_rule, near_certain_rule
from .views import hash_column, make_views

if TYPE_CHECKING:
    from .window import SlidingWindow

#: Contents of a stream that its own calibration is made of; it is made anew at each of these. The first tell what hardly any
#: pair has, since neighbourhoods need a hundred, and a map as many again.
FITTED_AT = (32, 100, 250, 1000, 3000)

#: From how many on neighbourhoods are told apart.
_MEASURED_AT = FITTED_AT[2]

#: Contents, on average, to which hashes are near and vectors are not, from which on neither hashes nor pixels are believed:
#: flags and charts are alike but for their colours. Where nothing of the kind is, a crop or two of each hundred are such.
_CROWD = 0.25

#: Contents of a store that a stream's calibration is made of, at most.
_MOST = 6000

#: Contents that are held against a reference where all of them come at once, at a quarter of a millisecond each.
_HELD_AT_ONCE = 20_000

#: Contents for which false pairs are counted at least.
_LEAST = 256

#: The latest contents that tell whether hashes are near by chance.
_SEEN = 250

#: Before the first fit: bits of hashes, and a cosine, of what was saved again.
_FIRST_BITS, _FIRST_COSINE = 2, 0.999
#: And the least cosine of what hashes or pixels say is one picture.
_FIRST_ALIKE = 0.9

#: Files of a calibration, in the archive that a state has of it.
_ABOUT, _FOLDER = "stream.json", "calibration"
_FIELDS = ("cosine", "hamming", "view_bits", "levels", "alike", "suspected", "near_certain")

#: Bits fewer that may differ where hashes of the turned picture are compared: eight times as many comparisons are made, and
#: random hashes are near twenty times as often with every two bits.
_TURNED_BITS, _MAX_TURNED = 2, 4

#: Pairs of one arrival whose pictures are registered, the most evident ones: each takes up to a tenth of a second.
_REGISTERED, _SUSPECTED = 4, 1


class Held(NamedTuple):
    """Contents of a window that have a vector, as a calibration is made of them."""

    digests: np.ndarray  # str (n,)
    X: np.ndarray  # (n, dim)
    hashes: np.ndarray  # uint64 (n,): those that say something, 0 elsewhere
    views: ViewHashes


class Rules:
    """The rule that a window goes by; this one is the same however many contents are held."""

    #: Whether pairs that are not beyond doubt are settled by their pixels.
    registers = False

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def at(self, window: SlidingWindow) -> Rule:
        """Get the rule for a window that holds what it does; its `view_bits` are those in which views may differ."""
        return self.rule

    def until(self, held: int) -> int | None:
        """Contents held from which on another rule may come, if `held` are; None for never."""
        return None

    def saved(self) -> bytes | None:
        """What has to be kept in a state so that `at` tells the same after a restart."""
        return None

    def restore(self, saved: bytes | None) -> None:
        """Take what `saved` gave; ValueError or KeyError if it is something else."""

    @property
    def notes(self) -> list[str]:
        """Where the rule is from, where a user should know."""
        return []

    @property
    def warnings(self) -> list[str]:
        """What came that makes the rule a careful one."""
        return []


def check_window_rule(rule: Rule, dim: int | None) -> None:
    """Refuse a rule that a window of vectors of so many dimensions, or of none, cannot go by."""
    least = 0 if rule.local is None and rule.agreement is None else -1
    if rule.hamming is not None and not least <= rule.hamming <= MAX_RADIUS:
        raise UsageError(
            f"a Hamming distance lies between 0 and {MAX_RADIUS} of {BITS} bits, not {rule.hamming}"
        )
    if rule.cosine is not None and not 0 < rule.cosine <= 1:
        raise UsageError(f"a cosine threshold lies above 0 and is at most 1, not {rule.cosine}")
    if (rule.cosine is not None or rule.evidence is not None) and dim is None:
        raise UsageError("a cosine needs vectors to be taken of")


def turned_radius(hamming: int | None) -> int:
    """Bits in which hashes of turned pictures may differ; -1 where they prove nothing."""
    if hamming is None or hamming < _TURNED_BITS:
        return -1
    return min(hamming - _TURNED_BITS, _MAX_TURNED)


def beyond_doubt(
    rule: Rule, evidence: np.ndarray, perceptual: np.ndarray, embedding: np.ndarray
) -> np.ndarray:
    """Tell which matches need no look at their pixels: by much evidence, or, where a rule knows none, by hash and cosine."""
    return perceptual & embedding if rule.evidence is None else evidence >= BEYOND_DOUBT * rule.evidence


def suspects_of(rule: Rule, evidence: np.ndarray, cosine: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Tell which of what lies near is no match unless its pixels agree: by little evidence, or by views or a high cosine."""
    if rule.suspected is None:
        return np.zeros(len(evidence), bool)
    if rule.evidence is not None:
        return evidence < rule.evidence
    return (cosine < (rule.cosine or 0)) & ((nearest <= RADIUS) | (cosine >= rule.suspected))


def settle(
    pictures: StreamPictures,
    rule: Rule,
    own: tuple[str, str | None],
    others: Sequence[tuple[str, str | None]],
    evidence: np.ndarray,
    by_hash: np.ndarray,
    suspected: np.ndarray,
    *,
    strict: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Tell which matches in doubt hold, and which of these are variants: alike, with nothing that makes them one picture.

    Each is a digest and a file. The `evidence` of some may be NaN; the pictures of those with most of it are registered, of
    equal ones the first. Hashes of whole pictures, which a rule allows few bits, are believed `by_hash` where pixels cannot
    be had. Those that are only `suspected` come last and are no variants; `strict` asks for as much agreement as ever.
    """
    held, vague = np.zeros(len(others), bool), np.zeros(len(others), bool)
    known = np.nan_to_num(evidence)
    looked_at = 0
    for place, k in enumerate(np.lexsort((-known, suspected)).tolist()):
        agreed = np.array([np.nan])
        looked_at += int(suspected[k])
        if place < _REGISTERED and looked_at <= _SUSPECTED:
            agreed[0] = pictures.agreement(own, others[k], float(known[k]))
        asked, least = (None, STRICT) if strict else (rule.evidence, pictures.least)
        same, unsure = decide(agreed, known[[k]], asked, least)
        # A stream has no second look: what was not seen is a variant whatever its evidence.
        held[k] = by_hash[k] if np.isnan(agreed[0]) else same[0]
        vague[k] = not (held[k] or suspected[k]) and (np.isnan(agreed[0]) or unsure[0])
    return held | vague, vague


def fixed_rules(rule: Rule, capacity: int, *, viewed: bool) -> Rules:
    """One rule for all sizes, by which views are compared too if they are made."""
    return Rules(_with_views(rule, capacity, 1.0, viewed))


def _with_views(rule: Rule, n: int, expected: float, viewed: bool) -> Rule:
    """Choose the bits in which views of `n` contents may differ, as `find` does."""
    if rule.hamming is None or not viewed:
        return replace(rule, view_bits=-1, agreement=None)
    most = rule.hamming if rule.view_bits is None else rule.view_bits
    return replace(rule, view_bits=view_radius(n, most, expected))


@dataclass(eq=False)
class CalibratedRules(Rules):
    """The rules that a calibration makes."""

    made: Calibration
    capacity: int
    _: KW_ONLY
    expected: float | None = 1.0  # false pairs; None for a careful number
    hamming: int | None = DEFAULT_HAMMING
    automatic: bool = True  # whether bits are chosen up to `hamming`
    viewed: bool = False
    source: str | None = None
    registers = True

    def at(self, window: SlidingWindow) -> Rule:
        """See `Rules.at`."""
        return self.of(len(window))

    def of(self, held: int) -> Rule:
        """The rule where so many contents are held."""
        n = self._size(held)
        expected = careful_expected(n) if self.expected is None else self.expected
        most = self.hamming if self.automatic else None
        rule = calibrated_rule(self.made, n, expected, most, self.viewed)[0]
        if not self.automatic or self.hamming is None:
            rule = replace(rule, hamming=self.hamming)
        if self.hamming is None:
            rule = replace(rule, agreement=None)
        rule = _with_views(rule, n, expected, self.viewed)
        return rule if self.source is None else replace(rule, source=self.source)

    def until(self, held: int) -> int | None:
        """See `Rules.until`."""
        size = self._size(held)
        return size if size < self.capacity else None

    def _size(self, held: int) -> int:
        return min(self.capacity, max(_LEAST, 1 << held.bit_length()))


def _crowd(X: np.ndarray, hashes: np.ndarray, views: ViewHashes | None) -> float:
    """How many of some contents a hash is near to, on average, whose vectors are no nearer than those of most pairs."""
    rows = np.flatnonzero(hashes)[-_SEEN:]
    i, j = np.triu_indices(len(rows), 1)
    if not len(i):
        return 0.0
    units = apply_map(X[rows].astype(np.float32), np.zeros(X.shape[1]), None)
    cosine = (units @ units.T)[i, j]
    near = np.bitwise_count(hashes[rows][i] ^ hashes[rows][j]) <= _FIRST_BITS
    if views is not None:
        near |= views.subset(rows).distance(i, j) <= _FIRST_BITS
    return 2 * float((near & (cosine < np.quantile(cosine, 0.9))).sum()) / len(rows)


@dataclass(eq=False)
class FittedRules(Rules):
    """Rules by what a stream's own contents look like."""

    feature: str
    fingerprint: str
    capacity: int
    _: KW_ONLY
    hamming: int | None = DEFAULT_HAMMING
    automatic: bool = True
    viewed: bool = False
    registers = True

    def __post_init__(self) -> None:
        self.crowded = False
        self._fitted_at = 0
        self._calibrated: CalibratedRules | None = None
        self._rule = self._first()

    def _first(self) -> Rule:
        bits = self.hamming
        if bits is not None and self.automatic:
            bits = min(bits, _FIRST_BITS)
        return Rule(bits, _FIRST_COSINE, source=DEFAULT_SOURCE, alike=_FIRST_ALIKE, suspected=_FIRST_ALIKE)

    def at(self, window: SlidingWindow) -> Rule:
        """See `Rules.at`."""
        held = len(window)
        due = max((size for size in FITTED_AT if size <= held), default=0)
        if due != self._fitted_at:
            self._fitted_at = due
            self._fit(window.held())
        if self._calibrated is not None:
            return self._calibrated.of(held)
        return _with_views(self._rule, max(held, _LEAST), careful_expected(held), self.viewed)

    def until(self, held: int) -> int | None:
        """See `Rules.until`."""
        more = [size for size in FITTED_AT if held < size <= self.capacity]
        if self._calibrated is not None and (size := self._calibrated.until(held)) is not None:
            more.append(size)
        return min(more, default=None)

    def _fit(self, held: Held) -> None:
        seen = held.views if self.viewed else None
        hashes = None if self.hamming is None else held.hashes
        self._calibrated = None
        self.crowded = _crowd(held.X, held.hashes, seen) > _CROWD
        if self._fitted_at >= _MEASURED_AT and not self.crowded:
            try:
                order = np.argsort(held.digests)
                made = fit_calibration(
                    self.feature, self.fingerprint, held.X, order, hashes, seen, unseen=True
                )
                self._calibrate(made)
                return
            except UsageError:  # too few, or too much alike
                pass
        n = len(held.X)
        if n < 2:
            self._rule = self._first()
            return
        rule = Rule(self.hamming, source=DEFAULT_SOURCE)
        careful = self.crowded or self._fitted_at >= _MEASURED_AT
        expected = careful_expected(self._fitted_at)
        self._rule, _ = near_certain_rule(
            held.X, held.hashes, seen, rule, n, self.automatic, expected, careful
        )
        if self.crowded:
            self._rule = replace(self._rule, alike=alike_cosine(self._rule.cosine or 1.0))
        if not careful:
            alike = 1 - 2 * (1 - (self._rule.cosine or 1.0))
            self._rule = replace(self._rule, hamming=self._first().hamming, suspected=alike)

    def _calibrate(self, made: Calibration) -> None:
        self._calibrated = CalibratedRules(
            made,
            self.capacity,
            expected=None,
            hamming=self.hamming,
            automatic=self.automatic,
            viewed=self.viewed,
            source=DEFAULT_SOURCE,
        )

    def saved(self) -> bytes | None:
        """See `Rules.saved`: an archive of the calibration, or of the rule where there is none."""
        if not self._fitted_at:
            return None
        buffer = io.BytesIO()
        about: dict[str, Any] = {"fitted_at": self._fitted_at, "viewed": self.viewed, "crowded": self.crowded}
        with zipfile.ZipFile(buffer, "w") as archive, tempfile.TemporaryDirectory() as scratch:
            if self._calibrated is None:
                about["rule"] = {name: getattr(self._rule, name) for name in _FIELDS}
            else:
                self._calibrated.made.write(Path(scratch))
                write_sums(Path(scratch))
                for file in sorted(Path(scratch).iterdir()):
                    archive.writestr(zipfile.ZipInfo(f"{_FOLDER}/{file.name}"), file.read_bytes())
            archive.writestr(zipfile.ZipInfo(_ABOUT), json.dumps(about))
        return buffer.getvalue()

    def restore(self, saved: bytes | None) -> None:
        """See `Rules.restore`."""
        if saved is None:
            return
        with zipfile.ZipFile(io.BytesIO(saved)) as archive, tempfile.TemporaryDirectory() as scratch:
            about = json.loads(archive.read(_ABOUT))
            if about["viewed"] != self.viewed:
                return  # of other evidence: made anew
            if "rule" in about:
                kept = {name: value for name, value in about["rule"].items() if name in _FIELDS}
                self._rule = Rule(source=DEFAULT_SOURCE, **kept)
            else:
                names = [name for name in archive.namelist() if name.startswith(f"{_FOLDER}/")]
                for name in names:
                    (Path(scratch) / Path(name).name).write_bytes(archive.read(name))
                self._calibrate(Calibration.read(Path(scratch)))
        self._fitted_at, self.crowded = int(about["fitted_at"]), bool(about.get("crowded"))

    @property
    def notes(self) -> list[str]:
        """See `Rules.notes`."""
        first = _MEASURED_AT
        note = (
            f"no calibration: what unrelated contents look like is told from those that come, {first:,} and more of them; "
            "until then only near-certain pairs count. `icehouse dups calibrate` of a store of such contents, given with "
            "--store, knows from the start"
        )
        return [note, *self.warnings]

    @property
    def warnings(self) -> list[str]:
        """See `Rules.warnings`."""
        if not self.crowded:
            return []
        said = (
            "what came looks alike: hashes are near where the vectors are not, as those of flags and drawings are; only "
            "near-certain pairs whose thumbnails agree count"
        )
        return [said]


def stored_calibration(store: Store, feature: str, *, viewed: bool) -> Calibration | None:
    """The calibration that a store's contents make for others that are to come; None if there are too few of them.

    It is taken from the store's cache, and made where that has none that holds; with views, if `viewed`, of those contents
    that others are held against. Their files are read once.
    """
    vectors = store.vectors(feature)
    digests = vectors.keys.cast(pa.string())
    digests = digests.combine_chunks() if isinstance(digests, pa.ChunkedArray) else digests
    rows = np.arange(len(digests))
    if len(rows) > _MOST:
        rows = np.sort(np.random.default_rng(7).permutation(len(rows))[:_MOST])
    hashes, views = None, None
    if feature.split("/")[-2] == "image":
        items = store.items.read(["image_sha256", "phash", "root", "path"])
        keys = items["image_sha256"].cast(pa.string()).combine_chunks()
        at = pc.index_in(digests.take(pa.array(rows)), value_set=keys, skip_nulls=True)
        known = pc.fill_null(items["phash"].combine_chunks().take(at), 0).to_numpy(zero_copy_only=False)
        known = known.astype(np.uint64)
        kept = np.flatnonzero(~blank_hashes(known))
        rows, hashes = rows[kept], known[kept] * informative(known[kept])
        if viewed:
            views = _views_of(store, items, digests.take(pa.array(rows)))
    names = np.array(digests.take(pa.array(rows)).to_pylist(), "U64")
    X = vectors.X if len(rows) == len(vectors.X) else vectors.X[rows]
    return default_calibration(store, feature, lambda: X, names, hashes, views, unseen=True)


def _views_of(store: Store, items: pa.Table, digests: pa.Array) -> ViewHashes | None:
    """Views of contents, made for every other one, as `fit_calibration` takes them; None where no file can be read."""
    order = pc.array_sort_indices(digests)
    wanted = digests.take(order).take(pa.array(np.arange(1, len(digests), 2)))
    make_views(store, items.filter(pc.is_in(items["image_sha256"].cast(pa.string()), value_set=wanted)))
    hashes, there = hash_column(store, digests, "hashes")
    return ViewHashes(hashes, informative(hashes) & there[:, None], 0) if there.any() else None


def store_rules(
    store: Store,
    feature: str,
    capacity: int,
    expected: float | None,
    *,
    hamming: int | None = DEFAULT_HAMMING,
    automatic: bool = True,
    viewed: bool = False,
) -> tuple[Rules, list[str]]:
    """Rules by a feature's calibration, by what its contents look like, or else by what will come; and what to say of it."""
    made, why = Calibration.current(store, feature)
    options: dict[str, Any] = {"hamming": hamming, "automatic": automatic, "viewed": viewed}
    if made is not None:
        rules = CalibratedRules(made, capacity, expected=1.0 if expected is None else expected, **options)
        return rules, [_told(rules, feature, 1.0 if expected is None else expected)]
    if expected is not None:
        raise UsageError(f"{why}; calibrate first: icehouse dups calibrate --feature {feature}")
    made = stored_calibration(store, feature, viewed=viewed)
    if made is not None:
        rules = CalibratedRules(made, capacity, expected=None, source=DEFAULT_SOURCE, **options)
        told = f"{why}: the rule is made from the neighbours that contents of {store.path} have in {feature}"
        return rules, [told, _told(rules, feature, careful_expected(capacity))]
    spec = store.feature_table(feature).spec
    fitted = FittedRules(feature, str(spec.get("fingerprint")), capacity, **options)
    return fitted, [why]


def _told(rules: CalibratedRules, feature: str, expected: float) -> str:
    full = rules.of(rules.capacity)
    what = (
        f"pairs that stand out among their own neighbours by {full.evidence:.1f} or more"
        if full.evidence is not None
        else f"cosine {full.cosine:.4f}"
    )
    bits = (
        ""
        if full.hamming is None
        else f" and hashes within {count_of(full.hamming, 'bit')}"
        if full.hamming >= 0
        else " and no hash by itself"
    )
    return (
        f"{what}{bits} in {feature}, at {false_pairs_text(expected)} among "
        f"{count_of(rules.capacity, 'content')}; less while the "
        "window holds fewer"
    )


def served_rules(
    store: Store, feature: str | None, n: int, held: Held, *, viewed: bool
) -> tuple[Rules, list[str]]:
    """Rules for a window of all `n` contents of a store, by which `find` would decide; and where they are from.

    By a calibration, by what the last search has made of the store, else by near certainty: nothing is fitted. `held`
    are those that have a vector.
    """
    if feature is None:
        return Rules(Rule(DEFAULT_HAMMING)), []
    hamming = None if feature.split("/")[-2] == "text" else DEFAULT_HAMMING
    made, why = Calibration.current(store, feature)
    expected, source = 1.0, None
    if made is None:
        made = known_calibration(store, feature, len(held.X), viewed=viewed)
        expected, source = careful_expected(n), DEFAULT_SOURCE
    if made is not None:
        rules = CalibratedRules(made, n, expected=expected, hamming=hamming, viewed=viewed, source=source)
        return rules, [_told(rules, feature, expected)]
    rule = Rule(hamming, cosine=_FIRST_COSINE, source=DEFAULT_SOURCE)
    note = "few contents"
    if len(held.X) > 1:
        views = held.views if viewed else None
        rule, note = near_certain_rule(held.X, held.hashes, views, rule, n, True, careful_expected(n))
    return Rules(_with_views(rule, n, careful_expected(n), viewed)), [
        f"{why}; {note}; after `icehouse dups find` neighbourhoods decide as they do there"
    ]
