"""A calibration of a store's feature: the user's own contents, changed as reposts are, against all that is unrelated.

Positives are the stored vector of a content and the vector of a changed copy of it. Negatives are pairs of different
contents, without those whose hashes are near: duplicates that the set has already.

A map that was fitted to few contents holds these apart better than contents it never saw. So the copies are judged by a
map that they were part of, as they would be had they been in the store.
"""

from __future__ import annotations

import csv
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import __version__
from ..data.transforms import GRADED, TEXT_EDITS
from ..embed.encoder import Encoder
from ..embed.tables import load_checked
from ..errors import SourceError, StoreError, UsageError
from ..store.files import publish_folder
from ..store.store import Store
from ..web.figures import Chart, Series, draw
from .calibration import (
    LEAST_ROWS,
    Calibration,
    Tail,
    check_expected,
    fit_map,
    fit_tail,
    largest_cosines,
    mapped,
    tail_size,
)
from .copies import LABELLED, Copies, Hashes, Known, labels_of, make_copies
from .evaluate import Truth, read_truth
from .find import DEFAULT_HAMMING, default_feature
from .hamming import blank_hashes

__all__ = ["Curves", "calibrate", "write_curves"]

#: Shares of the identity in the covariance that are tried; 1 only centres.
SHRINKAGES = (1.0, 0.4)

_MOST_FITTED = 20_000
_MOST_COMPARED = 6000
#: Recall that a map must gain to be worth having.
_WORTH = 0.005
#: Labelled duplicates that count like the copies of one transform.
_AS_A_TRANSFORM = 20
# Cosines that a curve is counted at.
_CURVE_POINTS = 400
_LIBRARIES = ("icehouse", "numpy", "pillow", "torch")

Progress = Callable[[int, int], None]


def calibrate(
    store: Store | str | Path,
    *,
    feature: str | None = None,
    expected_false_pairs: float = 1.0,
    pairs: str | Path | None = None,
    sample: int = 200,
    seed: int = 0,
    hamming: int = DEFAULT_HAMMING,
    encoder: Encoder | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Calibration:
    """Calibrate a feature and keep the result in the store, where `find_duplicates` finds it.

    Parameters
    ----------
    store : Store, str or Path
    feature : str, optional
        An image or text feature; as `icehouse.dups.find.default_feature` chooses unless given.
    expected_false_pairs : float, default 1
        Among all pairs of the store's contents, for the report; another may be asked of `find_duplicates`.
    pairs : path, optional
        CSV of known pairs: `a`, `b`, and perhaps `label`. Positives count like another transform, "labelled", and not
        as unrelated; negatives count as unrelated, however near their hashes.
    sample : int, default 200
        Contents to change.
    seed : int, default 0
    hamming : int, default 6
        Bits, for the hash's part of the report.
    encoder : Encoder, optional
        Loaded already; held against the feature like any other.

    Returns
    -------
    Calibration

    Raises
    ------
    UsageError
        If there are too few contents, or they are all alike.
    SourceError
        If none of the sampled contents can be read again.
    SpaceError
        If the encoder is no longer the one the feature was made with.
    """
    store = Store.of(store)
    if sample < 1:
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
    if n < LEAST_ROWS:
        raise UsageError(
            f"{feature} has {n} different contents, and a calibration needs at least {LEAST_ROWS} to know what unrelated "
            "ones look like; give `icehouse dups find` a --threshold instead"
        )
    known = (
        {}
        if pairs is None
        else _known(store, read_truth(pairs, store.items.read(["item_id"])["item_id"]), spec["key"], contents)
    )
    encoder = load_checked(spec, encoder, device=device)
    rng = np.random.default_rng([seed, 3])
    hashes = None
    if spec["modality"] == "image":
        hashes = Hashes.of(store, contents, hamming, expected_false_pairs)
    copies = make_copies(encoder, spec, contents, X.dtype, rng, sample, seed, progress)
    if same := [pair for pair, label in known.items() if label]:
        i, j = np.array(same).T
        copies = copies.with_labelled(i, j, X, hashes)
    fitted = np.sort(rng.permutation(n)[:_MOST_FITTED])
    compared = np.sort(rng.permutation(n)[:_MOST_COMPARED])
    tried: list[_Tried] = []
    for shrinkage in SHRINKAGES:
        tried.append(_try(shrinkage, X, fitted, compared, copies, hashes, known, n, expected_false_pairs))
    best = tried[0]
    for other in tried[1:]:
        if other.mean_recall > best.mean_recall + _WORTH:
            best = other
    lowest_first = tuple(np.sort(best.positives[np.isfinite(best.positives)]).tolist())
    fitting = (best.mean, best.matrix, best.tail, len(fitted))
    made = Calibration(feature, spec["fingerprint"], *fitting, copies=lowest_first)
    if hashes is not None:
        units = mapped(X[compared], best.mean, best.matrix)
        made = replace(made, bits=hashes.fit_bits(compared, units, best.cosine, known))
        if made.radius("whole", n, hamming, expected_false_pairs) < hamming:
            # Otherwise hashes of 64 bits suffice.
            made = replace(made, agreement=hashes.fit_agreement(compared, units, best.cosine, known))
    best.cosine = made.threshold(n, expected_false_pairs)
    report = _report(
        made, best, tried, copies, hashes, hamming, n, expected_false_pairs, sample, seed, known, X
    )
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
            write_curves(temp, curves, f"{feature}, {n:,} contents")
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror or error}") from error
    return made


@dataclass
class _Tried:
    """A map that was tried, and how it did."""

    shrinkage: float
    mean: np.ndarray
    matrix: np.ndarray | None
    tail: Tail
    excluded: int
    positives: np.ndarray
    negatives: np.ndarray
    random: np.ndarray
    cosine: float
    mean_recall: float


def _try(
    shrinkage: float,
    X: np.ndarray,
    fitted: np.ndarray,
    compared: np.ndarray,
    copies: Copies,
    hashes: Hashes | None,
    known: Known,
    n: int,
    expected: float,
) -> _Tried:
    base = X[fitted].astype(np.float32)
    mean, matrix = fit_map(base, shrinkage)
    units = mapped(X[compared], mean, matrix)
    usable = np.flatnonzero(np.abs(units).sum(axis=1) > 0)
    units, compared = units[usable], compared[usable]
    if len(units) < LEAST_ROWS:
        raise UsageError("all contents are equally alike: their vectors tell nothing apart")
    total = len(units) * (len(units) - 1) // 2
    # As many again, for those that turn out to be duplicates.
    i, j, cosine = largest_cosines(units, 2 * tail_size(total) + 1000)
    i, j = compared[i], compared[j]
    related = labels_of(i, j, known, np.zeros(len(i), bool) if hashes is None else hashes.related(i, j))
    tail = fit_tail(cosine[~related], total - int(related.sum()))
    positives = _positives(shrinkage, base, mean, matrix, X, copies)
    threshold = tail.threshold(n, expected)
    found = positives >= threshold
    kinds = list(dict.fromkeys(copies.kinds.tolist()))
    recalls = [found[copies.kinds == kind].mean() for kind in kinds]
    # A handful of labelled pairs is not to outweigh what dozens of copies say.
    weights = [min(1.0, (copies.kinds == kind).sum() / _AS_A_TRANSFORM) for kind in kinds]
    pick = np.random.default_rng(0).integers(0, len(units), (2, 100_000))
    random = np.einsum("ij,ij->i", units[pick[0]], units[pick[1]])[pick[0] != pick[1]]
    return _Tried(
        shrinkage, mean, matrix, tail, int(related.sum()), positives, cosine[~related], random, threshold,
        float(np.average(recalls, weights=weights)),
    )  # fmt: skip


def _positives(
    shrinkage: float,
    base: np.ndarray,
    mean: np.ndarray,
    matrix: np.ndarray | None,
    X: np.ndarray,
    copies: Copies,
) -> np.ndarray:
    """Cosine of each copy with its content."""
    cosines = np.empty(len(copies.of))
    for turn in np.unique(copies.rounds).tolist():
        now = np.flatnonzero(copies.rounds == turn)
        by = (mean, matrix)
        # Labelled copies are in the store, and the map has seen them.
        if turn >= 0 and matrix is not None and len(base) < 5 * base.shape[1]:
            by = fit_map(np.concatenate([base, copies.vectors[now].astype(np.float32)]), shrinkage)
        cosines[now] = np.einsum("ij,ij->i", mapped(X[copies.of[now]], *by), mapped(copies.vectors[now], *by))
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
    made: Calibration,
    best: _Tried,
    tried: list[_Tried],
    copies: Copies,
    hashes: Hashes | None,
    hamming: int,
    n: int,
    expected: float,
    sample: int,
    seed: int,
    known: Known,
    X: np.ndarray,
) -> dict[str, Any]:
    views = None if hashes is None else hashes.views
    by_embedding = best.positives >= best.cosine
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
    report = {
        "contents": n,
        "expected_false_pairs": expected,
        "cosine": best.cosine,
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
        "sample": sample,
        "seed": seed,
        "transforms": rows,
        "thresholds": {f"{e:g}": made.threshold(n, e) for e in (0.1, 1, 10, 100)},
    }
    if known:
        report["labelled"] = _labelled(best, known, X)
    return report


def _labelled(best: _Tried, known: Known, X: np.ndarray) -> dict[str, int]:
    i, j = np.array(list(known)).T
    left, right = mapped(X[i], best.mean, best.matrix), mapped(X[j], best.mean, best.matrix)
    found = np.einsum("ij,ij->i", left, right) >= best.cosine
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


def write_curves(folder: Path, curves: Curves, subject: str) -> None:
    """Write ``curves.csv``, ``roc.png`` and ``precision-recall.png``."""
    names = ("cosine", "recall", "false_rate", "false_pairs", "precision")
    with (folder / "curves.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(zip(*(getattr(curves, name).tolist() for name in names), strict=True))
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
