"""Canvas of the sample feed's pictures: textured shapes, sky, water, smoke, fire, rubble, and the camera's flaws.

Everything random comes from the canvas's own generator, so that a picture depends on its seed and on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

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
