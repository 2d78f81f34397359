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

import io
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
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

#: What relates the energies of second and first differences in a picture at its native size, at least.
_NATIVE = 0.65

#: Softer than that a picture is not measured: what is left is noise.
_SOFTEST = 0.2

#: Share that is taken to be inside of a ring which is no straight margin.
_RINGED = 0.85

#: Frequencies of 8 x 8 blocks whose steps are looked for, and the steps.
_LOW = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (2, 2))
_STEPS = np.concatenate([np.arange(2, 12, 0.5), np.arange(12, 48, 1.0)])

#: The steps, largest first; from what coefficient on each is looked for, and what makes a whole turn of it.
_STEP_LIST = _STEPS[::-1].tolist()
_FROM = 0.3 * _STEPS[::-1]
_FACTORS = [np.float32(2 * np.pi / step) for step in _STEP_LIST]


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
    with Image.open(io.BytesIO(data)) as raw:
        tables, lossy = getattr(raw, "quantization", None), raw.format in ("WEBP", "AVIF", "HEIF")
    pixels = np.asarray(image)
    grey = np.asarray(image.convert("L"))
    noise = _noise(grey)
    sides = [grey, np.ascontiguousarray(grey.T)]
    bits = len(data) * 8 / (picture.width * picture.height)
    whole = picture.width == image.width or picture.height == image.width
    step, again = compression(grey if whole else None, tables, bits if lossy else None)
    palette, colour = _colours(image)
    factor = max(1, min(image.size) // 256)
    left, top, right, bottom = content_box(image.reduce(factor)) if factor > 1 else content_box(image)
    inside = (right - left) * (bottom - top) * factor**2 / (image.width * image.height)
    small = np.asarray(Image.fromarray(grey).resize((SMALL, SMALL), Image.Resampling.BOX))
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
    rows = np.linspace(0, height - 1, min(height, _ROWS)).astype(int)
    first = np.diff(grey[rows].astype(np.float32), axis=1)
    second = np.diff(first, axis=1)
    run = second.shape[1] // 16
    first, second = (
        (one[:, -run * 16 :] ** 2).reshape(len(rows), run, 16).sum(axis=2) for one in (first, second)
    )
    energies = []
    for tile in _tiles(len(rows), run):
        a, b = first[tile].ravel(), second[tile].ravel()
        top = min(len(a), max(8, len(a) // 8))
        most = (-a).argpartition(top - 1)[:top]
        # The means: of so few values the calls are most of the time.
        energies.append((np.add.reduce(a[most]) / top, np.add.reduce(b[most]) / top))
    a, b = np.array(energies).T
    told = a >= max(np.median(a) / 4, 8.0)
    if not told.any():
        return 1.0
    ratio = float(np.sqrt(np.median(b[told] / a[told]) / 2))
    return min(1.0, max(ratio / _NATIVE, _SOFTEST))


@lru_cache(256)
def _tiles(high: int, wide: int) -> list[tuple[slice, slice]]:
    """Tiles of a picture, as even as they can be, `_TILES` a side where there is room for as many."""
    down, across = (
        [
            slice(int(part[0]), int(part[-1]) + 1)
            for part in np.array_split(np.arange(side), min(_TILES, side))
        ]
        for side in (high, wide)
    )
    return [(rows, columns) for rows in down for columns in across]


def spectrum(grey: np.ndarray) -> np.ndarray:
    """Spectrum of the edges across the rows of `grey`, float32 (bins,), in decibels of the level of coarse structure.

    That of a sharp edge is level. The median over tiles of that of the steepest edges of each.
    """
    height, width = grey.shape
    n = min(_WINDOW, width // 2)
    if n < 16:
        return np.zeros(BINS, np.float32)
    rows = np.linspace(0, height - 1, min(height, _ROWS)).astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(grey[rows], n, axis=1)[:, :: n // 2]
    if windows.shape[1] > 32:
        windows = windows[:, np.linspace(0, windows.shape[1] - 1, 32).astype(int)]
    steps = np.diff(windows.astype(np.float32), axis=2)
    steepest = np.abs(steps).max(axis=2)
    weights = np.hanning(n - 1).astype(np.float32)
    pieces, ends = [], [0]
    for tile in _tiles(len(rows), steps.shape[1]):
        every, edge = steps[tile].reshape(-1, n - 1), steepest[tile].ravel()
        top = min(len(every), max(8, len(every) // 8))
        pieces.append(every[(-edge).argpartition(top - 1)[:top]])
        ends.append(ends[-1] + top)
    power = np.abs(np.fft.rfft(np.concatenate(pieces) * weights, axis=1)) ** 2
    spectra = [np.add.reduce(power[start:end], axis=0) / (end - start) for start, end in pairwise(ends)]
    frequency = np.arange((n - 1) // 2 + 1) / (n - 1)
    # Differences of neighbours fall short of the slope at high frequencies.
    power = np.stack(spectra) / np.sinc(frequency) ** 2
    level = power[:, 3 * n // _WINDOW : 8 * n // _WINDOW + 1].mean(axis=1)
    told = level >= max(np.median(level) / 4, 1.0)
    if not told.any():
        return np.zeros(BINS, np.float32)
    power = np.median(power[told] / level[told, None], axis=0)
    power = np.interp(np.arange(BINS) / (2 * BINS - 1), frequency, power)
    return (10 * np.log10(power + 1e-5)).astype(np.float32)


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
            if len(found) >= 4:
                before = max(before, float(np.mean(found)))
    return (before, True) if before > max(1.3 * now, 1.5) else (now, False)


def _lattice(grey: np.ndarray) -> list[float]:
    """Steps of which the coefficients of the low frequencies are multiples, for those frequencies that have one."""
    high, wide = grey.shape[0] // 8, grey.shape[1] // 8
    if high * wide < 64:
        return []
    blocks = grey[: high * 8, : wide * 8].reshape(high, 8, wide, 8).transpose(0, 2, 1, 3)
    number = np.arange(high * wide)
    if len(number) > 4 * _BLOCKS:
        number = np.linspace(0, len(number) - 1, 4 * _BLOCKS).astype(int)
    blocks = blocks[number // wide, number % wide]
    blocks = blocks[np.ptp(blocks, axis=(1, 2)) > 8]
    if len(blocks) > _BLOCKS:
        blocks = blocks[np.linspace(0, len(blocks) - 1, _BLOCKS).astype(int)]
    if len(blocks) < 32:
        return []
    cosines = _cosines()
    coefficients = np.abs(cosines @ (blocks.astype(np.float32) - 128) @ cosines.T)
    found = []
    for row, column in _LOW:
        values = np.sort(coefficients[:, row, column])
        starts = values.searchsorted(_FROM)
        # A step that needs more than there are values is none.
        for step, factor, start in zip(_STEP_LIST, _FACTORS, starts.tolist(), strict=True):
            if len(values) - start >= 48:
                kept = np.cos(factor * values[start:])
                if np.add.reduce(kept) / np.float32(len(kept)) > 0.5:
                    found.append(step)
                    break
    return found


@cache
def _cosines() -> np.ndarray:
    k, x = np.arange(8)[:, None], np.arange(8)[None]
    return (np.cos(np.pi * k * (2 * x + 1) / 16) * np.where(k == 0, np.sqrt(1 / 8), 0.5)).astype(np.float32)


def _colours(image: Image.Image) -> tuple[bool, float]:
    """Whether a picture has few colours that are mixed, and by how many levels its colours differ beyond brightness."""
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    rows, columns = (np.linspace(0, n - 1, min(n, _SAMPLES)).astype(int) for n in (height, width))
    small = image.resize((min(32, width), min(32, height)), Image.Resampling.BOX)
    values = np.asarray(small).reshape(-1, 3).astype(np.float64)
    luma = values @ [0.299, 0.587, 0.114]
    # A tint follows from the brightness, as in sepia; it is no colour.
    chroma = values[:, ::2] - luma[:, None]
    level = (luma / 8).astype(int)
    counts = np.maximum(np.bincount(level, minlength=33), 1)
    means = np.stack([np.bincount(level, each, minlength=33) / counts for each in chroma.T], axis=1)
    rest = chroma - means[level]
    rest = np.abs(rest).max(axis=1)
    colour = float(np.percentile(rest, 85))
    if min(width, height) < 128:
        return False, colour
    few = pixels[rows[:, None], columns].reshape(-1, 3)
    red, green, blue = few.T.astype(np.int32)
    codes = red << 16 | green << 8 | blue
    most = 256 if colour >= _GREY else 0.7 * int(np.ptp(green))
    # Of most pictures some of the pixels have more colours than that already.
    if len(distinct(codes[::16].copy())) > most or len(distinct(codes)) > most:
        return False, colour
    # Drawn art has few colours too, but next to each other they are mostly the same.
    alike = (pixels[rows[::4], 1:] == pixels[rows[::4], :-1]).all(axis=2).mean()
    return bool(alike < _DRAWN), colour


def _noise(grey: np.ndarray) -> float:
    """Levels of what changes from pixel to pixel both ways, in the quarter of 8 x 8 blocks with the least of it."""
    high, wide = (grey.shape[0] - 1) // 8, (grey.shape[1] - 1) // 8
    if not high or not wide:
        return 0.0
    bands = np.unique(np.linspace(0, high - 1, min(high, 64)).astype(int))[:, None] * 8 + np.arange(9)
    part = grey[bands, : wide * 8 + 1].astype(np.int16)
    fine = np.diff(np.diff(part, axis=1), axis=2).astype(np.float32) / 2
    energy = (fine * fine).reshape(len(bands), 8, wide, 8).mean(axis=(1, 3))
    return float(np.sqrt(np.percentile(energy, 25)))


def _turned(pixels: np.ndarray) -> bool:
    """Whether all corners are filled with one colour that the middles of the sides do not have."""
    height, width = pixels.shape[:2]
    if min(height, width) < 64:
        return False
    side = max(2, min(height, width) // 200)
    ends = (slice(0, side), slice(-side, None))
    corners = np.stack([pixels[y, x].astype(np.int16) for y in ends for x in ends])
    ground = np.median(corners.reshape(-1, 3), axis=0)
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
    found = max(
        ((*_place(facts, outer, inner), outer, inner) for outer, inner in ((a, b), (b, a))),
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
    centred = square - square.mean()
    return centred / max(float(np.linalg.norm(centred)), 1e-6)


def _aligned(one: np.ndarray, other: np.ndarray) -> tuple[bool, int]:
    """Whether two squares show the same whole in one of the eight orientations of the second, and in which."""
    first = _normal(_half(one))
    turned = [_half(turn(other, how)) for how in range(8)]
    correlations = [float((first * _normal(square)).sum()) for square in turned]
    best = int(np.argmax(correlations))
    best = 0 if correlations[0] > _WHOLE or correlations[best] < correlations[0] + 0.02 else best
    if correlations[best] > _WHOLE:
        return True, best
    if correlations[best] < 0.6:
        return False, best
    # Words over a third of a picture are no other picture.
    apart, _ = _differences(_half(one), turned[best])
    return bool(np.percentile(apart, 60) < 0.12 * one.std()), best


def _differences(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By how much one square differs from another of other tones, which are fitted where they agree; and the fitted one."""
    x, y = other.ravel().astype(np.float64) / 128 - 1, one.ravel().astype(np.float64)
    keep = np.ones(x.size, bool)
    powers = np.vander(x, 4)
    for _ in range(4):
        fitted = powers @ np.linalg.lstsq(powers[keep], y[keep], rcond=None)[0]
        apart = np.abs(y - fitted)
        keep = apart <= max(3.0, float(np.percentile(apart, 70)))
    return apart.reshape(one.shape), fitted.reshape(one.shape)


def _half(square: np.ndarray) -> np.ndarray:
    half: np.ndarray = square.reshape(len(square) // 2, 2, -1, 2).mean(axis=(1, 3))
    return half


def _enlarged(facts: Facts, larger: int, smaller: int, turned: bool) -> bool:
    """Whether the larger of two copies has nothing beyond the detail that the smaller one can hold."""
    frequency = np.arange(BINS) / (2 * BINS - 1)
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
    spot = apart > max(14.0, 5 * float(np.percentile(apart, 60)))
    if not 0.004 <= spot.mean() <= 0.35 or apart[spot].mean() < least:
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


def _place(facts: Facts, outer: int, inner: int) -> tuple[float, tuple[float, float, float, float]]:
    """Box of one picture inside another, as shares of its sides, and how well it fits there: a correlation."""
    from scipy import fft

    # Smoothed, since what was photographed off a screen is a little slanted.
    ground, part = (_smooth(facts.small[k].astype(np.float32)) for k in (outer, inner))
    ground = ground - ground.mean()
    picture = Image.fromarray(part)
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
    parts = np.zeros((len(sizes), n, n), np.float32)
    for row, (w, h) in enumerate(sizes):
        scaled = np.asarray(picture.resize((w, h), Image.Resampling.BOX), np.float32)
        parts[row, :h, :w] = _normal(scaled)
    spectra = fft.rfft2(parts)
    np.conj(spectra, out=spectra)
    spectra *= fft.rfft2(ground)
    every = fft.irfft2(spectra, (n, n))
    sums, squares = (np.pad(ground**k, ((1, 0), (1, 0))).cumsum(0).cumsum(1) for k in (1, 2))
    for (w, h), products in zip(sizes, every, strict=True):
        total, square = (s[h:, w:] - s[:-h, w:] - s[h:, :-w] + s[:-h, :-w] for s in (sums, squares))
        total *= total
        square -= total / (w * h)
        spread = np.sqrt(np.maximum(square, 1.0, out=square), out=square)
        # Where the ground is flat any rounding would correlate.
        correlation = products[: n - h + 1, : n - w + 1] / spread
        correlation[spread <= 2 * np.sqrt(w * h)] = 0
        at = int(correlation.argmax())
        y, x = divmod(at, correlation.shape[1])
        if correlation[y, x] > best[0] + 0.005:
            best = float(correlation[y, x]), (x / SMALL, y / SMALL, (x + w) / SMALL, (y + h) / SMALL)
    return best


def _smooth(square: np.ndarray) -> np.ndarray:
    """Means of 3 x 3 pixels."""
    wide = np.pad(square, 1, mode="edge")
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    smooth: np.ndarray = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9
    return smooth


def _seams(square: np.ndarray, box: tuple[float, float, float, float]) -> float:
    """Share of the sides of a box, of those inside of a picture, that are straight edges across which nothing goes on."""
    left, top, right, bottom = (round(edge * SMALL) for edge in box)
    told = []
    for lines, start, stop, low, high in (
        (square, left, right, top, bottom),
        (square.T, top, bottom, left, right),
    ):
        part = lines[low:high]
        steps = np.abs(np.diff(part, axis=1)).mean(axis=0)
        usual = max(float(np.percentile(steps[start + 2 : max(stop - 2, start + 3)], 90)), 4.0)
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
    ring = np.concatenate(
        [square[:2].ravel(), square[-2:].ravel(), square[2:-2, :2].ravel(), square[2:-2, -2:].ravel()]
    )
    tone = np.median(ring)
    sides = [
        (np.abs(side.astype(np.float32) - tone) < 20).mean()
        for side in (square[:2], square[-2:], square[:, :2], square[:, -2:])
    ]
    within = (np.abs(square[8:-8, 8:-8].astype(np.float32) - tone) < 20).mean()
    return sorted(sides)[1] > 0.75 and within < 0.3
