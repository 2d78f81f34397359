"""Index building, refreshing and its measured recall.

Contents never change: a row that was indexed once stays as it is, and new rows come at the end. So as long as the rows an
index covers are still the first ones of its feature, bit by bit, only what follows is added. Anything else (rows gone,
another fingerprint, another kind asked for, a damaged file, so many new rows that it should have another shape) makes it
anew. HNSW cannot forget a vector, and the others need not learn to.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .. import __version__
from ..errors import CorruptError, StoreError, UsageError, count_of
from . import files as locks
from .index import (
    KINDS,
    OVERSAMPLE,
    Index,
    IndexInfo,
    Kind,
    choose_kind,
    index_folder,
    load_faiss,
    read_info,
    read_rows,
    read_vectors,
    thread_limit,
    to_gpu,
    write_index,
)
from .schema import tower_of
from .search import nearest, unit_rows
from .store import Store
from .vectors import Vectors

# The two kinds of question differ. A picture's neighbours lie around it; a text's vector lies apart from all pictures', in a
# region that an index built of pictures knows less of, and there it misses more (Jaiswal et al., OOD-DiskANN, 2022). So the
# knob is turned until both reach what was asked, on one half of the questions, and the other half is what is reported.


K = 10

#: Questions of each kind, half of them to choose with.
_QUESTIONS = 256

Search = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Question:
    """Queries of one kind, with what exact search answers."""

    modality: str
    of: str
    units: np.ndarray
    floor: np.ndarray
    expected: int

    def half(self, which: int) -> Question:
        """Every other query; all of them where there is one only."""
        chosen = slice(which, None, 2) if len(self.units) > 1 else slice(None)
        return Question(self.modality, self.of, self.units[chosen], self.floor[chosen], self.expected)


def ask(store: Store, feature: str, X: np.ndarray, usable: np.ndarray) -> dict[str, Question | None]:
    """Make questions to a feature: of its own modality, and of the other one where they share a space.

    For "image" and "text"; None where there is nothing to ask with.
    """
    own: str = tower_of(store.feature_table(feature).spec["modality"])
    other = "text" if own == "image" else "image"
    rng = np.random.default_rng(0)
    pairs = rng.choice(usable, (_QUESTIONS, 2))
    # Between two contents, nearer to the first (cosine about .8): a picture like those that are there, and yet a new one.
    mixed = 0.8 * unit_rows(X[pairs[:, 0]]) + 0.6 * unit_rows(X[pairs[:, 1]])
    asked = {own: _question(own, f"mixtures of two of {feature}", mixed, X, len(usable)), other: None}
    sister = sister_of(store, feature)
    if sister is not None:
        Y = store.vectors(sister).X
        chosen = np.sort(rng.choice(len(Y), min(len(Y), _QUESTIONS), replace=False))
        if Y.shape[1] == X.shape[1]:
            asked[other] = _question(other, sister, Y[chosen], X, len(usable))
    return {modality: asked[modality] for modality in ("image", "text")}


def sister_of(store: Store, feature: str) -> str | None:
    """Feature of the other modality in the same joint space; None if there is none, or it is empty."""
    spec = store.feature_table(feature).spec
    other = "text" if tower_of(spec["modality"]) == "image" else "image"
    sister = f"{spec['name']}/{other}/{spec['output']}"
    if spec["output"] != "joint" or sister not in store.feature_names():
        return None
    return sister if store.feature_table(sister).snapshot().rows else None


def tune(
    kind: Kind, index: Any, search: Search, X: np.ndarray, asked: dict[str, Question | None], wanted: float
) -> int | None:
    """Set the least effort that reaches the recall, if need be the most there is.

    The effort; None where the kind has no knob.
    """
    halves = [question.half(0) for question in asked.values() if question is not None]
    effort = None
    for effort in kind.ladder(index):
        kind.set_effort(index, effort, K)
        if all(_surely(_recalls(search, X, question), wanted) for question in halves):
            break
    return effort


def measure(search: Search, X: np.ndarray, asked: dict[str, Question | None]) -> dict[str, Any]:
    """Measure recall@10 with the questions that `tune` did not see.

    For "image" and "text": ``{"recall@10": float, "queries": int, "of": str}``, or None.
    """
    report: dict[str, Any] = {}
    for modality, question in asked.items():
        report[modality] = None
        if question is not None:
            half = question.half(1)
            recall = round(float(_recalls(search, X, half).mean()), 4)
            report[modality] = {f"recall@{K}": recall, "queries": len(half.units), "of": half.of}
    return report


def _question(modality: str, of: str, vectors: np.ndarray, X: np.ndarray, rows: int) -> Question | None:
    units = unit_rows(vectors)
    units = units[np.isfinite(units).all(axis=1)]
    if not len(units):
        return None
    expected = min(K, rows)
    scores, _ = nearest(X, units, expected)
    return Question(modality, of, units, scores[:, -1], expected)


def _recalls(search: Search, X: np.ndarray, question: Question) -> np.ndarray:
    """Share of the best 10 that each query finds; whatever scores as high as the tenth counts, so that ties cost nothing."""
    rows = search(question.units, K)
    units = unit_rows(X[np.maximum(rows, 0).ravel()]).reshape(*rows.shape, -1)
    cosines = np.einsum("qrd,qd->qr", units, question.units)
    hits = ((cosines >= question.floor[:, None] - 1e-12) & (rows >= 0)).sum(axis=1)
    return np.asarray(np.minimum(hits, question.expected) / question.expected)


def _surely(recalls: np.ndarray, wanted: float) -> bool:
    """Whether a sample's recall is at least one standard error above `wanted`, or perfect; nothing is sure of recall 1."""
    mean = float(recalls.mean())
    return wanted < 1 and (mean == 1 or mean - float(recalls.std()) / len(recalls) ** 0.5 >= wanted)


#: Recall@10 that an index is made for, unless another is asked for.
RECALL = 0.95

_BLOCK = 16_384


@dataclass(frozen=True)
class Built:
    """Result of `build_index`."""

    info: IndexInfo
    action: str
    reason: str


@dataclass(frozen=True)
class _Covered:
    """Contents that an old index covers."""

    info: IndexInfo
    index: Any
    rows: np.ndarray

    @classmethod
    def read(cls, folder: Path, info: IndexInfo, *, mapped: bool) -> _Covered:
        """Read it; mapped if it is only to be tried, into memory if it is to grow."""
        return cls(info, read_vectors(folder, info, mapped=mapped), read_rows(folder, info).to_numpy())


def build_index(
    store: Store,
    feature: str,
    *,
    kind: str | None = None,
    recall: float | None = None,
    threads: int | None = None,
    rebuild: bool = False,
) -> Built:
    """Build the index of a feature (any output but "tokens"), or bring it up to date; `rebuild` begins from nothing.

    Kind ("flat", "ivf", "hnsw") and recall@10 are by default those asked for last time, else chosen by size and .95;
    `threads` by default what OpenMP gives. UsageError: no such kind, or a recall that is not above 0 and at most 1.
    StoreError: the feature is not there, or holds tokens or nothing, or the index cannot be written. IcehouseError: FAISS
    is not installed.
    """
    if kind is not None and kind not in KINDS:
        raise UsageError(f"no kind of index {kind!r}; there are: {', '.join(KINDS)}")
    if recall is not None and not 0 < recall <= 1:
        raise UsageError(f"recall is above 0 and at most 1, not {recall}")
    load_faiss()
    vectors = store.vectors(feature)
    folder = index_folder(store.path, feature)
    locks.make_folder(folder)
    with locks.hold(folder), thread_limit(threads):
        return _build(store, feature, vectors, folder, kind, recall, rebuild)


def joint_features(store: Store) -> list[str]:
    """Features that a search may be asked of: those in a joint space."""
    names = [name for name in store.feature_names() if name.endswith("/joint")]
    if not names:
        known = ", ".join(store.feature_names()) or "none yet; make some with `icehouse embed`"
        raise StoreError(f"{store.path} has no joint features; name one to index: {known}")
    return names


def _build(
    store: Store,
    feature: str,
    vectors: Vectors,
    folder: Path,
    kind: str | None,
    recall: float | None,
    rebuild: bool,
) -> Built:
    started = time.perf_counter()
    X, spec = vectors.X, store.feature_table(feature).spec
    try:
        old, reason = read_info(folder), "there was none"
    except CorruptError as error:
        old, reason = None, str(error)
    wanted = recall if recall is not None else old.wanted if old else RECALL
    given = kind or (old.kind if old and old.given else None)
    chosen = KINDS[given or choose_kind(len(X), wanted)]
    same = (
        old is not None
        and (old.digest, old.wanted, old.given) == (vectors.digest, wanted, given is not None)
        and not _newly_asked(store, old)
    )
    if old is not None and old.digest == vectors.digest:
        first = whole = old.content
    else:
        first, whole = _content(vectors, min(old.rows, len(X)) if old else 0)
    covered = None
    if old is not None:
        anew = "as asked" if rebuild else _anew_because(old, chosen, spec, vectors, first)
        if anew is None:
            try:
                covered = _Covered.read(folder, old, mapped=same)
            except CorruptError as error:
                anew = str(error)
        reason = anew or ""
        if covered is not None and same:
            return Built(old, "unchanged", "it covers the feature as it is")

    rows = _directed(X, covered.info.rows if covered else 0)
    if covered is not None:
        index = covered.index
        _add(index, X, rows)
        reason = (
            f"{count_of(len(rows), 'vector')} added"
            if len(rows)
            else "the same vectors, tuned and measured anew"
        )
        rows = np.concatenate([covered.rows, rows])
    elif len(rows):
        index = _filled(chosen, X, rows)
    else:
        raise StoreError(f"{feature} holds no vectors with a direction: there is nothing to index")

    info = IndexInfo(
        feature=feature,
        key=spec["key"],
        kind=chosen.name,
        given=given is not None,
        fingerprint=spec.get("fingerprint"),
        digest=vectors.digest,
        content=whole,
        rows=len(X),
        vectors=len(rows),
        dim=X.shape[1],
        trained=covered.info.trained if covered else len(X),
        effort=None,
        wanted=wanted,
        recall={},
        versions={"faiss": load_faiss().__version__, "icehouse": __version__},
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=0.0,
    )
    trial = Index(folder, info, index, rows)

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        return trial.search(queries, OVERSAMPLE * k)[1]

    asked = ask(store, feature, X, rows)
    effort = tune(chosen, index, search, X, asked, wanted)
    # The trial has no effort of its own, so what `tune` has set last stays set.
    found = measure(search, X, asked)
    seconds = round(time.perf_counter() - started, 2)
    info = replace(info, effort=effort, recall=found, seconds=seconds)
    info = write_index(folder, info, index, rows, vectors.keys.take(pa.array(rows)))
    return Built(info, "built" if covered is None else "updated", reason)


def _anew_because(
    old: IndexInfo, kind: Kind, spec: dict[str, Any], vectors: Vectors, first: str
) -> str | None:
    """Why new rows cannot just be added to an index; None if they can."""
    if spec.get("fingerprint") != old.fingerprint or vectors.X.shape[1] != old.dim:
        return "the feature's fingerprint has changed"
    if kind.name != old.kind:
        return f"{kind.name} in place of {old.kind}"
    if len(vectors.X) < old.rows:
        return "the feature has fewer rows"
    if first != old.content:
        return "rows that it covered were changed or removed"
    if kind.outgrown(old.trained, len(vectors.X)):
        return f"it was made for {old.trained:,} rows, and there are {len(vectors.X):,}"
    return None


def _newly_asked(store: Store, old: IndexInfo) -> bool:
    """Whether texts (or images) have come since to ask with, where there were none to tune and measure by."""
    sister = sister_of(store, old.feature)
    return sister is not None and sister not in {found["of"] for found in old.recall.values() if found}


def _content(vectors: Vectors, rows: int) -> tuple[str, str]:
    """Hash keys and vectors, of the first `rows` and of all."""
    digest = hashlib.sha256()

    def feed(start: int, stop: int) -> str:
        for at in range(start, stop, _BLOCK):
            until = min(at + _BLOCK, stop)
            digest.update("\n".join(vectors.keys[at:until].to_pylist()).encode())
            digest.update(np.ascontiguousarray(vectors.X[at:until]).tobytes())
        return digest.hexdigest()

    return feed(0, rows), feed(rows, len(vectors.X))


def _directed(X: np.ndarray, start: int) -> np.ndarray:
    """Rows of `X` from `start` on that have a direction."""
    found = [np.empty(0, np.int64)]
    for at in range(start, len(X), _BLOCK):
        units = unit_rows(X[at : at + _BLOCK], np.float32)
        found.append(at + np.flatnonzero(np.isfinite(units).all(axis=1)))
    return np.concatenate(found)


def _filled(kind: Kind, X: np.ndarray, rows: np.ndarray) -> Any:
    """Make an index of these rows of `X`, on a GPU if there is one."""
    index = kind.make(X.shape[1], len(rows))
    if (on_gpu := to_gpu(kind, index)) is not None:
        try:
            _learn(kind, on_gpu, X, rows)
            _add(on_gpu, X, rows)
            return load_faiss().index_gpu_to_cpu(on_gpu)
        except RuntimeError:  # it outgrew the GPU's memory
            index = kind.make(X.shape[1], len(rows))
    _learn(kind, index, X, rows)
    _add(index, X, rows)
    return index


def _learn(kind: Kind, index: Any, X: np.ndarray, rows: np.ndarray) -> None:
    if not index.is_trained:
        chosen = np.random.default_rng(0).choice(rows, kind.training_rows(len(rows)), replace=False)
        index.train(np.ascontiguousarray(unit_rows(X[np.sort(chosen)], np.float32)))


def _add(index: Any, X: np.ndarray, rows: np.ndarray) -> None:
    for at in range(0, len(rows), _BLOCK):
        index.add(np.ascontiguousarray(unit_rows(X[rows[at : at + _BLOCK]], np.float32)))
