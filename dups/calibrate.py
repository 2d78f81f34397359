"""A calibration of a store's feature: the user's own contents, changed as reposts are, against all that is unrelated.

Positives are the stored vector of a content and the vector of a changed copy of it. Negatives are pairs of different
contents, without those whose hashes are near: duplicates that the set has already.

A map that was fitted to few contents holds these apart better than contents it never saw. So the copies are judged by a
map that they were part of, as they would be had they been in the store.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from .. import __version__
from ..data.images import decode, is_blank
from ..data.text import clean
from ..data.transforms import GRADED, TEXT_EDITS, encode
from ..embed.encoder import Encoder, return_freed_blocks
from ..embed.extract import read_file
from ..embed.tables import load_checked
from ..errors import ImageError, SourceError, StoreError, UsageError, count_of
from ..store.files import publish_folder
from ..store.store import Store
from ..web.figures import Chart, Series, draw
from .calibration import (
    MIN_ROWS,
    Calibration,
    Covariance,
    TailFit,
    apply_map,
    check_expected,
    fit_bits,
    fit_map,
    fit_tail,
    largest_cosines,
    tail_size,
)
from .default_calibration import fit_measure, hash_bits
from .hashing import ViewHashes, blank_hashes, informative, view_radius
from .local_scaling import LocalMeasure
from .pair_graph import default_feature
from .rule import DEFAULT_HAMMING
from .views import MAX_VIEWED, as_read, load_views, view_hashes

if TYPE_CHECKING:
    from .evaluate import Truth

#: Of unrelated pictures none has a hash so near; those that do are not counted as unrelated.
_RELATED_BITS = 10
_MAX_PAIRS = 200_000
#: Contents whose views are made without further processes, the start of which takes a second of processor time.
_ALONE = 1000

#: Whether two contents are duplicates, by their numbers in ascending order, as a user has labelled them.
Known = dict[tuple[int, int], bool]


@dataclass(frozen=True)
class Hashes:
    """Perceptual hashes of some contents."""

    whole: np.ndarray  # uint64 (n,): hashes of the whole pictures
    useful: np.ndarray  # bool (n,): those that are informative
    #: hashes of their parts; None where there are so many contents that `find` would not make them
    views: ViewHashes | None

    @classmethod
    def of(cls, store: Store, contents: pa.Table, hamming: int, expected: float) -> Hashes:
        """Get those of the rows of `contents`, making the views that the store has not yet."""
        whole = pc.fill_null(contents["phash"], 0).to_numpy().astype(np.uint64)
        radius = view_radius(len(contents), hamming, expected)
        views = None
        if len(contents) <= MAX_VIEWED:
            threads = 1 if len(contents) <= _ALONE else None
            views = ViewHashes(*load_views(store, contents, threads=threads), radius)
        return cls(whole, informative(whole), views)

    def apart(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Bits in which the whole pictures' hashes differ; 65 where one says nothing."""
        bits = np.bitwise_count(self.whole[i] ^ self.whole[j]).astype(np.int64)
        return np.where(self.useful[i] & self.useful[j], bits, 65)

    def related(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Tell which pairs are too near for unrelated ones."""
        near = self.apart(i, j) <= _RELATED_BITS
        return near if self.views is None else near | (self.views.distance(i, j) <= self.views.radius)

    def fit_bits(
        self, compared: np.ndarray, units: np.ndarray, cosine: float, known: Known
    ) -> dict[str, tuple[float, float]]:
        """Fit how often hashes of unrelated pictures are near; see `icehouse.dups.calibration.Calibration.bits`."""
        a, b = _pairs(len(compared))
        alike = np.concatenate(
            [
                np.einsum("ij,ij->i", units[a[k : k + 512]], units[b[k : k + 512]])
                for k in range(0, len(a), 512)
            ]
        )
        usable = np.abs(units).sum(axis=1) > 0
        i, j = compared[a], compared[b]
        unrelated = ~labels_of(i, j, known, (alike >= cosine) | ~usable[a] | ~usable[b])
        i, j = i[unrelated], j[unrelated]
        apart = self.apart(i, j)
        fits = {"whole": fit_bits(apart[apart <= 64])}
        if self.views is not None:
            nearest = self.views.distance(i, j)
            fits["views"] = fit_bits(nearest[nearest <= 64])
        return {what: fit for what, fit in fits.items() if fit is not None}

    def fit_agreement(
        self, compared: np.ndarray, units: np.ndarray, cosine: float, known: Known
    ) -> TailFit | None:
        """Fit how far all views of unrelated pictures agree; None if there is too little to tell by.

        Parameters as those of `fit_bits`.
        """
        if self.views is None:
            return None
        seen = np.flatnonzero(self.views.usable[compared].any(axis=1))
        total = len(seen) * (len(seen) - 1) // 2
        a, b, _ = largest_cosines(self.views.signs(compared[seen]), 2 * tail_size(total) + 1000)
        a, b = seen[a], seen[b]
        i, j = compared[a], compared[b]
        related = labels_of(i, j, known, np.einsum("ij,ij->i", units[a], units[b]) >= cosine)
        # As `find` measures it, to the last digit.
        agreed = self.views.agreement(i, j, near=False)
        try:
            return fit_tail(agreed[~related], total - int(related.sum()))
        except UsageError:
            return None


def labels_of(i: np.ndarray, j: np.ndarray, known: Known, otherwise: np.ndarray) -> np.ndarray:
    """Tell which pairs are labelled as duplicates, and of those without a label what is given."""
    told = otherwise.copy()
    if known:
        for k, (a, b) in enumerate(zip(i.tolist(), j.tolist(), strict=True)):
            told[k] = known.get((min(a, b), max(a, b)), told[k])
    return told


def _pairs(m: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs ``a < b`` of m things, or many of them at random."""
    rng = np.random.default_rng(1)
    if m * (m - 1) // 2 <= 4 * _MAX_PAIRS:
        a, b = np.triu_indices(m, 1)
        pick = rng.permutation(len(a))[:_MAX_PAIRS]
        return a[pick], b[pick]
    drawn = rng.integers(0, m, (_MAX_PAIRS, 2))
    drawn = np.unique(np.sort(drawn[drawn[:, 0] != drawn[:, 1]], axis=1), axis=0)
    return drawn[:, 0], drawn[:, 1]


#: Changed copies of each sampled content; the transforms take turns.
ROUNDS = 6

#: Of so many contents one is changed by default, at least and at most so many: to make, hash and encode its copies takes
#: about as long as to embed the others.
_SAMPLED_OF, _FEWEST_SAMPLED, _MOST_SAMPLED = 12, 10, 200

#: Kind of the copies that a user has labelled.
LABELLED = "labelled"

_LARGEST = 800
#: Copies that are encoded at once: larger batches are no faster on a processor, and take hundreds of megabytes more.
_BATCH = 4

Progress = Callable[[int, int], None]


@dataclass
class Copies:
    """Copies of contents."""

    of: np.ndarray  # int64 (m,): number of the content that each is a copy of
    kinds: np.ndarray  # str (m,): transform, or `LABELLED`
    #: int64 (m,): in one round no content has two copies; -1 for contents of the store themselves
    rounds: np.ndarray
    vectors: np.ndarray  # (m, d)
    #: int64 (m,): bits between the nearest views of copy and content; 65 where there is no hash
    apart: np.ndarray
    whole: np.ndarray  # int64 (m,): bits between the pictures as they are
    agreed: np.ndarray  # float64 (m,): agreement of all views of copy and content

    def with_labelled(self, i: np.ndarray, j: np.ndarray, X: np.ndarray, hashes: Hashes | None) -> Copies:
        """Add the pairs of contents ``i[k]`` and ``j[k]`` that are known to be duplicates."""
        apart, whole, agreed = np.full(len(i), 65), np.full(len(i), 65), np.full(len(i), -1.0)
        if hashes is not None:
            whole = hashes.apart(i, j)
            if hashes.views is not None:
                apart, agreed = hashes.views.distance(i, j), hashes.views.agreement(i, j)
        added = (i, np.full(len(i), LABELLED), np.full(len(i), -1), X[j], apart, whole, agreed)
        held = (self.of, self.kinds, self.rounds, self.vectors, self.apart, self.whole, self.agreed)
        return Copies(*(np.concatenate(both) for both in zip(held, added, strict=True)))


def make_copies(
    encoder: Encoder,
    spec: dict[str, Any],
    contents: pa.Table,
    dtype: np.dtype,
    rng: np.random.Generator,
    sample: int,
    seed: int,
    progress: Progress | None,
    hashes: Hashes | None,
) -> Copies:
    """Change a sample of contents, each in `ROUNDS` ways, and encode the copies as the contents were.

    One that cannot be read again is passed over, and another drawn.
    """
    picture = spec["modality"] == "image"
    names = list(GRADED if picture else TEXT_EDITS)
    rounds = min(ROUNDS, len(names))
    views = None if hashes is None else hashes.views
    of, kinds, turns, own, others = [], [], [], [], []
    taken = 0
    cleaning = spec["provenance"].get("cleaning", "")
    with _Encoding(encoder, picture, spec["output"]) as encoding:
        for row in rng.permutation(len(contents)).tolist():
            if taken == sample:
                break
            known = None if views is None or not views.usable[row].any() else views.hashes[row]
            item = contents.slice(row, 1).to_pylist()[0]
            fresh = list(_changed(item, picture, names, rounds, taken, [seed, row], known))
            taken += bool(fresh)
            for turn, (kind, copy, content, changed) in enumerate(fresh):
                try:
                    prepared = encoder.prepare_image(copy) if picture else clean(copy, cleaning)
                except Exception:  # of a model's own preprocessing: it costs this copy only
                    continue
                encoding.add(prepared)
                of.append(row)
                kinds.append(kind)
                turns.append(turn)
                own.append(content)
                others.append(changed)
            if progress:
                progress(taken, min(sample, len(contents)))
        vectors = encoding.finished()
    if not of:
        what = "image files" if picture else "texts"
        raise SourceError(f"none of the {what} could be read again, so that there is nothing to calibrate by")
    apart, whole, agreed = _compared(np.array(own), np.array(others))
    return Copies(np.array(of), np.array(kinds), np.array(turns), vectors.astype(dtype), apart, whole, agreed)


class _Encoding:
    """What an encoder makes of inputs that come one by one; batches are encoded while others are prepared."""

    def __init__(self, encoder: Encoder, picture: bool, output: str) -> None:
        self._encoder, self._picture, self._output = encoder, picture, output
        self._pool = encoder.stream_pool()
        self._waiting: list[Any] = []
        self._made: list[Future[np.ndarray]] = []

    def __enter__(self) -> _Encoding:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, prepared: Any) -> None:
        """Take an input, as the encoder prepares it."""
        self._waiting.append(prepared)
        if len(self._waiting) >= min(self._encoder.batch_size, _BATCH):
            self._flush()

    def finished(self) -> np.ndarray:
        """Vectors of all inputs, in their order, (m, d)."""
        self._flush()
        return np.concatenate([made.result() for made in self._made]) if self._made else np.empty((0, 0))

    def _flush(self) -> None:
        if not self._waiting:
            return
        if self._made:
            self._made[-1].result()  # two at a time would take a hundred megabytes more
        self._made.append(self._pool.submit(self._encode, self._waiting))
        self._waiting = []

    def _encode(self, batch: list[Any]) -> np.ndarray:
        outputs = [self._output]
        if self._picture:
            made = self._encoder.encode_images(np.stack(batch), outputs)
        else:
            made = self._encoder.encode_texts(batch, outputs)
        vectors = made[self._output]
        assert isinstance(vectors, np.ndarray)
        return vectors


def _compared(own: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`apart`, `whole` and `agreed` of `Copies`, of the hashes of contents and of their copies, uint64 (m, VIEWS)."""
    m = len(own)
    if not own.shape[1]:
        return np.full(m, 65), np.full(m, 65), np.full(m, -1.0)
    hashes = np.concatenate([own, others])
    both = ViewHashes(hashes, informative(hashes), 0)
    i = np.arange(m)
    bits = np.bitwise_count(own[:, 0] ^ others[:, 0]).astype(np.int64)
    whole = np.where(both.usable[:m, 0] & both.usable[m:, 0], bits, 65)
    return both.distance(i, m + i), whole, both.agreement(i, m + i)


def _changed(
    item: dict[str, Any],
    picture: bool,
    names: Sequence[str],
    rounds: int,
    number: int,
    seed: list[int],
    known: np.ndarray | None,
) -> Iterator[tuple[str, Any, np.ndarray, np.ndarray]]:
    """The copies of one content: transform, copy, and the hashes of the content's views, if `known`, and of the copy's."""
    chosen = [names[(number + turn * len(names) // rounds) % len(names)] for turn in range(rounds)]
    if not picture:
        nothing = np.empty(0, np.uint64)
        for kind in chosen:
            rng = np.random.default_rng([*seed, names.index(kind)])
            yield kind, TEXT_EDITS[kind](item["text"], rng), nothing, nothing
        return
    try:
        data, _ = read_file(Path(item["root"] or "") / item["path"])
        original = decode(data, shortest=_LARGEST)
    except (ImageError, OSError, ValueError, TypeError):
        return
    if original.blank:
        return
    own = view_hashes(as_read(original.image)) if known is None else known
    # Changing a photograph of 20 megapixels 6 times takes seconds, and reposts are small.
    original.image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BICUBIC)
    for kind in chosen:
        rng = np.random.default_rng([*seed, names.index(kind)])
        file = encode(
            GRADED[kind](original.image, rng), _format(kind, original.format), int(rng.integers(75, 93))
        )
        with Image.open(io.BytesIO(file)) as opened:
            copy = opened.convert("RGB")
        if not is_blank(copy):
            yield kind, copy, own, view_hashes(as_read(copy))


def _format(kind: str, original: str) -> str:
    if kind != "format":
        return "jpg"
    return "webp" if original == "JPEG" else "jpg" if original == "PNG" else "png"


#: Shares of the identity in the covariance that are tried; 1 only centres.
SHRINKAGES = (1.0, 0.4)

_MAX_FITTED = 20_000
_MAX_COMPARED = 6000
#: Contents whose pairs tell how alike any two are.
_MAX_RANDOM = 1000
#: Recall that a map must gain to be worth having.
_MIN_GAIN = 0.005
#: Cosine of the vectors of one picture that was saved twice, to within rounding.
_EQUAL = 0.9999
#: Labelled duplicates that count like the copies of one transform.
_AS_A_TRANSFORM = 20
# Cosines that a curve is counted at.
_CURVE_POINTS = 400
_LIBRARIES = ("icehouse", "numpy", "pillow", "torch")


def calibrate(
    store: Store | str | Path,
    *,
    feature: str | None = None,
    expected_false_pairs: float = 1.0,
    pairs: str | Path | None = None,
    sample: int | None = None,
    seed: int = 0,
    hamming: int = DEFAULT_HAMMING,
    encoder: Encoder | None = None,
    figures: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> Calibration:
    """Calibrate an image or text feature and keep the result in the store, where `find_duplicates` finds it.

    Known `pairs` (CSV of `a`, `b`, and perhaps `label`): positives count like another transform, "labelled", and not as
    unrelated; negatives count as unrelated, however near their hashes. With `figures` the curves are drawn, too.
    """
    from threadpoolctl import threadpool_limits

    store = Store.of(store)
    if sample is not None and sample < 1:
        raise UsageError(f"the sample must be at least 1 content, not {sample}")
    check_expected(expected_false_pairs)
    feature = feature or default_feature(store)
    if feature is None:
        raise UsageError(f"{store.path} has no feature to calibrate; make some with `icehouse embed`")
    spec = store.feature_table(feature).spec
    if spec["modality"] not in ("image", "text") or spec["output"] == "tokens":
        raise UsageError(f"{feature} cannot be calibrated: that takes one vector an image or a text")
    contents, X = _contents(store, feature, spec["key"])
    n = len(contents)
    if sample is None:
        sample = min(max(n // _SAMPLED_OF, _FEWEST_SAMPLED), _MOST_SAMPLED)
    if n < MIN_ROWS:
        raise UsageError(
            f"{feature} has {count_of(n, 'different content')}, and a calibration needs at least {MIN_ROWS} "
            "to know what unrelated "
            "ones look like; give `icehouse dups find` a --threshold instead"
        )
    known: Known = {}
    if pairs is not None:
        from .evaluate import read_truth

        truth = read_truth(pairs, store.items.read(["item_id"])["item_id"])
        known = _known(store, truth, spec["key"], contents)
    lent = encoder is not None
    encoder = load_checked(spec, encoder, device=device)
    rng = np.random.default_rng([seed, 3])
    hashes = None
    if spec["modality"] == "image":
        hashes = Hashes.of(store, contents, hamming, expected_false_pairs)
    copies = make_copies(encoder, spec, contents, X.dtype, rng, sample, seed, progress, hashes)
    del encoder
    # Some hundred megabytes that the fits below have a use for.
    pa.default_memory_pool().release_unused()
    if not lent:
        return_freed_blocks()
    if same := [pair for pair, label in known.items() if label]:
        i, j = np.array(same).T
        copies = copies.with_labelled(i, j, X, hashes)
    fitted = np.sort(rng.permutation(n)[:_MAX_FITTED])
    compared = np.sort(rng.permutation(n)[:_MAX_COMPARED])
    evidence = _Evidence(X, copies, hashes, known, expected_false_pairs, sample, seed)
    # Threads of NumPy's BLAS that wait for the next small product spin meanwhile: the fits took twice the processor time.
    with threadpool_limits(limits=1, user_api="blas"):
        made, best, tried = _fitted(feature, spec["fingerprint"], evidence, fitted, compared, hamming)
    best.cosine = made.threshold(n, expected_false_pairs)
    report = _report(made, best, tried, evidence, hamming)
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES if name != "icehouse"}
    report |= {
        "versions": {"icehouse": __version__, **versions},
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    made = replace(made, report=report)
    curves = Curves.of(best.positives, best.negatives, best.random, best.tail.pairs, n, report["cosine"])
    folder = Calibration.folder(store, feature)
    try:
        with publish_folder(folder) as temp:
            made.write(temp)
            write_curves(temp, curves)
            if figures:
                draw_curves(temp, curves, f"{feature}, {count_of(n, 'content')}")
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror or error}") from error
    return made


@dataclass(frozen=True)
class _Evidence:
    """Data by which a map is judged: vectors, changed copies and hashes of the contents, and facts of them."""

    X: np.ndarray
    copies: Copies
    hashes: Hashes | None
    known: Known
    expected: float
    sample: int
    seed: int


def _chosen(tried: Sequence[_Candidate]) -> _Candidate:
    """The map that finds most; where none gains, that of a search without a calibration, which is to be no better.

    With few contents such a search maps nothing, and what only centres comes first.
    """
    order = tried[::-1] if all(one.local is not None for one in tried) else tried
    best = order[0]
    for other in order[1:]:
        if other.mean_recall > best.mean_recall + _MIN_GAIN:
            best = other
    return best


@dataclass
class _Candidate:
    """A map that was tried, and how it did."""

    shrinkage: float
    mean: np.ndarray
    matrix: np.ndarray | None
    tail: TailFit
    excluded: int
    positives: np.ndarray
    negatives: np.ndarray
    random: np.ndarray
    cosine: float
    mean_recall: float
    #: what each content is held against, where there are enough, and the contents that are its reference
    local: LocalMeasure | None
    reference: np.ndarray
    evidence: np.ndarray  # of each copy with its content; NaN without a local measure


def _fitted(
    feature: str,
    fingerprint: str,
    evidence: _Evidence,
    fitted: np.ndarray,
    compared: np.ndarray,
    hamming: int,
) -> tuple[Calibration, _Candidate, list[_Candidate]]:
    """A calibration without a report, the map that it has, and all that were tried."""
    X, hashes, known, n = evidence.X, evidence.hashes, evidence.known, len(evidence.X)
    tried = [_fit_candidate(shrinkage, evidence, fitted, compared) for shrinkage in SHRINKAGES]
    best = _chosen(tried)
    lowest_first = tuple(np.sort(best.positives[np.isfinite(best.positives)]).tolist())
    fitting = (best.mean, best.matrix, best.tail, len(fitted))
    made = Calibration(feature, fingerprint, *fitting, copies=lowest_first)
    if best.local is not None:
        seen = best.evidence[np.isfinite(best.evidence)]
        made = replace(made, local=best.local, evidence=tuple(np.sort(seen).tolist()))
    if hashes is not None and best.local is not None:
        views = None if hashes.views is None else hashes.views.subset(best.reference)
        whole = np.where(hashes.useful, hashes.whole, 0)[best.reference]
        made = replace(made, bits=hash_bits(best.local, whole, views))
    elif hashes is not None:
        units = apply_map(X[compared], best.mean, best.matrix)
        made = replace(made, bits=hashes.fit_bits(compared, units, best.cosine, known))
        if made.radius("whole", n, hamming, evidence.expected) < hamming:
            # Otherwise hashes of 64 bits suffice.
            made = replace(made, agreement=hashes.fit_agreement(compared, units, best.cosine, known))
    return made, best, tried


def _fit_candidate(
    shrinkage: float, evidence: _Evidence, fitted: np.ndarray, compared: np.ndarray
) -> _Candidate:
    X, copies, hashes, known = evidence.X, evidence.copies, evidence.hashes, evidence.known
    base = X if len(fitted) == len(X) else X[fitted]
    covariance = None if shrinkage >= 1 else Covariance.of(base)
    if covariance is None:
        mean, matrix = fit_map(base, shrinkage)
    else:
        mean, matrix = covariance.mean, covariance.matrix(shrinkage)
    units = apply_map(X[compared], mean, matrix)
    mapped = units if len(units) == len(X) else None
    usable = np.flatnonzero(np.abs(units).sum(axis=1) > 0)
    units, compared = units[usable], compared[usable]
    if len(units) < MIN_ROWS:
        raise UsageError("all contents are equally alike: their vectors tell nothing apart")
    total = len(units) * (len(units) - 1) // 2
    # As many again, for those that turn out to be duplicates, and more where nearly all do: memes on a few templates.
    keep = 2 * tail_size(total) + 1000
    while True:
        i, j, cosine = largest_cosines(units, keep)
        i, j = compared[i], compared[j]
        related = labels_of(i, j, known, np.zeros(len(i), bool) if hashes is None else hashes.related(i, j))
        if keep >= total or (~related).sum() > tail_size(total - int(related.sum())):
            break
        keep = min(4 * keep, total)
    if (~related).sum() <= tail_size(total - int(related.sum())):
        # Near hashes tell nothing apart where all pictures share them: equal vectors alone are copies then.
        related = labels_of(i, j, known, cosine >= _EQUAL)
    tail = fit_tail(cosine[~related], total - int(related.sum()))
    some = units[np.random.default_rng(0).permutation(len(units))[:_MAX_RANDOM]]
    random = (some @ some.T)[np.triu_indices(len(some), 1)]
    positives = _positives(shrinkage, covariance, mean, matrix, X, copies)
    del base, covariance, units  # what follows needs the memory
    threshold = tail.threshold(len(X), evidence.expected)
    found = positives >= threshold
    local, reference, standing = _hold_against_neighbours(mean, matrix, mapped, positives, evidence)
    if local is not None:
        found = standing >= local.threshold(len(X), evidence.expected)
    kinds = list(dict.fromkeys(copies.kinds.tolist()))
    recalls = [found[copies.kinds == kind].mean() for kind in kinds]
    # A handful of labelled pairs is not to outweigh what dozens of copies say.
    weights = [min(1.0, (copies.kinds == kind).sum() / _AS_A_TRANSFORM) for kind in kinds]
    return _Candidate(
        shrinkage, mean, matrix, tail, int(related.sum()), positives, cosine[~related], random, threshold,
        float(np.average(recalls, weights=weights)), local, reference, standing,
    )  # fmt: skip


def _hold_against_neighbours(
    mean: np.ndarray,
    matrix: np.ndarray | None,
    mapped: np.ndarray | None,
    positives: np.ndarray,
    evidence: _Evidence,
) -> tuple[LocalMeasure | None, np.ndarray, np.ndarray]:
    """The local measure under a map, its reference, and the evidence of each copy with its content.

    `mapped` are all contents after the map, where they are at hand.
    """
    X, copies, hashes = evidence.X, evidence.copies, evidence.hashes
    views = None if hashes is None else hashes.views
    none = np.full(len(positives), np.nan)
    try:
        local, reference = fit_measure(
            X, np.arange(len(X)), mean, matrix, views, evidence.known, mapped=mapped
        )
    except UsageError:
        return None, np.empty(0, np.int64), none
    numbers, at = np.unique(copies.of, return_inverse=True)
    units = apply_map(X[numbers], mean, matrix) if mapped is None else mapped[numbers]
    beside = local.neighbourhoods(units, None if views is None else views.subset(numbers))
    # A copy has the neighbours of its content.
    apart = None if views is None else copies.apart
    return local, reference, beside.evidence(at, at, positives, apart, local.quantile)


def _positives(
    shrinkage: float,
    fitted: Covariance | None,
    mean: np.ndarray,
    matrix: np.ndarray | None,
    X: np.ndarray,
    copies: Copies,
) -> np.ndarray:
    """Cosine of each copy with its content."""
    cosines = np.empty(len(copies.of))
    seen = np.ones(len(copies.of), bool)
    if fitted is not None and matrix is not None and fitted.rows < 5 * len(mean):
        # Labelled copies are in the store, and the map has seen them.
        seen = copies.rounds < 0
        for turn in np.unique(copies.rounds[~seen]).tolist():
            now = np.flatnonzero(copies.rounds == turn)
            cosines[now] = fitted.cosines_with(X[copies.of[now]], copies.vectors[now], shrinkage)
    left, right = (apply_map(rows[seen], mean, matrix) for rows in (X[copies.of], copies.vectors))
    cosines[seen] = np.einsum("ij,ij->i", left, right)
    return cosines


def _contents(store: Store, feature: str, key: str) -> tuple[pa.Table, np.ndarray]:
    """Different contents that have a vector, by digest, and their vectors."""
    names = ["item_id", "root", "path", "text", "phash", "missing", key]
    items = store.items.read(names)
    vectors = store.vectors(feature)
    items = items.filter(pc.invert(pc.fill_null(items["missing"], False)))
    items = items.append_column("row", pc.index_in(items[key].cast(pa.string()), value_set=vectors.keys))
    items = items.filter(pc.and_(pc.is_valid(items["row"]), pc.is_valid(items[key])))
    if key == "image_sha256":  # blank pictures are alike whatever they are of
        hashes = pc.fill_null(items["phash"], 1).to_numpy().astype(np.uint64)
        items = items.filter(pa.array(~blank_hashes(hashes)))
    items = items.sort_by([(key, "ascending"), ("item_id", "ascending")])
    digests = items[key].to_pylist()
    first = [k for k, digest in enumerate(digests) if not k or digests[k - 1] != digest]
    items = items.take(pa.array(first, pa.int64()))
    return items, vectors.X[items["row"].to_numpy()] if len(items) else vectors.X[:0]


def _known(store: Store, truth: Truth, key: str, contents: pa.Table) -> Known:
    """Labelled pairs of contents."""
    items = store.items.read(["item_id", key])
    at = pc.index_in(items[key].cast(pa.string()), value_set=contents[key].cast(pa.string()).combine_chunks())
    number = dict(zip(items["item_id"].to_pylist(), at.to_pylist(), strict=True))
    known: Known = {}
    for label, listed in ((False, truth.negative or frozenset()), (True, truth.positive)):
        for a, b in listed:
            i, j = number.get(a), number.get(b)
            if i is not None and j is not None and i != j:
                known[min(i, j), max(i, j)] = label
    if not known:
        raise SourceError("none of the labelled pairs is of two different contents of this store")
    return known


def _report(
    made: Calibration, best: _Candidate, tried: list[_Candidate], evidence: _Evidence, hamming: int
) -> dict[str, Any]:
    copies, hashes, expected, n = evidence.copies, evidence.hashes, evidence.expected, len(evidence.X)
    views = None if hashes is None else hashes.views
    least = None if made.local is None else made.local_threshold(n, expected)
    by_embedding = best.positives >= best.cosine if least is None else best.evidence >= least
    rule = made.hashes(n, hamming, expected, views is not None)
    by_hash = copies.whole <= rule.whole
    if views is not None:
        by_hash = by_hash | (copies.apart <= min(rule.views, views.radius))
    if rule.agreement is not None:
        by_hash = by_hash | (copies.agreed >= rule.agreement)
    rows = []
    for kind in sorted(set(copies.kinds.tolist()), key=lambda k: [*GRADED, *TEXT_EDITS, LABELLED].index(k)):
        of = copies.kinds == kind
        rows.append(
            {
                "transform": kind,
                "copies": int(of.sum()),
                "embedding": float(by_embedding[of].mean()),
                "hash": float(by_hash[of].mean()),
                "cascade": float((by_embedding | by_hash)[of].mean()),
                "median_cosine": float(np.median(best.positives[of])),
            }
        )
    report: dict[str, Any] = {
        "contents": n,
        "expected_false_pairs": expected,
        "cosine": best.cosine,
        "evidence": least,
        "shrinkage": best.shrinkage,
        "tried": [
            {"shrinkage": t.shrinkage, "cosine": t.cosine, "mean_recall": t.mean_recall} for t in tried
        ],
        "hamming": rule.whole,
        "view_radius": None if views is None else min(rule.views, views.radius),
        "agreement": rule.agreement,
        "pairs_judged": best.tail.pairs,
        "pairs_left_out": best.excluded,
        "suspected_duplicates": best.tail.suspects,
        "sampled": len(set(copies.of[copies.rounds >= 0].tolist())),
        "sample": evidence.sample,
        "seed": evidence.seed,
        "transforms": rows,
        "thresholds": {f"{e:g}": made.threshold(n, e) for e in (0.1, 1, 10, 100)},
    }
    if evidence.known:
        report["labelled"] = _labelled(made, best, evidence)
    return report


def _labelled(made: Calibration, best: _Candidate, evidence: _Evidence) -> dict[str, int]:
    X, known, hashes = evidence.X, evidence.known, evidence.hashes
    i, j = np.array(list(known)).T
    left, right = apply_map(X[i], best.mean, best.matrix), apply_map(X[j], best.mean, best.matrix)
    cosine = np.einsum("ij,ij->i", left, right)
    found = cosine >= best.cosine
    if made.local is not None:
        views = None if hashes is None else hashes.views
        numbers = np.concatenate([i, j])
        seen = None if views is None else views.subset(numbers)
        beside = made.local.neighbourhoods(np.concatenate([left, right]), seen)
        apart = None if views is None else views.distance(i, j)
        at = np.arange(len(i))
        standing = beside.evidence(at, at + len(i), cosine, apart, made.local.quantile)
        found = standing >= made.local_threshold(len(X), evidence.expected)
    label = np.array(list(known.values()))
    return {
        "positives": int(label.sum()),
        "positives_found": int((found & label).sum()),
        "negatives": int((~label).sum()),
        "negatives_found": int((found & ~label).sum()),
    }


@dataclass(frozen=True)
class Curves:
    """At each of some cosines, ascending: recall of the changed copies, and what unrelated pairs reach it.

    `false_rate` is the share of these, `false_pairs` how many to expect among all pairs of the set, `precision` that of
    a set with as many true pairs as there were copies, `chosen` the threshold.
    """

    cosine: np.ndarray
    recall: np.ndarray
    false_rate: np.ndarray
    false_pairs: np.ndarray
    precision: np.ndarray
    chosen: float

    @classmethod
    def of(
        cls, positives: np.ndarray, top: np.ndarray, random: np.ndarray, pairs: int, n: int, chosen: float
    ) -> Curves:
        """Count, at cosines from the least to the largest seen.

        `top` are the largest cosines of `pairs` unrelated pairs, `random` those of random pairs, for what lies below;
        `n` contents are in the set.
        """
        low = float(min(positives.min(), np.quantile(random, 0.01)))
        cosine = np.unique(np.append(np.linspace(low, 1.0, _CURVE_POINTS), chosen))
        recall = _share(positives, cosine)
        rate = np.where(cosine >= top.min(), _share(top, cosine) * len(top) / pairs, _share(random, cosine))
        false = rate * n * (n - 1) / 2
        right = recall * len(positives)
        precision = np.where(right + false > 0, right / np.maximum(right + false, 1e-300), 1.0)
        return cls(cosine, recall, rate, false, precision, chosen)


def _share(values: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Share of `values` that are at least each of `least`."""
    return 1 - np.searchsorted(np.sort(values), least, side="left") / len(values)


def write_curves(folder: Path, curves: Curves) -> None:
    """Write ``curves.csv``."""
    names = ("cosine", "recall", "false_rate", "false_pairs", "precision")
    with (folder / "curves.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(zip(*(getattr(curves, name).tolist() for name in names), strict=True))


def draw_curves(folder: Path, curves: Curves, subject: str) -> None:
    """Write ``roc.png`` and ``precision-recall.png``."""
    at = int(np.argmin(np.abs(curves.cosine - curves.chosen)))
    recall, precision = curves.recall[at], curves.precision[at]
    # A rate of nothing has no place on a logarithmic axis: such points sit at its left end.
    floor = 10.0 ** np.floor(np.log10(max(curves.false_rate[curves.false_rate > 0].min(initial=1e-6), 1e-12)))
    rate = np.maximum(curves.false_rate, floor)
    chosen = f"chosen: cosine {curves.chosen:.3f}"
    roc = Chart(
        key="roc",
        title=f"ROC: {subject}",
        x_label="share of unrelated pairs taken for copies",
        y_label="recall",
        series=[
            Series("all cosines", rate, curves.recall, strong=True),
            Series(chosen, [rate[at]], [recall], hue=1, kind="points"),
        ],
        x_range=(float(floor), 1.0),
        x_log=True,
    )
    precision_recall = Chart(
        key="precision-recall",
        title=f"Precision, recall: {subject}",
        x_label="recall",
        y_label="precision",
        series=[
            Series("all cosines", curves.recall, curves.precision, strong=True),
            Series(chosen, [recall], [precision], hue=1, kind="points"),
        ],
    )
    for chart in (roc, precision_recall):
        (folder / f"{chart.key}.png").write_bytes(draw(chart).png)
