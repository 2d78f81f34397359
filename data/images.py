"""Image files: bytes in, an upright RGB picture and what is known of it out.

Decoding goes by content, never by the file's name. Everything is brought to 8-bit RGB: EXIF rotation applied,
alpha laid on white, CMYK, palettes and 16-bit samples converted, the first frame taken of an animation.
A picture too large to be honest is refused before a pixel is decoded.
"""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import ImageError
from .formats import why_not_an_image

__all__ = [
    "BACKGROUND",
    "HASH_SIDE",
    "MAX_PIXELS",
    "Picture",
    "available_memory",
    "decode",
    "load_hashing",
    "perceptual_hash",
    "set_max_pixels",
]

#: More pixels than this are refused unless `set_max_pixels` says otherwise: 268 megapixels; phones take 200.
MAX_PIXELS = 1 << 28

#: A picture of more pixels than this is never prepared whole: a JPEG is decoded at 1/2, 1/4 or 1/8, others are reduced.
WHOLE_PIXELS = 1024 * 1024 * 1024 // 4 // 3

#: What shows through transparent pixels.
BACKGROUND = (255, 255, 255)

#: The perceptual hash sees a JPEG at the smallest of libjpeg's scales that keeps this many pixels a side, and
#: everything else whole. A constant, so that one file has one hash whatever encoder reads it.
HASH_SIDE = 224

# A closed list: Pillow would also run Ghostscript on an EPS somebody named cat.jpg.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "HEIF")
_ORIENTATION = 0x0112
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
_max_pixels = MAX_PIXELS


def set_max_pixels(pixels: int | None) -> None:
    """Refuse pictures of more than `pixels` from now on, in the whole process.

    None stands for the environment's ``ICEHOUSE_MAX_PIXELS``, else for `MAX_PIXELS`.
    """
    global _max_pixels
    given = os.environ.get("ICEHOUSE_MAX_PIXELS", "").replace("_", "")
    _max_pixels = pixels or (int(given) if given.isdecimal() and int(given) else MAX_PIXELS)
    Image.MAX_IMAGE_PIXELS = 2 * _max_pixels  # Pillow warns beyond, and refuses twice as many


set_max_pixels(None)


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes
    ----------
    image : PIL.Image.Image
        Upright, RGB; smaller than the file's own size where `decode` was allowed to shrink it.
    width, height : int
        Size of the whole image, upright, in pixels.
    format : str
        What the bytes are, in Pillow's terms ("JPEG", "PNG", ...), whatever the name says.
    phash : int or None
        64-bit perceptual hash, where it was asked for; see `perceptual_hash`.
    """

    image: Image.Image
    width: int
    height: int
    format: str
    phash: int | None


def decode(data: bytes, *, shortest: int | None = None, hashed: bool = False) -> Picture:
    """Decode an image file.

    Parameters
    ----------
    data : bytes
        The whole file.
    shortest : int, optional
        Allow a faster, smaller decoding (libjpeg's scaling, box reduction elsewhere) as long as the shortest
        side keeps this many pixels. By default the picture has its full size.
    hashed : bool, default False
        Compute the perceptual hash as well: the same one whatever `shortest` is, at the price of a second decoding
        where the first has another size.

    Returns
    -------
    Picture

    Raises
    ------
    ImageError
        If the bytes are no image of a known format, are cut short, or promise more pixels than are allowed or than fit
        into the memory that is free.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        raw = Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError:
        raise ImageError(why_not_an_image(data)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(_too_large("far more pixels than are allowed")) from None
    except Exception as error:
        raise ImageError(f"unreadable header: {_brief(error)}") from None
    width, height = raw.size
    if width * height > _max_pixels:
        raise ImageError(_too_large(f"{width} x {height} pixels"))
    least = _least_reduction(raw)
    _check_memory(raw, least)
    kind = raw.format or "?"
    turned = _orientation(raw)
    try:
        hash_scale = max(least, _jpeg_scale(raw, HASH_SIDE))
        scale = max(least, _jpeg_scale(raw, shortest)) if shortest else least
        image = _upright_rgb(_shrunk(raw, scale, shortest), turned)
        to_hash = image
        jpeg = kind in ("JPEG", "MPO")
        if hashed and jpeg and scale != hash_scale:
            again = Image.open(io.BytesIO(data), formats=_formats())
            to_hash = _upright_rgb(_shrunk(again, hash_scale, None), turned)
        elif hashed and not jpeg and image.size[0] * image.size[1] < width * height:
            to_hash = _upright_rgb(_shrunk(raw, least, None), turned)
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        raise ImageError(f"damaged {kind}: {_brief(error)}") from None
    if turned >= 5:
        width, height = height, width
    return Picture(image, width, height, kind, perceptual_hash(to_hash) if hashed else None)


def load_hashing() -> None:
    """Load the libraries of `perceptual_hash`; call it before threads that hash, which would all load them at once."""
    import imagehash  # noqa: F401


def perceptual_hash(image: Image.Image) -> int:
    """64-bit DCT perceptual hash (pHash) of an RGB image, as the library ``imagehash`` computes it.

    Returns
    -------
    int
        Unsigned; near-duplicates differ in few bits (``bit_count(xor(a, b))`` in SQL).
    """
    import imagehash

    bits = imagehash.phash(image).hash.ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _jpeg_scale(image: Image.Image, shortest: int) -> int:
    """Largest denominator among libjpeg's 1, 2, 4, 8 that leaves `shortest` pixels on the shortest side.

    Only one that divides both sides: half a pixel left over shifts a model's crop, which costs more than shrinking does.
    """
    if image.format not in ("JPEG", "MPO"):
        return 1
    width, height = image.size
    fitting = (
        s for s in (1, 2, 4, 8) if width % s == height % s == 0 and min(width, height) // s >= shortest
    )
    return max(fitting, default=1)


def _shrunk(raw: Image.Image, scale: int, shortest: int | None) -> Image.Image:
    """Decode `raw` at 1/`scale`, what is no JPEG box-reduced, and that as far as `shortest` allows."""
    if raw.format in ("JPEG", "MPO"):
        if scale > 1:
            width, height = raw.size
            raw.draft(None, (width // scale, height // scale))
        raw.load()
        return raw
    raw.load()
    if raw.mode in ("RGB", "L"):
        factor = max(scale, min(raw.size) // shortest if shortest else 1)
    else:
        factor = scale if raw.mode in ("RGBA", "LA", "CMYK", "I", "F") else 1
    return raw.reduce(factor) if factor > 1 else raw


def _least_reduction(raw: Image.Image) -> int:
    """By how much a picture is shrunk in any case, so that `WHOLE_PIXELS` are left: 1, 2, 4 or 8."""
    width, height = raw.size
    fitting = (s for s in (1, 2, 4) if width * height <= WHOLE_PIXELS * s * s)
    return next(fitting, 8)


def _check_memory(raw: Image.Image, scale: int) -> None:
    """Refuse a large picture whose decoding would need more memory than is free."""
    pixels = raw.size[0] * raw.size[1]
    if pixels <= WHOLE_PIXELS // 4:
        return
    if raw.format in ("JPEG", "MPO"):
        # A progressive file's coefficients are held whole, at 2 bytes and up to three components.
        needed = pixels * (6 if raw.info.get("progressive") else 0) + 8 * pixels // scale**2
    else:
        needed = pixels * (8 if raw.mode in ("RGB", "L") else 32 if raw.mode[0] in "IF" else 16)
    free = available_memory()
    if free is not None and needed > free:
        raise ImageError(
            f"{raw.size[0]} x {raw.size[1]} pixels need about {needed / 1e9:.1f} GB of memory to decode, and "
            f"{free / 1e9:.1f} GB are free: use fewer --workers, or make the picture smaller"
        )


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


def _upright_rgb(image: Image.Image, turned: int) -> Image.Image:
    """Bring a decoded image to 8-bit RGB and turn it as EXIF says."""
    image = _eight_bit_rgb(image)
    return image.transpose(_TRANSPOSE[turned]) if turned in _TRANSPOSE else image


def _orientation(raw: Image.Image) -> int:
    """EXIF orientation still to be applied: 1 (upright) to 8."""
    if raw.format == "TIFF":  # Pillow turns these itself while loading
        return 1
    try:
        turned = raw.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
    return turned if turned in _TRANSPOSE else 1


def _eight_bit_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "RGB":
        return image
    if mode.startswith("I") or mode == "F":
        return _from_deep_samples(image)
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        colours = image.convert("RGBA")
        ground = Image.new("RGBA", colours.size, (*BACKGROUND, 255))
        return Image.alpha_composite(ground, colours).convert("RGB")
    return image.convert("RGB")


def _from_deep_samples(image: Image.Image) -> Image.Image:
    """8-bit RGB from 16-bit, 32-bit or floating-point grey."""
    grey = np.asarray(image, dtype=np.float64)
    grey = np.nan_to_num(grey, posinf=0.0, neginf=0.0)
    if image.mode == "F":
        low, high = float(grey.min()), float(grey.max())
        # Floating-point TIFFs are in 0..1, in 0..255, or in units of their own: only the last is stretched.
        top = 1.0 if 0 <= low and high <= 1 else 255.0 if 0 <= low and high <= 255 else None
        grey = grey / top if top else (grey - low) / max(high - low, 1e-12)
        eight = grey * 255
    else:
        eight = grey / 257 if grey.max(initial=0) <= 65535 else grey / grey.max() * 255
    return Image.fromarray(np.clip(np.rint(eight), 0, 255).astype(np.uint8)).convert("RGB")


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@cache
def _formats() -> tuple[str, ...]:
    """Load Pillow's plugins, and the HEIC decoder if the extra is there; return the allowed formats."""
    Image.init()
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    return tuple(name for name in _FORMATS if name in Image.OPEN)
