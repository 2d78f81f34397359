"""Pixel conversion: any decoded image to 8-bit RGB or grey; transparency, deep samples, blank pictures.

**Samples.** Integers and floats are scaled by one rule, by the values that are there. 0 to 1 and 0 to 255 are taken as such;
bytes written twice are 16 bits, and what spans at least half of 10, 12, 14, 16 or 32 bits has that depth; anything else is
stretched from its lowest to its highest value. So scans of any depth, 32-bit integers and CT numbers below 0 come out as
the picture that they hold. Hot and dead pixels do not count: at most one value in `OUTLIERS`, where without them less than
a third of the range is left. They are clipped.

**Ground.** Transparent pictures lie on white; art of which hardly anything is darker than `LIGHT` would vanish there, and
lies on black.

**Blank.** A picture whose pixels are all of one colour, to within `BLANK_RANGE` levels, shows nothing. It is no evidence
that two contents are duplicates.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageFile

#: What shows through transparent pixels, and what where the visible ones are light.
BACKGROUND = (255, 255, 255)
DARK_BACKGROUND = (0, 0, 0)

#: Luminance of 255 from which on a visible pixel is light.
LIGHT = 192

#: A picture is light if no more of what is visible than this share is darker than `LIGHT`.
_DARK_SHARE = 0.05

#: Levels of 255 by which the pixels of a blank picture may differ: what lossy formats make of one colour.
BLANK_RANGE = 8

#: Samples among which one may be an outlier, once there are a thousand.
OUTLIERS = 10_000

_DEPTHS = (1023.0, 4095.0, 16383.0, 65535.0, 4294967295.0)
_ZOOMS = 8  # times that the range is narrowed by outliers, to a third or less each
_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
_BLOCK = 1 << 20  # pixels that are converted at once
_GREY_ALPHA = "LA;16B"  # decoded as RGBA, whose four bytes are those of the two samples
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def flatten(image: Image.Image, low: Callable[[], Image.Image] | None = None) -> Image.Image:
    """Bring a decoded image (with the `info` and TIFF tags of its file) to 8 bits, "RGB" or "L", without transparency.

    `low` decodes the file again for the low bytes of 16-bit colour samples, see `low_bytes`; Pillow keeps the
    high ones.
    """
    mode, key = image.mode, image.info.get("transparency")
    if mode[0] in "IF":
        return _deep_grey(image, key)
    if mode == "L" and getattr(image, "tag_v2", {}).get(339) == (
        2,
    ):  # signed bytes, which Pillow reads as unsigned
        return image.point([(value + 128) % 256 for value in range(256)])
    if low is not None and (isinstance(key, tuple) or not _fills(image)):
        image, key = _deep_colours(image, low(), key), None
        mode = image.mode
    if mode == "La":
        image = image.convert("LA")
    if mode in _ALPHA or key is not None:
        return _on_ground(image.convert("RGBA"))
    return image if mode in ("RGB", "L") else image.convert("L" if mode == "1" else "RGB")


def is_blank(image: Image.Image) -> bool:
    """Tell whether all pixels of an "RGB" or "L" image are of one colour, to within `BLANK_RANGE` levels."""
    # A few pixels tell most pictures apart from a blank one.
    few = image.resize((8, 8), Image.Resampling.NEAREST)
    return all(_range(each) <= BLANK_RANGE for each in (few, image))


def has_low_bytes(raw: Image.Image) -> bool:
    """Tell whether a file, not yet loaded, has 16-bit colour samples, of which Pillow keeps the high bytes."""
    return _low_tiles(raw) is not None


def low_bytes(raw: Image.Image) -> Image.Image:
    """Load such a file for the low bytes of its samples."""
    assert isinstance(raw, ImageFile.ImageFile)
    grey = raw.tile[0].args == _GREY_ALPHA
    raw.tile = _low_tiles(raw) or []
    raw.load()
    if not grey:
        return raw
    _, low, _, alpha = raw.split()
    return Image.merge("RGBA", (low, low, low, alpha))


def _low_tiles(raw: Image.Image) -> list[Any] | None:
    if not isinstance(raw, ImageFile.ImageFile) or raw.mode not in ("RGB", "RGBA"):
        return None
    tiles: list[Any] = []
    for tile in raw.tile:
        rawmode, *rest = (tile.args,) if isinstance(tile.args, str) else tile.args or (None,)
        if not isinstance(rawmode, str) or rawmode[-4:-1] != ";16":
            return None
        other = "RGBA" if rawmode == _GREY_ALPHA else rawmode[:-1] + _OTHER_BYTE[rawmode[-1]]
        tiles.append(tile._replace(args=(other, *rest) if rest else other))
    return tiles or None


def _range(image: Image.Image) -> int:
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return max(int(high) - int(low) for low, high in bands)


def _rows(height: int, width: int) -> Iterator[slice]:
    """Blocks of rows, so that converting takes little more memory than its result."""
    step = max(1, _BLOCK // max(width, 1))
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def _scale(low: float, high: float) -> tuple[float, float]:
    """Value that becomes 0, and how much above it becomes 255."""
    if low >= 0:
        for top in (1.0, 255.0):
            if high <= top:
                return 0.0, top
        for top in _DEPTHS:
            if high <= top and high - low >= top / 2:
                return 0.0, top
    return low, (high - low) or 1.0


def _most_outliers(samples: int) -> int:
    return max(samples // OUTLIERS, min(samples // 1000, 3))


def _without_outliers(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Lowest and highest of some values that are no outliers, found by histograms of ever narrower ranges."""
    most = _most_outliers(len(values))
    for _ in range(_ZOOMS):
        counts, edges = np.histogram(values, 256, (low, high))
        kept = np.flatnonzero(_trimmed(counts, most))
        if len(kept) == 0 or kept[-1] - kept[0] >= 256 // 3:
            break
        values = values[(values >= edges[kept[0]]) & (values <= edges[kept[-1] + 1])]
        lowest, highest = float(values.min()), float(values.max())
        if not lowest < highest:  # all the rest is one value: what differs is the picture
            break
        low, high = lowest, highest
    return low, high


def _trimmed(counts: np.ndarray, most: int) -> np.ndarray:
    """Counts of a histogram without the outermost values, at most `most`, of the two ends together the rarer first."""
    counts = counts.copy()
    filled = list(np.flatnonzero(counts))
    while len(filled) > 1:
        end = 0 if counts[filled[0]] <= counts[filled[-1]] else -1
        most -= int(counts[filled[end]])
        if most < 0:
            break
        counts[filled.pop(end)] = 0
    return counts


def _measure(blocks: Callable[[], Iterator[np.ndarray]]) -> tuple[float, float]:
    """`_scale` of the values of some blocks."""
    low, high, copied, samples = np.inf, -np.inf, True, 0
    for block in blocks():
        if block.size:
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            copied = copied and not (block % 257).any()
            samples += block.size
    if not low <= high:
        return 0.0, 1.0
    if low >= 0 and (high <= 1 or (copied and 255 < high <= 65535)):
        # Multiples of 257 are bytes that were written twice, whatever they span.
        return _scale(low, high) if high <= 1 else (0.0, 65535.0)
    step = max(1, samples // _BLOCK)
    some = np.concatenate([block.ravel()[::step] for block in blocks()])
    # Damage can span more than 32-bit floats hold.
    return _scale(*_without_outliers(some.astype(np.float64), low, high))


def _eight_bits(values: np.ndarray, start: float, span: float) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # of what is not a number
        scaled = (values.astype(np.float64) - start) / span * 255
    return np.rint(np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255)).astype(np.uint8)


def _every(start: float, span: float) -> np.ndarray:
    """`_eight_bits` of every 16-bit value."""
    return _eight_bits(np.arange(65536), start, span)


def _deep_grey(image: Image.Image, key: object) -> Image.Image:
    """8-bit grey of 16-bit, 32-bit or floating-point samples; RGB where one value, `key`, is transparent."""
    tags = getattr(image, "tag_v2", {})
    grey = np.asarray(image)
    if image.mode == "I" and tags.get(258) == (32,) and tags.get(339, (1,)) == (1,):
        grey = grey.view(np.uint32)  # Pillow reads unsigned integers as signed ones
    height, width = grey.shape
    transparent = key if isinstance(key, int) else None

    def seen(rows: slice) -> np.ndarray:
        part = grey[rows]
        part = part[np.isfinite(part)] if image.mode == "F" else part
        return part if transparent is None else part[part != transparent]

    start, span = _measure(lambda: map(seen, _rows(height, width)))
    every = _every(start, span) if grey.dtype.kind == "u" and grey.itemsize == 2 else None
    eight = np.empty((height, width), np.uint8)
    for rows in _rows(height, width):
        eight[rows] = _eight_bits(grey[rows], start, span) if every is None else every[grey[rows]]
    if tags.get(262) == 0:  # white is zero, which Pillow turns round for 8 bits only
        np.subtract(255, eight, out=eight)
    made = Image.fromarray(eight)
    if transparent is None:
        return made
    alpha = Image.fromarray(np.where(grey == transparent, 0, 255).astype(np.uint8))
    return _on_ground(Image.merge("RGBA", (made, made, made, alpha)))


def _fills(image: Image.Image) -> bool:
    """Whether the high bytes of 16-bit colour samples span half of their range, outliers apart."""
    counts = np.reshape(image.histogram()[: 3 * 256], (3, 256)).sum(axis=0)
    filled = np.flatnonzero(_trimmed(counts, _most_outliers(int(counts.sum()))))
    return bool(filled[-1] - filled[0] >= 128)


def _deep_colours(high: Image.Image, low: Image.Image, key: object) -> Image.Image:
    """8-bit colours of 16-bit ones, given their high and their low bytes; RGBA if some may be transparent."""
    width, height = high.size
    boxes = [(0, rows.start, width, rows.stop) for rows in _rows(height, width)]
    colour = None if not isinstance(key, tuple) else np.array(key, np.uint16)

    def values(box: tuple[int, int, int, int]) -> np.ndarray:
        return np.asarray(high.crop(box)).astype(np.uint16) << 8 | np.asarray(low.crop(box))

    def seen(box: tuple[int, int, int, int]) -> np.ndarray:
        part = values(box)[:, :, :3]
        return part if colour is None else part[(part != colour).any(axis=2)]

    every = _every(*_measure(lambda: map(seen, boxes)))
    made = Image.new(high.mode if colour is None else "RGBA", high.size)
    for box in boxes:
        part = values(box)
        eight = every[part[:, :, :3]]
        if colour is not None:
            alpha = np.where((part == colour).all(axis=2), 0, 255).astype(np.uint8)
            eight = np.dstack([eight, alpha])
        elif high.mode == "RGBA":
            eight = np.dstack([eight, (part[:, :, 3] >> 8).astype(np.uint8)])
        made.paste(Image.fromarray(eight), box[:2])
    return made


def _on_ground(colours: Image.Image) -> Image.Image:
    """Lay an RGBA picture on white, or on black if what is visible of it is light."""
    width, height = colours.size
    strips = [(0, rows.start, width, rows.stop) for rows in _rows(height, width)]
    visible = dark = 0
    for box in strips:
        strip = colours.crop(box)
        alpha = np.asarray(strip.getchannel("A"))
        visible += int(alpha.sum(dtype=np.int64))
        dark += int(alpha[np.asarray(strip.convert("RGB").convert("L")) < LIGHT].sum(dtype=np.int64))
    ground = DARK_BACKGROUND if visible and dark <= _DARK_SHARE * visible else BACKGROUND
    laid = Image.new("RGB", colours.size)
    for box in strips:
        strip = colours.crop(box)
        laid.paste(
            Image.alpha_composite(Image.new("RGBA", strip.size, (*ground, 255)), strip).convert("RGB"),
            box[:2],
        )
    return laid
