"""The brush of the sample feed: noise, ground, sky, water, fire, smoke, rubble and light on one canvas.

Everything random comes from the canvas's own generator, so a picture depends on its seed and on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["Canvas", "Colour", "Point", "jitter", "mix", "noise", "ridge"]

Colour = tuple[int, int, int]
Point = tuple[float, float]


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
    """Fractal value noise.

    Parameters
    ----------
    rng : numpy.random.Generator
    width, height : int
    cell : float
        Size of the coarsest blobs in pixels; each further octave halves it.
    octaves : int, default 4
    stretch : float, default 1.0
        Blobs are this many times wider than high.

    Returns
    -------
    ndarray of float32, shape (height, width)
        Between 0 and 1, mostly in the middle.
    """
    if (
        cell / 2 ** (octaves - 1) >= 3 and min(width, height) > 16
    ):  # nothing fine in it: half the size will do
        half = noise(rng, (width + 1) // 2, (height + 1) // 2, cell / 2, octaves=octaves, stretch=stretch)
        return np.asarray(Image.fromarray(half).resize((width, height), Image.Resampling.BILINEAR))
    total = np.zeros((height, width), np.float32)
    weight, norm = 1.0, 0.0
    for _ in range(octaves):
        across = max(2, round(width / (cell * stretch)) + 2)
        down = max(2, round(height / cell) + 2)
        if across >= width or down >= height:
            break
        grid = Image.fromarray(rng.random((down, across), dtype=np.float32))
        total += weight * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
        norm += weight
        weight *= 0.55
        cell /= 2
    if norm == 0:
        return rng.random((height, width), dtype=np.float32)
    return np.clip(total / norm, 0, 1)


def ridge(rng: np.random.Generator, width: int, cell: float, *, octaves: int = 4) -> np.ndarray:
    """Draw a rolling line: float64 (width,) between 0 and 1, with hills about `cell` pixels long."""
    line, weight, norm = np.zeros(width), 1.0, 0.0
    at = np.arange(width)
    for _ in range(octaves):
        knots = rng.random(int(width / cell) + 3)
        where = at / cell
        left = where.astype(int)
        share = (1 - np.cos(np.pi * (where - left))) / 2
        line += weight * (knots[left] * (1 - share) + knots[left + 1] * share)
        norm += weight
        weight, cell = weight * 0.4, max(4.0, cell / 2.3)
    return line / norm


def _mirrored(start: int, stop: int, offset: int, size: int) -> np.ndarray:
    """Indices into a field of `size` that run back and forth, so that a shifted field shows no seam."""
    index = (np.arange(start, stop) + offset) % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)


class Canvas:
    """A picture in the making.

    Parameters
    ----------
    rng : numpy.random.Generator
    width, height : int
        Size in pixels.
    """

    def __init__(self, rng: np.random.Generator, width: int, height: int) -> None:
        self.rng = rng
        self.w, self.h = width, height
        self.image = Image.new("RGB", (width, height))
        self._grains = [
            noise(rng, width, height, cell, octaves=octaves)
            for cell, octaves in ((width / 5, 4), (28, 4), (7, 2))
        ]

    @property
    def draw(self) -> ImageDraw.ImageDraw:
        """Pillow's own pen on this canvas, for flat shapes."""
        return ImageDraw.Draw(self.image)

    def between(self, low: float, high: float) -> float:
        """Draw a number between `low` and `high`."""
        return float(self.rng.uniform(low, high))

    def pick(self, options: Sequence[Colour]) -> Colour:
        """Draw one of several colours and vary it a little."""
        return jitter(self.rng, options[int(self.rng.integers(len(options)))])

    def grain(self, scale: int, box: tuple[int, int, int, int]) -> np.ndarray:
        """Noise for a box, from one of three prepared fields (0 coarse, 1 middle, 2 fine) at a random offset."""
        x0, y0, x1, y1 = box
        field = self._grains[scale]
        rows = _mirrored(y0, y1, int(self.rng.integers(self.h)), self.h)
        columns = _mirrored(x0, x1, int(self.rng.integers(self.w)), self.w)
        return field[rows[:, None], columns[None, :]]

    def paste(self, pixels: np.ndarray, box: tuple[int, int, int, int], mask: Image.Image | None) -> None:
        """Lay float pixels (h, w, 3) into a box, through a mask of the same size if there is one."""
        layer = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        self.image.paste(layer, box[:2], mask)

    def polygon(
        self,
        points: Sequence[Point],
        colour: Colour,
        *,
        rough: float = 0.25,
        scale: int = 2,
        fade: float = 0.0,
    ) -> None:
        """Fill a polygon with a textured colour.

        Parameters
        ----------
        points : sequence of (x, y)
        colour : Colour
        rough : float, default 0.25
            Strength of the texture, as a share of the colour.
        scale : int, default 2
            Which noise field the texture comes from; see `grain`.
        fade : float, default 0
            How much darker (positive) or lighter the lower edge is than the upper one.
        """
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        x0, y0 = max(0, int(min(xs))), max(0, int(min(ys)))
        x1, y1 = min(self.w, int(max(xs)) + 1), min(self.h, int(max(ys)) + 1)
        if x1 - x0 < 1 or y1 - y0 < 1:
            return
        mask = Image.new("L", (x1 - x0, y1 - y0))
        ImageDraw.Draw(mask).polygon([(x - x0, y - y0) for x, y in points], fill=255)
        box = (x0, y0, x1, y1)
        light = 1 + rough * 2 * (self.grain(scale, box) - 0.5)
        light = light * np.linspace(1 + fade / 2, 1 - fade / 2, y1 - y0, dtype=np.float32)[:, None]
        self.paste(np.asarray(colour, np.float32) * light[..., None], box, mask)

    def band(self, top: float, bottom: float, upper: Colour, lower: Colour, *, rough: float = 0.06) -> None:
        """Fill the full width between two heights with a vertical gradient and some texture."""
        y0, y1 = max(0, int(top)), min(self.h, int(bottom) + 1)
        if y1 <= y0:
            return
        share = np.linspace(0, 1, y1 - y0, dtype=np.float32)[:, None, None]
        pixels = np.asarray(upper, np.float32) * (1 - share) + np.asarray(lower, np.float32) * share
        box = (0, y0, self.w, y1)
        self.paste(pixels * (1 + rough * 2 * (self.grain(1, box)[..., None] - 0.5)), box, None)

    def sky(self, horizon: float, upper: Colour, lower: Colour, clouds: float, cloud: Colour) -> None:
        """Paint a sky down to `horizon`, covered with clouds from 0 (clear) to 1 (overcast)."""
        self.band(0, horizon, upper, lower, rough=0.02)
        rows = min(self.h, int(horizon) + 1)
        if clouds <= 0 or rows < 2:
            return
        field = noise(self.rng, self.w, rows, max(24, self.w / 4), octaves=5, stretch=2.2)
        cover = np.clip((field - (0.72 - 0.5 * clouds)) * 5, 0, 1) * 0.85
        shade = 1 + 0.35 * (noise(self.rng, self.w, rows, 60, stretch=2) - 0.5)
        self.paste(
            np.asarray(cloud, np.float32) * shade[..., None],
            (0, 0, self.w, rows),
            Image.fromarray((cover * 255).astype(np.uint8)),
        )

    def water(self, level: float, colour: Colour, *, murk: float, waves: float) -> None:
        """Turn everything below `level` into water that reflects what stands above it.

        Parameters
        ----------
        level : float
            Height of the waterline in pixels.
        colour : Colour
        murk : float
            Share of the water's own colour against the reflection, 0 to 1.
        waves : float
            Sideways displacement of the reflection in pixels near the lower edge.
        """
        y0 = int(np.clip(level, 1, self.h - 2))
        rows = self.h - y0
        above = np.asarray(self.image, np.float32)[:y0]
        depth = np.linspace(0, 1, rows, dtype=np.float32)
        source = np.clip(y0 - 1 - np.arange(rows), 0, y0 - 1) if rows <= y0 else np.linspace(y0 - 1, 0, rows)
        wobble = noise(self.rng, self.w, rows, 16, octaves=3, stretch=4) - 0.5
        columns = np.arange(self.w)[None, :] + wobble * 2 * waves * (0.3 + depth[:, None])
        mirrored = above[source.astype(int)[:, None], np.clip(columns, 0, self.w - 1).astype(int)]
        glint = 1 + 0.5 * wobble[..., None] * (0.4 + depth[:, None, None])
        own = np.asarray(colour, np.float32) * glint * (1.08 - 0.25 * depth[:, None, None])
        self.paste(mirrored * (1 - murk) * 0.9 + own * murk, (0, y0, self.w, self.h), None)

    def smoke(self, x: float, y: float, size: float, colour: Colour, *, density: float, drift: float) -> None:
        """Blow a plume of smoke upwards from (x, y), `size` wide at its foot, leaning by `drift` sideways."""
        w, h = self.w // 2, self.h // 2  # smoke has no edges: half the resolution shows nothing
        rows, columns = (np.mgrid[0:h, 0:w] * 2.0).astype(np.float32)
        rise = np.clip((y - rows) / max(1.0, y), -0.05, 1)
        centre = x + drift * rise * self.w * 0.5
        width = size * (0.5 + 2.4 * np.clip(rise, 0, 1))
        shape = np.exp(-(((columns - centre) / width) ** 2)) * np.clip((rise + 0.03) * 12, 0, 1)
        billow = noise(self.rng, w, h, size * 0.45 + 6, octaves=5)
        alpha = np.clip((shape * 1.5 * (0.25 + billow * 1.3) - 0.3) * 1.6, 0, 1) * density
        tone = np.asarray(colour, np.float32) * (0.6 + 0.8 * billow[..., None])
        plume = Image.fromarray(np.clip(tone, 0, 255).astype(np.uint8)).resize((self.w, self.h))
        veil = Image.fromarray((alpha * 255).astype(np.uint8)).resize((self.w, self.h))
        self.image.paste(plume, (0, 0), veil)

    def fire(self, x: float, y: float, width: float, height: float, *, strength: float = 1.0) -> None:
        """Add flames that stand on (x, y) and light their surroundings."""
        x0, x1 = max(0, int(x - width)), min(self.w, int(x + width))
        y0, y1 = max(0, int(y - height * 1.4)), min(self.h, int(y + height * 0.15))
        if x1 - x0 < 4 or y1 - y0 < 4:
            return
        rows, columns = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        tongues = noise(self.rng, x1 - x0, y1 - y0, max(8.0, width / 3), octaves=4, stretch=0.45)
        up = (y - rows) / height
        reach = np.exp(-(((columns - x) / (width * 0.55)) ** 2) * (1 + np.clip(up, 0, 2)))
        heat = np.clip(reach * 1.35 * (0.1 + 1.5 * tongues) - 0.6 * np.clip(up, 0, 2) - 0.22, 0, 1)
        heat = np.where(up < 0, heat * np.clip(1 + up * 6, 0, 1), heat)[..., None] * strength
        glow = np.concatenate([heat * 2.7, heat * 1.7 - 0.22, heat * 1.3 - 0.6], axis=2)
        below = np.asarray(self.image.crop((x0, y0, x1, y1)), np.float32) / 255
        lit = 1 - (1 - below) * (1 - np.clip(glow, 0, 1))
        self.paste(lit * 255, (x0, y0, x1, y1), None)

    def rubble(
        self,
        x0: float,
        x1: float,
        foot: float,
        height: float,
        colours: Sequence[Colour],
        *,
        pieces: int,
        size: float,
    ) -> None:
        """Heap broken pieces between `x0` and `x1`: highest in the middle, `foot` is the lower edge."""
        rng, draw = self.rng, self.draw
        xs = rng.uniform(x0, x1, pieces)
        middle = (x0 + x1) / 2 + rng.uniform(-0.2, 0.2) * (x1 - x0)
        hump = np.clip(1 - (np.abs(xs - middle) / (0.62 * (x1 - x0))) ** 2, 0.05, 1)
        ys = foot - rng.random(pieces) ** 1.3 * height * hump
        for i in np.argsort(ys, kind="stable"):
            near = 0.55 + 0.75 * (ys[i] - foot + height) / max(height, 1)
            radius = size * near * rng.lognormal(0, 0.5)
            angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 7))))
            tilt, flat = rng.uniform(0, np.pi), rng.uniform(0.35, 0.8)
            px, py = np.cos(angles) * radius, np.sin(angles) * radius * flat
            px, py = px * np.cos(tilt) - py * np.sin(tilt), (px * np.sin(tilt) + py * np.cos(tilt)) * 0.8
            shape = [(float(xs[i] + a), float(ys[i] + b)) for a, b in zip(px, py, strict=True)]
            face = self.pick(colours)
            lift = radius * 0.3
            draw.polygon([(a + lift, b + lift) for a, b in shape], fill=mix(face, (15, 13, 12), 0.75))
            draw.polygon(shape, fill=face)
            draw.polygon([shape[0], shape[1], (xs[i], ys[i])], fill=mix(face, (255, 250, 240), 0.3))
            draw.polygon([shape[2], shape[3], (xs[i], ys[i])], fill=mix(face, (0, 0, 0), 0.35))
        for _ in range(int(rng.poisson(pieces / 40))):  # beams and bars sticking out
            bx, by = rng.uniform(x0, x1), foot - rng.random() * height * 0.8
            length, angle = size * rng.uniform(3, 9), rng.uniform(-1.2, 1.2)
            end = (bx + length * np.cos(angle), by - abs(length * np.sin(angle)))
            tone = self.pick([(70, 52, 38), (58, 54, 52), (120, 95, 70)])
            draw.line([(bx, by), end], fill=tone, width=max(2, int(size * 0.35)))

    def roughen(self, amount: float, scale: int = 2, box: tuple[int, int, int, int] | None = None) -> None:
        """Multiply a box (default: all) by noise, so that flat shapes lose their flatness."""
        box = box or (0, 0, self.w, self.h)
        pixels = np.asarray(self.image.crop(box), np.float32)
        self.paste(pixels * (1 + amount * 2 * (self.grain(scale, box)[..., None] - 0.5)), box, None)

    def haze(self, colour: Colour, amount: float) -> None:
        """Lay fog or dust over the picture, thicker in places."""
        box = (0, 0, self.w, self.h)
        veil = np.clip(amount * (0.55 + 0.9 * self.grain(0, box)), 0, 0.9)[..., None]
        pixels = np.asarray(self.image, np.float32)
        self.paste(pixels * (1 - veil) + np.asarray(colour, np.float32) * veil, box, None)

    def rain(self, drops: int) -> None:
        """Streak the picture with falling rain."""
        layer = Image.new("L", (self.w, self.h))
        draw = ImageDraw.Draw(layer)
        lean = self.between(-0.35, 0.35)
        for x, y, length in zip(
            self.rng.uniform(0, self.w, drops),
            self.rng.uniform(0, self.h, drops),
            self.rng.uniform(0.02, 0.07, drops) * self.h,
            strict=True,
        ):
            draw.line(
                [(x, y), (x + lean * length, y + length)], fill=int(self.rng.integers(50, 130)), width=1
            )
        self.image.paste((215, 220, 228), (0, 0), layer)

    def quad(self, strip: Image.Image, corners: Sequence[Point]) -> None:
        """Lay an RGBA strip in perspective: corners top left, top right, bottom right, bottom left."""
        w, h = strip.size
        rows, right = [], []
        for (x, y), (u, v) in zip(corners, ((0, 0), (w, 0), (w, h), (0, h)), strict=True):
            rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
            right += [u, v]
        coefficients = np.linalg.solve(np.asarray(rows, float), np.asarray(right, float))
        laid = strip.transform(
            (self.w, self.h), Image.Transform.PERSPECTIVE, coefficients.tolist(), Image.Resampling.BILINEAR
        )
        self.image.paste(laid, (0, 0), laid)

    def develop(self, size: tuple[int, int], *, light: float = 1.0) -> Image.Image:
        """Take the photograph: exposure, white balance, contrast, vignette, slight blur, sensor noise.

        Parameters
        ----------
        size : (int, int)
            Width and height of the result in pixels.
        light : float, default 1
            Exposure; below 1 for dusk and night.

        Returns
        -------
        PIL.Image.Image
            RGB.
        """
        rng = self.rng
        image = self.image.resize(size, Image.Resampling.BICUBIC)
        if rng.random() < 0.3:
            image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.1))))
        x = np.linspace(-1, 1, size[0], dtype=np.float32)
        y = np.linspace(-1, 1, size[1], dtype=np.float32)[:, None]
        vignette = 1 - float(rng.uniform(0, 0.28)) * (x**2 + y**2) / 2
        sweep = 1 + float(rng.uniform(-0.14, 0.14)) * x + float(rng.uniform(-0.1, 0.1)) * y
        balance = rng.normal(1, 0.045, 3) * light * rng.uniform(0.85, 1.12)
        contrast = float(rng.uniform(0.82, 1.18))
        grain = rng.standard_normal((size[1], size[0], 1), dtype=np.float32) * float(rng.uniform(2, 7))
        pixels = np.asarray(image, np.float32) * (contrast * balance).astype(np.float32)
        pixels *= (vignette * sweep)[..., None]
        pixels += grain + 120 * (1 - contrast)
        np.clip(pixels, 0, 255, out=pixels)
        return Image.fromarray(pixels.astype(np.uint8))
