"""Things that stand about in the sample feed's pictures: trees, cars, people, boxes, tents, boats.

Each function draws on a `Canvas` at a place and a size; what varies comes from the canvas's generator.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .brush import Canvas, Colour, jitter, mix

__all__ = [
    "boat",
    "bottles",
    "box",
    "car",
    "fallen_tree",
    "person",
    "tent",
    "tree",
]

CLOTHES: tuple[Colour, ...] = (
    (190, 50, 46), (40, 70, 130), (230, 196, 60), (60, 110, 70), (40, 42, 48), (226, 226, 222), (236, 120, 40),
    (120, 70, 120), (90, 130, 170),
)  # fmt: skip
SKINS: tuple[Colour, ...] = ((236, 196, 166), (206, 156, 120), (160, 110, 78), (104, 70, 50))
CARS: tuple[Colour, ...] = (
    (176, 36, 36),
    (200, 202, 206),
    (44, 66, 112),
    (32, 34, 38),
    (232, 232, 230),
    (70, 104, 84),
)
LEAVES: tuple[Colour, ...] = ((66, 96, 44), (86, 112, 52), (50, 78, 46), (112, 118, 56), (140, 112, 50))


def tree(c: Canvas, x: float, foot: float, height: float, *, bare: bool = False) -> None:
    """Draw a standing tree; `bare` leaves only trunk and boughs."""
    draw, rng = c.draw, c.rng
    bark = c.pick([(84, 64, 48), (104, 88, 70), (58, 48, 42)])
    draw.polygon(
        [(x - height * 0.045, foot), (x - height * 0.02, foot - height * 0.6), (x + height * 0.02, foot - height * 0.6),
         (x + height * 0.045, foot)],
        fill=bark,
    )  # fmt: skip
    for _ in range(5):
        start = foot - height * rng.uniform(0.35, 0.6)
        draw.line(
            [(x, start), (x + height * rng.uniform(-0.3, 0.3), start - height * rng.uniform(0.15, 0.4))],
            fill=bark,
            width=max(2, int(height * 0.02)),
        )
    if not bare:
        leaves = LEAVES[int(rng.integers(len(LEAVES)))]
        _foliage(c, x, foot - height * 0.68, height * 0.32, height * 0.3, leaves)


def _foliage(c: Canvas, x: float, y: float, across: float, up: float, leaves: Colour) -> None:
    draw, rng = c.draw, c.rng
    for i in range(70):
        angle, away = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random())
        px, py = x + across * away * np.cos(angle), y + up * away * np.sin(angle)
        size = across * rng.uniform(0.1, 0.26)
        light = 0.35 * (1 - i / 70) - 0.25 * (y - py) / up * 0.6
        tone = mix(leaves, (0, 0, 0), light) if light > 0 else mix(leaves, (240, 240, 170), -light)
        draw.ellipse([px - size, py - size * 0.8, px + size, py + size * 0.8], fill=jitter(rng, tone, 9))


def fallen_tree(c: Canvas, x: float, y: float, length: float) -> None:
    """Draw an uprooted tree that lies from (x, y) with its crown `length` to one side."""
    draw, rng = c.draw, c.rng
    side = -1 if rng.random() < 0.5 else 1
    tip = (x + side * length, y - length * rng.uniform(0.02, 0.25))
    bark = c.pick([(84, 64, 48), (62, 50, 42)])
    thick = length * 0.05
    draw.polygon(
        [(x, y - thick), (x, y + thick), (tip[0], tip[1] + thick * 0.3), (tip[0], tip[1] - thick * 0.3)],
        fill=bark,
    )
    for _ in range(16):  # the root plate
        angle = rng.uniform(0, 2 * np.pi)
        end = (x + length * 0.14 * np.cos(angle), y + length * 0.16 * np.sin(angle))
        draw.line([(x, y), end], fill=mix(bark, (20, 14, 10), 0.4), width=max(2, int(thick * 0.5)))
    leaves = LEAVES[int(rng.integers(len(LEAVES)))]
    for share in (0.6, 0.78, 0.95):
        px, py = x + (tip[0] - x) * share, y + (tip[1] - y) * share
        for _ in range(7):
            end = (px + length * rng.uniform(-0.2, 0.2), py - length * rng.uniform(-0.12, 0.24))
            draw.line([(px, py), end], fill=bark, width=max(2, int(thick * 0.3)))
        _foliage(c, px, py - length * 0.03, length * 0.16, length * 0.12, leaves)


def car(c: Canvas, x: float, foot: float, length: float, *, sunk: float = 0.0) -> None:
    """Draw a car from the side; `sunk` is the share of its height that is cut off below (by water)."""
    rng = c.rng
    layer = Image.new("RGBA", (int(length) + 2, int(length * 0.45) + 2))
    draw = ImageDraw.Draw(layer)
    w, h = length, length * 0.42
    paint = c.pick(CARS)
    hood, tail = rng.uniform(0.2, 0.32) * w, rng.uniform(0.74, 0.95) * w
    draw.polygon(
        [(hood, h * 0.45), (hood + w * 0.12, h * 0.06), (tail - w * 0.1, h * 0.04), (tail, h * 0.45)],
        fill=paint,
    )
    glass = (70, 84, 98)
    draw.polygon(
        [
            (hood + w * 0.04, h * 0.43),
            (hood + w * 0.14, h * 0.12),
            (w * 0.48, h * 0.11),
            (w * 0.48, h * 0.43),
        ],
        fill=glass,
    )
    draw.polygon(
        [(w * 0.51, h * 0.43), (w * 0.51, h * 0.11), (tail - w * 0.12, h * 0.1), (tail - w * 0.03, h * 0.43)],
        fill=glass,
    )
    draw.rounded_rectangle([0, h * 0.4, w, h * 0.84], radius=h * 0.16, fill=paint)
    draw.rectangle([w * 0.02, h * 0.7, w * 0.98, h * 0.82], fill=mix(paint, (0, 0, 0), 0.4))
    draw.ellipse([w * 0.01, h * 0.46, w * 0.07, h * 0.6], fill=(246, 240, 206))
    draw.rectangle([w * 0.95, h * 0.48, w * 0.99, h * 0.6], fill=(170, 30, 30))
    for wheel in (0.2, 0.78):
        draw.ellipse([w * wheel - h * 0.22, h * 0.6, w * wheel + h * 0.22, h * 1.02], fill=(26, 26, 28))
        draw.ellipse([w * wheel - h * 0.1, h * 0.72, w * wheel + h * 0.1, h * 0.92], fill=(150, 152, 156))
    if rng.random() < 0.5:
        layer = layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if sunk:
        layer = layer.rotate(float(rng.uniform(-9, 9)), Image.Resampling.BILINEAR)
    layer = layer.crop((0, 0, layer.width, max(2, int(layer.height * (1 - sunk)))))
    c.image.paste(layer, (int(x - w / 2), int(foot - layer.height)), layer)


def person(c: Canvas, x: float, foot: float, height: float, *, vest: bool = False) -> None:
    """Draw a standing person; `vest` puts an orange or yellow vest on."""
    draw, rng = c.draw, c.rng
    skin, top, legs = (
        c.pick(SKINS),
        c.pick(CLOTHES),
        c.pick([(40, 46, 66), (60, 56, 52), (90, 84, 74), (28, 28, 30)]),
    )
    if vest:
        top = c.pick([(244, 120, 30), (224, 232, 60)])
    wide, stride = height * 0.13, height * rng.uniform(0.02, 0.08)
    hip, neck = foot - height * 0.46, foot - height * 0.83
    for side in (-1, 1):
        draw.line(
            [(x + side * wide * 0.4, hip), (x + side * (wide * 0.3 + stride), foot)],
            fill=legs,
            width=max(2, int(wide * 0.75)),
        )
    draw.rounded_rectangle([x - wide, neck, x + wide, hip + height * 0.03], radius=wide * 0.6, fill=top)
    draw.rectangle([x - wide, neck + height * 0.1, x - wide * 0.4, hip], fill=mix(top, (0, 0, 0), 0.25))
    if vest:
        draw.line(
            [(x - wide, neck + height * 0.2), (x + wide, neck + height * 0.2)],
            fill=(236, 236, 226),
            width=max(2, int(height * 0.025)),
        )
    for side in (-1, 1):
        hand = (x + side * wide * rng.uniform(0.9, 2.2), neck + height * rng.uniform(0.16, 0.38))
        draw.line(
            [(x + side * wide * 0.8, neck + height * 0.05), hand],
            fill=mix(top, (0, 0, 0), 0.15),
            width=max(2, int(wide * 0.5)),
        )
        draw.ellipse(
            [hand[0] - wide * 0.25, hand[1] - wide * 0.25, hand[0] + wide * 0.25, hand[1] + wide * 0.25],
            fill=skin,
        )
    head = height * 0.075
    draw.ellipse([x - head, foot - height, x + head, foot - height + head * 2.3], fill=skin)
    hair = c.pick([(30, 24, 20), (90, 60, 36), (150, 120, 70), (120, 120, 122)])
    draw.pieslice(
        [x - head * 1.05, foot - height * 1.01, x + head * 1.05, foot - height + head * 2],
        180,
        360,
        fill=hair,
    )


def box(c: Canvas, x: float, foot: float, size: float) -> None:
    """Draw a cardboard box with tape and a lit top."""
    draw = c.draw
    card = c.pick([(184, 142, 94), (166, 122, 78), (200, 164, 118), (220, 214, 200)])
    high = size * c.between(0.55, 0.95)
    skew = size * 0.22
    draw.rectangle([x, foot - high, x + size, foot], fill=card)
    draw.polygon(
        [
            (x, foot - high),
            (x + skew, foot - high - skew * 0.7),
            (x + size + skew, foot - high - skew * 0.7),
            (x + size, foot - high),
        ],
        fill=mix(card, (255, 250, 235), 0.3),
    )
    draw.polygon(
        [
            (x + size, foot - high),
            (x + size + skew, foot - high - skew * 0.7),
            (x + size + skew, foot - skew * 0.7),
            (x + size, foot),
        ],
        fill=mix(card, (0, 0, 0), 0.35),
    )
    draw.rectangle(
        [x + size * 0.42, foot - high, x + size * 0.56, foot - high * 0.6],
        fill=mix(card, (240, 226, 190), 0.5),
    )
    if c.rng.random() < 0.5:
        ink = c.pick([(180, 40, 40), (40, 60, 120), (50, 50, 50)])
        draw.rectangle([x + size * 0.12, foot - high * 0.45, x + size * 0.36, foot - high * 0.2], fill=ink)


def bottles(c: Canvas, x: float, foot: float, height: float, count: int) -> None:
    """Draw a pack of water bottles, `height` pixels high."""
    draw = c.draw
    for i in range(count):
        left, wide = x + i * height * 0.34, height * 0.3
        water = jitter(c.rng, (176, 206, 222), 8)
        draw.rounded_rectangle([left, foot - height * 0.78, left + wide, foot], radius=wide * 0.2, fill=water)
        draw.rectangle(
            [left + wide * 0.32, foot - height * 0.95, left + wide * 0.68, foot - height * 0.75], fill=water
        )
        draw.rectangle(
            [left + wide * 0.28, foot - height, left + wide * 0.72, foot - height * 0.9], fill=(40, 90, 170)
        )
        draw.rectangle([left, foot - height * 0.5, left + wide, foot - height * 0.26], fill=(60, 120, 190))
        draw.line(
            [(left + wide * 0.2, foot - height * 0.7), (left + wide * 0.2, foot - height * 0.1)],
            fill=(236, 246, 250),
            width=2,
        )


def tent(c: Canvas, x: float, foot: float, width: float) -> None:
    """Draw a ridge tent or a pavilion."""
    cloth = c.pick([(236, 236, 230), (70, 110, 160), (70, 100, 60), (210, 120, 50), (220, 210, 180)])
    high = width * c.between(0.5, 0.7)
    dark = mix(cloth, (0, 0, 0), 0.3)
    if c.rng.random() < 0.6:
        c.polygon(
            [(x, foot), (x + width * 0.35, foot - high), (x + width * 0.7, foot)], cloth, rough=0.1, scale=1
        )
        c.polygon(
            [
                (x + width * 0.35, foot - high),
                (x + width, foot - high * 0.9),
                (x + width * 1.25, foot),
                (x + width * 0.7, foot),
            ],
            dark,
            rough=0.1,
            scale=1,
        )
        c.polygon(
            [(x + width * 0.28, foot), (x + width * 0.35, foot - high * 0.7), (x + width * 0.44, foot)],
            (36, 32, 30),
        )
    else:
        c.draw.rectangle([x, foot - high * 0.6, x + width, foot], fill=mix(dark, (0, 0, 0), 0.45))
        c.polygon(
            [(x - 6, foot - high * 0.55), (x + width / 2, foot - high), (x + width + 6, foot - high * 0.55)],
            cloth,
            rough=0.1,
            scale=1,
        )
        for share in (0, 0.5, 1):
            c.draw.line(
                [(x + width * share, foot - high * 0.56), (x + width * share, foot)],
                fill=(210, 210, 205),
                width=3,
            )


def boat(c: Canvas, x: float, foot: float, length: float) -> None:
    """Draw a small open boat."""
    hull = c.pick([(214, 210, 200), (160, 50, 44), (50, 90, 130), (226, 130, 40)])
    high = length * 0.2
    points = [
        (x, foot - high),
        (x + length, foot - high * 1.15),
        (x + length * 0.88, foot),
        (x + length * 0.12, foot),
    ]
    c.polygon(points, hull, rough=0.1)
    c.draw.line(points[:2], fill=mix(hull, (0, 0, 0), 0.5), width=3)
