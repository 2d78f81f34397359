"""Pair rules: what makes two contents near-duplicates, and what a user should know of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ..errors import CorruptError, StoreError, UsageError
from ..store.store import Store
from .calibration import Calibration, in_words
from .hamming import HashJoin
from .join.selfjoin import self_join
from .join.tiles import choose_tiles
from .pairs import Cascade, Contents, Rule

__all__ = [
    "DEFAULT_COSINE",
    "DEFAULT_HAMMING",
    "check_rule",
    "choose_hamming",
    "choose_rule",
    "lacking",
    "notes",
]

#: Bits of 64. Of a million images whose hashes were random, 7 pairs would be as near, and 11,000 within 10 bits.
DEFAULT_HAMMING = 6

#: In want of a calibration. No cosine suits every encoder and every set of images.
DEFAULT_COSINE = 0.95


def choose_hamming(
    asked: int | Literal["auto"] | None, views: bool | None, feature: str | None, key: str
) -> int | Literal["auto"] | None:
    """Bits that may differ, None for a feature that is not of images; what could do nothing is refused."""
    if key != "image_sha256":
        if views or isinstance(asked, int):
            raise UsageError(
                f"perceptual hashes and views are of images, and {feature} is not; leave them out"
            )
        return None
    if views and asked is None:
        raise UsageError("views are compared by perceptual hashes, and these are left out")
    return asked


def check_rule(rule: Rule, threads: int | None, device: str) -> None:
    """Refuse at once what the stages would refuse, since it may take minutes until they begin."""
    if rule.hamming is not None:
        by_itself = rule.hamming if rule.agreement is None else max(rule.hamming, 0)
        HashJoin(np.empty(0, np.uint64), np.empty(0, bool), by_itself)
    nothing = np.empty((0, 1), np.float32)
    self_join(nothing, 1.0 if rule.cosine is None else rule.cosine, threads=threads, device=device)
    if device != "auto":
        choose_tiles(device, 0, 1)


def choose_rule(
    store: Store,
    rule: Rule | float | None,
    feature: str | None,
    hamming: int | None,
    automatic: bool,
    n: int,
    expected: float | None,
    viewed: bool,
) -> tuple[Rule, list[str]]:
    """What makes a pair among `n` contents, whose parts are hashed if `viewed`, and what a user should know of it."""
    if feature is None:
        if rule is not None or expected is not None:
            raise UsageError("a cosine needs a feature to be taken of; give one, or leave the cosine out")
        return Rule(hamming), []
    if rule is not None and expected is not None:
        raise UsageError("give a cosine, or the number of false pairs to choose it by, not both")
    if isinstance(rule, Rule):
        return replace(rule, hamming=hamming), []
    if rule is not None:
        return Rule(hamming, rule), []
    made, why = _calibrated(store, feature, hamming if automatic else None, n, expected, viewed)
    if made is not None:
        return made if automatic else replace(made, hamming=hamming), why
    if expected is not None:
        raise UsageError(f"{why[0]}; calibrate first: icehouse dups calibrate --feature {feature}")
    guess = (
        f"{why[0]}, and cosine {DEFAULT_COSINE} is a guess: no threshold suits every encoder and every set; "
        "run `icehouse dups calibrate`, or give another with --threshold"
    )
    return Rule(hamming, DEFAULT_COSINE, source="default"), [guess]


def _calibrated(
    store: Store, feature: str, most: int | None, n: int, expected: float | None, viewed: bool
) -> tuple[Rule | None, list[str]]:
    """The rule that the feature's calibration makes, with at most `most` bits; None if there is none that holds, and why."""
    if not Calibration.folder(store, feature).exists():
        return None, [f"{feature} has no calibration"]
    try:
        made = Calibration.open(store, feature)
    except CorruptError:
        raise
    except StoreError as error:
        return None, [str(error)]
    now = store.feature_table(feature).spec.get("fingerprint")
    if made.fingerprint != now:
        return None, [f"the calibration of {feature} is of fingerprint {made.fingerprint}, not {now}"]
    wanted = 1.0 if expected is None else expected
    cosine = made.threshold(n, wanted)
    notes = [f"cosine {cosine:.4f} by the calibration of {feature}, at {in_words(wanted)} among {n} contents"]
    if made.grown(n):
        notes.append(
            f"the calibration has seen {made.rows} contents, and there are {n}: newer ones may make more false pairs; "
            "run `icehouse dups calibrate` again"
        )
    source = f"calibration {feature} {made.fingerprint}, {in_words(wanted)}"
    rule = Rule(None, cosine, made.mean, source, made.matrix)
    if most is None:
        return rule, notes
    hashes = made.hashes(n, most, wanted, viewed)
    if hashes.whole < most:
        bits = f"{hashes.whole} bits" if hashes.whole >= 0 else "no hash by itself counts"
        beyond = "" if hashes.agreement is None else "; near ones whose parts agree do"
        notes.append(
            f"unrelated images of this set have near hashes: {bits} instead of {most}{beyond}; "
            f"--hamming {most} asks for them all the same"
        )
    return replace(rule, hamming=hashes.whole, view_bits=hashes.views, agreement=hashes.agreement), notes


def lacking(contents: Contents, items: pa.Table, key: str, feature: str | None) -> list[str]:
    """Tell what cannot be compared, for want of content or of a vector."""
    if not len(items):
        return ["there is no item to compare"]
    told, what = [], key.removesuffix("_sha256")
    if blank := items[key].null_count:
        told.append(f"{blank} of {len(items)} items without {what}: not compared, and kept")
    same = int(contents.blank.sum())
    if same:
        told.append(
            f"{same} of {len(contents)} images are blank, all of one colour: they match only their exact copies"
        )
    if feature is None:
        return told
    if bare := len(contents) - len(contents.with_vector) - same:
        told.append(
            f"{bare} of {len(contents)} contents without a vector of {feature}: not compared by it; "
            "`icehouse embed` makes the missing ones"
        )
    if contents.rows is not None and (useless := len(contents.rows.unusable)):
        told.append(
            f"{useless} of {len(contents.rows)} vectors of {feature} zero or not finite: they match nothing"
        )
    return told


def notes(rule: Rule, feature: str | None, cascade: Cascade, whole: bool) -> list[str]:
    """Tell how the stages went, once all pairs are read; `whole` says whether the groups are."""
    told = []
    if feature is None:
        told.append("no embedding stage: no feature")
    told += cascade.engine.notes
    if cascade.stats.get("views", {}).get("left_out"):
        told.append("parts of images were not compared: too many of them resemble each other")
    if cascade.capped:
        groups = "the groups are whole all the same" if whole else "groups led by the others may lack members"
        told.append(
            f"stopped at {cascade.max_pairs} pairs: {cascade.complete} of {len(cascade.contents)} contents, those preferred "
            f"as keepers, have all theirs, and {groups}; raise --max-pairs or the threshold for the rest"
        )
    perceptual: Mapping[str, Any] = cascade.stats.get("perceptual", {})
    if mute := perceptual.get("uninformative"):
        told.append(
            f"{mute} of {perceptual['hashes']} perceptual hashes say nothing (flat or almost empty images) and were left to "
            "the other stages"
        )
    return told
