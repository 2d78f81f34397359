"""Rows of houses for the sample feed's pictures: whole, with torn roofs, or fallen in."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .brush import Colour, jitter, mix, noise

__all__ = ["facade"]

WALLS: tuple[Colour, ...] = (
    (178, 92, 70), (206, 190, 160), (226, 220, 206), (150, 148, 142), (196, 158, 110), (168, 186, 190), (214, 178, 150),
    (134, 96, 80), (230, 204, 120), (120, 140, 128), (196, 120, 120),
)  # fmt: skip
ROOFS: tuple[Colour, ...] = ((120, 58, 44), (84, 80, 82), (150, 84, 56), (64, 58, 60), (104, 96, 84))


def facade(
    rng: np.random.Generator,
    width: int,
    height: int,
    *,
    torn: float = 0.0,
    broken: float = 0.0,
    dark: bool = False,
) -> Image.Image:
    """Draw a row of houses as a strip that can be pasted or laid in perspective.

    Parameters
    ----------
    rng : numpy.random.Generator
    width, height : int
        Size of the strip; the houses stand on its lower edge.
    torn : float, default 0
        Share of the roofs that a storm has opened.
    broken : float, default 0
        Share of the houses whose upper part has fallen.
    dark : bool, default False
        Night: some windows are lit.

    Returns
    -------
    PIL.Image.Image
        RGBA, transparent where there is no house.
    """
    strip = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(strip)
    storey = height * rng.uniform(0.17, 0.27)
    x = -rng.uniform(0, 0.1) * width
    while x < width:
        span = storey * rng.uniform(1.3, 3.2)
        floors = int(rng.integers(1, max(2, int(height * 0.85 / storey)) + 1))
        top = height - floors * storey
        wall = jitter(rng, WALLS[int(rng.integers(len(WALLS)))], 10)
        falls = rng.random() < broken
        _house(rng, draw, (x, top, x + span, float(height)), floors, wall, dark)
        if falls:
            _fall(rng, draw, (x, top, x + span, float(height)), wall)
        else:
            _roof(rng, draw, (x, top, x + span), storey, torn if rng.random() < torn * 1.4 else 0.0)
        x += span + (rng.uniform(0, storey) if rng.random() < 0.3 else 0)
    pixels = np.asarray(strip, np.float32).copy()
    pixels[..., :3] *= 0.82 + 0.36 * noise(rng, width, height, 10, octaves=3)[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGBA")


def _house(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    box: tuple[float, float, float, float],
    floors: int,
    wall: Colour,
    dark: bool,
) -> None:
    """Draw wall, courses of brick, windows and a door."""
    x0, y0, x1, y1 = box
    storey = (y1 - y0) / floors
    draw.rectangle(box, fill=wall)
    if rng.random() < 0.5:
        step = max(3.0, storey / 11)
        for y in np.arange(y0, y1, step):
            draw.line([(x0, y), (x1, y)], fill=mix(wall, (40, 30, 25), 0.16))
    draw.rectangle([x0, y0, x0 + (x1 - x0) * 0.04, y1], fill=mix(wall, (0, 0, 0), 0.3))
    columns = max(1, int((x1 - x0) / (storey * rng.uniform(0.75, 1.1))))
    cell = (x1 - x0) / columns
    frame = (235, 232, 225) if rng.random() < 0.6 else mix(wall, (30, 20, 20), 0.6)
    wide, high, door = rng.uniform(0.4, 0.6), rng.uniform(0.45, 0.68), int(rng.integers(columns))
    for row in range(floors):
        for column in range(columns):
            middle, y = x0 + (column + 0.5) * cell, y0 + row * storey
            if row == floors - 1 and column == door:
                leaf = jitter(rng, ((90, 50, 36), (40, 60, 80), (50, 80, 60))[int(rng.integers(3))])
                draw.rectangle([middle - cell * 0.19, y + storey * 0.25, middle + cell * 0.19, y1], fill=leaf)
                continue
            left, right = middle - cell * wide / 2, middle + cell * wide / 2
            upper, lower = y + storey * (0.85 - high), y + storey * 0.85
            lit = dark and rng.random() < 0.4
            glass = jitter(rng, (244, 206, 120) if lit else (62, 74, 88), 16)
            draw.rectangle([left - 2, upper - 2, right + 2, lower + 2], fill=frame)
            draw.rectangle([left, upper, right, lower], fill=glass)
            draw.polygon(
                [(left, upper), (right, upper), (left, (upper + lower) / 2)],
                fill=mix(glass, (235, 240, 245), 0.3),
            )
            draw.line([(middle, upper), (middle, lower)], fill=frame, width=2)


def _roof(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    span: tuple[float, float, float],
    storey: float,
    torn: float,
) -> None:
    """Draw a gable, a slope or a flat edge over a house, with holes where it is torn."""
    x0, y, x1 = span
    tiles = jitter(rng, ROOFS[int(rng.integers(len(ROOFS)))], 8)
    peak = y - storey * rng.uniform(0.45, 0.9)
    kind = int(rng.integers(3))
    if kind == 0:
        corners = [(x0 - 4, y), ((x0 + x1) / 2, peak), (x1 + 4, y)]
    elif kind == 1:
        corners = [(x0 - 4, y), (x0 + (x1 - x0) * 0.12, peak), (x1 - (x1 - x0) * 0.12, peak), (x1 + 4, y)]
    else:
        corners = [(x0 - 2, y), (x0 - 2, y - storey * 0.12), (x1 + 2, y - storey * 0.12), (x1 + 2, y)]
    draw.polygon(corners, fill=tiles)
    if kind < 2:
        for t in np.arange(0.15, 1, 0.14):
            draw.line([(x0 + 3, y - t * 2), (x1 - 3, y - t * 2)], fill=mix(tiles, (0, 0, 0), 0.25))
        if rng.random() < 0.5:
            cx = x0 + (x1 - x0) * rng.uniform(0.6, 0.8)
            draw.rectangle([cx, peak - storey * 0.1, cx + storey * 0.2, y - storey * 0.2], fill=(122, 72, 58))
    if torn:
        for _ in range(int(rng.integers(2, 5))):
            cx, cy = rng.uniform(x0, x1), rng.uniform(peak, y)
            size = storey * rng.uniform(0.25, 0.7)
            hole = [(cx + rng.uniform(-size, size), cy + rng.uniform(-size, size) * 0.6) for _ in range(6)]
            draw.polygon(hole, fill=(38, 30, 26))
            for _ in range(4):
                rafter = cx + rng.uniform(-size, size)
                draw.line(
                    [(rafter, cy - size * 0.7), (rafter + size * 0.3, cy + size * 0.5)],
                    fill=(150, 118, 82),
                    width=3,
                )


def _fall(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], wall: Colour
) -> None:
    """Tear off a house's upper part along a jagged line and open the rooms behind it."""
    x0, y0, x1, y1 = box
    drop = rng.uniform(0.3, 0.75) * (y1 - y0)
    slant = rng.uniform(-0.4, 0.4) * (y1 - y0)
    xs = np.linspace(x0, x1, 9)
    edge = y0 + drop + slant * np.linspace(-0.5, 0.5, 9) + rng.normal(0, (y1 - y0) * 0.06, 9)
    jag = [(float(a), float(b)) for a, b in zip(xs, edge, strict=True)]
    draw.polygon([(x0 - 8, 0), *[(a, b) for a, b in jag], (x1 + 8, 0)], fill=(0, 0, 0, 0))
    deep = [*jag, *[(a, b + (y1 - y0) * rng.uniform(0.05, 0.2)) for a, b in reversed(jag)]]
    draw.polygon(deep, fill=mix(wall, (30, 24, 22), 0.75))
    for a, b in jag[1:-1]:
        draw.line([(a, b), (a + rng.uniform(-10, 10), b - rng.uniform(4, 22))], fill=(92, 66, 50), width=2)
    for _ in range(3):
        crack = [(float(rng.uniform(x0, x1)), float(rng.uniform(y0 + drop, y1)))]
        for _ in range(6):
            crack.append((crack[-1][0] + float(rng.normal(0, 9)), crack[-1][1] + float(rng.uniform(2, 16))))
        draw.line(crack, fill=(44, 36, 32), width=2)
