"""File signatures: what a file's first bytes say it is, whatever its name ends in."""

from __future__ import annotations

import re

__all__ = ["SNIFFED", "image_format", "pointer", "what_it_is", "why_not_an_image"]

#: First bytes of a file that `image_format` wants to see.
SNIFFED = 64

_START = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0\x08\0\0\0", "TIFF"),
    (b"MM\0+\0\x08\0\0", "TIFF"),
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"})
_BMP_HEADERS = frozenset({12, 40, 52, 56, 64, 108, 124})
_PPM = re.compile(rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s+\d+\s")

#: What stands in a file's place in a repository whose contents were not fetched.
_POINTERS = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the {}: run `git lfs pull` in its repository"),
    (
        rb"(\.\./)*\.git/annex/|/annex/objects/",
        "a git-annex pointer, not the {}: run `git annex get` in its repository",
    ),
)
_MARKUP = "the file holds markup: {}"
# What is saved under an image's name and is none; the first that fits is told.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    *((pattern, says.format("picture")) for pattern, says in _POINTERS),
    (
        rb"\s*<\?xml[^>]*>\s*(<!--.*?-->\s*)*(<!doctype svg[^>]*>\s*)?<svg|\s*<svg",
        "an SVG drawing: export it as PNG",
    ),
    (
        rb"\s*<!doctype html|\s*<html|\s*<head|\s*<body",
        _MARKUP.format("a web page saved in the picture's place"),
    ),
    (rb"\s*<(\?xml|!doctype|error|!--|\w+[ >/])", _MARKUP.format("XML, perhaps a server's error")),
    (rb"\s*[{\[]\s*[\"{\[\]}]", "JSON text, perhaps a server's error saved in the picture's place"),
    (rb"data:image/|/9j/4|iVBORw0KGgo|R0lGODlh|UklGR", "an image in base64: decode it to bytes first"),
    (rb"%PDF-", "a PDF document: export its pages as images"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript: export it as PNG"),
    (rb"....ftypcrx ", "a camera's raw file: export it as JPEG or PNG"),
    (rb"....(ftyp|moov|mdat|wide|free)", "a video (MP4 or QuickTime): take a frame of it"),
    (rb"\x1aE\xdf\xa3", "a video (WebM or Matroska): take a frame of it"),
    (rb"RIFF....AVI ", "a video (AVI): take a frame of it"),
    (rb"FLV\x01|0&\xb2u\x8ef\xcf\x11|\0\0\x01[\xb3\xba]", "a video: take a frame of it"),
    (rb"ID3|OggS|fLaC|RIFF....WAVE|\xff[\xf2\xf3\xfb]", "a sound file"),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "JPEG XL, which is not read here: convert it to PNG or JPEG"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000, which is not read here: convert it to PNG or JPEG"),
    (rb"\0\0[\x01\x02]\0", "a Windows icon: convert it to PNG"),
    (rb"8BPS", "a Photoshop document: export it as PNG or JPEG"),
    (rb"gimp xcf", "a GIMP document: export it as PNG or JPEG"),
    (rb"\0\x05\x16[\0\x07]", "the Mac's metadata of another file (._name), not the picture"),
    (
        rb"PK\x03\x04|Rar!|7z\xbc\xaf|\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd",
        "a packed archive: unpack it first",
    ),
    (rb"\x93NUMPY", "a NumPy array: save it as PNG"),
    (rb"\x89HDF", "an HDF5 file"),
    (rb"PAR1", "a Parquet file"),
    (rb"SQLite format 3", "an SQLite database"),
    (rb"\[InternetShortcut\]", "a link to a web page, not the picture"),
    (rb"https?://\S+\s*$", "a URL, not the picture: download it"),
    (rb"\0{64}", "nothing but zero bytes: the file was never written, or lost on the disk"),
)
_COMPILED = tuple((re.compile(pattern, re.DOTALL | re.IGNORECASE), says) for pattern, says in _OTHERS)
_KNOWN = "JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF, HEIC"


def image_format(head: bytes) -> str | None:
    """Format of an image that icehouse decodes, in Pillow's terms, by its first `SNIFFED` bytes; None for the rest."""
    for start, name in _START:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        brands = {head[i : i + 4] for i in range(8, min(len(head), int.from_bytes(head[:4], "big")), 4)}
        return "AVIF" if brands & _AVIF_BRANDS else "HEIF" if brands & _HEIF_BRANDS else None
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return "PPM" if _PPM.match(head) else None


def why_not_an_image(data: bytes) -> str:
    """Reason why bytes that no decoder takes are no image: what they are instead, and what to do."""
    head = data[:1024].removeprefix(b"\xef\xbb\xbf")
    if image_format(head) == "HEIF":
        return "HEIC needs one more package: pip install 'icehouse[heic]'"
    says = what_it_is(head)
    return f"not an image: {says}" if says else f"not an image of a known format ({_KNOWN})"


def what_it_is(head: bytes) -> str | None:
    """What else than an image a file is, by its first bytes, and what to do; None where that is not known."""
    return next((says for pattern, says in _COMPILED if pattern.match(head)), None)


def pointer(head: bytes) -> str | None:
    """Which pointer stands in the place of a file that was not fetched; None where it is the file."""
    return next((says.format("file") for pattern, says in _POINTERS if re.match(pattern, head)), None)
