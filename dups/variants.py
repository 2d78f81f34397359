"""Variants: near-duplicate pictures that say something else, by the items' texts or by the words inside the pictures.

A meme's template with other words, a photograph posted with another message: the pictures agree and the items do not, as in
the benign confounders of hateful memes (Kiela et al. 2020). Such a pair is told as a variant and nobody's duplicate.

What texts can say is said by their words, without addresses, user names, closing hashtags and emoji. A missing text, or one
of hardly a letter, says nothing. Where texts say nothing, or the same, thumbnails of both pictures are laid over each other.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.text import clean
from ..errors import count_of, one_or_many
from ..store.files import UNREADABLE_ARRAYS, keep_arrays
from ..store.store import Store
from .views import VIEWS_VERSION

#: What becomes of variants: both are kept, or they count as duplicates.
Policy: TypeAlias = Literal["keep", "drop"]
POLICIES = get_args(Policy)

#: Jaccard index of two texts' words below which they disagree: on 1,308 real memes with 275 known pairs it raised the
#: precision of found pairs from .903 to 1 and cost .004 of their recall.
AGREEING = 0.4

#: A text that lies within another is a quotation of it or cut short: so many words, and such a share of them.
_QUOTED_WORDS, _QUOTED_SHARE = 4, 0.9

#: Letters and digits from which a text says something.
_LEAST_LETTERS = 3

#: Different texts of copies of one picture that are compared, and characters of each.
_TEXTS, _CHARS = 8, 5000

#: Pairs whose pictures are laid over each other, at a tenth of a millisecond each. Beyond them only those are that groups
#: are made of.
MAX_OVERLAYS = 300_000

#: Changes whenever something else is told of the same thumbnails; and pairs of which that is kept in a store's cache.
_VERSION, _KEPT = f"1, views {VIEWS_VERSION}", 200_000
_EXPECTED = 20_000  # pairs, at most, whose pictures are fetched before they are asked for

#: What told a pair as a variant, as `Variants.of` numbers it.
EVIDENCE = (None, "text", "picture", "detail")

#: Places of pictures with other words on them, and of pictures that agree, but not in their detail: two of one thing.
PICTURE, DETAIL = EVIDENCE.index("picture"), EVIDENCE.index("detail")

_TAGS = ("#", "＃", "@")
_MENTION = re.compile(r"(?<!\w)@\w+(?:@[\w.-]+)?")

# Scripts that set no spaces between words, by their Unicode blocks.
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9d\U00020000-\U0003ffff]+"
)


class _Separators(dict[int, str]):
    """Table for `str.translate`: letters, marks and digits stay, apostrophes go, the rest is a space."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if char in "'’ʼ＇\ufe0e\ufe0f\u200c\u200d":
            made = ""
        else:
            made = char if unicodedata.category(char)[0] in "LMN" else " "
        self[code] = made
        return made


_SEPARATORS = _Separators()


def words_of(text: str | None) -> frozenset[str]:
    """Distinct words of a text, in small letters; pairs of characters where a script has no spaces. None if it says nothing.

    >>> sorted(words_of("RT @ann: Don't panic! https://t.co/abc123 #flood #help"))
    ['dont', 'panic']
    >>> sorted(words_of("洪水警報"))
    ['水警', '洪水', '警報']
    """
    if not text:
        return frozenset()
    said = clean(text[:_CHARS]).split()
    while said and (said[-1].startswith(_TAGS) or not any(map(str.isalnum, said[-1]))):
        said.pop()
    text = unicodedata.normalize("NFKC", _MENTION.sub(" ", " ".join(said)))
    text = text.casefold().translate(_SEPARATORS)
    found: set[str] = set()
    for word in text.split():
        end = 0
        for run in _SPACELESS.finditer(word):
            found.update(filter(None, [word[end : run.start()]]))
            signs = run.group()
            found.update([signs] if len(signs) == 1 else [signs[k : k + 2] for k in range(len(signs) - 1)])
            end = run.end()
        found.update(filter(None, [word[end:]]))
    return frozenset(found) if sum(map(len, found)) >= _LEAST_LETTERS else frozenset()


def agreement(a: frozenset[str], b: frozenset[str]) -> float:
    """Agreement of two texts, 0 to 1, by their `words_of`; 1 if one has no words.

    The Jaccard index of their words, or of their words' groups of three letters, which misspellings and misread letters
    leave more of; 1 where one text quotes the other.
    """
    if not a or not b or a == b:
        return 1.0
    both, few = len(a & b), min(len(a), len(b))
    if few >= _QUOTED_WORDS and both >= _QUOTED_SHARE * few:
        return 1.0
    jaccard = both / (len(a) + len(b) - both)
    if jaccard >= AGREEING or (not both and few >= _QUOTED_WORDS):
        return jaccard
    p, q = _trigrams(a), _trigrams(b)
    return max(jaccard, len(p & q) / len(p | q))


def texts_differ(one: Sequence[str], other: Sequence[str]) -> bool:
    """Tell whether no text of one content agrees with one of another, of those that say something.

    >>> texts_differ(["free hugs"], ["", "closed on Sunday"]), texts_differ(["free hugs"], [""])
    (True, False)
    """
    words = [[found for text in texts if (found := _words(text))] for texts in (one, other)]
    scores = [agreement(a, b) for a in words[0] for b in words[1]]
    return bool(scores) and max(scores) < AGREEING


@lru_cache(10_000)
def _words(text: str) -> frozenset[str]:
    return words_of(text)


@lru_cache(10_000)
def _trigrams(words: frozenset[str]) -> frozenset[str]:
    padded = [f" {word} " for word in words]
    return frozenset(word[k : k + 3] for word in padded for k in range(len(word) - 2))


@dataclass(frozen=True)
class Texts:
    """A text for each of some items: the item's own (``text``), or what was read off its picture."""

    name: str  # where they are from, in words
    values: pa.Array  # string (n,)


def texts_of(store: Store, items: pa.Table) -> list[Texts]:
    """Texts of `items` in the store, by their columns `text` and `image_sha256`; the strongest evidence first.

    Text read off the pictures is in ``visible_text`` of the tables of captions. Another kind is one more `Texts`.
    """
    found = []
    if "image_sha256" in items.column_names:
        keys = items["image_sha256"].cast(pa.string()).combine_chunks()
        for name in store.table_names():
            if not name.startswith("captions/"):
                continue
            snapshot = store.table(name).snapshot()
            if not {"image_sha256", "visible_text"} <= set(snapshot.schema.names):
                continue
            read = snapshot.read(["image_sha256", "visible_text"])
            at = pc.index_in(keys, value_set=read["image_sha256"].combine_chunks(), skip_nulls=True)
            found.append(
                Texts(f"text read off the pictures ({name})", read["visible_text"].combine_chunks().take(at))
            )
    if "text" in items.column_names:
        found.append(Texts("text", items["text"].cast(pa.string()).combine_chunks()))
    return [one for one in found if one.values.null_count < len(one.values)]


@dataclass
class TextSets:
    """Texts of contents: each content has those of all its items, of which one has to agree with one of the other's."""

    texts: list[str]
    #: int64 (contents, k): places among `texts`, -1 for none, the first ones first
    of: np.ndarray
    _words: dict[int, frozenset[str]] = field(default_factory=dict, repr=False)

    @classmethod
    def make(cls, values: pa.Array, content: np.ndarray, contents: int) -> TextSets:
        """Of each item's text and the number of its content, -1 if it has none."""
        coded = values.dictionary_encode()
        codes = pc.fill_null(coded.indices.cast(pa.int64()), -1).to_numpy()
        there = np.flatnonzero((codes >= 0) & (content >= 0))
        pairs, first = np.unique(np.stack([content[there], codes[there]], axis=1), axis=0, return_index=True)
        pairs = pairs[np.lexsort((first, pairs[:, 0]))] if len(pairs) else pairs.reshape(0, 2)
        starts = np.searchsorted(pairs[:, 0], np.arange(contents))
        place = np.arange(len(pairs)) - starts[pairs[:, 0]] if len(pairs) else np.empty(0, np.int64)
        most = min(int(place.max(initial=0)) + 1, _TEXTS)
        of = np.full((contents, most), -1, np.int64)
        held = place < most
        of[pairs[held, 0], place[held]] = pairs[held, 1]
        return cls(coded.dictionary.to_pylist(), of)

    def subset(self, numbers: np.ndarray) -> TextSets:
        """Those of the contents `numbers`."""
        return TextSets(self.texts, self.of[numbers], self._words)

    def words(self, code: int) -> frozenset[str]:
        """Words of one text."""
        if code not in self._words:
            self._words[code] = words_of(self.texts[code])
        return self._words[code]

    def torn(self) -> int:
        """Count the contents whose own texts disagree."""
        several = np.flatnonzero((self.of >= 0).sum(axis=1) > 1)
        return sum(
            any(self._agreement(codes[0], code) < AGREEING for code in codes[1:] if code >= 0)
            for codes in self.of[several].tolist()
        )

    def known(self, numbers: np.ndarray) -> np.ndarray:
        """Whether each of the contents has a text that says something, bool (m,)."""
        codes = self.of[numbers]
        says = {code: bool(self.words(code)) for code in np.unique(codes[codes >= 0]).tolist()}
        return np.array([any(says.get(code, False) for code in row) for row in codes.tolist()], bool)

    def agreements(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Agreement of the texts of ``i[k]`` and ``j[k]``, float64 (m,); NaN where one has none that says something."""
        best = np.full(len(i), np.nan)
        for p in range(self.of.shape[1]):
            for q in range(self.of.shape[1]):
                a, b = self.of[i, p], self.of[j, q]
                rows = np.flatnonzero((a >= 0) & (b >= 0))
                if not len(rows):
                    continue
                low, high = np.minimum(a[rows], b[rows]), np.maximum(a[rows], b[rows])
                codes, back = np.unique(low * len(self.texts) + high, return_inverse=True)
                left, right = np.divmod(codes, len(self.texts))
                scores = [self._agreement(x, y) for x, y in zip(left.tolist(), right.tolist(), strict=True)]
                best[rows] = np.fmax(best[rows], np.array(scores)[back])
        return best

    def _agreement(self, a: int, b: int) -> float:
        p, q = self.words(a), self.words(b)
        return agreement(p, q) if p and q else np.nan


# Memes on one template agree everywhere but in a few lines. So a pair's thumbnails are brought to common levels, and what is
# left of their difference is looked at. It tells of different words where
#
# - the rest agrees, so that a crop, a turn or another picture tells nothing;
# - the difference is large enough for a line of words, and lies in lines;
# - it changes from letter to letter, which a patch of another colour, a sticker or a thing that moved does not;
# - both pictures depart in it from what surrounds it. A caption or a watermark that was added to a bare picture departs in
#   one alone, so that these stay duplicates.
#
# Words in a band above or below are too small for that, and a band of another height shifts all the rest. So of two pictures
# that both have one, the rest is compared first, and then the bands.

#: Gives thumbnails, uint8 (m, 64, 64), of some contents by number, and which there are, bool (m,).
Thumbnails = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

#: Levels of 255 within which most of two pictures lie after JPEG, resizing and filters, and the share that has to.
_AGREES, _REST = 8.0, 0.7

#: Levels of a difference that is none of these, or so many times the median difference.
_CHANGED, _TIMES = 16.0, 4.0

#: Least area that changed: a line half as long as the picture is wide, a twentieth of it high.
_LINE = 0.025

#: Rows, as a share of all, that hold nine tenths of what differs, at most.
_ROWS, _IN_ROWS = 0.5, 0.9

#: How much of what differs changes from one pixel to the next: 1 of independent pixels, and little of anything smooth.
#: Words on a bare ground alternate less than words on other words.
_LETTERS, _LETTERS_OF_ONE = 0.75, 0.3

#: Least share of what differs in which either picture departs from its surroundings.
_BOTH = 0.2

#: Share of a difference from which on it is one of place: a crop of a few per cent, a turn by a degree.
_MOVED = 0.2

#: Widths of the surroundings, in pixels; the narrowest that shows something of the rest is taken.
_AROUND = (5, 9, 17, 45)

#: Most that one picture's levels are stretched to match the other's, and levels that count as noise in doing so.
_STRETCH, _NOISE = 4.0, 4.0

#: A band: rows, most of them of one ground, so many at least and at most of 64, and levels from which a pixel is no ground.
_BAND_ROWS, _GROUND_LEVELS = (4, 28), 12.0

#: Shares of ground in a row of the band's edge, in one with words at most, and in the first row below the band at most.
_EDGE, _WORDS, _BELOW = 0.95, 0.9, 0.1

#: Rows of 64 by which heights of one band may differ, since either is seen to within a row; correlation from which its words
#: are the same; levels within which most of what lies beside the bands agrees, as a row more or less leaves it.
_SAME_ROWS, _SAME_WORDS, _BESIDE = 2.0, 0.85, 12.0

#: Every so many pixels tell the levels as well as all: no divisor of the side, so that they lie in all columns.
_FEW = 13

_BLOCK = 128


@dataclass(frozen=True)
class Overlay:
    """Evidence of overlaid words from the thumbnails of pairs."""

    differ: np.ndarray  # bool (m,): both have words, and other ones
    #: float64 (m,): share of the picture in which one has words that the other lacks, negative if the first has
    added: np.ndarray


def overlay(a: np.ndarray, b: np.ndarray) -> Overlay:
    """Lay thumbnails uint8 (m, side, side) over each other, pair by pair; the order within a pair only turns a sign."""
    differ, added = np.zeros(len(a), bool), np.zeros(len(a))
    for start in range(0, len(a), _BLOCK):
        part = slice(start, start + _BLOCK)
        gain, first, second, median, most = _levels(a[part], b[part])
        place = start + np.flatnonzero(most <= _AGREES)
        if not len(place):
            continue
        gain, first, second, median = (v[place - start, None, None] for v in (gain, first, second, median))
        p, q = (a[place] - first) * gain, (b[place] - second) / gain
        change = q - p
        size = np.abs(change)
        size[size <= np.maximum(_CHANGED, _TIMES * median)] = 0
        change[size == 0] = 0
        at = np.flatnonzero((size > 0).mean(axis=(1, 2)) >= _LINE)
        letters = _alternation(change)
        at = at[_in_lines(size[at]) & (letters[at] >= _LETTERS_OF_ONE)]
        at = at[_moved(p[at], q[at]) < _MOVED] if len(at) else at
        if not len(at):
            continue
        share = _departing(p[at], q[at], size[at])
        area = (size[at] > 0).mean(axis=(1, 2))
        differ[place[at]] = (np.minimum(share, 1 - share) >= _BOTH) & (letters[at] >= _LETTERS)
        added[place[at]] = np.where(share < _BOTH, area, np.where(share > 1 - _BOTH, -area, 0.0))
    return Overlay(differ, added)


def _levels(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    """Levels at which most pixels of two pictures agree best: what differs locally does not count.

    Gives for each pair, float32 (m,), the gain, and the mean of each, with which ``(a - first) * gain`` is held against
    ``(b - second) / gain``; the median of how far they are apart then, and what `_REST` of all are within.
    """
    p, q = (side.reshape(len(side), -1)[:, ::_FEW].astype(np.float32) for side in (a, b))
    middle, last = p.shape[1] // 2, int(_REST * p.shape[1])
    weight = np.ones_like(p)
    for _ in range(3):
        total = weight.sum(axis=1)
        means, spreads = [], []
        for side in (p, q):
            mean = np.vecdot(weight, side) / total
            square = np.vecdot(weight, np.square(side - mean[:, None])) / total
            means.append(mean)
            spreads.append(np.sqrt(square) + _NOISE)
        gain = np.sqrt(np.clip(spreads[1] / spreads[0], 1 / _STRETCH, _STRETCH))
        apart = np.abs((p - means[0][:, None]) * gain[:, None] - (q - means[1][:, None]) / gain[:, None])
        ranked = np.partition(apart, (middle, last), axis=1)
        weight = (apart <= ranked[:, last, None]).astype(np.float32)
    return gain, *means, ranked[:, middle], ranked[:, last]


def _in_lines(size: np.ndarray) -> np.ndarray:
    """Whether what differs lies in few rows."""
    rows = np.sort(size.sum(axis=2), axis=1)[:, ::-1]
    held: np.ndarray = rows[:, : round(_ROWS * rows.shape[1])].sum(axis=1)
    return held >= _IN_ROWS * np.maximum(rows.sum(axis=1), 1e-9)


def _alternation(change: np.ndarray) -> np.ndarray:
    """Share of a difference that changes from one pixel to the next in a row: 1 if neighbours are independent."""
    energy = np.square(change).sum(axis=(1, 2))
    steps: np.ndarray = np.square(np.diff(change, axis=2)).sum(axis=(1, 2))
    return steps / np.maximum(2 * energy, 1e-9)


def _moved(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Share of the difference that a small shift, stretch or turn of one picture explains."""
    n, side = len(p), p.shape[1]
    change, mean = (q - p).reshape(n, -1), (p + q) / 2
    across, down = np.gradient(mean, axis=2), np.gradient(mean, axis=1)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    # How a pixel changes if the picture moves by a little: (n, 6, pixels).
    basis = np.stack([slope * place for slope in (across, down) for place in (np.ones_like(x), x, y)], axis=1)
    basis = basis.reshape(n, 6, -1)
    normal = basis @ basis.transpose(0, 2, 1) + 1e-3 * np.eye(6, dtype=np.float32)
    along = basis @ change[:, :, None]
    explained = (along * np.linalg.solve(normal, along)).sum(axis=(1, 2))
    share: np.ndarray = explained / np.maximum(np.square(change).sum(axis=1), 1e-9)
    return share


def _departing(p: np.ndarray, q: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Share of what differs in which the first picture lies farther than the second from what surrounds it in both."""
    from scipy.ndimage import uniform_filter

    near = size > 0
    for axis in (1, 2):
        near |= np.roll(near, 1, axis) | np.roll(near, -1, axis)
    rest = (~near).astype(np.float32)
    common = rest * (p + q) / 2
    ground, known = np.zeros_like(p), np.zeros(p.shape, bool)
    for width in _AROUND:
        held = uniform_filter(rest, (0, width, width))
        new = (held > 0.05) & ~known
        seen = uniform_filter(common, (0, width, width))
        ground[new] = seen[new] / held[new]
        known |= new
    first = np.abs(p - ground) > np.abs(q - ground)
    share: np.ndarray = (size * first).sum(axis=(1, 2)) / np.maximum(size.sum(axis=(1, 2)), 1e-9)
    return share


def word_bands(thumbs: np.ndarray) -> np.ndarray:
    """Rows of the bands with words above and below pictures, int64 (m, 2), by thumbnails (m, 64, 64); 0 for none."""
    found = np.zeros((len(thumbs), 2), np.int64)
    least, most = _BAND_ROWS
    for side, turned in enumerate((thumbs, thumbs[:, ::-1])):
        levels = turned[:, : most + 1].astype(np.float32)
        ground = np.median(levels[:, 0], axis=1)
        share = (np.abs(levels - ground[:, None, None]) < _GROUND_LEVELS).mean(axis=2)
        below = share < _BELOW
        end = below.argmax(axis=1)
        for k in np.flatnonzero(below.any(axis=1) & (share[:, 0] >= _EDGE) & (end >= least)).tolist():
            # A band ends at once, but for the row that it shares with the picture.
            height = int(end[k]) if share[k, end[k] - 1] >= _WORDS else int(end[k]) - 1
            rows = share[k, :height]
            if height >= least and rows[-1] >= _WORDS and (rows < _WORDS).any():
                found[k, side] = height
    return found


def _band_differs(a: np.ndarray, b: np.ndarray, rows: tuple[int, int]) -> bool:
    """Whether two pictures agree below their upper bands, of so many `rows`, and the bands have other words."""
    p, q = a.astype(np.float32), b.astype(np.float32)
    side = len(p)
    rest = [
        np.repeat(_resampled(one, top, side, side // 2), 2, axis=0)[None]
        for one, top in zip((p, q), rows, strict=True)
    ]
    if _levels(*rest)[-1][0] > _BESIDE:
        return False
    # What lies below is as high in both, so it tells the second band's height in rows of the first.
    scale = (side - rows[0]) / (side - rows[1])
    height = min(rows[0], rows[1] * scale)
    if abs(rows[0] - rows[1] * scale) > _SAME_ROWS:
        return True
    first = _words_in(p, rows[0], height)
    # Which of them the row at the band's edge belongs to is seen to within a row.
    return all(
        float((first * _words_in(q, rows[1] + shift, height / scale)).sum()) < _SAME_WORDS
        for shift in (0, -0.5, 0.5, -1, 1)
    )


def _words_in(picture: np.ndarray, stop: float, height: float) -> np.ndarray:
    """Detail of a band that ends at a row, (12, side) of unit length, without the mean of its lines."""
    start = max(stop - height, 0.0)
    band = np.abs(_resampled(picture, start, start + height, 12) - np.median(picture[0]))
    band -= band.mean(axis=1, keepdims=True)
    norm = max(float(np.sqrt(np.square(band).sum())), 1e-6)
    unit: np.ndarray = band / norm
    return unit


def _resampled(picture: np.ndarray, start: float, stop: float, count: int) -> np.ndarray:
    """Means of `count` equal parts of the rows from `start` to `stop`."""
    edges = np.linspace(start, stop, count + 1)
    whole = np.minimum(edges.astype(np.int64), len(picture) - 1)
    below = np.concatenate([np.zeros((1, picture.shape[1])), np.cumsum(picture, axis=0)])[whole]
    sums = below + (edges - whole)[:, None] * picture[whole]
    means: np.ndarray = np.diff(sums, axis=0) * count / (stop - start)
    return means


def _means_of_nine(levels: np.ndarray) -> np.ndarray:
    from scipy.ndimage import uniform_filter

    means: np.ndarray = uniform_filter(levels.astype(np.float32), 3)
    return means


@dataclass
class Overlays:
    """Thumbnails of contents, loaded as they are needed, 4 KB each."""

    load: Thumbnails
    numbers: np.ndarray  # int64 (n,): numbers by which `load` knows the contents
    _held: dict[int, np.ndarray | None] = field(default_factory=dict, repr=False)
    _bands: dict[int, np.ndarray] = field(default_factory=dict, repr=False)  # `word_bands` of each
    #: What was told of pairs: a search asks of most of them four times.
    _told: dict[tuple[int, int], tuple[bool, float]] = field(default_factory=dict, repr=False)
    _recalled: int = 0  # how many of these an earlier search told
    _expected: set[int] = field(default_factory=set, repr=False)  # numbers that the next fetch brings as well

    def expect(self, i: np.ndarray, j: np.ndarray) -> None:
        """Have the pictures of pairs of which nothing is told yet fetched with the next: a few take as long as hundreds."""
        pairs = zip(self.numbers[i].tolist(), self.numbers[j].tolist(), strict=True)
        self._expected.update(*(pair for pair in islice(pairs, _EXPECTED) if pair not in self._told))

    def recall(self, file: Path, digests: pa.Array) -> None:
        """Take over what `keep` wrote of pairs of contents, known by their `digests`."""
        with contextlib.suppress(*UNREADABLE_ARRAYS), np.load(file, allow_pickle=False) as held:
            keys, differ, added = (held[name] for name in ("keys", "differ", "added"))
            whole = differ.dtype == bool and added.dtype == np.float64 and keys.dtype.kind == "S"
            if str(held["version"]) != _VERSION or not whole or keys.shape != (2, *differ.shape):
                return
            ends = pc.index_in(pa.array(keys.ravel().astype("U64")), value_set=digests)
            i, j = pc.fill_null(ends, -1).to_numpy().reshape(keys.shape)
            at = np.flatnonzero((i >= 0) & (j >= 0))
            pairs = zip(i[at].tolist(), j[at].tolist(), strict=True)
            self._told.update(
                zip(pairs, zip(differ[at].tolist(), added[at].tolist(), strict=True), strict=True)
            )
            self._recalled = len(self._told)

    def keep(self, file: Path, digests: pa.Array) -> None:
        """Write what was told of pairs, if any is new, of contents that have thumbnails."""
        if len(self._told) == self._recalled:
            return
        seen = [
            (pair, said)
            for pair, said in self._told.items()
            if all(self._held.get(k, 0) is not None for k in pair)
        ]
        seen = seen[-_KEPT:]
        ends = np.array([pair for pair, _ in seen], np.int64).reshape(-1, 2).T
        keys = np.array(digests.take(pa.array(ends.ravel())).to_pylist(), "S64").reshape(ends.shape)
        differ, added = np.array([said for _, said in seen], np.float64).reshape(-1, 2).T
        keep_arrays(file, version=np.array(_VERSION), keys=keys, differ=differ > 0, added=added)

    def subset(self, numbers: np.ndarray) -> Overlays:
        """Those of the contents `numbers`."""
        return Overlays(self.load, self.numbers[numbers], self._held, self._bands, self._told, self._recalled)

    def of(self, i: np.ndarray, j: np.ndarray) -> Overlay:
        """Lay the pictures ``i[k]`` and ``j[k]`` over each other; nothing is told of pairs of which one has no thumbnail."""
        a, b = self.numbers[i], self.numbers[j]
        pairs = list(zip(a.tolist(), b.tolist(), strict=True))
        new = np.array([k for k, pair in enumerate(pairs) if pair not in self._told], np.int64)
        made = self._laid(a[new], b[new])
        now = zip(made.differ.tolist(), made.added.tolist(), strict=True)
        found = dict(zip((pairs[k] for k in new.tolist()), now, strict=True))
        if len(self._told) < MAX_OVERLAYS:
            self._told.update(found)
        said = [found[pair] if pair in found else self._told[pair] for pair in pairs]
        return Overlay(np.array([differ for differ, _ in said], bool), np.array([added for _, added in said]))

    def _laid(self, a: np.ndarray, b: np.ndarray) -> Overlay:
        """What `of` tells, of pairs of contents by their numbers for `load`."""
        told = Overlay(np.zeros(len(a), bool), np.zeros(len(a)))
        self._fetch(np.unique(np.concatenate([a, b])))
        pairs = [
            (k, self._held[x], self._held[y])
            for k, (x, y) in enumerate(zip(a.tolist(), b.tolist(), strict=True))
            if self._held[x] is not None and self._held[y] is not None
        ]
        for start in range(0, len(pairs), 16 * _BLOCK):
            at, first, second = zip(*pairs[start : start + 16 * _BLOCK], strict=True)
            made = overlay(np.stack(first), np.stack(second))
            told.differ[list(at)], told.added[list(at)] = made.differ, made.added
        self._compare_bands(told, a, b)
        return told

    def in_one_place(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Whether the thumbnails of ``i[k]`` and ``j[k]`` are equal but in one place, bool (m,)."""
        told = np.zeros(len(i), bool)
        a, b = self.numbers[i].tolist(), self.numbers[j].tolist()
        self._fetch(np.unique(np.array(a + b, np.int64)))
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            first, second = self._held[x], self._held[y]
            told[k] = first is not None and second is not None and differ_in_one_place(first, second[None])[0]
        return told

    def levels_apart(self, i: np.ndarray, j: np.ndarray, *, anywhere: bool = False) -> np.ndarray:
        """Mean difference of the levels of the thumbnails of ``i[k]`` and ``j[k]``, float64; NaN where one has none.

        `anywhere`, that of three by three pixels where it is largest.
        """
        apart = np.full(len(i), np.nan)
        a, b = self.numbers[i].tolist(), self.numbers[j].tolist()
        self._fetch(np.unique(np.array(a + b, np.int64)))
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            first, second = self._held[x], self._held[y]
            if first is not None and second is not None:
                levels = np.abs(first.astype(np.int16) - second)
                apart[k] = _means_of_nine(levels).max() if anywhere else levels.mean()
        return apart

    def _compare_bands(self, told: Overlay, a: np.ndarray, b: np.ndarray) -> None:
        """Tell what bands with words say, of pairs of contents by their numbers for `load`."""
        bands = [
            np.array([self._bands[number] for number in ends.tolist()]).reshape(-1, 2) for ends in (a, b)
        ]
        for side in (0, 1):
            first, second = (ends[:, side] for ends in bands)
            for k in np.flatnonzero((first > 0) & (second > 0) & ~told.differ).tolist():
                pair = [self._held[int(ends[k])] for ends in (a, b)]
                p, q = (one if side == 0 else one[::-1] for one in pair if one is not None)
                told.differ[k] = _band_differs(p, q, (int(first[k]), int(second[k])))
            alone = (first > 0) != (second > 0)
            share = np.where(second > 0, second, -first) / 64
            told.added[:] = np.where(alone & (told.added == 0), share, told.added)

    def _fetch(self, numbers: np.ndarray) -> None:
        new = np.array([number for number in numbers.tolist() if number not in self._held], np.int64)
        if len(new):
            more = [number for number in self._expected if number not in self._held]
            new = np.union1d(new, np.array(more, np.int64))
            self._expected.clear()
            thumbs, there = self.load(new)
            bands = word_bands(thumbs) * there[:, None]
            for number, thumb, rows, known in zip(new.tolist(), thumbs, bands, there.tolist(), strict=True):
                self._held[number] = thumb if known else None
                self._bands[number] = rows


@dataclass
class Variants:
    """Evidence of variants among contents: their texts, the strongest evidence first, and their pictures."""

    texts: list[TextSets]
    pictures: Overlays | None = None
    dropped: bool = False  # whether variants count as duplicates all the same
    looked_at: int = 0  # pairs whose pictures were to be laid over each other

    @classmethod
    def gather(
        cls,
        texts: Sequence[Texts],
        content: np.ndarray,
        contents: int,
        pictures: Overlays | None = None,
        *,
        dropped: bool = False,
    ) -> Variants:
        """Of items' texts and the numbers of their contents, int64 (n,), -1 for none."""
        return cls([TextSets.make(one.values, content, contents) for one in texts], pictures, dropped)

    def subset(self, numbers: np.ndarray) -> Variants:
        """Those of the contents `numbers`, renumbered from 0."""
        pictures = None if self.pictures is None else self.pictures.subset(numbers)
        return Variants([one.subset(numbers) for one in self.texts], pictures, self.dropped, self.looked_at)

    def of(self, i: np.ndarray, j: np.ndarray, *, whole: bool = False) -> np.ndarray:
        """Evidence by which each pair is a variant, int8 (m,): a place in `EVIDENCE`, 0 if none does.

        A content is none of itself. Unless `whole`, pictures are laid over each other only up to `MAX_OVERLAYS` times.
        """
        told, reworded = np.zeros(len(i), np.int8), np.zeros(len(i), bool)
        open_ = np.flatnonzero(i != j)
        for texts in self.texts:
            agree = texts.agreements(i[open_], j[open_])
            told[open_[agree < AGREEING]] = 1
            reworded[open_[agree < 1]] = True
        if self.pictures is not None:
            rest = open_[told[open_] == 0]
            if not whole:
                held = rest[: max(MAX_OVERLAYS - self.looked_at, 0)]
                self.looked_at += len(rest)
                rest = held
            told[rest[self.pictures.of(i[rest], j[rest]).differ]] = 2
            # Some other words, and pictures that are equal but where words may stand: a template with a changed line.
            rest = rest[(told[rest] == 0) & reworded[rest]]
            told[rest[self.pictures.in_one_place(i[rest], j[rest])]] = 1
        return told

    def beyond(self, keeper: np.ndarray, member: np.ndarray) -> Iterator[np.ndarray]:
        """Score of what each member has beyond its keeper, by each kind of evidence, float64 (m,); 0 where nothing.

        Only what it says beyond the keeper can set two members of one keeper apart.
        """
        for texts in self.texts:
            told = texts.known(member) & ~texts.known(keeper)
            yield told.astype(np.float64)
        if self.pictures is not None:
            yield np.maximum(self.pictures.of(keeper, member).added, 0)


#: Levels by which a block of 8 x 8 pixels of a thumbnail differs on average where other words stand, at least, and elsewhere
#: at most; a mark has fewer.
_PLACE_LEVELS, _SAME = 15.0, 3.0


def differ_in_one_place(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Tell which of some thumbnails (m, 64, 64) are equal to `one` (64, 64) but in one place: memes of one template."""
    apart = np.abs(others.astype(np.float32) - one).reshape(len(others), 8, 8, 8, 8).mean(axis=(2, 4))
    blocks = apart.reshape(len(others), 64)
    told: np.ndarray = (np.median(blocks, axis=1) <= _SAME) & (blocks.max(axis=1) >= _PLACE_LEVELS)
    return told


def part_variants(
    keeper: np.ndarray, variants: Variants, regroup: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, int]:
    """Take variants out of groups: no member may be a variant of its keeper, or of another member.

    Where two members of one keeper, a picture without words, say different things, neither is told by the keeper: all that
    say something of that kind leave. `regroup` groups those that left, by their ascending numbers: it gives the place of
    each one's keeper among them. Gives keepers, int64 (n,), and how many contents left a group.
    """
    keeper = keeper.copy()
    left = 0
    members = np.flatnonzero(keeper != np.arange(len(keeper)))
    for last in (False, True):
        out = _strangers(keeper, members, variants)
        if not len(out):
            break
        keeper[out] = out
        if last:
            break
        left, members = len(out), out
        keeper[out] = out[regroup(out)]
        members = out[keeper[out] != out]
    return keeper, left


def _strangers(keeper: np.ndarray, members: np.ndarray, variants: Variants) -> np.ndarray:
    """Members that are variants of their keeper or of one another, ascending."""
    if not len(members):
        return members
    # Before anything is dropped its picture is looked at, however many pairs there are.
    out = variants.of(keeper[members], members, whole=True) > 0
    for said in variants.beyond(keeper[members], members):
        says = np.flatnonzero((said > 0) & ~out)
        if not len(says):
            continue
        # Of each group the member that says most is held against all others that say something.
        order = says[np.lexsort((members[says], -said[says], keeper[members[says]]))]
        groups, start, back = np.unique(keeper[members[order]], return_index=True, return_inverse=True)
        first = order[start][back]
        apart = variants.of(members[first], members[order], whole=True) > 0
        torn = np.zeros(len(groups), bool)
        torn[back[apart]] = True
        out[order[torn[back]]] = True
    return members[out]


def variant_notes(variants: Variants, differing: Mapping[str, int], policy: Policy) -> list[str]:
    """Tell of variants by what differs, and of byte copies of one picture with other texts."""
    told = []
    if total := sum(differing.values()):
        words = {"text": "texts", "picture": "words in the pictures", "detail": "pictures' detail"}
        by = ", ".join(f"{count} by their {words[name]}" for name, count in differing.items())
        what = (
            "both are kept and told in variants.csv; --variants drop counts them as duplicates"
            if policy == "keep"
            else "they count as duplicates, as asked for by --variants drop"
        )
        told.append(
            f"{count_of(total, 'pair of pictures agrees and says', 'pairs of pictures agree and say')} "
            f"something else ({by}): {what}"
        )
    if (left := variants.looked_at - MAX_OVERLAYS) > 0:
        told.append(
            f"the words in the pictures of {count_of(left, 'pair')} were not compared, after {MAX_OVERLAYS} "
            "pairs; those of a "
            "keeper and its members were"
        )
    if torn := max((one.torn() for one in variants.texts), default=0):
        told.append(
            f"{count_of(torn, 'picture is', 'pictures are')} there as byte copies with different texts: "
            "copies are duplicates of the picture all the "
            "same, and dropping one loses its text"
        )
    return told


def label_notes(labelled: Mapping[str, int], conflicting: Mapping[str, int]) -> list[str]:
    """Tell how many pairs with two labels, by kind, have different ones."""
    apart = {kind: count for kind, count in conflicting.items() if kind != "variant"}
    total = sum(count for kind, count in labelled.items() if kind != "variant")
    if not (many := sum(apart.values())):
        return []
    share = (
        f"{many} of {count_of(total, 'pair')} of duplicates {one_or_many(many, 'has', 'have')} different labels "
        f"({many / total:.0%})"
    )
    return [f"{share}: see `icehouse dups conflicts` before anything is dropped"]
