"""Pictures of the sample feed that have nothing to do with any event: patterns, screenshots, jokes, charts."""

from __future__ import annotations

import numpy as np
from PIL import ImageFont

from .brush import Colour, noise
from .places import Scene, Setting
from .whole import WHOLE

__all__ = ["ODDMENTS"]


def _letters(size: float) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _abstract(s: Setting) -> str:
    c, rng = s.c, s.c.rng
    fields = [noise(rng, c.w, c.h, c.w / c.between(2, 6), octaves=2) for _ in range(3)]
    c.paste(np.stack(fields, axis=2) * 320 - 30, (0, 0, c.w, c.h), None)
    for _ in range(int(rng.integers(0, 14))):
        x, y, size = c.between(0, c.w), c.between(0, c.h), s.u * c.between(3, 22)
        tone = (int(rng.integers(256)), int(rng.integers(256)), int(rng.integers(256)))
        c.draw.ellipse([x - size, y - size, x + size, y + size], fill=tone)
    return "An abstract pattern of blurred colours, no photograph."


def _screenshot(s: Setting) -> str:
    c, rng = s.c, s.c.rng
    dark = rng.random() < 0.4
    ground: Colour = (24, 26, 32) if dark else (244, 245, 248)
    ink: Colour = (226, 228, 232) if dark else (36, 38, 44)
    c.draw.rectangle([0, 0, c.w, c.h], fill=ground)
    c.draw.rectangle(
        [0, 0, c.w, s.u * 8], fill=c.pick([(40, 90, 180), (30, 120, 90), (90, 60, 150), (60, 60, 66)])
    )
    y = s.u * 12
    while y < c.h - s.u * 10:
        mine, lines = rng.random() < 0.5, int(rng.integers(1, 4))
        wide = c.w * c.between(0.35, 0.7)
        x = c.w - wide - s.u * 4 if mine else s.u * 4
        bubble = (
            c.pick([(190, 226, 190) if mine else (222, 226, 232)])
            if not dark
            else c.pick([(40, 80, 70) if mine else (52, 56, 66)])
        )
        c.draw.rounded_rectangle([x, y, x + wide, y + lines * s.u * 5 + s.u * 3], radius=s.u * 2, fill=bubble)
        for line in range(lines):
            end = x + wide * (0.92 if line < lines - 1 else c.between(0.3, 0.9))
            at = x + s.u * 2
            while at < end - s.u * 3:  # bars of the length of words stand for words
                word = min(s.u * c.between(2, 9), end - at)
                c.draw.rounded_rectangle(
                    [at, y + s.u * (2 + 5 * line), at + word, y + s.u * (4.4 + 5 * line)],
                    radius=s.u,
                    fill=ink,
                )
                at += word + s.u * 1.4
        y += lines * s.u * 5 + s.u * 6
    return "A screenshot of a chat on a telephone."


def _meme(s: Setting) -> str:
    c, rng = s.c, s.c.rng
    lines = (
        ("MONDAY AGAIN", "AND NO COFFEE"), ("ONE DOES NOT SIMPLY", "LEAVE AT FIVE"), ("WHEN THE WIFI", "IS BACK"),
        ("NOBODY:", "MY CAT AT 4 AM"), ("I SAID ONE BISCUIT", "IT WAS THE PACKET"), ("MEETING COULD", "HAVE BEEN A MAIL"),
    )  # fmt: skip
    upper, lower = lines[int(rng.integers(len(lines)))]
    WHOLE[("meal", "beach", "skyline")[int(rng.integers(3))]].paint(s)
    for text, y in ((upper, s.u * 3), (lower, c.h - s.u * 14)):
        font = _letters(s.u * 9)
        font = _letters(s.u * 9 * min(1.0, 0.92 * c.w / c.draw.textlength(text, font=font)))
        x = (c.w - c.draw.textlength(text, font=font)) / 2
        c.draw.text(
            (x, y),
            text,
            font=font,
            fill=(255, 255, 255),
            stroke_width=max(2, int(s.u * 0.8)),
            stroke_fill=(0, 0, 0),
        )
    return f'A joke picture with the words "{upper.capitalize()} {lower.lower()}".'


def _chart(s: Setting) -> str:
    c, rng = s.c, s.c.rng
    c.draw.rectangle([0, 0, c.w, c.h], fill=(250, 250, 248))
    tone = c.pick([(50, 100, 170), (200, 90, 50), (70, 140, 90)])
    left, foot, bars = c.w * 0.1, c.h * 0.88, int(rng.integers(4, 10))
    c.draw.text(
        (left, s.u * 4),
        str(rng.choice(["Visitors a month", "Sales by region", "Goals scored", "Share price"])),
        font=_letters(s.u * 6),
        fill=(40, 40, 44),
    )
    step = c.w * 0.82 / bars
    for i, value in enumerate(rng.uniform(0.1, 0.95, bars)):
        c.draw.rectangle(
            [left + i * step + 4, foot - value * (foot - s.u * 14), left + (i + 1) * step - 4, foot],
            fill=tone,
        )
    c.draw.line([(left, s.u * 14), (left, foot), (c.w * 0.94, foot)], fill=(60, 60, 64), width=3)
    return f"A bar chart with {bars} bars."


ODDMENTS: dict[str, Scene] = {
    "abstract": Scene(_abstract, "irrelevant"),
    "screenshot": Scene(_screenshot, "irrelevant"),
    "meme": Scene(_meme, "irrelevant"),
    "chart": Scene(_chart, "irrelevant"),
}
