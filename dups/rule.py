"""Rule of a search for near-duplicates: what hashes, cosines, evidence and pixels of a pair have to be, and where from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..errors import CorruptError, StoreError, UsageError, count_of
from ..store.store import Store
from .calibration import Calibration, false_pairs_text
from .default_calibration import SAME_LEVELS, alike_cosine, chance_bits, near_certain_cosine
from .hashing import HashJoin, ViewHashes
from .join import choose_tiles, self_join
from .local_scaling import MIN_REFERENCE, LocalMeasure

#: False pairs, at most, that are expected among those whose pictures are registered.
_SUSPECTS = 500

#: Bits of 64. Of a million images whose hashes were random, 7 pairs would be as near, and 11,000 within 10 bits.
DEFAULT_HAMMING = 6

#: In want of a calibration. No cosine suits every encoder and every set of images.
DEFAULT_COSINE = 0.95

#: Where a rule is from that the search has made for itself, or is yet to make.
DEFAULT_SOURCE = "default"


@dataclass(frozen=True)
class Rule:
    """Rule by which two contents are near-duplicates.

    Attributes
    ----------
    hamming : int or None
        Bits of 64 in which perceptual hashes may differ, -1 where one by itself proves nothing; None leaves the stage out.
    cosine : float or None
        Least cosine; None leaves that stage out.
    mean : ndarray, shape (dim,), or None
        Subtracted from the vectors before their cosine is taken.
    source : str
        Where the cosine is from: "given", "default", or the name of a calibration.
    matrix : ndarray, shape (dim, dim), or None
        What the centred vectors are multiplied by; see `icehouse.dups.calibration`.
    view_bits : int or None
        Most bits in which views may differ, where a calibration knows.
    agreement : float or None
        Of all views, from which on images are near-duplicates whose hashes alone would not prove it.
    local : LocalMeasure or None
        What each content is held against, see `icehouse.dups.local_scaling`; `cosine` is left out then.
    evidence : float or None
        Least evidence of a pair by `local`.
    levels : float or None
        Mean difference of the levels of two thumbnails beyond which neither hash nor cosine proves anything: for sets of
        which unrelated pictures have equal hashes. None asks for nothing.
    alike : float or None
        Cosine below which it is not the same picture either: hashes and thumbnails are grey.
    suspected : float or None
        Less evidence, from which on a pair is one if its pictures agree pixel by pixel, see `icehouse.dups.registration`;
        of a stream's first contents, of which no neighbourhoods are known, a lower cosine.
    agreeing : float or None
        How far they have to; None until the search has seen how far those of its pairs do.
    near_certain : bool
        Whether the contents are too few, or too much alike, to tell what unrelated ones look like.
    """

    hamming: int | None = None
    cosine: float | None = None
    mean: np.ndarray | None = None
    source: str = "given"
    matrix: np.ndarray | None = None
    view_bits: int | None = None
    agreement: float | None = None
    local: LocalMeasure | None = None
    evidence: float | None = None
    levels: float | None = None
    alike: float | None = None
    suspected: float | None = None
    agreeing: float | None = None
    near_certain: bool = False

    @property
    def least_evidence(self) -> float | None:
        """Evidence from which on a pair is looked at."""
        return self.evidence if self.suspected is None else self.suspected

    @property
    def least_cosine(self) -> float:
        """Cosine from which on a pair is looked at, under a rule without a local measure."""
        return (self.cosine or 0.0) if self.suspected is None else self.suspected

    @property
    def hashes_prove_little(self) -> bool:
        """Whether a calibration has seen unrelated pictures with hashes as near as those that prove something elsewhere."""
        # Bits that were given by hand are taken at their word.
        return self.view_bits is not None and self.hamming is not None and self.hamming < DEFAULT_HAMMING

    def unconfirmed(self) -> Rule:
        """The rule where there are no views that could agree: equal hashes count after all."""
        if self.agreement is None:
            return self
        return replace(self, hamming=None if self.hamming is None else max(self.hamming, 0), agreement=None)


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
        alone = rule.agreement is None and rule.local is None
        by_itself = rule.hamming if alone else max(rule.hamming, 0)
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
    """Rule of pairs among `n` contents, whose parts are hashed if `viewed`, and remarks for the user."""
    if feature is None:
        if rule is not None or expected is not None:
            raise UsageError("a cosine needs a feature to be taken of; give one, or leave the cosine out")
        return Rule(hamming), []
    if rule is not None and expected is not None:
        raise UsageError("give a cosine, or the number of false pairs to choose it by, not both")
    if isinstance(rule, Rule):
        return replace(rule, hamming=hamming), []
    made, why = _calibrated(store, feature, hamming if automatic else None, n, expected, viewed)
    if rule is not None:
        said = [] if made is None else [by_hand(rule, feature)]
        return Rule(hamming, rule), said
    if made is not None:
        return made if automatic else replace(made, hamming=hamming), why
    # The search makes one of what it reads anyway.
    return Rule(hamming, source=DEFAULT_SOURCE), [] if why[0].endswith("has no calibration") else why


def by_hand(cosine: float, feature: str) -> str:
    """Say what a cosine given by hand is of, where there is a calibration."""
    return (
        f"cosine {cosine:g} was given: it is of the vectors of {feature} as they are, not as the calibration maps them, "
        "and the same for all pairs; leave --threshold out to use the calibration"
    )


def _calibrated(
    store: Store, feature: str, most: int | None, n: int, expected: float | None, viewed: bool
) -> tuple[Rule | None, list[str]]:
    """The rule that the feature's calibration makes, with at most `most` bits; None if there is none that holds, and why."""
    try:
        made, why = Calibration.current(store, feature)
    except CorruptError:
        raise
    except StoreError as error:
        made, why = None, str(error)
    if made is None:
        return None, [why]
    wanted = 1.0 if expected is None else expected
    rule, notes = calibrated_rule(made, n, wanted, most, viewed)
    if made.grown(n):
        notes.append(
            f"the calibration has seen {made.rows} contents, and there are {n}: newer ones may make more false pairs; "
            "run `icehouse dups calibrate` again"
        )
    return rule, notes


def calibrated_rule(
    made: Calibration, n: int, expected: float, most: int | None, viewed: bool, by: str = "the calibration of"
) -> tuple[Rule, list[str]]:
    """The rule that a calibration makes for `n` contents, with at most `most` bits, and what to say of it."""
    at = f"at {false_pairs_text(expected)} among {count_of(n, 'content')}"
    if made.local is not None:
        evidence = made.local_threshold(n, expected)
        notes = [
            f"pairs that stand out among their own neighbours by {evidence:.1f} or more, {at}, by {by} {made.feature}"
        ]
        rule = Rule(
            None, None, made.mean, made.origin(expected), made.matrix, local=made.local, evidence=evidence,
            suspected=min(made.local.threshold(n, suspects(n)), evidence),
        )  # fmt: skip
    else:
        cosine = made.threshold(n, expected)
        notes = [f"cosine {cosine:.4f} by {by} {made.feature}, {at}"]
        rule = Rule(None, cosine, made.mean, made.origin(expected), made.matrix)
    if most is None:
        return rule, notes
    hashes = made.hashes(n, most, expected, viewed)
    if hashes.whole < most:
        bits = f"{count_of(hashes.whole, 'bit')}" if hashes.whole >= 0 else "no hash by itself counts"
        beyond = "" if hashes.agreement is None else "; near ones whose parts agree do"
        notes.append(
            f"unrelated images of this set have near hashes: {bits} instead of {most}{beyond}; "
            f"--hamming {most} asks for them all the same"
        )
    return replace(rule, hamming=hashes.whole, view_bits=hashes.views, agreement=hashes.agreement), notes


def suspects(n: int) -> float:
    """False pairs to be expected among `n` contents that are looked at pixel by pixel: each takes some 15 milliseconds."""
    return float(np.clip(n / 2, 1, _SUSPECTS))


def near_certain_rule(
    X: np.ndarray,
    hashes: np.ndarray,
    views: ViewHashes | None,
    rule: Rule,
    n: int,
    automatic: bool,
    expected: float,
    careful: bool | None = None,
) -> tuple[Rule, str]:
    """The rule for `n` contents that are too few, or too much alike, to tell unrelated ones apart; and a note of it.

    If it is to be `careful`, as where there are many, bits of hashes are told by random pairs, and thumbnails have to agree.
    Of the vectors `X`, and the hashes as `icehouse.dups.default_calibration.default_calibration` takes them.
    """
    careful = n >= MIN_REFERENCE if careful is None else careful
    cosine = near_certain_cosine(X, careful=careful)
    note = (
        f"{count_of(len(X), 'content is', 'contents are')} too few, or too much alike, to tell what "
        "unrelated ones look like: only near "
        f"hashes and cosines of at least {cosine:.4f} count"
    )
    rule = replace(rule, cosine=cosine, near_certain=True)
    if not automatic or rule.hamming is None or not careful:
        return rule, note
    whole, parts = chance_bits(hashes, views, rule.hamming, expected)
    rule = replace(rule, hamming=whole, view_bits=parts)
    if views is None:
        return rule, note
    # Vectors tell nothing here, and hashes may be equal by chance: what is left is to look.
    return (
        replace(rule, levels=SAME_LEVELS, alike=alike_cosine(cosine)),
        f"{note}, where the thumbnails hardly differ",
    )
