"""Transforms that pictures and texts undergo on their way through the web: re-encoded, cropped, watermarked, quoted.

Together they are the positives with which near-duplicate search is calibrated and tested.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

Transform = Callable[[Image.Image, np.random.Generator], Image.Image]
TextEdit = Callable[[str, np.random.Generator], str]


def encode(image: Image.Image, kind: str, quality: int = 88) -> bytes:
    """Write a picture as a "jpg", "png" or "webp" in memory, with fixed settings: equal pixels give equal bytes."""
    buffer = io.BytesIO()
    if kind == "png":
        image.save(buffer, "PNG", compress_level=3)
    elif kind == "webp":
        image.save(buffer, "WEBP", quality=quality, method=2)
    else:
        image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def _recompress(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    data = encode(image, "jpg", int(rng.integers(38, 65)))
    with Image.open(io.BytesIO(data)) as again:
        return again.convert("RGB")


def _resize(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    factor = float(rng.uniform(0.5, 0.8)) if rng.random() < 0.7 else float(rng.uniform(1.15, 1.4))
    size = (max(16, round(image.width * factor)), max(16, round(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cut off up to a tenth of the width and of the height, more on one side than on the other."""
    width, height = image.size
    across, down = rng.uniform(0.04, 0.1, 2) * (width, height)
    left, top = rng.random(2) * (across, down)
    box = (round(left), round(top), round(width - (across - left)), round(height - (down - top)))
    return image.crop(box)


def _watermark(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    layer = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(layer)
    words = ("© newsdesk 9", "CityWatch.example", "@old_mill_photos", "SHARED BY LENA")
    text = words[int(rng.integers(len(words)))]
    font = ImageFont.load_default(max(10.0, image.width * float(rng.uniform(0.04, 0.07))))
    width = draw.textlength(text, font=font)
    x = float(rng.uniform(0.02, 0.98)) * max(1.0, image.width - width)
    y = float(rng.choice([0.04, 0.45, 0.88])) * image.height
    draw.text((x, y), text, font=font, fill=(255, 255, 255, 150), stroke_width=1, stroke_fill=(0, 0, 0, 110))
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def _caption_band(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Put a band with words above the picture, as memes have it."""
    band = round(image.height * float(rng.uniform(0.12, 0.2)))
    dark = rng.random() < 0.5
    framed = Image.new("RGB", (image.width, image.height + band), (0, 0, 0) if dark else (255, 255, 255))
    framed.paste(image, (0, band))
    words = ("you have to see this", "share before it is deleted", "no comment", "seen today")
    text = words[int(rng.integers(len(words)))]
    draw = ImageDraw.Draw(framed)
    font = ImageFont.load_default(band * 0.5)
    font = ImageFont.load_default(
        band * 0.5 * min(1.0, 0.94 * image.width / draw.textlength(text, font=font))
    )
    x = (image.width - draw.textlength(text, font=font)) / 2
    draw.text((x, band * 0.22), text, font=font, fill=(255, 255, 255) if dark else (0, 0, 0))
    return framed


def _pad(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Set the picture on a larger ground of one colour."""
    across, down = (rng.uniform(0.03, 0.1, 2) * image.size).round().astype(int).tolist()
    ground = (0, 0, 0) if rng.random() < 0.5 else (255, 255, 255)
    framed = Image.new("RGB", (image.width + 2 * across, image.height + 2 * down), ground)
    framed.paste(image, (across, down))
    return framed


def _brightness(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    factor = float(rng.uniform(0.72, 0.88)) if rng.random() < 0.5 else float(rng.uniform(1.12, 1.3))
    return ImageEnhance.Brightness(image).enhance(factor)


def _same(image: Image.Image, _rng: np.random.Generator) -> Image.Image:
    """Leave the pixels; the file format changes."""
    return image


#: Every transform by name. "exact" is no transform: the file is copied byte for byte.
TRANSFORMS: Mapping[str, Transform] = MappingProxyType(
    {
        "recompress": _recompress,
        "resize": _resize,
        "crop": _crop,
        "watermark": _watermark,
        "caption_band": _caption_band,
        "pad": _pad,
        "brightness": _brightness,
        "format": _same,
    }
)


def _cut(share: float) -> Transform:
    """Cut off a share of the width and of the height, more on one side than on the other."""

    def cut(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        across, down = share * image.width, share * image.height
        left, top = rng.random(2) * (across, down)
        right, bottom = image.width - (across - left), image.height - (down - top)
        return image.crop((round(left), round(top), max(round(right), 1), max(round(bottom), 1)))

    return cut


def _blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.8, 2.0))))


def _rotate(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turn by a degree to four, black in the corners, as a badly placed scan has it."""
    angle = float(rng.uniform(1, 4)) * (1 if rng.random() < 0.5 else -1)
    return image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=(0, 0, 0))


def _mirror(image: Image.Image, _rng: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


#: What a calibration tries on a user's own pictures: `TRANSFORMS` with the crop in four grades, and three more.
GRADED: Mapping[str, Transform] = MappingProxyType(
    {name: made for name, made in TRANSFORMS.items() if name != "crop"}
    | {f"crop_{share}": _cut(share / 100) for share in (5, 10, 15, 20)}
    | {"blur": _blur, "rotate": _rotate, "mirror": _mirror}
)


def _case(text: str, rng: np.random.Generator) -> str:
    return text.upper() if rng.random() < 0.5 else text.lower()


def _punctuation(text: str, rng: np.random.Generator) -> str:
    bare = text.rstrip(".!?")
    return bare + ("", "!!!", "...", "?!")[int(rng.integers(4))]


def _mention(text: str, rng: np.random.Generator) -> str:
    name = ("newsdesk9", "old_mill", "lena_k", "citywatch")[int(rng.integers(4))]
    return f"RT @{name}: {text}" if rng.random() < 0.5 else f"{text} via @{name}"


def _link(text: str, rng: np.random.Generator) -> str:
    return f"{text} https://t.example/{int(rng.integers(10**8)):x}"


def _truncate(text: str, rng: np.random.Generator) -> str:
    """Keep two thirds to nine tenths of the words."""
    words = text.split()
    return " ".join(words[: max(1, round(len(words) * float(rng.uniform(0.67, 0.9))))]) + "…"


def _emoji(text: str, rng: np.random.Generator) -> str:
    sign = "🔥😢💪⚠"[int(rng.integers(4))]
    return f"{sign} {text}" if rng.random() < 0.5 else f"{text} {sign}{sign}"


#: What happens to a text that is posted again.
TEXT_EDITS: Mapping[str, TextEdit] = MappingProxyType(
    {
        "case": _case,
        "punctuation": _punctuation,
        "mention": _mention,
        "link": _link,
        "truncate": _truncate,
        "emoji": _emoji,
    }
)
