"""Image files: bytes in, an upright RGB picture and what is known of it out.

Decoding goes by content, never by the file's name. Everything is brought to 8-bit RGB: EXIF rotation applied,
alpha laid on white, CMYK, palettes and 16-bit samples converted, the first frame taken of an animation.
A picture too large to be honest is refused before a pixel is decoded.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import ImageError

__all__ = ["BACKGROUND", "HASH_SIDE", "MAX_PIXELS", "Picture", "decode", "load_hashing", "perceptual_hash"]

#: More pixels than this are refused: Pillow's own threshold of suspicion, 89 megapixels.
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3

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
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


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
        If the bytes are no image of a known format, are cut short, or promise more than `MAX_PIXELS`.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        raw = Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError:
        raise ImageError(_why_not_an_image(data)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"more than {MAX_PIXELS:,} pixels: refused as a decompression bomb") from None
    except Exception as error:
        raise ImageError(f"unreadable header: {_brief(error)}") from None
    width, height = raw.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} x {height} pixels: refused as a decompression bomb")
    kind = raw.format or "?"
    turned = _orientation(raw)
    try:
        hash_scale = _jpeg_scale(raw, HASH_SIDE)
        scale = _jpeg_scale(raw, shortest) if shortest else 1
        image = _upright_rgb(_shrunk(raw, scale, shortest), turned)
        to_hash = image
        jpeg = kind in ("JPEG", "MPO")
        if hashed and jpeg and scale != hash_scale:
            again = Image.open(io.BytesIO(data), formats=_formats())
            to_hash = _upright_rgb(_shrunk(again, hash_scale, None), turned)
        elif hashed and not jpeg and image.size[0] * image.size[1] < width * height:
            to_hash = _upright_rgb(raw, turned)
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
    """Decode `raw`, at 1/`scale` where it is a JPEG, else box-reduced as far as `shortest` allows."""
    if scale > 1:
        width, height = raw.size
        raw.draft(None, (width // scale, height // scale))
    raw.load()
    if shortest and raw.format not in ("JPEG", "MPO") and raw.mode in ("RGB", "L"):
        factor = min(raw.size) // shortest
        if factor > 1:
            return raw.reduce(factor)
    return raw


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


def _why_not_an_image(data: bytes) -> str:
    head = data[:256].lstrip().lower()
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return "HEIC needs one more package: pip install 'icehouse[heic]'"
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return "not an image: the file holds markup (a saved web page?)"
    return "not an image of a known format (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC)"


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
