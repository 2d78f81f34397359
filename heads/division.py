"""Which labelled rows are learned from, chosen on and scored: steps 1 and 2 of the protocol (`icehouse.heads.trainer`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from ..errors import HeadError
from .exclusion import Searches
from .holdout import held_out
from .samples import Samples

__all__ = ["Division", "divide"]


@dataclass
class Division:
    """Which rows play which part.

    Attributes
    ----------
    train, dev, test : ndarray of int
        Row numbers.
    dev_is_split : bool
        Whether `dev` is a split of its own (else it was held out of train, or is empty).
    notes : list of str
        What a reader of the scores has to know.
    """

    train: np.ndarray
    dev: np.ndarray
    test: np.ndarray
    dev_is_split: bool
    notes: list[str] = field(default_factory=list)


def divide(
    samples: Samples,
    searches: Searches | None = None,
    *,
    split_column: str = "split",
    learns: bool = True,
    seed: int = 0,
) -> Division:
    """Give every row its part: steps 1 and 2 of the protocol.

    Parameters
    ----------
    samples : Samples
        With labels.
    searches : Searches, optional
        For duplicates, which are held out together; copies always are.
    split_column : str, default "split"
        Name for messages.
    learns : bool, default True
        False for a head that can do without training rows (`zero-shot`): where there is no train split, nothing is held
        out, and without any splits every row is test.
    seed : int, default 0

    Raises
    ------
    HeadError
        If there are splits, but none is `train`, and the head learns.
    """
    y, split = samples.labels, samples.split
    notes: list[str] = []
    have = Counter(s for s in split.tolist() if s is not None)
    if not learns and "train" not in have:
        everything = np.arange(len(samples))
        dev, test = (
            (np.flatnonzero(split == name) for name in ("dev", "test"))
            if have
            else (everything[:0], everything)
        )
        notes.append(
            "there is no train split, and this head needs none: its classes are the labels there are"
        )
        return Division(everything[:0], dev, test, True, notes)
    if have and "train" not in have:
        listed = ", ".join(f"{name} ({n})" for name, n in sorted(have.items()))
        raise HeadError(f"no labelled item is in split 'train'; the column {split_column!r} has {listed}")
    everything = np.arange(len(samples))
    if not have:
        learn, dev, test = everything, everything[:0], everything[:0]
        notes.append(f"the column {split_column!r} names no splits: every row is train")
    else:
        learn, dev, test = (np.flatnonzero(split == name) for name in ("train", "dev", "test"))
        outside = len(samples) - len(learn) - len(dev) - len(test)
        if outside:
            notes.append(f"{outside} labelled items are in none of train, dev, test, and took no part")
    if not len(test):
        notes.append(
            "no test split: the scores are on dev, where the head was chosen, and flatter it a little"
        )
    dev_is_split = len(dev) > 0
    if not dev_is_split:
        groups = (searches or Searches([])).groups(samples.take(learn))
        part = held_out(y[learn], ids=samples.ids[learn], groups=groups, seed=seed)
        if part is None:
            notes.append(
                "train is too small to hold out a dev part: nothing was chosen, and there are no dev scores"
            )
        else:
            learn, dev = learn[~part], learn[part]
    unseen = sorted(set(y[np.concatenate([dev, test])].tolist()) - set(y[learn].tolist()))
    if unseen:
        notes.append(f"train never has {', '.join(map(repr, unseen))}: rows with that label count as errors")
    for name, missing in samples.left_out.items():
        if missing:
            notes.append(f"{missing} labelled items have no {samples.features[name]}")
    if samples.vanished:
        from ..store.sql import left_out_note

        notes.append(left_out_note(samples.vanished))
    return Division(learn, dev, test, dev_is_split, notes)
