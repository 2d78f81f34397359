"""What an index misses: recall@10 against exact search, asked with images and with texts.

The two kinds of question differ. A picture's neighbours lie around it; a text's vector lies apart from all pictures', in a
region that an index built of pictures knows less of, and there it misses more (Jaiswal et al., OOD-DiskANN, 2022). So the
knob is turned until both reach what was asked, on one half of the questions, and the other half is what is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..schema import tower_of
from ..search import nearest, score_rows, unit_rows
from ..store import Store
from .kinds import Kind

__all__ = ["Question", "ask", "measure", "sister_of", "tune"]

K = 10

#: Questions of each kind, half of them to choose with.
_QUESTIONS = 256

Search = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Question:
    """Queries of one kind, with what exact search answers.

    Attributes
    ----------
    modality : str
    of : str
        What they are made of, for people.
    units : ndarray of float64, shape (q, dim)
    floor : ndarray of float64, shape (q,)
        Cosine of the last of the 10 best.
    expected : int
        10, or fewer where the feature has fewer vectors.
    """

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

    Parameters
    ----------
    store : Store
    feature : str
    X : ndarray, shape (n, dim)
        Its vectors, as stored.
    usable : ndarray of int64
        Rows of `X` that have a direction.

    Returns
    -------
    dict of str to (Question or None)
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

    Returns
    -------
    int or None
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

    Returns
    -------
    dict
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
    found = search(question.units, K)
    recalls = np.empty(len(found))
    for i, (rows, unit) in enumerate(zip(found, question.units, strict=True)):
        _, cosines = score_rows(X, unit, rows[rows >= 0], question.expected)
        hits = int((cosines >= question.floor[i] - 1e-12).sum())
        recalls[i] = min(hits, question.expected) / question.expected
    return recalls


def _surely(recalls: np.ndarray, wanted: float) -> bool:
    """Whether a sample's recall is at least one standard error above `wanted`, or perfect; nothing is sure of recall 1."""
    mean = float(recalls.mean())
    return wanted < 1 and (mean == 1 or mean - float(recalls.std()) / len(recalls) ** 0.5 >= wanted)
