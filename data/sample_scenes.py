"""Pictures of the sample feed: a canvas with what is drawn on it, and the scenes, damaged, calm and distracting.

Everything random comes from the canvas's own generator, so that a picture depends on its seed and on nothing else. Damaged
and calm scenes (some of these chosen to resemble damage) share houses, hills, light and weather, so that what tells them
apart is the damage. A scene's function paints on a `SceneCanvas` and returns its caption: one plain sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[int, int, int, int]


def jitter(rng: np.random.Generator, colour: Sequence[float], spread: float = 12) -> Colour:
    """Vary a colour: all channels together by `spread`, each alone by a third of it."""
    # Plain floats: this runs for every leaf and stone, and an array of three costs more than the arithmetic.
    shift, *own = rng.standard_normal(4).tolist()
    r, g, b = (int(min(max(v + spread * (shift + o / 3), 0), 255)) for v, o in zip(colour, own, strict=True))
    return r, g, b


def mix(a: Sequence[float], b: Sequence[float], share: float) -> Colour:
    """Blend colour `a` with `share` (0 to 1) of colour `b`."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def noise(
    rng: np.random.Generator, width: int, height: int, cell: float, *, octaves: int = 4, stretch: float = 1.0
) -> np.ndarray:
    """Fractal value noise: float32 (height, width) in 0..1, blobs of `cell` pixels, `stretch` times wider than high."""
    if cell / 2 ** (octaves - 1) >= 3 and min(width, height) > 16:  # half the size shows as much
        half = noise(rng, (width + 1) // 2, (height + 1) // 2, cell / 2, octaves=octaves, stretch=stretch)
        return np.asarray(Image.fromarray(half).resize((width, height), Image.Resampling.BILINEAR))
    total, weight, norm = np.zeros((height, width), np.float32), 1.0, 0.0
    for _ in range(octaves):
        across, down = max(2, round(width / (cell * stretch)) + 2), max(2, round(height / cell) + 2)
        if across >= width or down >= height:
            break
        grid = Image.fromarray(rng.random((down, across), dtype=np.float32))
        total += weight * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
        norm, weight, cell = norm + weight, weight * 0.55, cell / 2
    return np.clip(total / norm, 0, 1) if norm else rng.random((height, width), dtype=np.float32)


def ridge(rng: np.random.Generator, width: int, cell: float, height: float) -> list[Point]:
    """Points of a rolling line from left to right, `height` high at most (upwards is negative), hills of `cell` pixels."""
    line = noise(rng, width // 8 + 2, 32, cell / 8)[16] * 2 - 0.5
    return [(8.0 * i, -height * value) for i, value in enumerate(line.tolist())]


class Pen:
    """Draws one object in units of its `size`, from its foot at (`x`, `foot`) upwards; `flip` mirrors it."""

    def __init__(self, image: Image.Image, x: float, foot: float, size: float, *, flip: bool = False) -> None:
        self.draw = ImageDraw.Draw(image)
        self.x, self.foot, self.size, self.across = x, foot, size, -size if flip else size

    def at(self, *points: Point) -> list[Point]:
        """Pixels of points given in units of the object."""
        return [(self.x + a * self.across, self.foot - b * self.size) for a, b in points]

    def shape(self, fill: Colour, *points: Point) -> None:
        """Fill a polygon."""
        self.draw.polygon(self.at(*points), fill=fill)

    def line(self, fill: Colour, width: float, *points: Point) -> None:
        """Draw a line, at least two pixels wide."""
        self.draw.line(self.at(*points), fill=fill, width=max(2, int(width * self.size)))

    def block(self, fill: Colour, one: Point, other: Point, *, round: float = 0.0) -> None:
        """Fill a rectangle between two corners."""
        (a, b), (c, d) = self.at(one, other)
        corners = [min(a, c), min(b, d), max(a, c), max(b, d)]
        self.draw.rounded_rectangle(corners, radius=round * self.size, fill=fill)

    def disc(self, fill: Colour, middle: Point, across: float, up: float | None = None) -> None:
        """Fill an ellipse with the given half axes."""
        (x, y), up = self.at(middle)[0], across if up is None else up
        a, b = across * self.size, up * self.size
        self.draw.ellipse([x - a, y - b, x + a, y + b], fill=fill)


class Canvas:
    """A picture of `w` by `h` pixels in the making; `u` is a hundredth of its height, the unit of most sizes."""

    def __init__(self, rng: np.random.Generator, width: int, height: int) -> None:
        self.rng, self.w, self.h, self.u = rng, width, height, height / 100
        self.image = Image.new("RGB", (width, height))
        self._grains = [noise(rng, width, height, *grain) for grain in ((width / 5,), (28,), (7,))]

    def pen(self, x: float, foot: float, size: float) -> Pen:
        """A pen for one object that stands on (`x`, `foot`)."""
        return Pen(self.image, x, foot, size)

    def between(self, low: float, high: float) -> float:
        """Draw a number between `low` and `high`."""
        return float(self.rng.uniform(low, high))

    def count(self, low: int, high: int) -> int:
        """Draw a whole number from `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        """Draw whether something with this probability happens."""
        return bool(self.rng.random() < share)

    def pick(self, *options: Colour) -> Colour:
        """Draw one of several colours and vary it a little."""
        return jitter(self.rng, options[int(self.rng.integers(len(options)))])

    def grain(self, scale: int, box: Box) -> np.ndarray:
        """Noise for a box, from one of three prepared fields (0 coarse, 1 middle, 2 fine) at a random offset."""
        x0, y0, x1, y1 = box
        # Indices that run to and fro, so that a shifted field shows no seam.
        rows, columns = (
            np.abs((np.arange(a, b) + self.rng.integers(size)) % (2 * size) - size + 0.5).astype(int)
            for a, b, size in ((y0, y1, self.h), (x0, x1, self.w))
        )
        return self._grains[scale][rows[:, None], columns[None, :]]

    def paste(self, pixels: np.ndarray, box: Box, mask: Image.Image | None = None) -> None:
        """Lay float pixels (h, w, 3) into a box, through a mask of the same size if there is one."""
        self.image.paste(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), box[:2], mask)

    def polygon(self, points: Sequence[Point], colour: Colour, *, rough: float = 0.2, scale: int = 2) -> None:
        """Fill a polygon with a colour, textured by the noise field `scale` with the strength `rough`."""
        xs, ys = zip(*points, strict=True)
        x0, y0 = max(0, int(min(xs))), max(0, int(min(ys)))
        x1, y1 = min(self.w, int(max(xs)) + 1), min(self.h, int(max(ys)) + 1)
        if x1 > x0 and y1 > y0:
            mask = Image.new("L", (x1 - x0, y1 - y0))
            ImageDraw.Draw(mask).polygon([(x - x0, y - y0) for x, y in points], fill=255)
            light = 1 + rough * (2 * self.grain(scale, (x0, y0, x1, y1)) - 1)
            self.paste(np.asarray(colour, np.float32) * light[..., None], (x0, y0, x1, y1), mask)

    def band(self, top: float, bottom: float, upper: Colour, lower: Colour, *, rough: float = 0.06) -> None:
        """Fill the full width between two heights with a vertical gradient and some texture."""
        box = (0, max(0, int(top)), self.w, min(self.h, int(bottom) + 1))
        if box[3] > box[1]:
            pixels = np.linspace(upper, lower, box[3] - box[1], dtype=np.float32)[:, None]
            self.paste(pixels * (1 + rough * (2 * self.grain(1, box)[..., None] - 1)), box)

    def clouds(self, rows: int, cover: float, colour: Colour) -> None:
        """Cover the upper `rows` with clouds, from 0 (clear) to 1 (overcast)."""
        field = noise(self.rng, self.w, rows, max(24, self.w / 4), octaves=5, stretch=2.2)
        mask = np.clip((field - (0.72 - 0.5 * cover)) * 5, 0, 1) * 217
        shade = 0.82 + 0.35 * noise(self.rng, self.w, rows, 60, stretch=2)
        pixels = np.asarray(colour, np.float32) * shade[..., None]
        self.paste(pixels, (0, 0, self.w, rows), Image.fromarray(mask.astype(np.uint8)))

    def water(self, level: float, colour: Colour, *, murk: float, waves: float) -> None:
        """Turn all below `level` into water: `murk` of its own colour, else a reflection displaced by `waves` pixels."""
        y0 = int(np.clip(level, 1, self.h - 2))
        rows = self.h - y0
        depth = np.linspace(0, 1, rows, dtype=np.float32)
        source = np.linspace(y0 - 1, max(0, y0 - rows), rows).astype(int)
        wobble = noise(self.rng, self.w, rows, 16, octaves=3, stretch=4) - 0.5
        columns = np.arange(self.w) + wobble * 2 * waves * (0.3 + depth[:, None])
        columns = np.clip(columns, 0, self.w - 1).astype(int)
        mirrored = np.asarray(self.image, np.float32)[source[:, None], columns]
        glint = (1 + 0.5 * wobble * (0.4 + depth[:, None])) * (1.08 - 0.25 * depth[:, None])
        own = np.asarray(colour, np.float32) * glint[..., None]
        self.paste(mirrored * (1 - murk) * 0.9 + own * murk, (0, y0, self.w, self.h))

    def smoke(self, x: float, y: float, size: float, colour: Colour, *, density: float = 0.9) -> None:
        """Blow a plume of smoke upwards from (x, y), `size` wide at its foot, leaning to either side."""
        w, h = self.w // 2, self.h // 2  # smoke has no edges: half the resolution shows nothing
        rows, columns = np.mgrid[0:h, 0:w].astype(np.float32) * 2
        rise = np.clip((y - rows) / max(1.0, y), -0.05, 1)
        centre = x + self.between(-0.5, 0.5) * rise * self.w
        shape = np.exp(-(((columns - centre) / (size * (0.5 + 2.4 * np.clip(rise, 0, 1)))) ** 2))
        billow = noise(self.rng, w, h, size * 0.45 + 6, octaves=5)
        shape = shape * np.clip((rise + 0.03) * 12, 0, 1) * (0.37 + billow * 1.95)
        veil = Image.fromarray((np.clip((shape - 0.3) * 1.6, 0, 1) * density * 255).astype(np.uint8))
        tone = np.clip(np.asarray(colour, np.float32) * (0.6 + 0.8 * billow[..., None]), 0, 255)
        plume = Image.fromarray(tone.astype(np.uint8)).resize(self.image.size)
        self.image.paste(plume, (0, 0), veil.resize(self.image.size))

    def fire(self, x: float, y: float, width: float, height: float) -> None:
        """Add flames that stand on (x, y) and light their surroundings."""
        x0, x1 = max(0, int(x - width)), min(self.w, int(x + width))
        y0, y1 = max(0, int(y - height * 1.4)), min(self.h, int(y + height * 0.15))
        if x1 - x0 < 4 or y1 - y0 < 4:
            return
        rows, columns = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        tongues = noise(self.rng, x1 - x0, y1 - y0, max(8.0, width / 3), octaves=4, stretch=0.45)
        up = (y - rows) / height
        reach = np.exp(-(((columns - x) / (width * 0.55)) ** 2) * (1 + np.clip(up, 0, 2)))
        heat = np.clip(reach * (0.135 + 2 * tongues) - 0.6 * np.clip(up, 0, 2) - 0.22, 0, 1)
        heat = (heat * np.clip(1 + up * 6, 0, 1))[..., None]
        glow = np.clip(heat * (2.7, 1.7, 1.3) - (0, 0.22, 0.6), 0, 1)
        below = np.asarray(self.image.crop((x0, y0, x1, y1)), np.float32)
        self.paste(255 - (255 - below) * (1 - glow), (x0, y0, x1, y1))

    def rubble(
        self, x0: float, x1: float, foot: float, height: float, pieces: int, size: float, *colours: Colour
    ) -> None:
        """Heap broken pieces between `x0` and `x1`: highest in the middle, `foot` is the lower edge."""
        xs = self.rng.uniform(x0, x1, pieces)
        hump = np.clip(1 - ((xs - (x0 + x1) / 2) / (0.62 * (x1 - x0))) ** 2, 0.05, 1)
        ys = foot - self.rng.random(pieces) ** 1.3 * height * hump
        for x, y in sorted(zip(xs.tolist(), ys.tolist(), strict=True), key=lambda at: at[1]):
            radius = size * (0.55 + 0.75 * (y - foot + height) / max(height, 1)) * self.rng.lognormal(0, 0.5)
            angles = np.sort(self.rng.uniform(0, 2 * np.pi, self.count(4, 6)))
            tilt, flat = self.between(0, np.pi), self.between(0.35, 0.8)
            turned = np.exp(1j * tilt) * (np.cos(angles) + 1j * flat * np.sin(angles))
            points = [(z.real, z.imag * 0.8) for z in turned.tolist()]
            pen, face = self.pen(x, y, radius), self.pick(*colours)
            pen.shape(mix(face, (15, 13, 12), 0.75), *[(a + 0.3, b - 0.3) for a, b in points])
            pen.shape(face, *points)
            pen.shape(mix(face, (0, 0, 0), 0.35), points[0], points[1], (0, 0))
            pen.shape(mix(face, (255, 250, 240), 0.3), points[2], points[3], (0, 0))
        for _ in range(int(self.rng.poisson(pieces / 40))):  # beams and bars sticking out
            pen = self.pen(self.between(x0, x1), foot - self.between(0, height * 0.8), size)
            end = (self.between(-6, 6), self.between(0, 6))
            pen.line(self.pick((70, 52, 38), (58, 54, 52), (120, 95, 70)), 0.35, (0, 0), end)

    def haze(self, colour: Colour, amount: float) -> None:
        """Lay fog or dust over the picture, thicker in places."""
        box = (0, 0, self.w, self.h)
        veil = np.clip(amount * (0.55 + 0.9 * self.grain(0, box)), 0, 0.9)[..., None]
        self.paste(np.asarray(self.image, np.float32) * (1 - veil) + np.asarray(colour) * veil, box)

    def lay(self, strip: Image.Image, corners: Sequence[Point], *, flip: bool) -> None:
        """Lay an RGBA strip in perspective: corners top left, top right, bottom right, bottom left, or mirrored."""
        (w, h), rows, right = strip.size, [], []
        left, far = (w, 0) if flip else (0, w)
        for (x, y), (u, v) in zip(corners, ((left, 0), (far, 0), (far, h), (left, h)), strict=True):
            rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
            right += [u, v]
        how = np.linalg.solve(np.asarray(rows, float), np.asarray(right, float)).tolist()
        laid = strip.transform(self.image.size, Image.Transform.PERSPECTIVE, how, Image.Resampling.BILINEAR)
        self.image.paste(laid, (0, 0), laid)

    def photograph(self, size: tuple[int, int], light: float) -> Image.Image:
        """Take the photograph: exposure, white balance, contrast, vignette, slight blur, sensor noise."""
        image = self.image.resize(size, Image.Resampling.BICUBIC)
        if self.chance(0.3):
            image = image.filter(ImageFilter.GaussianBlur(self.between(0.3, 1.1)))
        x, y = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in size))
        tilt, vignette = self.rng.uniform(-0.12, 0.12, 2), self.between(0, 0.14)
        falloff = 1 - vignette * (x**2 + y**2) + tilt[0] * x + tilt[1] * y
        balance = self.rng.normal(1, 0.045, 3) * light * self.between(0.85, 1.12)
        contrast = self.between(0.82, 1.18)
        grain = self.rng.standard_normal((size[1], size[0], 1), dtype=np.float32) * self.between(2, 7)
        pixels = np.asarray(image, np.float32) * (contrast * balance) * falloff[..., None]
        return Image.fromarray(np.clip(pixels + grain + 120 * (1 - contrast), 0, 255).astype(np.uint8))


# Objects

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


#: Sky above, sky at the horizon, clouds, least and most cover, exposure, and what a caption says of it.
LIGHTS: dict[str, tuple[Colour, Colour, Colour, tuple[float, float], float, str]] = {
    "sun": ((84, 140, 205), (186, 212, 232), (246, 246, 244), (0, 0.5), 1.05, "in sunshine"),
    "overcast": ((150, 158, 166), (196, 200, 202), (176, 180, 184), (0.7, 1), 0.95, "under a grey sky"),
    "dusk": ((70, 74, 120), (236, 160, 104), (150, 104, 110), (0.2, 0.7), 0.82, "at dusk"),
    "night": ((14, 18, 34), (40, 46, 66), (34, 38, 50), (0.7, 1), 0.7, "at night"),
    "rain": ((118, 126, 134), (164, 170, 174), (132, 138, 146), (0.7, 1), 0.85, "in the rain"),
}
FLOOD: tuple[Colour, ...] = ((134, 112, 82), (112, 100, 78), (96, 98, 84), (152, 128, 96), (104, 104, 104))
STONE: tuple[Colour, ...] = (
    (168, 160, 150),
    (140, 132, 124),
    (176, 140, 112),
    (150, 96, 76),
    (196, 190, 180),
)
PLANKS: tuple[Colour, ...] = ((150, 120, 84), (96, 76, 58), (180, 176, 168), (120, 60, 46), (70, 90, 56))
SHAPES = ((4, 3), (3, 2), (16, 9), (1, 1), (3, 4), (4, 5), (9, 14))


class SceneCanvas(Canvas):
    """A canvas with a light, a severity of the damage (0 to 1) and a horizon in pixels."""

    def __init__(self, rng: np.random.Generator, width: int, height: int) -> None:
        super().__init__(rng, width, height)
        self.light = str(rng.choice(list(LIGHTS), p=[0.34, 0.3, 0.14, 0.08, 0.14]))
        self.severity = float(rng.beta(1.4, 1.9))
        self.horizon = height * self.between(0.36, 0.58)

    @property
    def when(self) -> str:
        """Words for the light in a caption."""
        return LIGHTS[self.light][5]

    def sky(self, horizon: float | None = None) -> None:
        """Paint the sky of this light down to `horizon` (default: the canvas's own)."""
        upper, lower, cloud, cover, *_ = LIGHTS[self.light]
        horizon = self.horizon if horizon is None else horizon
        self.band(0, horizon, upper, lower, rough=0.02)
        self.clouds(min(self.h, int(horizon) + 1), self.between(*cover), cloud)

    def houses(self, **damage: float) -> tuple[float, str]:
        """Paint a row of houses or a street; return where the ground begins and what a caption calls it."""
        return self.row(**damage) if self.chance(0.5) else self.street(**damage)

    def row(self, *, drowned: float = 0, **damage: float) -> tuple[float, str]:
        """Paint houses seen from the front, with that share of them cut off below by water."""
        self.sky(self.h * 0.9)
        foot, pavement = self.h * self.between(0.62, 0.76), self.pick((150, 146, 140), (128, 124, 120))
        high = int(foot * self.between(0.62, 0.98))
        strip = facade(self, self.w, high, lit=self.light == "night", **damage)
        strip = strip.crop((0, 0, self.w, int(high * (1 - drowned))))
        self.image.paste(strip, (0, int(foot - strip.height)), strip)
        self.band(foot, foot + self.u * 6, mix(pavement, (0, 0, 0), 0.2), pavement)
        self.band(foot + self.u * 6, self.h, (86, 86, 88), (104, 104, 106), rough=0.12)
        for x in range(self.count(0, 60), self.w if self.chance(0.5) else 0, 130):
            self.pen(x, foot + self.u * 19, self.u).block((206, 204, 192), (0, 0), (60 / self.u, 1.5))
        return foot, "A row of houses"

    def street(self, *, drowned: float = 0, **damage: float) -> tuple[float, str]:
        """Paint a street in perspective, its ground raised by `drowned` storeys of water."""
        w, h = self.w, self.h
        self.horizon = h * self.between(0.42, 0.58)
        self.sky(h * 0.75)
        self.band(self.horizon, h, (110, 108, 106), (82, 82, 86), rough=0.14)
        x, depth = w * self.between(0.38, 0.62), w * self.between(0.1, 0.22)
        foot, roofs = h * (self.between(0.82, 1) - drowned * 0.3), -h * self.between(0, 0.45)
        for side, edge in ((-1, 0), (1, w)):
            strip = facade(self, 760, 300, lit=self.light == "night", **damage)
            strip = strip.crop((0, 0, 760, int(300 * (1 - drowned * 0.3))))
            far, far_foot = x + side * depth, self.horizon + h * 0.03 * (1 - drowned)
            far_roofs = self.horizon - h * self.between(0.08, 0.16)
            self.lay(strip, [(edge, roofs), (far, far_roofs), (far, far_foot), (edge, foot)], flip=side > 0)
            kerb = [(far - side * depth / 4, far_foot), (edge - side * w / 5, h), (edge, h)]
            self.polygon(
                [(edge, foot), (far, far_foot), *kerb],
                self.pick((150, 146, 140), (168, 160, 150)),
                rough=0.15,
            )
        return self.horizon, "A town street"

    def hills(self, *, burnt: float = 0) -> None:
        """Paint hills with fields and woods."""
        self.sky(self.horizon + self.h * 0.12)
        layers = self.count(3, 4)
        for i in range(layers):
            base = self.horizon + (self.h - self.horizon) * i / layers * 0.75
            tone = self.pick((94, 126, 70), (120, 136, 72), (84, 108, 74), (150, 146, 84))
            tone = mix(tone, (60, 52, 44), burnt * 0.8)
            tone = mix(tone, LIGHTS[self.light][1], 0.45 * (1 - (i + 1) / layers))
            line = ridge(self.rng, self.w, self.w / self.between(1.2, 4), self.h * 0.15)
            points = [(x, base + y) for x, y in line]
            ground = [*points, (self.w + 8, self.h), (0, self.h)]
            self.polygon(ground, tone, rough=0.3, scale=1 if i < 2 else 2)
            for at in self.rng.integers(0, len(points), self.count(3, 11)):
                x, y = points[at]
                size = self.h * (0.03 + 0.07 * (i + 1) / layers) * self.between(0.7, 1.4)
                tree(self, x, y + size * 0.3, size, bare=self.chance(burnt))

    def people(self, foot: float, height: float, most: int, *, vests: float = 0.2, least: int = 0) -> str:
        """Set a few people somewhere along `foot`; return how a caption ends that counts them."""
        count = self.count(least, most)
        for x in np.sort(self.rng.uniform(0.06, 0.94, count)).tolist():
            y, size = foot + self.between(-1, 3) * self.u, height * self.between(0.86, 1.14)
            person(self, x * self.w, y, size, vest=self.chance(vests))
        return ("", ", with one person", ", with two people", ", with several people")[min(count, 3)]

    def cars(self, foot: float, *, sunk: float = 0) -> str:
        """Set up to two cars near `foot`; return how a caption mentions them."""
        count = self.count(0, 2)
        for _ in range(count):
            x, length = self.w * self.between(0.1, 0.9), self.u * self.between(26, 42)
            car(self, x, foot + self.u * self.between(0, 12), length, sunk=sunk)
        return " with cars" if count else ""


def _houses(c: SceneCanvas) -> str:
    ground, place = c.houses()
    if c.light == "rain":
        dry = c.image.copy()
        c.water(ground, (92, 94, 98), murk=0.2, waves=6)
        c.image = Image.blend(dry, c.image, c.between(0.25, 0.42))
    cars, who = c.cars((ground + c.h) / 2), c.people((ground + c.h) / 2, c.u * c.between(14, 28), 4)
    return f"{place}{cars}, all intact, {c.when}{who}."


def _countryside(c: SceneCanvas) -> str:
    c.hills()
    return f"Green hills with fields and trees {c.when}."


def _lake(c: SceneCanvas) -> str:
    c.hills()
    level = c.horizon + (c.h - c.horizon) * c.between(0.25, 0.5)
    blue = c.pick((70, 110, 140), (90, 130, 150), (60, 90, 110))
    c.water(level, blue, murk=c.between(0.25, 0.6), waves=c.between(3, 12))
    return f"A calm lake between hills {c.when}."


def _supplies(c: SceneCanvas) -> str:
    wall = c.pick((214, 208, 196), (170, 182, 190), (190, 176, 150), (120, 128, 120))
    foot = c.h * c.between(0.6, 0.76)
    c.band(0, foot, mix(wall, (255, 255, 255), 0.2), wall, rough=0.07)
    c.band(foot, c.h, (150, 140, 128), (118, 110, 100), rough=0.12)
    for shelf in range(c.count(1, 3)):
        x = c.between(-0.1, 0.2) * c.w
        while x < c.w * 0.94:
            size = c.u * c.between(12, 22)
            for storey in range(c.count(1, 3)):
                box(c, x, foot + c.u * (4 + 9 * shelf) - storey * size * 0.72, size)
            x += size * c.between(1.2, 1.8)
    who = c.people(c.h * 0.9, c.u * c.between(40, 56), 3, vests=0.5)
    return f"Stacked cardboard boxes in a store room{who}."


def _tents(c: SceneCanvas) -> str:
    c.sky()
    c.band(c.horizon, c.h, (124, 134, 84), (104, 112, 66), rough=0.25)
    for t in np.sort(c.rng.uniform(0, 1, c.count(3, 8))).tolist():
        foot = c.horizon + (c.h - c.horizon) * (0.08 + 0.6 * t)
        tent(c, c.between(-0.05, 0.85) * c.w, foot, c.u * (14 + 30 * t))
    return f"Tents on a meadow {c.when}{c.people(c.h * 0.92, c.u * 28, 6, least=1)}."


def _meal(c: SceneCanvas) -> str:
    cloth = c.pick((150, 104, 66), (230, 226, 218), (70, 80, 96), (180, 60, 56), (110, 76, 52))
    c.band(0, c.h, cloth, mix(cloth, (0, 0, 0), 0.25), rough=0.14)
    foods = ((206, 158, 70), (160, 60, 40), (96, 132, 56), (226, 206, 150), (120, 74, 44), (230, 120, 50))
    for plate in range(c.count(2, 4)):
        x, y = c.between(0.15, 0.85) * c.w, c.between(0.15, 0.85) * c.h
        pen = c.pen(x, y, min(c.w, c.h) * c.between(0.14, 0.24 + 0.06 * plate))
        for share, tone in ((1.04, 90), (1, 240), (0.78, 222), (0.75, 246)):
            pen.disc((tone, tone, tone - 5), (0, 0), share)
        for heap in c.rng.choice(len(foods), 3, replace=False):
            for at in c.rng.normal(c.rng.uniform(-0.38, 0.38, 2), 0.15, (60, 2)).tolist():
                pen.disc(c.pick(foods[heap]), (at[0], at[1]), c.between(0.04, 0.1))
    return "Plates of food on a table, seen from above."


def _campfire(c: SceneCanvas) -> str:
    c.light = "night" if c.chance(0.6) else "dusk"
    c.hills()
    c.fire(c.w * c.between(0.35, 0.65), c.h * 0.87, c.u * c.between(8, 13), c.u * c.between(12, 20))
    return f"A small camp fire on a meadow {c.when}{c.people(c.h * 0.95, c.u * 30, 4, vests=0, least=1)}."


def _building_site(c: SceneCanvas) -> str:
    (foot, _), x = c.row(), c.between(0.1, 0.5) * c.w
    gravel = ((186, 172, 146), (170, 158, 136), (196, 184, 160))
    c.rubble(x, x + c.w * 0.4, foot + c.u * 14, c.u * c.between(12, 20), 200, c.u * 1.3, *gravel)
    for post in range(0, c.w, int(c.u * 16)):  # a barrier
        c.pen(post, foot + c.u * 11, c.u).block((226, 90, 40), (0, 0), (9, 3))
    who = c.people(foot + c.u * 20, c.u * 24, 3, vests=0.9, least=1)
    return f"A building site with a heap of gravel behind a barrier {c.when}, the houses intact{who}."


def _flood(c: SceneCanvas) -> str:
    level, place = c.houses(drowned=0.05 + 0.28 * c.severity)
    c.water(level, c.pick(*FLOOD), murk=c.between(0.6, 0.85), waves=c.between(5, 14))
    cars = c.cars((level + c.h) / 2, sunk=0.3 + 0.35 * c.severity)
    deep = "ankle-deep" if c.severity < 0.4 else "knee-deep" if c.severity < 0.7 else "door-high"
    return f"{place}{cars} in {deep} brown flood water {c.when}."


def _collapse(c: SceneCanvas) -> str:
    ground, place = c.houses(broken=0.15 + 0.7 * c.severity)
    for near in np.sort(c.rng.uniform(0.1, 0.9, 1 + int(4 * c.severity))).tolist():
        x, size = c.between(-0.1, 0.7) * c.w, 0.5 + 0.6 * near
        foot, high = ground + (c.h - ground) * near, c.u * (4 + 18 * c.severity) * size
        c.rubble(x, x + c.w * 0.5 * size, foot, high, 150, c.u * 2.2 * size, *STONE)
    c.haze((190, 178, 160), 0.12 + 0.15 * c.severity)
    how, who = "partly" if c.severity < 0.5 else "badly", c.people(c.h * 0.88, c.u * 22, 3, vests=0.5)
    return f"{place}, {how} collapsed, with rubble in front, {c.when}{who}."


def _rubble(c: SceneCanvas) -> str:
    c.sky()
    c.band(c.horizon, c.h, (140, 130, 118), (120, 110, 100), rough=0.2)
    for near in (0.45, 0.75, 1.1):
        foot = c.horizon + (c.h - c.horizon) * near
        c.rubble(-0.1 * c.w, 1.1 * c.w, foot, c.u * 26, 230, c.u * (0.9 + 2.6 * near), *STONE)
    return f"A field of rubble where buildings stood, {c.when}{c.people(c.h * 0.8, c.u * 26, 4, vests=0.7)}."


def _burning_houses(c: SceneCanvas) -> str:
    foot, _ = c.row(torn=0.5)
    for _ in range(1 + int(3 * c.severity)):
        x = c.between(0.1, 0.9) * c.w
        c.smoke(x, foot - c.u * 22, c.u * c.between(9, 18), (52, 48, 48))
        c.fire(x, foot - c.u * c.between(4, 26), c.u * c.between(8, 20), c.u * (10 + 34 * c.severity))
    who = c.people(foot + c.u * 16, c.u * 20, 4, vests=0.5)
    return f"Houses on fire with flames and dark smoke {c.when}{who}."


def _burning_hills(c: SceneCanvas) -> str:
    c.hills(burnt=0.3 + 0.6 * c.severity)
    for _ in range(1 + int(9 * c.severity)):
        x, y = c.between(0, 1) * c.w, c.horizon + (c.h - c.horizon) * c.between(0, 0.6)
        if c.chance(0.4):
            c.smoke(x, y, c.u * c.between(10, 22), (120, 108, 100))
        c.fire(x, y + c.u * 4, c.u * c.between(8, 20), c.u * c.between(12, 34))
    c.haze((206, 130, 70), 0.3 * c.severity)
    return f"A wildfire on wooded hills with flames and thick smoke {c.when}."


def _storm(c: SceneCanvas) -> str:
    ground, place = c.houses(torn=0.3 + 0.6 * c.severity, broken=0.15 * c.severity)
    front = (ground + c.h) / 2
    for _ in range(int(0.5 + 4 * c.severity)):
        x, y = c.between(0.1, 0.9) * c.w, front + c.u * c.between(-6, 14)
        fallen_tree(c, x, y, c.w * c.between(0.3, 0.6))
    c.rubble(-20, c.w + 20, c.h * 0.97, c.u * 20, int(20 + 160 * c.severity), c.u * 1.3, *PLANKS)
    return f"{place} with torn roofs behind fallen trees and scattered debris {c.when}."


def _meme(c: SceneCanvas) -> str:
    jokes = (
        ("MONDAY AGAIN", "AND NO COFFEE"),
        ("ONE DOES NOT SIMPLY", "LEAVE AT FIVE"),
        ("I SAID ONE BISCUIT", "IT WAS THE PACKET"),
    )
    upper, lower = jokes[c.count(0, len(jokes) - 1)]
    (_meal, _countryside, _lake)[c.count(0, 2)](c)
    draw = ImageDraw.Draw(c.image)
    for text, y in ((upper, c.u * 3), (lower, c.u * 86)):
        width = draw.textlength(text, ImageFont.load_default(c.u * 9))
        font = ImageFont.load_default(c.u * 9 * min(1.0, 0.92 * c.w / width))
        draw.text((c.w / 2, y), text, "white", font, anchor="ma", stroke_width=3, stroke_fill="black")
    return f'A joke picture with the words "{upper.capitalize()} {lower.lower()}".'


def _chart(c: SceneCanvas) -> str:
    pen, bars, across = c.pen(0, c.h, c.u), c.count(4, 9), c.w / c.u
    pen.block((250, 250, 248), (0, 0), (across, 100))
    title = str(c.rng.choice(["Visitors a month", "Sales by region", "Goals scored", "Share price"]))
    pen.draw.text((c.w * 0.1, c.u * 4), title, (40, 40, 44), ImageFont.load_default(c.u * 6))
    tone, step = c.pick((50, 100, 170), (200, 90, 50), (70, 140, 90)), across * 0.82 / bars
    for i, value in enumerate(c.rng.uniform(9, 70, bars).tolist()):
        pen.block(tone, (across * 0.1 + i * step + 1, 12), (across * 0.1 + (i + 1) * step - 1, 12 + value))
    return f"A bar chart with {bars} bars."


class Scene(NamedTuple):
    """One kind of picture: its painter, whether it shows damage, by what, and how often it is drawn."""

    paint: Callable[[SceneCanvas], str]
    kind: str
    hazard: str | None = None
    weight: float = 1
    indoors: bool = False


SCENES: dict[str, Scene] = {
    "houses": Scene(_houses, "calm", weight=4),
    "countryside": Scene(_countryside, "calm"),
    "lake": Scene(_lake, "calm"),
    "supplies": Scene(_supplies, "calm", weight=1.6, indoors=True),
    "tents": Scene(_tents, "calm", weight=1.2),
    "meal": Scene(_meal, "calm", weight=0.8, indoors=True),
    "campfire": Scene(_campfire, "calm", weight=0.7),
    "building_site": Scene(_building_site, "calm", weight=0.9),
    "flood": Scene(_flood, "damage", "flood", weight=2),
    "collapse": Scene(_collapse, "damage", "earthquake", weight=2),
    "rubble": Scene(_rubble, "damage", "earthquake", weight=0.7),
    "burning_houses": Scene(_burning_houses, "damage", "wildfire"),
    "burning_hills": Scene(_burning_hills, "damage", "wildfire"),
    "storm": Scene(_storm, "damage", "storm", weight=2),
    "meme": Scene(_meme, "irrelevant"),
    "chart": Scene(_chart, "irrelevant"),
}


def paint(rng: np.random.Generator, name: str, *, long_side: int) -> tuple[Image.Image, dict[str, Any]]:
    """Paint the scene `name`, `long_side` pixels along its longer side; return it with its caption, light and severity."""
    scene = SCENES[name]
    across, down = SHAPES[int(rng.choice(len(SHAPES), p=[0.3, 0.2, 0.14, 0.12, 0.12, 0.07, 0.05]))]
    longer = max(across, down)
    canvas = SceneCanvas(rng, round(across * 544 / longer), round(down * 544 / longer))
    facts: dict[str, Any] = {"scene": name, "light": None, "severity": None, "caption": scene.paint(canvas)}
    size = (round(across * long_side / longer), round(down * long_side / longer))
    if scene.kind == "irrelevant":
        return canvas.image.resize(size, Image.Resampling.LANCZOS), facts
    if scene.indoors:
        return canvas.photograph(size, 1.0), facts
    if canvas.chance(0.3):
        canvas.haze((206, 206, 204), canvas.between(0.1, 0.5))
    facts["light"] = canvas.light
    facts["severity"] = round(canvas.severity, 2) if scene.kind == "damage" else None
    return canvas.photograph(size, LIGHTS[canvas.light][4]), facts
