"""Pictures as the bytes of files."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def scene(width: int = 96, height: int = 64) -> Image.Image:
    """A smooth picture without symmetry, so that a turn or a flip shows."""
    y, x = np.mgrid[0:height, 0:width]
    stacked = [255 * x / width, 255 * y / height, 127 + 120 * np.sin(x / 9.0) * np.cos(y / 17.0)]
    return Image.fromarray(np.stack(stacked, axis=-1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colours: int, pixels: bytes, *chunks: bytes) -> bytes:
    """A PNG of which the header is given, and the pixels as they are packed."""
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    parts = chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
