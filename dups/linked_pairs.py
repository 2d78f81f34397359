"""Pairs that other pairs link: a picture cut to a quarter is near another cut of it, and far from the whole.

Where pictures have several copies, what each of them is near to says more than its own vector: chains of pairs lead from one
to another. Chains lead astray as well, from a meme to its bare template to another meme. So a chain only makes a candidate,
which is a pair if the two pictures are registered and agree, and say the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .confirm import PixelPairs
from .groups import group_pairs
from .registration import FEWEST_PAIRS, LOOSE, least_agreement
from .rule import suspects

if TYPE_CHECKING:
    from .pairs import Contents

#: Agreement that a pair needs which links alone suggest. Two memes on one template agree by less: the words of each hide a
#: fifth of the other.
_AGREEING = 0.75

#: Pairs beyond which links are not looked for, and that are judged at once.
_MAX_PAIRS, _BLOCK = 100_000, 65_536

#: Bits in which hashes of whole pictures differ, at most, of which one is the other saved again.
_PLAIN_BITS = 4

#: Groups of which the nearest tell how far unrelated pictures agree, where few pairs in doubt are of two.
_STRANGERS = 200

#: Best contents of groups that are held against one another, and nearest ones of each that are looked at.
_MAX_LEADS, _EACH = 4000, 3

#: A group so many times smaller than they are on average may be a part of another.
_SMALLER = 2


def unrelated_agreement(
    contents: Contents,
    i: np.ndarray,
    j: np.ndarray,
    agreed: np.ndarray,
    evidence: np.ndarray,
    sure: np.ndarray,
) -> float:
    """Agreement that copies are asked for, by pairs in doubt of which nothing links the two, one of each two groups.

    Copies of copies would make much agreement look ordinary. Where few are left, the nearest of other groups tell, too.
    `sure`, int64 (2, m), are pairs that are in no doubt.
    """
    n, agreements = len(contents), contents.agreements
    assert agreements is not None, "pairs in doubt are registered"
    linked = np.concatenate([sure, np.stack([i, j])[:, agreed >= LOOSE]], axis=1)
    if linked.shape[1] <= _MAX_PAIRS:
        # Memes on one template are as unrelated as pictures get there.
        linked = np.stack(_same_words(contents, *linked))
    if contents.confirmed is not None:
        linked = np.concatenate([linked, np.divmod(contents.confirmed.codes, n)], axis=1)
    group = group_pairs(n, *linked, "components")
    ends = np.sort(np.stack([group[i], group[j]]), axis=0)
    order = np.lexsort((j, i, evidence))
    order = order[(ends[0] < ends[1])[order] & ~np.isnan(agreed[order])]
    _, first = np.unique((ends[0] * n + ends[1])[order], return_index=True)
    agreed, evidence = agreed[order[first]], evidence[order[first]]
    if len(first) < 2 * FEWEST_PAIRS:
        leads = np.flatnonzero(group == np.arange(n))[:_STRANGERS]
        a, b = _nearest(contents, leads, leads, 1, 2 * FEWEST_PAIRS)
        more = agreements.of(a, b)
        agreed, evidence = np.append(agreed, more), np.append(evidence, np.zeros(len(more)))
    return least_agreement(agreed[~np.isnan(agreed)], evidence[~np.isnan(agreed)])


def pair_linked(contents: Contents, codes: np.ndarray, collages: np.ndarray) -> int:
    """Confirm pairs of each group's best content with what only others link to it, and count them.

    `codes` are of the pairs that are found otherwise, and `collages`, bool (n,), says what has other pictures in it.
    """
    n, rule = len(contents), contents.rule
    confirmed = PixelPairs.none(n) if contents.confirmed is None else contents.confirmed
    codes = np.union1d(codes, confirmed.codes)
    if contents.agreements is None or rule.agreeing is None or len(codes) > _MAX_PAIRS:
        return 0
    least, most = max(rule.agreeing, _AGREEING), int(suspects(n))
    links, plain = _links(contents, codes)
    lead = group_pairs(n, *links, "components")
    size = np.bincount(lead, minlength=n)
    leads = np.flatnonzero(size)
    few = leads[size[leads] * _SMALLER * len(leads) < n]
    i, j = _nearest(contents, few[~collages[few]], leads[~collages[leads]][:_MAX_LEADS], _EACH, most)
    near = np.stack([i, j])[:, contents.agreements.of(i, j) >= least]
    lead = group_pairs(n, *np.concatenate([links, near], axis=1), "components")
    size = np.bincount(lead, minlength=n)
    member = np.flatnonzero((lead < np.arange(n)) & ~collages & ~collages[lead])
    member = member[~np.isin(lead[member] * n + member, codes)]
    # Frames of a film are one large group, and there are copies elsewhere.
    member = member[np.lexsort((member, size[lead[member]]))][:most]
    i, j = _same_words(contents, lead[member], member)
    found = np.stack([i, j])[:, contents.agreements.of(i, j) >= least]
    i, j = _with_plain(n, *np.concatenate([near, found], axis=1), plain)
    i, j = _same_words(contents, i, j)
    made = PixelPairs.of_any(n, i * n + j, np.zeros(len(i), np.int8), np.maximum(contents.hamming(i, j), 0))
    contents.confirmed = confirmed | made
    return len(made)


def _links(contents: Contents, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that groups are made of, and those of pictures that were only saved again; int64 (2, m)."""
    links, plain = [np.empty((2, 0), np.int64)], [np.empty((2, 0), np.int64)]
    looked_at = 0 if contents.variants is None else contents.variants.looked_at
    for start in range(0, len(codes), _BLOCK):
        found = contents.judge(*np.divmod(codes[start : start + _BLOCK], len(contents)))
        found = found.take(np.flatnonzero(found.perceptual | found.embedding))
        links.append(np.stack(contents.joined(found)))
        near = found.perceptual & (found.differs == 0) & (found.container == 0) & (found.orientation == 0)
        bits = contents.whole_hamming(found.i, found.j)
        near &= (bits >= 0) & (bits <= _PLAIN_BITS)
        plain.append(np.stack([found.i, found.j])[:, near])
    if contents.variants is not None:
        contents.variants.looked_at = looked_at
    return np.concatenate(links, axis=1), np.concatenate(plain, axis=1)


def _nearest(
    contents: Contents, some: np.ndarray, others: np.ndarray, each: int, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of `some` contents with `each` of the `others` that are nearest by cosine, the nearest `most` pairs."""
    assert contents.rows is not None, "pairs in doubt have vectors"
    some, others = (side[contents.row_of(side) >= 0] for side in (some, others))
    each = min(each, len(others) - 1)
    if each < 1 or not len(some):
        return some[:0], some[:0]
    left, right = (contents.rows.directions(contents.row_of(side))[0] for side in (some, others))
    cosines = np.round(left @ right.T, 6)
    cosines[some[:, None] == others] = -2
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :each]
    a, b = np.repeat(some, each), others[nearest].ravel()
    order = np.argsort(-np.take_along_axis(cosines, nearest, 1).ravel(), kind="stable")
    codes = (np.minimum(a, b) * len(contents) + np.maximum(a, b))[order]
    _, first = np.unique(codes, return_index=True)
    i, j = np.divmod(codes[np.sort(first)][:most], len(contents))
    return i, j


def _same_words(contents: Contents, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those pairs of which nothing tells that they are variants."""
    if contents.variants is None:
        return i, j
    # These looks are not taken from those that are left for the pairs that are found.
    looked_at = contents.variants.looked_at
    same = contents.variants.of(i, j) == 0
    contents.variants.looked_at = looked_at
    return i[same], j[same]


def _with_plain(n: int, i: np.ndarray, j: np.ndarray, plain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs, and those of what was only saved again: what agrees with a picture agrees with its copy."""
    sides = np.concatenate([plain, plain[::-1], np.tile(np.arange(n), (2, 1))], axis=1)
    sides = sides[:, np.argsort(sides[0], kind="stable")]
    start, stop = (np.searchsorted(sides[0], i, side) for side in ("left", "right"))
    at = np.repeat(np.arange(len(i)), stop - start)
    place = np.arange(len(at)) - np.repeat(np.cumsum(stop - start) - (stop - start), stop - start)
    a, b = sides[1, start[at] + place], j[at]
    found, other = np.divmod(np.unique((np.minimum(a, b) * n + np.maximum(a, b))[a != b]), n)
    return found, other
