"""Scenes of the sample feed's pictures: damaged, calm (some chosen to resemble damage) and distractors.

Damaged and calm scenes share houses, hills, light and weather, so that what tells them apart is the damage. A scene's
function paints on a `SceneCanvas` and returns its caption: one plain sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from . import drawing
from .drawing import Canvas, Colour, mix, ridge

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
        strip = drawing.facade(self, self.w, high, lit=self.light == "night", **damage)
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
            strip = drawing.facade(self, 760, 300, lit=self.light == "night", **damage)
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
                drawing.tree(self, x, y + size * 0.3, size, bare=self.chance(burnt))

    def people(self, foot: float, height: float, most: int, *, vests: float = 0.2, least: int = 0) -> str:
        """Set a few people somewhere along `foot`; return how a caption ends that counts them."""
        count = self.count(least, most)
        for x in np.sort(self.rng.uniform(0.06, 0.94, count)).tolist():
            y, size = foot + self.between(-1, 3) * self.u, height * self.between(0.86, 1.14)
            drawing.person(self, x * self.w, y, size, vest=self.chance(vests))
        return ("", ", with one person", ", with two people", ", with several people")[min(count, 3)]

    def cars(self, foot: float, *, sunk: float = 0) -> str:
        """Set up to two cars near `foot`; return how a caption mentions them."""
        count = self.count(0, 2)
        for _ in range(count):
            x, length = self.w * self.between(0.1, 0.9), self.u * self.between(26, 42)
            drawing.car(self, x, foot + self.u * self.between(0, 12), length, sunk=sunk)
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
                drawing.box(c, x, foot + c.u * (4 + 9 * shelf) - storey * size * 0.72, size)
            x += size * c.between(1.2, 1.8)
    who = c.people(c.h * 0.9, c.u * c.between(40, 56), 3, vests=0.5)
    return f"Stacked cardboard boxes in a store room{who}."


def _tents(c: SceneCanvas) -> str:
    c.sky()
    c.band(c.horizon, c.h, (124, 134, 84), (104, 112, 66), rough=0.25)
    for t in np.sort(c.rng.uniform(0, 1, c.count(3, 8))).tolist():
        foot = c.horizon + (c.h - c.horizon) * (0.08 + 0.6 * t)
        drawing.tent(c, c.between(-0.05, 0.85) * c.w, foot, c.u * (14 + 30 * t))
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
        drawing.fallen_tree(c, x, y, c.w * c.between(0.3, 0.6))
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
