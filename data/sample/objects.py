"""Objects in the sample feed's pictures: houses (whole, torn, fallen), trees, cars, people, boxes, tents, boats."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .canvas import Canvas, Colour, Pen, jitter, mix, noise

BLACK: Colour = (0, 0, 0)
WALLS: tuple[Colour, ...] = (
    (178, 92, 70), (206, 190, 160), (226, 220, 206), (150, 148, 142), (196, 158, 110), (168, 186, 190), (214, 178, 150),
    (134, 96, 80), (230, 204, 120), (120, 140, 128), (196, 120, 120),
)  # fmt: skip
ROOFS: tuple[Colour, ...] = ((120, 58, 44), (84, 80, 82), (150, 84, 56), (64, 58, 60), (104, 96, 84))
CLOTHES: tuple[Colour, ...] = (
    (190, 50, 46), (40, 70, 130), (230, 196, 60), (60, 110, 70), (40, 42, 48), (226, 226, 222), (236, 120, 40),
    (120, 70, 120), (90, 130, 170),
)  # fmt: skip
TROUSERS: tuple[Colour, ...] = ((40, 46, 66), (60, 56, 52), (90, 84, 74), (28, 28, 30))
SKINS: tuple[Colour, ...] = ((236, 196, 166), (206, 156, 120), (160, 110, 78), (104, 70, 50))
CARS: tuple[Colour, ...] = ((176, 36, 36), (200, 202, 206), (44, 66, 112), (32, 34, 38), (70, 104, 84))
LEAVES: tuple[Colour, ...] = ((66, 96, 44), (86, 112, 52), (50, 78, 46), (112, 118, 56), (140, 112, 50))


def facade(
    c: Canvas, width: int, height: int, *, lit: bool, torn: float = 0, broken: float = 0
) -> Image.Image:
    """Draw a row of houses as an RGBA strip; `torn` and `broken` are the shares with open roofs and fallen walls."""
    strip = Image.new("RGBA", (width, height))
    storey, x = height * c.between(0.17, 0.27), -c.between(0, 0.1) * width
    while x < width:
        pen, wall = Pen(strip, x, height, storey), c.pick(*WALLS)
        span, floors = c.between(1.3, 3.2), c.count(1, int(height * 0.85 / storey))
        _walls(c, pen, span, floors, wall, lit)
        if c.chance(broken):
            _fall(c, pen, span, floors, wall)
        else:
            _roof(c, pen, span, floors, c.chance(torn * 1.4))
        x += storey * (span + (c.between(0, 1) if c.chance(0.3) else 0))
    pixels = np.asarray(strip, np.float32).copy()
    pixels[..., :3] *= 0.82 + 0.36 * noise(c.rng, width, height, 10, octaves=3)[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGBA")


def _walls(c: Canvas, pen: Pen, span: float, floors: int, wall: Colour, lit: bool) -> None:
    """Draw a house's wall, courses of brick, windows and a door, in units of a storey."""
    pen.block(wall, (0, 0), (span, floors))
    for y in np.arange(0, floors if c.chance(0.5) else 0, 0.1):
        pen.line(mix(wall, (40, 30, 25), 0.16), 0, (0, y), (span, y))
    pen.block(mix(wall, BLACK, 0.3), (0, 0), (span * 0.04, floors))
    columns = max(1, int(span / c.between(0.75, 1.1)))
    cell, door = span / columns, c.count(0, columns - 1)
    wide, high = c.between(0.2, 0.3), c.between(0.45, 0.68)
    frame = (235, 232, 225) if c.chance(0.6) else mix(wall, (30, 20, 20), 0.6)
    for floor in range(floors):
        for column in range(columns):
            middle = (column + 0.5) * cell
            if floor == 0 and column == door:
                leaf = c.pick((90, 50, 36), (40, 60, 80), (50, 80, 60))
                pen.block(leaf, (middle - cell * 0.19, 0), (middle + cell * 0.19, 0.75))
                continue
            left, right = middle - cell * wide, middle + cell * wide
            low, top = floor + 0.15, floor + 0.15 + high
            glass = c.pick((244, 206, 120) if lit and c.chance(0.4) else (62, 74, 88))
            pen.block(frame, (left - 0.04, low - 0.04), (right + 0.04, top + 0.04))
            pen.block(glass, (left, low), (right, top))
            pen.shape(mix(glass, (235, 240, 245), 0.3), (left, top), (right, top), (left, low + high / 2))
            pen.line(frame, 0, (middle, low), (middle, top))


def _roof(c: Canvas, pen: Pen, span: float, top: float, torn: bool) -> None:
    """Draw a gable, a slope or a flat edge over a house, with holes and bare rafters where it is torn."""
    inset = (0.5, 0.12, 0.0)[c.count(0, 2)] * span
    high, tiles = c.between(0.45, 0.9) if inset else 0.12, c.pick(*ROOFS)
    pen.shape(tiles, (-0.06, top), (inset, top + high), (span - inset, top + high), (span + 0.06, top))
    for _ in range(c.count(2, 4) if torn else 0):
        x, y, size = c.between(0, span), top + c.between(0, high), c.between(0.25, 0.7)
        hole = c.rng.uniform(-size, size, (6, 2)) * (1, 0.6) + (x, y)
        pen.shape((38, 30, 26), *[(a, b) for a, b in hole.tolist()])
        for rafter in x + c.rng.uniform(-size, size, 4):
            pen.line((150, 118, 82), 0.05, (rafter, y + size * 0.7), (rafter + size * 0.3, y - size * 0.5))


def _fall(c: Canvas, pen: Pen, span: float, floors: int, wall: Colour) -> None:
    """Tear off a house's upper part along a jagged line and open the rooms behind it."""
    slope = c.between(-0.4, 0.4) * np.linspace(-0.5, 0.5, 9) + c.rng.normal(0, 0.06, 9)
    heights = floors * (c.between(0.25, 0.7) + slope)
    edge = list(zip(np.linspace(0, span, 9).tolist(), heights.tolist(), strict=True))
    pen.draw.polygon(pen.at((-0.1, 99), *edge, (span + 0.1, 99)), fill=(0, 0, 0, 0))
    rooms = [(x, y - floors * c.between(0.05, 0.2)) for x, y in reversed(edge)]
    pen.shape(mix(wall, (30, 24, 22), 0.75), *edge, *rooms)
    for x, y in edge[1:-1]:
        pen.line((92, 66, 50), 0, (x, y), (x + c.between(-0.2, 0.2), y + c.between(0.08, 0.4)))


def tree(c: Canvas, x: float, foot: float, height: float, *, bare: bool = False) -> None:
    """Draw a standing tree; `bare` leaves only trunk and boughs."""
    bark, pen = c.pick((84, 64, 48), (104, 88, 70), (58, 48, 42)), c.pen(x, foot, height)
    pen.shape(bark, (-0.045, 0), (-0.02, 0.6), (0.02, 0.6), (0.045, 0))
    for _ in range(5):
        start = c.between(0.35, 0.6)
        pen.line(bark, 0.02, (0, start), (c.between(-0.3, 0.3), start + c.between(0.15, 0.4)))
    if not bare:
        _foliage(c, pen, 0, 0.68, 0.32, 0.3)


def _foliage(c: Canvas, pen: Pen, x: float, y: float, across: float, up: float) -> None:
    leaves = LEAVES[int(c.rng.integers(len(LEAVES)))]
    for i in range(70):
        angle, away = c.between(0, 2 * np.pi), np.sqrt(c.rng.random())
        dx, dy, size = away * np.cos(angle), away * np.sin(angle), across * c.between(0.1, 0.26)
        shade = 0.35 * (1 - i / 70) - 0.15 * dy
        tone = mix(leaves, BLACK, shade) if shade > 0 else mix(leaves, (240, 240, 170), -shade)
        pen.disc(jitter(c.rng, tone, 9), (x + across * dx, y + up * dy), size, size * 0.8)


def fallen_tree(c: Canvas, x: float, y: float, length: float) -> None:
    """Draw an uprooted tree that lies from (x, y) with its crown `length` to one side."""
    pen, rise = Pen(c.image, x, y, length, flip=c.chance(0.5)), c.between(0.02, 0.25)
    bark = c.pick((84, 64, 48), (62, 50, 42))
    pen.shape(bark, (0, 0.05), (0, -0.05), (1, rise - 0.015), (1, rise + 0.015))
    for angle in c.rng.uniform(0, 2 * np.pi, 16):  # the root plate
        pen.line(mix(bark, (20, 14, 10), 0.4), 0.025, (0, 0), (0.14 * np.cos(angle), 0.16 * np.sin(angle)))
    for along in (0.6, 0.78, 0.95):
        for _ in range(7):
            twig = (along + c.between(-0.2, 0.2), along * rise + c.between(-0.12, 0.24))
            pen.line(bark, 0.015, (along, along * rise), twig)
        _foliage(c, pen, along, along * rise + 0.03, 0.16, 0.12)


def car(c: Canvas, x: float, foot: float, length: float, *, sunk: float = 0.0) -> None:
    """Draw a car from the side; `sunk` is the share of its height that is cut off below (by water)."""
    layer = Image.new("RGBA", (int(length) + 2, int(length * 0.45) + 2))
    pen, paint = Pen(layer, 0, layer.height, length), c.pick(*CARS)
    hood, tail = c.between(0.2, 0.32), c.between(0.74, 0.95)
    pen.shape(paint, (hood, 0.24), (hood + 0.12, 0.41), (tail - 0.1, 0.42), (tail, 0.24))
    glass: Colour = (70, 84, 98)
    pen.shape(glass, (hood + 0.04, 0.25), (hood + 0.14, 0.38), (0.48, 0.38), (0.48, 0.25))
    pen.shape(glass, (0.51, 0.25), (0.51, 0.38), (tail - 0.12, 0.39), (tail - 0.03, 0.25))
    pen.block(paint, (0, 0.08), (1, 0.26), round=0.07)
    pen.block(mix(paint, BLACK, 0.4), (0.02, 0.09), (0.98, 0.14))
    pen.disc((246, 240, 206), (0.04, 0.21), 0.03)
    pen.block((170, 30, 30), (0.95, 0.19), (0.99, 0.23))
    for wheel in (0.2, 0.78):
        pen.disc((26, 26, 28), (wheel, 0.09), 0.09)
        pen.disc((150, 152, 156), (wheel, 0.09), 0.042)
    if c.chance(0.5):
        layer = layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if sunk:
        layer = layer.rotate(c.between(-9, 9), Image.Resampling.BILINEAR)
    layer = layer.crop((0, 0, layer.width, max(2, int(layer.height * (1 - sunk)))))
    c.image.paste(layer, (int(x - length / 2), int(foot - layer.height)), layer)


def person(c: Canvas, x: float, foot: float, height: float, *, vest: bool = False) -> None:
    """Draw a standing person; `vest` puts an orange or yellow vest on."""
    pen, skin, legs = c.pen(x, foot, height), c.pick(*SKINS), c.pick(*TROUSERS)
    top = c.pick((244, 120, 30), (224, 232, 60)) if vest else c.pick(*CLOTHES)
    stride = c.between(0.02, 0.08)
    for side in (-1, 1):
        pen.line(legs, 0.1, (side * 0.05, 0.46), (side * (0.04 + stride), 0))
    pen.block(top, (-0.13, 0.83), (0.13, 0.43), round=0.08)
    pen.block(mix(top, BLACK, 0.25), (-0.13, 0.73), (-0.05, 0.46))
    if vest:
        pen.line((236, 236, 226), 0.025, (-0.13, 0.63), (0.13, 0.63))
    for side in (-1, 1):
        hand = (side * c.between(0.12, 0.28), c.between(0.45, 0.67))
        pen.line(mix(top, BLACK, 0.15), 0.065, (side * 0.1, 0.78), hand)
        pen.disc(skin, hand, 0.032)
    pen.disc(skin, (0, 0.915), 0.075, 0.086)
    hair = c.pick((30, 24, 20), (90, 60, 36), (150, 120, 70), (120, 120, 122))
    (left, upper), (right, lower) = pen.at((-0.08, 1.01), (0.08, 0.85))
    pen.draw.pieslice([left, upper, right, lower], 180, 360, fill=hair)


def box(c: Canvas, x: float, foot: float, size: float) -> None:
    """Draw a cardboard box with tape and a lit top."""
    card, high = (
        c.pick((184, 142, 94), (166, 122, 78), (200, 164, 118), (220, 214, 200)),
        c.between(0.55, 0.95),
    )
    pen = c.pen(x, foot, size)
    pen.block(card, (0, 0), (1, high))
    pen.shape(mix(card, (255, 250, 235), 0.3), (0, high), (0.22, high + 0.15), (1.22, high + 0.15), (1, high))
    pen.shape(mix(card, BLACK, 0.35), (1, high), (1.22, high + 0.15), (1.22, 0.15), (1, 0))
    pen.block(mix(card, (240, 226, 190), 0.5), (0.42, high * 0.6), (0.56, high))
    if c.chance(0.5):
        pen.block(c.pick((180, 40, 40), (40, 60, 120), (50, 50, 50)), (0.12, high * 0.2), (0.36, high * 0.45))


def tent(c: Canvas, x: float, foot: float, width: float) -> None:
    """Draw a ridge tent or a pavilion."""
    cloth = c.pick((236, 236, 230), (70, 110, 160), (70, 100, 60), (210, 120, 50), (220, 210, 180))
    dark, high, pen = mix(cloth, BLACK, 0.3), c.between(0.5, 0.7), c.pen(x, foot, width)
    if c.chance(0.6):
        c.polygon(pen.at((0, 0), (0.35, high), (0.7, 0)), cloth, rough=0.1, scale=1)
        c.polygon(pen.at((0.35, high), (1, high * 0.9), (1.25, 0), (0.7, 0)), dark, rough=0.1, scale=1)
        pen.shape((36, 32, 30), (0.28, 0), (0.35, high * 0.7), (0.44, 0))
    else:
        pen.block(mix(dark, BLACK, 0.45), (0, 0), (1, high * 0.6))
        c.polygon(pen.at((-0.05, high * 0.55), (0.5, high), (1.05, high * 0.55)), cloth, rough=0.1, scale=1)
        for post in (0, 0.5, 1):
            pen.line((210, 210, 205), 0.02, (post, 0), (post, high * 0.56))
