"""Pairs that other pairs link: a picture cut to a quarter is near another cut of it, and far from the whole.

Where pictures have several copies, what each of them is near to says more than its own vector: chains of pairs lead from one
to another. Chains lead astray as well, from a meme to its bare template to another meme. So a chain only makes a candidate,
which is a pair if the two pictures are registered and agree, and say the same.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..data.images import decode_content
from .agreements import FEWEST_PAIRS, LOOSE, STRICT, TELLING, VAGUE, Agreements, least_agreement
from .confirm import PixelPairs
from .groups import group_pairs
from .hashing import HashJoin, ViewHashes
from .rule import DEFAULT_HAMMING, suspects

if TYPE_CHECKING:
    from .pairs import Contents

#: Agreement that a pair needs which links alone suggest. Two memes on one template agree by less: the words of each hide a
#: fifth of the other.
AGREEING = 0.75

#: Pairs beyond which links are not looked for, and that are judged at once.
_MAX_PAIRS, _BLOCK = 100_000, 65_536

#: Bits in which hashes of whole pictures differ, at most, of which one is the other saved again.
_PLAIN_BITS = 4

#: Groups of which the nearest tell how far unrelated pictures agree, where few pairs in doubt are of two.
_STRANGERS = 200

#: Best contents of groups that are held against one another, and nearest ones of each that are looked at.
_MAX_LEADS, _EACH = 4000, 3

#: Contents beyond which nearest ones are not looked for where all look alike, near hashes that are looked at then, and near
#: ones that a content has at most unless it is one of a crowd.
_MAX_ALIKE, _MAX_NEAR, _CROWD = 10_000, 1_000_000, 12

#: Pairs that are registered then at least, as in sets of a dozen.
_LEAST_LOOKS = 100

#: Bits beyond which the nearest hashes of two parts are those of other pictures; and times as many pairs whose colours are
#: compared as are registered.
_FAR_BITS, _COLOURED = 20, 3

#: Places of a picture, in each direction, whose colours are compared, and how far off they are looked for; levels of a
#: channel by which a colour is another one, of a plain ground and elsewhere, and those of a plain ground around it; and the
#: shares of places that may have one, of the picture that shows less, and of that with a band or a frame.
_PLACES, _REACH, _OTHER_GROUND, _OTHER_COLOUR, _PLAIN = 32, 5, 8.0, 24.0, 8.0
_OTHER_PLACES = (0.015, 0.25)

#: Levels by which three by three pixels of a thumbnail may differ of a picture that was saved or scaled again.
_LEVELS_ANYWHERE = 32.0

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
    group = group_pairs(n, linked[0], linked[1], "components")
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
    least, most = max(rule.agreeing, AGREEING), int(suspects(n))
    links, plain = _links(contents, codes)
    if rule.hashes_prove_little:
        plain = plain[:, :0]
    lead = group_pairs(n, links[0], links[1], "components")
    size = np.bincount(lead, minlength=n)
    leads = np.flatnonzero(size)
    few = leads[size[leads] * _SMALLER * len(leads) < n]
    i, j = _nearest(contents, few[~collages[few]], leads[~collages[leads]][:_MAX_LEADS], _EACH, most)
    near = np.stack([i, j])[:, contents.agreements.of(i, j) >= least]
    links = np.concatenate([links, near], axis=1)
    lead = group_pairs(n, links[0], links[1], "components")
    size = np.bincount(lead, minlength=n)
    member = np.flatnonzero((lead < np.arange(n)) & ~collages & ~collages[lead])
    member = member[~np.isin(lead[member] * n + member, codes)]
    # Frames of a film are one large group, and there are copies elsewhere.
    member = member[np.lexsort((member, size[lead[member]]))][:most]
    i, j = _same_words(contents, lead[member], member)
    found = np.stack([i, j])[:, contents.agreements.of(i, j) >= least]
    i, j = _with_plain(n, plain, *np.concatenate([near, found], axis=1))
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


def _with_plain(n: int, plain: np.ndarray, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs, and those of what was only saved again: what agrees with a picture agrees with its copy."""
    sides = np.concatenate([plain, plain[::-1], np.tile(np.arange(n), (2, 1))], axis=1)
    sides = sides[:, np.argsort(sides[0], kind="stable")]
    start, stop = (np.searchsorted(sides[0], i, side) for side in ("left", "right"))
    at = np.repeat(np.arange(len(i)), stop - start)
    place = np.arange(len(at)) - np.repeat(np.cumsum(stop - start) - (stop - start), stop - start)
    a, b = sides[1, start[at] + place], j[at]
    found, other = np.divmod(np.unique((np.minimum(a, b) * n + np.maximum(a, b))[a != b]), n)
    return found, other


def pair_alike(contents: Contents, views: ViewHashes | None) -> dict[str, Any]:
    """Confirm pairs of a set that is too small or too much alike for its vectors and hashes, the most promising ones.

    Those are contents that are nearest to one another, by their vectors or by the hashes of `views`, and first those that
    have few near ones: the frames of a film have hundreds. They have to agree as copies among like pictures do, and in
    their colours, by which alone flags differ; in small sets of which unrelated pictures hardly agree, less and in grey.
    """
    n, agreements = len(contents), contents.agreements
    if agreements is None or contents.rows is None or not 1 < len(contents.rows) <= _MAX_ALIKE:
        return {}
    begun, most = time.perf_counter(), max(int(suspects(n)), _LEAST_LOOKS)
    hashes = _near_hashes(contents, views)
    i, j = _promising(contents, hashes)
    least, looked_at = STRICT, 0
    if contents.rule.levels is None:
        i, j = i[:most], j[:most]
        agreed, looked_at = agreements.of(i, j), len(i)
        told = unrelated_agreement(contents, i, j, agreed, np.zeros(len(i)), hashes)
        if told < TELLING and len(i) >= 2 * FEWEST_PAIRS:
            least = AGREEING
        i, j = i[agreed >= least], j[agreed >= least]
    else:
        apart = contents.whole_hamming(i, j) if views is None else views.distance(i, j)
        possible = np.flatnonzero((apart <= _FAR_BITS) | (apart > 64) | (apart < 0))[: _COLOURED * most]
        i, j = i[possible], j[possible]
    i, j = _same_words(contents, i, j)
    if least == STRICT:
        alike = np.flatnonzero(_colours_agree(agreements, i, j))[:most]
        looked_at, i, j = max(looked_at, len(alike)), i[alike], j[alike]
        # Small pictures that were saved or scaled again agree little in detail, and so do any two icons on one ground.
        asked = np.where(_hardly_differ(contents, i, j), VAGUE, least)
        same = agreements.of(i, j) >= asked
        i, j = i[same], j[same]
    bits = np.maximum(contents.hamming(i, j), 0)
    made = PixelPairs.of_any(n, i * n + j, np.zeros(len(i), np.int8), bits)
    contents.confirmed = made if contents.confirmed is None else contents.confirmed | made
    return {
        "pairs": looked_at,
        "agreeing": len(made),
        "least": least,
        "seconds": time.perf_counter() - begun,
    }


def _promising(contents: Contents, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs ``i < j`` that are near by `hashes` or vectors, those of no crowd first."""
    n = len(contents)
    crowd = np.bincount(hashes.ravel(), minlength=n) > _CROWD
    vectors = _nearest_all(contents)
    lonely = (side[:, ~crowd[side].any(axis=0)] for side in (hashes, vectors))
    pairs = np.concatenate([*lonely, vectors], axis=1)
    # A picture may agree with its cell of a collage; two that both look like one agree only as wholes.
    pairs = pairs[:, contents.collages[pairs[0]] == contents.collages[pairs[1]]]
    codes = pairs[0] * n + pairs[1]
    _, first = np.unique(codes, return_index=True)
    i, j = np.divmod(codes[np.sort(first)], n)
    return i, j


def _near_hashes(contents: Contents, views: ViewHashes | None) -> np.ndarray:
    """Pairs whose hashes, or those of whose parts, are as near as copies' are elsewhere, int64 (2, m), the nearest first."""
    n = len(contents)
    if views is None:
        join = HashJoin(contents.hashes, contents.useful, DEFAULT_HAMMING, max_pairs=_MAX_NEAR)
        codes = np.concatenate([np.empty(0, np.int64), *(block.i * n + block.j for block in join)])
        bits = contents.whole_hamming(*np.divmod(codes, n))
    else:
        codes, _ = views.pairs(_MAX_NEAR)
        bits = views.distance(*np.divmod(codes, n))
    return np.stack(np.divmod(codes[np.argsort(bits, kind="stable")], n))


def _nearest_all(contents: Contents) -> np.ndarray:
    """Pairs of each content with those nearest to it by their vectors, int64 (2, m): those nearest to each other first."""
    rows, numbers = contents.rows, contents.with_vector
    assert rows is not None, "nothing is nearest without vectors"
    units, _ = rows.directions(slice(None))
    units = (units - units.mean(axis=0)).astype(np.float32)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    each, m = min(_EACH, len(units) - 1), len(units)
    best, cosine = np.empty((m, each), np.int64), np.empty((m, each))
    for start in range(0, m, 256):
        part = np.round(units[start : start + 256] @ units.T, 5)
        own = np.arange(len(part))
        part[own, start + own] = -2
        best[start : start + 256] = np.argsort(-part, axis=1, kind="stable")[:, :each]
        cosine[start : start + 256] = np.take_along_axis(part, best[start : start + 256], 1)
    a, b, near = np.repeat(np.arange(m), each), best.ravel(), cosine.ravel()
    mutual = best[b, 0] == a
    mutual &= np.tile(np.arange(each), m) == 0
    order = np.lexsort((-near, ~mutual))
    return np.sort(numbers[np.stack([a, b])[:, order]], axis=0)


def _hardly_differ(contents: Contents, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Tell which pairs have near hashes, and thumbnails of nearly the same levels everywhere; bool."""
    views, variants = contents.near_views, contents.variants
    if views is None or variants is None or variants.pictures is None:
        return np.zeros(len(i), bool)
    near = views.distance(i, j) <= views.radius
    return near & (variants.pictures.levels_apart(i, j, anywhere=True) <= _LEVELS_ANYWHERE)


def _colours_agree(agreements: Agreements, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Tell of pairs that agree in grey whether each colour of one is in the other as well, about where it was; bool."""
    numbers, at = np.unique(np.concatenate([i, j]), return_inverse=True)
    if not len(numbers):
        return np.zeros(0, bool)
    seen = [_colours(digest, file) for digest, file in zip(*agreements.sources(numbers), strict=True)]
    pairs = zip(at[: len(i)].tolist(), at[len(i) :].tolist(), strict=True)
    return np.array([_same_colours(seen[a], seen[b]) for a, b in pairs], bool)


def _colours(digest: str, file: str | None) -> np.ndarray | None:
    """Colours of a file's picture at a few places, float32 (side, side, 3); None if it is not what it was."""
    image = decode_content(digest, file, _PLACES)
    if image is None:
        return None
    small = image.convert("RGB")
    return np.asarray(small.resize((_PLACES, _PLACES), Image.Resampling.BOX), np.float32)


def _same_colours(one: np.ndarray | None, two: np.ndarray | None) -> bool:
    if one is None or two is None:
        return False
    # As they are, or one made lighter; a band changes the mean.
    return any(_held(one, two * gain) for gain in (1.0, one.mean() / max(float(two.mean()), 1.0)))


def _held(one: np.ndarray, two: np.ndarray) -> bool:
    """Whether nearly all of one picture's colours are in the other about where they are, and most of the other's in it."""
    from scipy.ndimage import maximum_filter, minimum_filter

    other = []
    for a, b in ((one, two), (two, one)):
        around = np.pad(b, ((_REACH, _REACH), (_REACH, _REACH), (0, 0)), mode="edge")
        moves = range(2 * _REACH + 1)
        nearest = np.full((_PLACES, _PLACES), np.inf, np.float32)
        for y, x in ((y, x) for y in moves for x in moves):
            apart = np.abs(a - around[y : y + _PLACES, x : x + _PLACES]).max(axis=2)
            np.minimum(nearest, apart, out=nearest)
        # At an edge colours mix by where it lies, and inside of a plain ground they are what they are.
        ranges = maximum_filter(a, (3, 3, 1)) - minimum_filter(a, (3, 3, 1))
        plain = ranges.max(axis=2) <= _PLAIN
        other.append(float((nearest > np.where(plain, _OTHER_GROUND, _OTHER_COLOUR)).mean()))
    return min(other) <= _OTHER_PLACES[0] and max(other) <= _OTHER_PLACES[1]
