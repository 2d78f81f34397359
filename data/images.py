"""Image decoding: bytes in, an upright 8-bit RGB picture and what is known of it out.

Decoding goes by content, never by the file's name; whatever a decoder raises becomes an `ImageError`. `bombs` bounds what
a file may cost, and of an animation or of several pages the first that is not blank is taken.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from ..errors import ImageError, brief
from .bombs import MAX_FRAMES, MAX_SCANNED, Container, Memory, TimedFile, exif_orientation, open_container
from .image_files import SNIFFED, image_format, read_content, why_not_an_image

# **Samples.** Integers and floats are scaled by one rule, by the values that are there. 0 to 1 and 0 to 255 are taken
# as such; bytes written twice are 16 bits, and what spans at least half of 10, 12, 14, 16 or 32 bits has that depth;
# anything else is stretched from its lowest to its highest value. So scans of any depth, 32-bit integers and CT
# numbers below 0 come out as the picture that they hold. Hot and dead pixels do not count: at most one value in
# `OUTLIERS`, where without them less than a third of the range is left. They are clipped.
#
# **Ground.** Transparent pictures lie on white; art of which hardly anything is darker than `LIGHT` would vanish
# there, and lies on black.
#
# **Blank.** A picture whose pixels are all of one colour, to within `BLANK_RANGE` levels, shows nothing. It is no
# evidence that two contents are duplicates.


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


#: More pixels than this are refused unless `set_max_pixels` says otherwise: 268 megapixels; phones take 200.
MAX_PIXELS = 1 << 28

#: A picture of more pixels than this is never prepared whole: a JPEG is decoded at 1/2, 1/4 or 1/8, others are reduced.
WHOLE_PIXELS = 1024 * 1024 * 1024 // 4 // 3

#: The perceptual hash of a picture all of one colour: no bit is set, as of no other picture.
BLANK_HASH = 0

#: Changes whenever other pixels would come of the same file; part of every image feature's provenance.
DECODER_VERSION = 2

#: The perceptual hash sees a JPEG at the smallest of libjpeg's scales that keeps this many pixels a side, and
#: everything else whole. A constant, so that one file has one hash whatever encoder reads it.
HASH_SIDE = 224

#: Ways to lay a picture, upright first, degrees clockwise; in the order of EXIF's values 1 to 8.
ORIENTATIONS = (
    "upright",
    "mirror",
    "rotate_180",
    "flip",
    "transpose",
    "rotate_90",
    "transverse",
    "rotate_270",
)

# A closed list: Pillow would also run Ghostscript on an EPS somebody named cat.jpg.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "HEIF")
_PLUGINS = ("Jpeg", "Mpo", "Png", "WebP", "Gif", "Bmp", "Tiff", "Ppm", "Avif")
_JPEG = ("JPEG", "MPO")
_FRAMED = ("WEBP", "AVIF", "HEIF")  # their decoders hold a canvas of their own
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Sizes are judged here and said in an error; the warning would only repeat it amid a progress bar.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# What Pillow thinks of odd metadata helps nobody either.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
_max_pixels = MAX_PIXELS


def set_max_pixels(pixels: int | None) -> None:
    """Refuse pictures of more than `pixels`; None: what ``ICEHOUSE_MAX_PIXELS`` says, else `MAX_PIXELS`."""
    global _max_pixels
    given = os.environ.get("ICEHOUSE_MAX_PIXELS", "").replace("_", "")
    _max_pixels = pixels or (int(given) if given.isdecimal() and int(given) else MAX_PIXELS)
    Image.MAX_IMAGE_PIXELS = 2 * _max_pixels  # Pillow warns beyond, and refuses twice as many


set_max_pixels(None)


@dataclass(frozen=True)
class Picture:
    """A decoded image: upright RGB, smaller than `width` x `height` where `decode` was allowed to shrink it.

    `format` is what the bytes are, in Pillow's terms; `phash` is None unless asked for, and `BLANK_HASH` of a
    `blank` picture, all of one colour, which is no evidence for anything. `turned` has the hash that the picture would have
    in each of the `ORIENTATIONS`; None unless asked for, and of a blank picture. `tables` are the steps by which a JPEG's
    coefficients were divided, as Pillow gives them.
    """

    image: Image.Image
    width: int
    height: int
    format: str
    phash: int | None
    blank: bool = False
    turned: tuple[int, ...] | None = None
    tables: dict[int, list[int]] | None = None


def decode(
    data: bytes, *, shortest: int | None = None, hashed: bool = False, turned: bool = False
) -> Picture:
    """Decode an image file; ImageError where it is no image, damaged, or costs more than is allowed or free.

    `shortest` allows a faster, smaller decoding that keeps this many pixels on the shortest side. `hashed` adds
    the perceptual hash: the same whatever `shortest` is, at the price of a second decoding where the first has
    another size, and `turned` those of the picture in all orientations.
    """
    container, raw = _open(data)
    kind = "MPO" if container.several else raw.format or "?"
    try:
        way = container.orientation or _orientation(raw)
        hashes = len(ORIENTATIONS) if turned else int(hashed)
        least = _least_reduction(raw)
        needed = _check_memory(raw, least) + 2 * len(data)
        with _memory().hold(needed):
            if raw.format in _JPEG:
                return _decode_jpeg(container.data, raw, kind, way, least, shortest, hashes)
            return _decode_frames(container.data, raw, kind, way, shortest, hashes)
    except ImageError:
        raise
    except Exception as error:  # whatever a decoder raises of damaged bytes
        raise ImageError(f"damaged {kind}: {brief(error)}") from None


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height of an image file as it is stored, before it is turned; raises `ImageError` as `decode` does."""
    width, height = _open(data)[1].size
    return width, height


def decode_content(digest: str, file: str | None, shortest: int) -> Image.Image | None:
    """Decode a content's picture from its file, as `decode` does; None if it is gone, unreadable, or not what it was."""
    data = None if file is None else read_content(file, digest)
    if data is None:
        return None
    try:
        return decode(data, shortest=shortest).image
    except (ImageError, OSError, ValueError):
        return None


def _open(data: bytes) -> tuple[Container, Image.Image]:
    """Read the header of an image file whose size is allowed."""
    if not data:
        raise ImageError("the file is empty")
    container = open_container(data)
    formats = _formats()  # whose own errors are none of the file's
    try:
        raw = Image.open(TimedFile(container.data), formats=formats)
    except UnidentifiedImageError:
        known = image_format(data[:SNIFFED])
        why = f"damaged {known}: its header cannot be read" if known in formats else why_not_an_image(data)
        if known == "TIFF":
            why += ", or has samples that are not read, such as 64-bit floats: save it with 8 or 16 bits"
        raise ImageError(why) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(_too_large("far more pixels than are allowed")) from None
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"unreadable header: {brief(error)}") from None
    _check_size(raw)
    return container, raw


def _check_size(raw: Image.Image) -> None:
    width, height = raw.size
    if width * height > _max_pixels:
        raise ImageError(_too_large(f"{width} x {height} pixels"))


def _decode_jpeg(
    data: bytes, raw: Image.Image, kind: str, way: int, least: int, shortest: int | None, hashes: int
) -> Picture:
    """Decode a JPEG, for the hash a second time where its scale is another."""
    size = raw.size
    hash_scale = max(least, _jpeg_scale(raw, HASH_SIDE))
    scale = max(least, _jpeg_scale(raw, shortest)) if shortest else least
    image = _at_scale(raw, scale)
    to_hash = _at_scale(_open(data)[1], hash_scale) if hashes and scale != hash_scale else image
    return _picture(image, to_hash, size, kind, way, hashes, getattr(raw, "quantization", None))


def _at_scale(raw: Image.Image, scale: int) -> Image.Image:
    if scale > 1:
        raw.draft(None, (raw.size[0] // scale, raw.size[1] // scale))
    raw.load()
    return flatten(raw)


def _decode_frames(
    data: bytes, raw: Image.Image, kind: str, way: int, shortest: int | None, hashes: int
) -> Picture:
    """Decode the first frame or page that is not blank, the first of all if every one is."""
    size, image = raw.size, _frame(data, raw, 0)
    if is_blank(image):
        size, image = next(_later_frames(data, raw), (size, image.copy()))
    least = _reduction(*size)
    whole = image.reduce(least) if least > 1 else image
    factor = max(least, min(size) // shortest if shortest else 1)
    image = image.reduce(factor) if factor > least else whole
    return _picture(image, whole, size, kind, way, hashes)


def _frame(data: bytes, raw: Image.Image, number: int) -> Image.Image:
    """The frame that `raw` stands at, of 8 bits, without transparency."""
    wide = number == 0 and has_low_bytes(raw)
    raw.load()
    return flatten(raw, (lambda: low_bytes(_open(data)[1])) if wide else None)


def _later_frames(data: bytes, raw: Image.Image) -> Iterator[tuple[tuple[int, int], Image.Image]]:
    """Size and picture of the frames that are not blank, other than the one that `raw` stands at."""
    first, clock, looked_at = raw.tell(), TimedFile(b""), 0
    for number in range(MAX_FRAMES):
        looked_at += raw.size[0] * raw.size[1]
        if looked_at > MAX_SCANNED // 4:
            return
        if number == first:
            continue
        try:
            clock.check()
            raw.seek(number)
            _check_size(raw)
            _check_memory(raw, _least_reduction(raw))
            image = _frame(data, raw, number)
        except Exception:  # there is no such frame, or nothing to be had of it: the blank one stays
            return
        if not is_blank(image):
            yield raw.size, image


def _picture(
    image: Image.Image,
    to_hash: Image.Image,
    size: tuple[int, int],
    kind: str,
    way: int,
    hashes: int,
    tables: dict[int, list[int]] | None = None,
) -> Picture:
    """Turn a decoded picture as EXIF says, and make so many `hashes`: none, that of the picture, or one each orientation."""
    blank = is_blank(to_hash if hashes else image)
    upright = _upright(image, way)
    phash = turned = None
    if hashes:
        seen = upright if to_hash is image else _upright(to_hash, way)
        phash = BLANK_HASH if blank else perceptual_hash(seen)
        turned = None if blank or hashes == 1 else perceptual_hashes(seen)
    width, height = reversed(size) if way >= 5 else size
    return Picture(upright, width, height, kind, phash, blank, turned, tables)


def _upright(image: Image.Image, turned: int) -> Image.Image:
    image = image if image.mode == "RGB" else image.convert("RGB")
    return image.transpose(_TRANSPOSE[turned]) if turned in _TRANSPOSE else image


def load_hashing() -> None:
    """Load the libraries of `perceptual_hash`; call it before threads that hash, which would all load them at once."""
    import imagehash  # noqa: F401


def perceptual_hash(image: Image.Image) -> int:
    """64-bit DCT perceptual hash (pHash) of an RGB image, as ``imagehash`` computes it, as an unsigned integer."""
    import imagehash

    bits = imagehash.phash(image).hash.ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def perceptual_hashes(image: Image.Image) -> tuple[int, ...]:
    """`perceptual_hash` of an image in each of the `ORIENTATIONS`, up to a bit or two by which resizing rounds."""
    import scipy.fftpack

    pixels = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS))
    low = scipy.fftpack.dct(scipy.fftpack.dct(pixels, axis=0), axis=1)[:8, :8]
    every = oriented(low)
    bits = every > np.median(every, axis=(1, 2), keepdims=True)
    packed = np.packbits(bits.reshape(len(every), 64), axis=1)
    return tuple(int.from_bytes(row.tobytes(), "big") for row in packed)


def oriented(low: np.ndarray) -> np.ndarray:
    """Cosine coefficients (..., 8, 8) of pictures, as they are of the picture in each of the `ORIENTATIONS`, (..., 8, 8, 8).

    Mirroring a picture turns the signs of every other coefficient, and transposing it transposes them.
    """
    signs = _signs(low.shape[-1])
    made = np.empty((*low.shape[:-2], 2, *signs.shape))
    np.multiply(low[..., None, :, :], signs, out=made[..., 0, :, :, :])
    np.multiply(np.swapaxes(low, -1, -2)[..., None, :, :], signs, out=made[..., 1, :, :, :])
    return made.reshape(*low.shape[:-2], len(ORIENTATIONS), *low.shape[-2:])


@cache
def _signs(side: int) -> np.ndarray:
    """Signs of the coefficients of a picture that is upright, mirrored, turned by half, and upside down; (4, side, side)."""
    across = np.where(np.arange(side) % 2, -1.0, 1.0)
    down, upright = across[:, None], np.ones((side, side))
    return np.stack([upright, upright * across, across * down, upright * down])


def _jpeg_scale(image: Image.Image, shortest: int) -> int:
    """Largest denominator among libjpeg's 1, 2, 4, 8 that leaves `shortest` pixels on the shortest side.

    Only one that divides both sides: half a pixel left over shifts a model's crop, which costs more than shrinking does.
    """
    width, height = image.size
    fitting = (
        s for s in (1, 2, 4, 8) if width % s == height % s == 0 and min(width, height) // s >= shortest
    )
    return max(fitting, default=1)


def _least_reduction(raw: Image.Image) -> int:
    return _reduction(*raw.size)


def _reduction(width: int, height: int) -> int:
    """By how much a picture is shrunk in any case, so that `WHOLE_PIXELS` are left: 1, 2, 4 or 8."""
    fitting = (s for s in (1, 2, 4) if width * height <= WHOLE_PIXELS * s * s)
    return next(fitting, 8)


def _check_memory(raw: Image.Image, scale: int) -> int:
    """Bytes that decoding takes, about; a large picture that needs more than is free is refused."""
    pixels = raw.size[0] * raw.size[1]
    if raw.format in _JPEG:
        # A progressive file's coefficients are held whole, at 2 bytes and up to three components.
        needed = pixels * (6 if raw.info.get("progressive") else 0) + 8 * pixels // scale**2
    else:
        needed = pixels * (
            24 if has_low_bytes(raw) else 8 if raw.mode in ("RGB", "L") and raw.format not in _FRAMED else 16
        )
    if pixels <= WHOLE_PIXELS // 4:
        return needed
    free = available_memory()
    if free is not None and needed > free:
        raise ImageError(
            f"{raw.size[0]} x {raw.size[1]} pixels need about {needed / 1e9:.1f} GB of memory to decode, and "
            f"{free / 1e9:.1f} GB are free: use fewer --workers, or make the picture smaller"
        )
    return needed


@cache
def _memory() -> Memory:
    """Budget of all that is decoded at one time: half of what is free when the first file is."""
    return Memory((available_memory() or 8 << 30) // 2)


def available_memory() -> int | None:
    """Bytes that could be used now without swapping, within the container's limit; None where that is not known."""
    found = []
    group = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
        most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = (group / "memory.stat").read_text().splitlines()
        cached = sum(int(line.split()[1]) for line in stat if line.startswith("inactive_file"))
        found.append(most - used + cached)
    except (OSError, ValueError):  # another system, or "max": no limit
        pass
    return min(found, default=None)


def _too_large(size: str) -> str:
    allowed = f"more than {_max_pixels:,}, refused as a decompression bomb"
    return f"{size}: {allowed}; --max-pixels, or ICEHOUSE_MAX_PIXELS, allows more"


def _orientation(raw: Image.Image) -> int:
    """EXIF orientation still to be applied, 1 (upright) to 8, of a file that tells it through Pillow."""
    if raw.format == "TIFF":  # Pillow turns these itself while loading
        return 1
    exif, xmp = raw.info.get("exif"), raw.info.get("xmp")
    return exif_orientation(exif if isinstance(exif, bytes) else b"", xmp if isinstance(xmp, bytes) else b"")


def _quieten() -> None:
    """Keep Pillow and libtiff from writing to stderr what is wrong with a file, without its name, amid a progress bar."""
    import ctypes

    logging.getLogger("PIL").addHandler(logging.NullHandler())

    package = Path(Image.__file__).parent
    folders = (package.with_name("pillow.libs"), package / ".dylibs")
    for library in (path for folder in folders for path in folder.glob("libtiff*")):
        try:
            ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)
        except (OSError, AttributeError):
            continue


@cache
def _formats() -> tuple[str, ...]:
    """Load the plugins of Pillow that are needed, and the HEIC decoder if the extra is there; gives the allowed formats."""
    for name in _PLUGINS:
        import_module(f"PIL.{name}ImagePlugin")
    _quieten()
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    return tuple(name for name in _FORMATS if name in Image.OPEN)
