"""Where the sample feed's pictures are taken: light and weather, rows of houses, streets, hills, people in them.

Whole and damaged pictures share these, so that what tells them apart is the damage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import things
from .brush import Canvas, Colour, mix, ridge
from .houses import facade

__all__ = ["LIGHTS", "Scene", "Setting", "hills", "people", "row", "street", "with_people"]

#: Sky above, sky at the horizon, clouds, exposure, and what a caption says of it.
LIGHTS: dict[str, tuple[Colour, Colour, Colour, float, str]] = {
    "sun": ((84, 140, 205), (186, 212, 232), (246, 246, 244), 1.05, "in sunshine"),
    "overcast": ((150, 158, 166), (196, 200, 202), (176, 180, 184), 0.95, "under a grey sky"),
    "dusk": ((70, 74, 120), (236, 160, 104), (150, 104, 110), 0.82, "at dusk"),
    "night": ((14, 18, 34), (40, 46, 66), (34, 38, 50), 0.7, "at night"),
    "rain": ((118, 126, 134), (164, 170, 174), (132, 138, 146), 0.85, "in the rain"),
}


@dataclass
class Setting:
    """What a scene works with: canvas, light, severity of the damage, height of the horizon in pixels."""

    c: Canvas
    light: str
    severity: float
    horizon: float

    def sky(self, horizon: float | None = None) -> None:
        """Paint the sky of this light down to `horizon` (default: the setting's own)."""
        upper, lower, cloud, _, _ = LIGHTS[self.light]
        cover = {"sun": self.c.between(0, 0.5), "dusk": self.c.between(0.2, 0.7)}.get(
            self.light, self.c.between(0.7, 1)
        )
        self.c.sky(self.horizon if horizon is None else horizon, upper, lower, cover, cloud)

    @property
    def when(self) -> str:
        """What a caption says of the light."""
        return LIGHTS[self.light][4]

    @property
    def u(self) -> float:
        """One hundredth of the picture's height, the unit of most sizes."""
        return self.c.h / 100


@dataclass(frozen=True)
class Scene:
    """One kind of picture: its painter, whether it shows damage, of what, and how often it is drawn."""

    paint: Callable[[Setting], str]
    kind: str
    hazard: str | None = None
    weight: float = 1.0
    indoors: bool = False


def row(s: Setting, *, torn: float = 0, broken: float = 0, drowned: float = 0, ground: str = "road") -> float:
    """Paint houses seen from the front; return the height of their feet. `drowned` cuts off that share below."""
    c = s.c
    s.sky(c.h * 0.9)
    foot = c.h * c.between(0.62, 0.76)
    high = int(foot * c.between(0.62, 0.98))
    strip = facade(c.rng, c.w, high, torn=torn, broken=broken, dark=s.light == "night")
    strip = strip.crop((0, 0, c.w, int(high * (1 - drowned))))
    c.image.paste(strip, (0, int(foot - strip.height)), strip)
    if ground == "road":
        pave = c.pick([(150, 146, 140), (128, 124, 120), (168, 150, 130)])
        c.band(foot, foot + s.u * 6, mix(pave, (0, 0, 0), 0.2), pave)
        c.band(foot + s.u * 6, c.h, (86, 86, 88), (104, 104, 106), rough=0.12)
        if c.rng.random() < 0.5:
            for x in range(int(c.between(0, 60)), c.w, 130):
                c.draw.rectangle([x, foot + s.u * 18, x + 60, foot + s.u * 19.5], fill=(206, 204, 192))
    elif ground == "grass":
        c.band(foot, c.h, (96, 122, 66), (70, 98, 50), rough=0.3)
    return foot


def street(s: Setting, *, torn: float = 0, broken: float = 0, drowned: float = 0) -> float:
    """Paint a street in perspective; return the horizon. `drowned` raises the ground by that share of a storey."""
    c, rng = s.c, s.c.rng
    s.horizon = c.h * c.between(0.42, 0.58)
    s.sky(c.h * 0.75)
    vx = c.w * c.between(0.38, 0.62)
    depth = c.between(0.1, 0.22) * c.w
    c.band(s.horizon, c.h, (110, 108, 106), (82, 82, 86), rough=0.14)
    feet = c.h * c.between(0.82, 1.0) - drowned * c.h * 0.16
    roofs = -c.h * c.between(0.0, 0.45)
    for side in (-1, 1):
        edge, far = (0.0 if side < 0 else float(c.w)), vx + side * depth
        strip = facade(rng, 760, 300, torn=torn, broken=broken, dark=s.light == "night")
        strip = strip.crop((0, 0, 760, int(300 * (1 - drowned * 0.12))))
        far_top, far_foot = s.horizon - c.h * c.between(0.08, 0.16), s.horizon + c.h * 0.03 * (1 - drowned)
        corners = [(edge, roofs), (far, far_top), (far, far_foot), (edge, feet)]
        if side > 0:
            corners = [corners[1], corners[0], corners[3], corners[2]]
        c.quad(strip, corners)
        gutter = [
            (edge, feet),
            (far, far_foot),
            (far - side * depth * 0.25, far_foot),
            (edge - side * c.w * 0.2, c.h),
        ]
        if side > 0:
            gutter.append((c.w, c.h))
        else:
            gutter.append((0, c.h))
        if not drowned:
            c.polygon(gutter, c.pick([(150, 146, 140), (168, 160, 150)]), rough=0.15)
    if not drowned and rng.random() < 0.6:
        for t in (0.0, 0.2, 0.42, 0.66):
            y0, y1 = (
                s.horizon + (c.h - s.horizon) * (1 - t) ** 2 * 0.9,
                s.horizon + (c.h - s.horizon) * (1 - t - 0.1) ** 2 * 0.9,
            )
            w0, w1 = (y0 - s.horizon) * 0.03, (y1 - s.horizon) * 0.03
            c.draw.polygon([(vx - w0, y0), (vx + w0, y0), (vx + w1, y1), (vx - w1, y1)], fill=(212, 208, 190))
    return s.horizon


def hills(s: Setting, *, burnt: float = 0) -> None:
    """Paint hills with fields and woods."""
    c, rng = s.c, s.c.rng
    s.sky(s.horizon + c.h * 0.12)
    greens: list[Colour] = [(94, 126, 70), (120, 136, 72), (84, 108, 74), (150, 146, 84)]
    layers = int(rng.integers(3, 5))
    for i in range(layers):
        base = s.horizon + (c.h - s.horizon) * i / layers * 0.75
        skyward = base - c.h * 0.15 * ridge(rng, c.w, c.w / c.between(1.2, 4))
        tone = mix(c.pick(greens), (60, 52, 44), burnt * 0.8)
        tone = mix(tone, LIGHTS[s.light][1], 0.45 * (1 - (i + 1) / layers))
        points = [(float(x), float(skyward[min(x, c.w - 1)])) for x in range(0, c.w + 6, 6)]
        c.polygon([*points, (c.w + 6, c.h), (0, c.h)], tone, rough=0.3, scale=1 if i < 2 else 2, fade=0.3)
        for _ in range(int(rng.integers(3, 12))):
            x = int(rng.integers(c.w))
            size = c.h * (0.03 + 0.07 * (i + 1) / layers) * c.between(0.7, 1.4)
            things.tree(c, x, float(skyward[x]) + size * 0.3, size, bare=bool(rng.random() < burnt))


def people(s: Setting, foot: float, height: float, most: int, *, vests: float = 0.2, least: int = 0) -> str:
    """Set a few people somewhere along `foot`; return how a caption counts them."""
    c = s.c
    count = int(c.rng.integers(least, most + 1))
    for x in np.sort(c.rng.uniform(0.06, 0.94, count)) * c.w:
        size = height * c.between(0.86, 1.14)
        things.person(c, float(x), foot + c.between(-1, 3) * s.u, size, vest=bool(c.rng.random() < vests))
    return {0: "nobody", 1: "one person", 2: "two people"}.get(count, "several people")


def with_people(count: str) -> str:
    """End of a caption for what `people` returned."""
    return "" if count == "nobody" else f", with {count}"
