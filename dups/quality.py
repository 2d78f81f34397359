"""Picture quality: facts measured in an image file, what two copies say of each other, and the score by which one is kept.

No edit adds to what a picture shows. So the score counts the pixels inside of margins that carry detail, as a logarithm
to base 2 ("octaves"), and takes off what each fault costs (`FAULTS`): compression, told by the steps in the file or by
those that an earlier one left in the pixels; few colours with dither between them; grey; corners filled after a turn.

What one picture cannot tell, two copies can (`compare`): an enlarged one has nothing beyond the detail of the smaller one;
a sticker or words are where two differ in one place only; noise and halos are what one has more of at equal detail; a crop
is a part of the whole; and what lies around the picture in a screenshot begins at a straight edge. These are noted as faults
of the one, so that the order stays one order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from math import sqrt
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..data.images import decode
from .confirm import turn
from .hashing import distinct
from .views import content_box

#: Changes whenever other facts would come of the same file.
FACTS_VERSION = 1

#: Changes whenever two files would say something else of each other with the same facts, see `compare`.
RELATIONS_VERSION = 1

#: What is measured, in the order of the columns; two spectra follow.
FACTS = (
    "width",
    "height",
    "across",
    "down",
    "step",
    "again",
    "palette",
    "colour",
    "noise",
    "inside",
    "corners",
)

#: What a fault costs, in octaves of pixels.
FAULTS = {
    "again": 0.1, "palette": 1.0, "grey": 1.5, "framed": 0.5, "corners": 0.5,
    "enlarged": 0.3, "halos": 0.3, "overlaid": 0.5, "cropped": 0.5, "surrounded": 0.5,
}  # fmt: skip

#: What a lossy file costs, and what beyond that by the mean step of its low frequencies: JPEG at a quality of 70 costs
#: `_LOSSY` and `_COMPRESSED`. A copy in a better quality is no better than what it was made of.
_LOSSY, _STEP, _COMPRESSED = 0.1, 8.0, 0.3

#: Formats whose files may be lossy, and do not tell their steps.
_LOSSY_FORMATS = ("WEBP", "AVIF", "HEIF")

#: What a doubling of noise costs, in octaves.
_NOISE = 0.35

#: Levels within which colours follow from brightness in a grey or tinted picture.
_GREY = 3.0

#: Share of neighbours of one colour from which on few colours are those of drawn art.
_DRAWN = 0.8

#: Pixels of the shortest side that are kept when a large file is decoded, and what is measured is the smaller picture.
_SHORTEST = 1536

#: Frequencies of a spectrum, and side of the small picture that is compared.
BINS, SMALL = 32, 64

_WINDOW = 64  # samples along a row or column whose spectrum is taken
_TILES = 5  # a side, that are looked at apart
_ROWS = 192  # rows, and columns, that are looked at
_BLOCKS = 512  # of JPEG's 8 x 8 pixels that are looked at
_SAMPLES = 256  # rows, and columns, of the pixels whose colours are counted

#: The frequencies of a spectrum.
_FREQUENCY = np.arange(BINS) / (2 * BINS - 1)

#: What relates the energies of second and first differences in a picture at its native size, at least.
_NATIVE = 0.65

#: Softer than that a picture is not measured: what is left is noise.
_SOFTEST = 0.2

#: Share that is taken to be inside of a ring which is no straight margin.
_RINGED = 0.85

#: Frequencies of 8 x 8 blocks whose steps are looked for, all but the mean of the lowest three each way, and the steps,
#: largest first; from what coefficient on each is looked for, and what makes a whole turn of it.
_LOWEST = 3
_LOW = tuple((row, column) for row in range(_LOWEST) for column in range(_LOWEST))[1:]
_STEPS = np.concatenate([np.arange(2, 12, 0.5), np.arange(12, 48, 1.0)])[::-1]
_FROM = 0.3 * _STEPS
_FACTORS = (2 * np.pi / _STEPS).astype(np.float32)[:, None]

#: Coefficients that a step needs, and frequencies that have one, of an earlier compression.
_MULTIPLES, _FREQUENCIES = 48, 4

#: By how much a mean of waves may differ with the order in which they are summed.
_ROUNDING = 1e-4

#: Weights of red, green and blue in brightness.
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Facts:
    """Facts of some pictures: float64 (n,) by their names, spectra (n, 2, bins) in decibels, small grey pictures."""

    table: np.ndarray  # float64 (n, len(FACTS)); NaN where a picture has none
    spectra: np.ndarray
    small: np.ndarray  # uint8 (n, side, side), stretched to a square

    def __getitem__(self, name: str) -> np.ndarray:
        values: np.ndarray = self.table[:, FACTS.index(name)]
        return values

    def losses(self) -> dict[str, np.ndarray]:
        """Loss of score by each kind of fault, octaves (n,) by its name."""
        return {
            "compressed": np.where(
                self["step"] > 0, _LOSSY + _COMPRESSED * np.log2(1 + self["step"] / _STEP), 0.0
            ),
            "again": FAULTS["again"] * self["again"],
            "palette": FAULTS["palette"] * self["palette"],
            "grey": FAULTS["grey"] * (self["colour"] < _GREY),
            "framed": FAULTS["framed"] * (self["inside"] < 1),
            "corners": FAULTS["corners"] * self["corners"],
        }

    def effective(self) -> np.ndarray:
        """Pixels that carry detail of what is inside of margins, in octaves."""
        pixels = self["width"] * self["height"] * self["inside"]
        return np.log2(np.maximum(pixels, 1)) + 1.3 * np.log2(self["across"] * self["down"])

    def score(self) -> np.ndarray:
        """Octaves of pixels (n,), the more the better; NaN where there are no facts."""
        return self.effective() - sum(self.losses().values())


def measure(data: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Facts, spectra and the small picture of an image file; None of a blank one. Raises `ImageError` as `decode` does."""
    picture = decode(data, shortest=_SHORTEST)
    if picture.blank:
        return None
    image = picture.image
    pixels = np.asarray(image)
    brightness = image.convert("L")
    grey = np.asarray(brightness)
    noise = _noise(grey)
    # The rows, and the columns as rows, that are looked at.
    sides = [_some(grey, _ROWS), np.ascontiguousarray(_some(grey, _ROWS, axis=1).T)]
    bits = len(data) * 8 / (picture.width * picture.height) if picture.format in _LOSSY_FORMATS else None
    whole = picture.width == image.width or picture.height == image.width
    step, again = compression(grey if whole else None, picture.tables, bits)
    palette, colour = _colours(image, pixels)
    factor = max(1, min(image.size) // 256)
    left, top, right, bottom = content_box(image.reduce(factor)) if factor > 1 else content_box(image)
    inside = (right - left) * (bottom - top) * factor**2 / (image.width * image.height)
    small = np.asarray(brightness.resize((SMALL, SMALL), Image.Resampling.BOX))
    if inside >= 1 and _ringed(small):
        inside = _RINGED
    facts = [
        picture.width, picture.height, *(detail(side) for side in sides), step, again, palette, colour, noise,
        min(inside, 1.0), _turned(pixels),
    ]  # fmt: skip
    return np.array(facts, np.float64), np.stack([spectrum(side) for side in sides]), small


def detail(grey: np.ndarray) -> float:
    """Share of the samples along the rows of `grey` that carry detail, 0 to 1.

    An enlarged or blurred picture changes as much from pixel to pixel, but the change itself changes less: the energy of the
    second differences goes down with the square of the factor. Measured where a picture changes most, tile by tile, of
    which the median counts: words and stickers in some tiles do not speak for the picture.
    """
    height, width = grey.shape
    if width < 32 or height < 8:
        return 1.0
    rows = _some(grey, _ROWS)
    run = (width - 2) // 16
    pixels = rows[:, -run * 16 - 2 :].astype(np.float32)
    first = pixels[:, 1:] - pixels[:, :-1]
    second = first[:, 1:] - first[:, :-1]
    # Sums of whole numbers, exact in any order.
    first, second = (
        np.einsum("rcs,rcs->rc", each, each)
        for each in (one.reshape(len(rows), run, 16) for one in (first[:, 1:], second))
    )
    energies = []
    for places in _tiles(len(rows), run):
        a = first.take(places)
        most = _most(a)
        count, places = most.shape[1], places.take(most)
        energies.append([np.add.reduce(one.take(places), axis=1) / count for one in (first, second)])
    a, b = np.concatenate(energies, axis=1)
    told = a >= max(_median(a) / 4, 8.0)
    if not told.any():
        return 1.0
    ratio = float(np.sqrt(_median(b[told] / a[told]) / 2))
    return min(1.0, max(ratio / _NATIVE, _SOFTEST))


@lru_cache(64)
def _spread(length: int, most: int) -> np.ndarray:
    """Places of so many, at most `most` of them, as even as they can be."""
    return np.linspace(0, length - 1, min(length, most)).astype(int)


def _some(pixels: np.ndarray, most: int, axis: int = 0) -> np.ndarray:
    """Rows, or columns, of pixels, at most so many of them."""
    length = pixels.shape[axis]
    return pixels if length <= most else pixels.take(_spread(length, most), axis=axis)


@lru_cache(32)
def _tiles(high: int, wide: int) -> list[np.ndarray]:
    """Tiles of a table, as even as they can be, `_TILES` a side where there is room for as many.

    The places of their values in it, row by row; those of one size together, int64 (tiles, size).
    """
    return [
        (rows[:, None, :, None] * wide + columns[:, None]).reshape(-1, rows.shape[1] * columns.shape[1])
        for rows in _cut(high)
        for columns in _cut(wide)
    ]


def _cut(length: int) -> list[np.ndarray]:
    """So many, cut into `_TILES` where there are as many; those of one size together, int64 (parts, size)."""
    parts = min(_TILES, length)
    size, longer = divmod(length, parts)
    split = longer * (size + 1)
    made = [np.arange(split).reshape(longer, size + 1), np.arange(split, length).reshape(-1, size)]
    return [one for one in made if len(one)]


def _most(values: np.ndarray) -> np.ndarray:
    """Places, in all of the (tiles, size) values, of an eighth of each tile's, the largest, and eight at least."""
    tiles, size = values.shape
    top = min(size, max(8, size // 8))
    most = (-values).argpartition(top - 1, axis=1)[:, :top]
    most += np.arange(0, tiles * size, size)[:, None]
    return most


def _median(values: np.ndarray) -> np.ndarray:
    """Median along the first axis, as `numpy.median` gives it, which takes long for a few values."""
    ranked = np.sort(values, axis=0)
    half = len(ranked) // 2
    return ranked[half] if len(ranked) % 2 else (ranked[half - 1] + ranked[half]) / 2


def _percentile(values: np.ndarray, percent: float) -> np.floating:
    """Percentile of values (n,), as `numpy.percentile` gives it, which takes long for a few values."""
    place = (len(values) - 1) * (percent / 100)
    low = int(place)
    after = min(low + 1, len(values) - 1)
    ranked = np.partition(values, (low, after))
    start, end, share = ranked[low], ranked[after], place - low
    return end - (end - start) * (1 - share) if share >= 0.5 else start + (end - start) * share


def spectrum(grey: np.ndarray) -> np.ndarray:
    """Spectrum of the edges across the rows of `grey`, float32 (bins,), in decibels of the level of coarse structure.

    That of a sharp edge is level. The median over tiles of that of the steepest edges of each.
    """
    width = grey.shape[1]
    n = min(_WINDOW, width // 2)
    if n < 16:
        return np.zeros(BINS, np.float32)
    rows = _some(grey, _ROWS).astype(np.float32)
    steps = rows[:, 1:] - rows[:, :-1]
    starts, ends = _windows(width, n)
    steepest = np.maximum.reduceat(np.abs(steps), ends, axis=1)[:, ::2]
    weights, frequency, short = _analysis(n)
    spectra = []
    for places in _tiles(len(rows), len(starts)):
        most = _most(steepest.take(places))
        row, window = np.divmod(places.take(most).ravel(), len(starts))
        first = row * (width - 1) + starts.take(window)
        pieces = steps.take(first[:, None] + np.arange(n - 1))
        power = np.abs(np.fft.rfft(pieces * weights, axis=1)) ** 2
        spectra.append(np.add.reduce(power.reshape(*most.shape, -1), axis=1) / most.shape[1])
    power = np.concatenate(spectra) / short
    coarse = power[:, 3 * n // _WINDOW : 8 * n // _WINDOW + 1]
    level = np.add.reduce(coarse, axis=1) / coarse.shape[1]
    told = level >= max(_median(level) / 4, 1.0)
    if not told.any():
        return np.zeros(BINS, np.float32)
    power = _median(power[told] / level[told, None])
    power = np.interp(_FREQUENCY, frequency, power)
    return (10 * np.log10(power + 1e-5)).astype(np.float32)


@lru_cache(64)
def _windows(width: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of n samples in so many, each half over the next: where they start, and, in turns, where they start and end.

    Of the differences of neighbours, of which a window has n - 1; an end beyond the last one is left out.
    """
    starts = np.arange(0, width - n + 1, n // 2)
    starts = starts[_spread(len(starts), 32)]
    ends = np.stack([starts, starts + n - 1], axis=1).ravel()
    return starts, ends[ends < width - 1]


@lru_cache(64)
def _analysis(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of the n - 1 differences in a window; frequencies; and by how much power falls short at each."""
    frequency = np.arange((n - 1) // 2 + 1) / (n - 1)
    # Differences of neighbours fall short of the slope at high frequencies.
    return np.hanning(n - 1).astype(np.float32), frequency, np.sinc(frequency) ** 2


def compression(
    grey: np.ndarray | None, tables: dict[int, list[int]] | None, bits: float | None
) -> tuple[float, bool]:
    """Mean step of the low frequencies of 8 x 8 blocks, and whether it is that of an earlier compression.

    `tables` are those of a JPEG, `bits` of a pixel those of another lossy file, and `grey` the pixels where all are there.
    """
    now = 0.0
    if tables:
        first = np.asarray(tables[min(tables)], np.float64).reshape(8, 8)
        now = float(np.mean([first[place] for place in _LOW]))
    elif bits is not None:
        # Their tables are not told.
        now = 6.0 * max(0.5, min(4.0, 1.2 / max(bits, 0.01)))
    before = 0.0
    if grey is not None:
        # In a copy that was turned or flipped the blocks begin at the other end.
        for phase in dict.fromkeys((y, x) for y in (0, grey.shape[0] % 8) for x in (0, grey.shape[1] % 8)):
            found = _lattice(grey[phase[0] :, phase[1] :])
            if len(found) >= _FREQUENCIES:
                before = max(before, float(np.mean(found)))
    return (before, True) if before > max(1.3 * now, 1.5) else (now, False)


def _lattice(grey: np.ndarray) -> list[float]:
    """Steps of which the coefficients of the low frequencies are multiples, for those frequencies that have one."""
    high, wide = grey.shape[0] // 8, grey.shape[1] // 8
    if high * wide < 64:
        return []
    blocks = grey[: high * 8, : wide * 8].reshape(high, 8, wide, 8)
    if high * wide > 4 * _BLOCKS:
        down, across = np.divmod(_spread(high * wide, 4 * _BLOCKS), wide)
        blocks = blocks[down, :, across]
    else:
        blocks = blocks.transpose(0, 2, 1, 3)
    # By their places in blocks, (64, blocks).
    pixels = np.ascontiguousarray(blocks.reshape(-1, 64).T)
    told = np.flatnonzero(np.ptp(pixels, axis=0) > 8)
    if len(told) > _BLOCKS:
        told = told[_spread(len(told), _BLOCKS)]
    if len(told) < 32:
        return []
    pixels = pixels.take(told, axis=1).astype(np.float32)
    pixels -= 128
    # Of all blocks at once, as products of small matrices would be thousands.
    cosines = _cosines()[:_LOWEST]
    part = (cosines @ pixels.reshape(8, -1)).reshape(_LOWEST, 8, -1)
    coefficients = np.abs(cosines @ part).reshape(_LOWEST * _LOWEST, -1)[1:]
    coefficients.sort(axis=1)
    found: list[float] = []
    for left, values in zip(range(len(_LOW), 0, -1), coefficients, strict=True):
        if len(found) + left < _FREQUENCIES:
            return []
        step = _step(values)
        if step:
            found.append(step)
    return found


def _step(values: np.ndarray) -> float:
    """Largest step of which coefficients, ascending, are multiples: waves as long are high at them; 0 for none."""
    starts = values.searchsorted(_FROM)
    counts = len(values) - starts
    # A step that needs more than there are values is none.
    first = int(counts.searchsorted(_MULTIPLES))
    if first == len(counts):
        return 0.0
    waves = _FACTORS[first:] * values[starts[-1] :]
    np.cos(waves, out=waves)
    steps, wide = waves.shape
    # From where on each of the waves counts, and where the next begins.
    ends = np.arange(0, (steps + 1) * wide, wide).repeat(2)[1:-1]
    ends[::2] += starts[first:] - starts[-1]
    shares = np.add.reduceat(waves.ravel(), ends[:-1])[::2] / counts[first:]
    for place in np.flatnonzero(shares > 0.5 - _ROUNDING).tolist():
        kept = waves[place, starts[first + place] - starts[-1] :]
        if np.add.reduce(kept) / np.float32(len(kept)) > 0.5:
            return float(_STEPS[first + place])
    return 0.0


@cache
def _cosines() -> np.ndarray:
    k, x = np.arange(8)[:, None], np.arange(8)[None]
    return (np.cos(np.pi * k * (2 * x + 1) / 16) * np.where(k == 0, np.sqrt(1 / 8), 0.5)).astype(np.float32)


def _colours(image: Image.Image, pixels: np.ndarray) -> tuple[bool, float]:
    """Whether a picture has few colours that are mixed, and by how many levels its colours differ beyond brightness."""
    height, width = pixels.shape[:2]
    small = image.resize((min(32, width), min(32, height)), Image.Resampling.BOX)
    values = np.asarray(small).reshape(-1, 3).astype(np.float64)
    luma = values @ _LUMA
    # A tint follows from the brightness, as in sepia; it is no colour.
    level = (luma / 8).astype(int)
    counts = np.maximum(np.bincount(level, minlength=33), 1)
    rest = np.zeros(len(luma))
    for channel in (0, 2):
        chroma = values[:, channel] - luma
        chroma -= (np.bincount(level, chroma, minlength=33) / counts)[level]
        np.maximum(rest, np.abs(chroma), out=rest)
    colour = float(_percentile(rest, 85))
    if min(width, height) < 128:
        return False, colour
    # Of most pictures some of the pixels have more colours than a palette already.
    most: float = 256
    if colour >= _GREY:
        some = pixels.reshape(-1, 3).take(_sixteenth(height, width), axis=0)
        if _distinct_colours(some) > most:
            return False, colour
    few = _some(_some(pixels, _SAMPLES), _SAMPLES, axis=1).reshape(-1, 3)
    if colour < _GREY:
        most = 0.7 * int(np.ptp(few[:, 1]))
    if _distinct_colours(few[::16]) > most or _distinct_colours(few) > most:
        return False, colour
    # Drawn art has few colours too, but next to each other they are mostly the same.
    some = pixels.take(_spread(height, _SAMPLES)[::4], axis=0)
    alike = (some[:, 1:] == some[:, :-1]).all(axis=2).mean()
    return bool(alike < _DRAWN), colour


@lru_cache(16)
def _sixteenth(height: int, width: int) -> np.ndarray:
    """Places of a sixteenth of the pixels whose colours are counted."""
    rows, columns = _spread(height, _SAMPLES), _spread(width, _SAMPLES)
    row, column = np.divmod(np.arange(0, len(rows) * len(columns), 16), len(columns))
    places: np.ndarray = rows[row] * width + columns[column]
    return places


def _distinct_colours(pixels: np.ndarray) -> int:
    """Number of colours of pixels (n, 3)."""
    red, green, blue = pixels.T.astype(np.int32)
    return len(distinct(red << 16 | green << 8 | blue))


def _noise(grey: np.ndarray) -> float:
    """Levels of what changes from pixel to pixel both ways, in the quarter of 8 x 8 blocks with the least of it."""
    high, wide = (grey.shape[0] - 1) // 8, (grey.shape[1] - 1) // 8
    if not high or not wide:
        return 0.0
    part = grey.take(_bands(high), axis=0)[..., : wide * 8 + 1].astype(np.int16)
    fine = part[:, 1:] - part[:, :-1]
    fine = (fine[..., 1:] - fine[..., :-1]).astype(np.float32)
    # Sums of whole numbers, exact in any order.
    energy = np.einsum("brc,brc->bc", fine, fine).reshape(-1, 8)
    energy = np.add.reduce(energy, axis=1) / (4 * 64)
    return float(np.sqrt(_percentile(energy, 25)))


@lru_cache(64)
def _bands(high: int) -> np.ndarray:
    """Rows of bands of 8 x 8 blocks, each with the first row of the next; int64 (bands, 9)."""
    return np.unique(_spread(high, 64))[:, None] * 8 + np.arange(9)


def _turned(pixels: np.ndarray) -> bool:
    """Whether all corners are filled with one colour that the middles of the sides do not have."""
    height, width = pixels.shape[:2]
    if min(height, width) < 64:
        return False
    side = max(2, min(height, width) // 200)
    ends = (slice(0, side), slice(-side, None))
    corners = np.stack([pixels[y, x].astype(np.int16) for y in ends for x in ends])
    ground = _median(corners.reshape(-1, 3).astype(np.float64))
    if (np.abs(corners - ground).max(axis=3).mean(axis=(1, 2)) > 25).any():
        return False
    tall, broad = (slice(n * 2 // 5, n * 3 // 5) for n in (height, width))
    sides = (pixels[0, broad], pixels[-1, broad], pixels[tall, 0], pixels[tall, -1])
    return all((np.abs(one - ground).max(axis=1) <= 24).mean() < 0.5 for one in sides)


class Relation(NamedTuple):
    """Relation of two copies: faults of the first and of the second, and how many octaves each costs."""

    first: dict[str, float]
    second: dict[str, float]


def compare(facts: Facts, a: int, b: int) -> Relation:
    """Compare two copies of one picture."""
    ours: dict[str, float] = {}
    theirs: dict[str, float] = {}
    one, other = (facts.small[k].astype(np.float32) for k in (a, b))
    score = facts.score()
    whole, turned = _aligned(one, other)
    if whole:
        across, down = (facts[name][a] / facts[name][b] for name in ("width", "height"))
        if turned >= 4:  # sides are exchanged
            across, down = facts["width"][a] / facts["height"][b], facts["height"][a] / facts["width"][b]
        ratio = across * down
        if max(ratio, 1 / ratio) >= 1.5:
            larger, smaller, faults = (a, b, ours) if ratio > 1 else (b, a, theirs)
            if _enlarged(facts, larger, smaller, turned >= 4):
                # It shows what the smaller one does, and no more.
                faults["enlarged"] = _less(score, larger, smaller) + FAULTS["enlarged"]
        else:
            _even(facts, a, b, max(across, down, 1 / across, 1 / down) < 1.02, ours, theirs)
        _inherit(facts, a, b, ours, theirs)
        sharp = facts["across"] * facts["down"]
        # A blurred copy lacks edges everywhere, and most where there is print.
        same = abs(1.3 * np.log2(sharp[a] / sharp[b])) < _EVEN
        which = _overlaid(one, turn(other, turned), 14.0 if same else 45.0)
        if which:
            over, under, faults = (a, b, ours) if which > 0 else (b, a, theirs)
            # What is laid over may be sharp and in colour, and adds nothing to the picture.
            faults["overlaid"] = FAULTS["overlaid"] + (
                _less(score, over, under) if 0.98 < ratio < 1.02 else 0.0
            )
            if faults["overlaid"] > FAULTS["overlaid"]:
                faults.pop("even", None)
        return Relation(ours, theirs)
    # Smoothed, since what was photographed off a screen is a little slanted.
    smooth = {a: _smooth(one), b: _smooth(other)}
    found = max(
        ((*_place(facts, smooth, outer, inner), outer, inner) for outer, inner in ((a, b), (b, a))),
        key=lambda place: place[0],
    )
    correlation, box, outer, inner = found
    share = (box[2] - box[0]) * (box[3] - box[1])
    if correlation < _PART or share > 0.97:
        return Relation(ours, theirs)
    around, within = (ours, theirs) if outer == a else (theirs, ours)
    shown = facts["width"][outer] * (box[2] - box[0]) / facts["width"][inner]
    square = facts.small[outer].astype(np.float32)
    seams = _seams(square, box)
    if seams >= 0.75 or (share > 0.45 and _plain_around(square, box)):
        less = _less(score, outer, inner)
        if shown > 1.1:
            less = min(less, max(float(np.log2(facts["inside"][outer] / share)), 0.0))
        around["surrounded"] = less + FAULTS["surrounded"]
    elif seams <= 0.25:
        within["cropped"] = (_less(score, inner, outer) if shown > 0.9 else 0.0) + FAULTS["cropped"]
    return Relation(ours, theirs)


def _less(score: np.ndarray, one: int, other: int) -> float:
    """Loss that brings the score of one down to that of another."""
    return max(float(score[one] - score[other]), 0.0)


def _even(
    facts: Facts, a: int, b: int, same_size: bool, ours: dict[str, float], theirs: dict[str, float]
) -> None:
    """Make even what two pictures of one view cannot differ in: margins at one size, and detail within the measurement."""
    if same_size:
        framed = facts.losses()["framed"] - np.log2(facts["inside"])
        if framed[a] != framed[b]:
            (ours if framed[a] < framed[b] else theirs)["even"] = float(abs(framed[a] - framed[b]))
    sharp = 1.3 * np.log2(facts["across"] * facts["down"])
    if not abs(sharp[a] - sharp[b]) < _EVEN:
        return
    if sharp[a] != sharp[b]:
        faults = ours if sharp[a] > sharp[b] else theirs
        faults["even"] = faults.get("even", 0.0) + float(abs(sharp[a] - sharp[b]))
    if not same_size:
        return
    contrast = facts.small[[a, b]].std(axis=(1, 2)).clip(1)
    noise, step = facts["noise"][[a, b]] / contrast * contrast.mean(), facts["step"][[a, b]]
    level = facts.spectra[[a, b]][:, :, BINS // 5 : BINS // 2].mean(axis=(1, 2))
    for one, other, faults in ((0, 1, ours), (1, 0, theirs)):
        added = noise[one] ** 2 - noise[other] ** 2
        # Strong compression takes noise away, and detail with it.
        light = step[other] <= 1.2 * step[one] + 1.5
        if light and noise[one] > 1.3 * noise[other] and added > _ADDED**2:
            faults["noise"] = _NOISE * float(np.log2(noise[one] / max(noise[other], 1.0)))
        if level[one] > 1.5 and level[one] - level[other] > 2.2 and level[other] > -1.5:
            faults["halos"] = FAULTS["halos"]


def _inherit(facts: Facts, a: int, b: int, ours: dict[str, float], theirs: dict[str, float]) -> None:
    """Hold the traces of an earlier compression against both, unless the other one is where they come from."""
    losses = facts.losses()
    cost = losses["compressed"] + losses["again"]
    for one, other, faults in ((a, b, theirs), (b, a, ours)):
        if facts["again"][one] and not facts["again"][other]:
            like = facts["step"][one] / max(facts["step"][other], 0.1)
            if not 0.75 < like < 1.33 and cost[one] > cost[other]:
                faults["even"] = faults.get("even", 0.0) + float(cost[one] - cost[other])


#: Correlation of two small pictures from which on they show the same whole, and of a part of one.
_WHOLE, _PART = 0.93, 0.7

#: Levels of noise from which on it was added.
_ADDED = 4.0

#: Octaves of detail by which measurements of one picture differ after an edit that leaves its detail.
_EVEN = 0.7


def _normal(square: np.ndarray) -> np.ndarray:
    centred = square - np.add.reduce(square, axis=None) / square.size
    flat = centred.ravel(order="K")
    return centred / max(float(np.sqrt(flat.dot(flat))), 1e-6)


def _aligned(one: np.ndarray, other: np.ndarray) -> tuple[bool, int]:
    """Whether two squares show the same whole in one of the eight orientations of the second, and in which."""
    # Means of four bytes, and what they differ by from that of all, are exact, and so are the sums of products below.
    halves = [_half(square) for square in (one, other)]
    first, second = ((half - half.mean()).ravel().astype(np.float64) for half in halves)
    norms = [max(float(np.sqrt(flat.dot(flat))), 1e-6) for flat in (first, second)]
    upright = float(first.dot(second)) / norms[0] / norms[1]
    if upright > _WHOLE:
        return True, 0
    correlations = second.take(_turns(len(halves[1]))) @ first / norms[0] / norms[1]
    best = int(np.argmax(correlations))
    best = 0 if correlations[best] < upright + 0.02 else best
    if correlations[best] > _WHOLE:
        return True, best
    if correlations[best] < 0.6:
        return False, best
    # Words over a third of a picture are no other picture.
    apart, _ = _differences(halves[0], turn(halves[1], best))
    return bool(_percentile(apart.ravel(), 60) < 0.12 * one.std()), best


@cache
def _turns(side: int) -> np.ndarray:
    """Places of the pixels of a square in each of the eight orientations, int64 (8, side * side)."""
    places = np.arange(side * side).reshape(side, side)
    return np.stack([turn(places, how).ravel() for how in range(8)])


#: Levels of the second of two squares whose tones are fitted to the first: bytes, or means of four.
_LEVELS = np.arange(0, 255.25, 0.25)
_POWERS = np.vander(_LEVELS / 128 - 1, 4)


def _differences(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By how much one square differs from another of other tones, which are fitted where they agree; and the fitted one."""
    level, tones = (other.ravel() * 4).astype(np.intp), one.ravel().astype(np.float64)
    keep = np.ones(level.size)
    for again in range(3, -1, -1):
        # A level weighs as much as it has pixels, and stands for their mean.
        counts = np.bincount(level, keep, len(_LEVELS))
        there = np.flatnonzero(counts)
        counts = counts[there]
        weights = np.sqrt(counts)
        means = np.bincount(level, keep * tones, len(_LEVELS))[there] / counts
        least = np.finfo(float).eps * counts.sum()
        powers = _POWERS[there] * weights[:, None]
        fit = np.linalg.lstsq(powers, means * weights, rcond=least)[0]
        fitted = (_POWERS @ fit).take(level)
        apart = np.abs(tones - fitted)
        if again:
            keep = (apart <= max(3.0, float(_percentile(apart, 70)))).astype(np.float64)
    return apart.reshape(one.shape), fitted.reshape(one.shape)


def _half(square: np.ndarray) -> np.ndarray:
    rows = square[::2] + square[1::2]
    half: np.ndarray = (rows[:, ::2] + rows[:, 1::2]) / 4
    return half


def _enlarged(facts: Facts, larger: int, smaller: int, turned: bool) -> bool:
    """Whether the larger of two copies has nothing beyond the detail that the smaller one can hold."""
    frequency = _FREQUENCY
    drops = []
    size = (facts["width"][smaller], facts["height"][smaller])
    size = size[::-1] if turned else size
    for axis, name in enumerate(("width", "height")):
        limit = 0.5 * size[axis] / facts[name][larger]
        if limit > 0.43:
            continue
        level = facts.spectra[larger, axis]
        below = level[(frequency >= 0.45 * limit) & (frequency <= 0.85 * limit)]
        above = level[(frequency >= 1.2 * limit) & (frequency <= max(2 * limit, 1.2 * limit + 0.05))]
        if len(below) and len(above):
            drops.append(float(above.mean() - below.mean()))
    if not drops:
        return False
    noise = facts["noise"][larger] / (facts["noise"][smaller] + 0.05)
    drop = max(drops)
    # Of what is soft itself only the noise tells.
    soft = min(facts["across"][smaller], facts["down"][smaller]) < 2 * _SOFTEST
    # Drawn art at its own size has no noise either.
    native = min(facts["across"][larger], facts["down"][larger]) > 0.97
    return bool(((drop < -3 or soft) and noise < 0.5) or drop < -10 or (noise < 0.25 and not native))


def _overlaid(one: np.ndarray, other: np.ndarray, least: float) -> int:
    """1 or -1 if two aligned pictures differ in one place, where the first or the second has something on it; else 0.

    They differ by `least` levels there on the average.
    """
    apart, fitted = _differences(one, other)
    spot = apart > max(14.0, 5 * float(_percentile(apart.ravel(), 60)))
    if not 0.004 <= np.count_nonzero(spot) / spot.size <= 0.35 or apart[spot].mean() < least:
        return 0
    spot |= np.roll(spot, 1, 0) | np.roll(spot, -1, 0) | np.roll(spot, 1, 1) | np.roll(spot, -1, 1)
    ours, theirs = _edges(one)[spot].mean(), _edges(fitted)[spot].mean()
    if max(ours, theirs) < 1.25 * min(ours, theirs) + 2:
        return 0
    under = (other if ours > theirs else one)[spot]
    # What one shows and the other has lost in white or black is no addition.
    if ((under > 247) | (under < 8)).mean() > 0.5:
        return 0
    return 1 if ours > theirs else -1


def _edges(square: np.ndarray) -> np.ndarray:
    rows, columns = np.gradient(square)
    edges: np.ndarray = np.hypot(rows, columns)
    return edges


def _place(
    facts: Facts, squares: dict[int, np.ndarray], outer: int, inner: int
) -> tuple[float, tuple[float, float, float, float]]:
    """Box of one picture inside another, as shares of its sides, and how well it fits there: a correlation."""
    from scipy import fft

    ground = squares[outer] - squares[outer].mean()
    picture = Image.fromarray(squares[inner])
    wide = facts["width"][inner] / facts["width"][outer]
    high = facts["height"][inner] / facts["height"][outer]
    largest = 1 / max(wide, high)
    # What would wrap around is beyond the places that are looked at.
    n = SMALL
    sizes: dict[tuple[int, int], None] = {}
    for step in range(26):
        scale = largest * 0.95**step
        w, h = round(wide * scale * SMALL), round(high * scale * SMALL)
        if min(w, h) < 12 or w * h < 0.08 * SMALL**2:
            break
        sizes[w, h] = None
    best = (0.0, (0.0, 0.0, 1.0, 1.0))
    if not sizes:
        return best
    # All sizes at once: of single transforms as small as these the calls are most of the time.
    canvas = Image.new("F", (n, n * len(sizes)))
    for row, size in enumerate(sizes):
        canvas.paste(picture.resize(size, Image.Resampling.BOX), (0, n * row))
    parts = np.array(canvas).reshape(len(sizes), n, n)
    for one, (w, h) in zip(parts, sizes, strict=True):
        one[:h, :w] = _normal(one[:h, :w].copy())
    spectra = fft.rfft2(parts)
    np.conj(spectra, out=spectra)
    spectra *= fft.rfft2(ground)
    every = fft.irfft2(spectra, (n, n))
    # Sums of all up to a place, and of squares.
    sums = np.zeros((2, n + 1, n + 1), np.float32)
    sums[0, 1:, 1:] = ground
    np.multiply(ground, ground, out=sums[1, 1:, 1:])
    sums = sums.cumsum(axis=1).cumsum(axis=2)
    for (w, h), products in zip(sizes, every, strict=True):
        rows = sums[:, h:, w:] - sums[:, :-h, w:]
        rows -= sums[:, h:, :-w]
        rows += sums[:, :-h, :-w]
        total, square = rows
        total *= total
        square -= total / (w * h)
        spread = np.sqrt(np.maximum(square, 1.0, out=square), out=square)
        # Where the ground is flat any rounding would correlate.
        correlation = products[: n - h + 1, : n - w + 1] / spread
        correlation *= spread > 2 * sqrt(w * h)
        at = int(correlation.argmax())
        y, x = divmod(at, correlation.shape[1])
        if correlation[y, x] > best[0] + 0.005:
            best = float(correlation[y, x]), (x / SMALL, y / SMALL, (x + w) / SMALL, (y + h) / SMALL)
    return best


def _smooth(square: np.ndarray) -> np.ndarray:
    """Means of 3 x 3 pixels."""
    places = _with_rim(len(square))
    wide = square.take(places, axis=0).take(places, axis=1)
    rows = wide[:-2] + wide[1:-1]
    rows += wide[2:]
    smooth = rows[:, :-2] + rows[:, 1:-1]
    smooth += rows[:, 2:]
    smooth /= 9
    return smooth


@cache
def _with_rim(side: int) -> np.ndarray:
    """Places of so many rows, and of the first and the last one once more."""
    return np.arange(-1, side + 1).clip(0, side - 1)


def _seams(square: np.ndarray, box: tuple[float, float, float, float]) -> float:
    """Share of the sides of a box, of those inside of a picture, that are straight edges across which nothing goes on."""
    left, top, right, bottom = (round(edge * SMALL) for edge in box)
    told = []
    for lines, start, stop, low, high in (
        (square, left, right, top, bottom),
        (square.T, top, bottom, left, right),
    ):
        part = lines[low:high]
        steps = np.abs(part[:, 1:] - part[:, :-1]).mean(axis=0)
        usual = max(float(_percentile(steps[start + 2 : max(stop - 2, start + 3)], 90)), 4.0)
        for edge in (start, stop):
            if not 2 <= edge <= SMALL - 2:
                continue
            near = slice(max(edge - 3, 0), edge + 2)
            at = near.start + int(np.argmax(steps[near]))
            before, after = part[:, max(at - 1, 0)], part[:, min(at + 2, SMALL - 1)]
            alike = float((_normal(before) * _normal(after)).sum())
            told.append(steps[at] > 1.4 * usual and alike < 0.8)
    return sum(told) / max(len(told), 1)


def _plain_around(square: np.ndarray, box: tuple[float, float, float, float]) -> bool:
    """Whether a box lies wholly inside of a picture, and what is around it has one tone that its own rim has not."""
    left, top, right, bottom = (round(edge * SMALL) for edge in box)
    if min(left, top, SMALL - right, SMALL - bottom) < 2:
        return False
    around = np.ones(square.shape, bool)
    around[top - 1 : bottom + 1, left - 1 : right + 1] = False
    if not around.any():
        return False
    tone = np.median(square[around])
    near = np.abs(square - tone) < 16
    rim = np.zeros(square.shape, bool)
    rim[top + 2 : bottom - 2, left + 2 : right - 2] = True
    rim[top + 6 : bottom - 6, left + 6 : right - 6] = False
    return bool(near[around].mean() > 0.6 and near[rim].mean() < 0.4)


def _ringed(square: np.ndarray) -> bool:
    """Whether a ring of one tone goes around a small picture, which has little of it within."""
    levels = square.astype(np.float32)
    ends = (levels[:2], levels[-2:], levels[2:-2, :2], levels[2:-2, -2:])
    near = np.abs(levels - _median(np.concatenate([end.ravel() for end in ends]))) < 20
    sides = [np.count_nonzero(side) / side.size for side in (near[:2], near[-2:], near[:, :2], near[:, -2:])]
    within = near[8:-8, 8:-8]
    return sorted(sides)[1] > 0.75 and np.count_nonzero(within) / within.size < 0.3
