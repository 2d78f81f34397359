"""Scenes of the sample feed that show no damage, some of them chosen to resemble it: rain, water, fire, gravel.

Each function paints on the setting's canvas and says in one plain sentence what it painted.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from . import things
from .brush import Colour, mix, ridge
from .places import LIGHTS, Scene, Setting, hills, people, row, street, with_people

__all__ = ["WHOLE"]


def _row_whole(s: Setting) -> str:
    c = s.c
    ground = "grass" if c.rng.random() < 0.3 else "road"
    foot = row(s, ground=ground)
    for _ in range(int(c.rng.integers(0, 3))):
        things.tree(c, c.between(0, c.w), foot + s.u * 4, s.u * c.between(22, 40))
    cars = int(c.rng.integers(0, 3)) if ground == "road" else 0
    for _ in range(cars):
        things.car(c, c.between(0.1, 0.9) * c.w, foot + s.u * c.between(10, 18), s.u * c.between(30, 42))
    who = people(s, foot + s.u * 5, s.u * 17, 3)
    parked = ", with parked cars" if cars else ""
    return f"A row of intact houses behind a {'lawn' if ground == 'grass' else 'road'} {s.when}{parked}{with_people(who)}."


def _street_whole(s: Setting) -> str:
    c = s.c
    street(s)
    if c.rng.random() < 0.5:
        things.car(c, c.between(0.3, 0.7) * c.w, c.h * c.between(0.7, 0.85), s.u * c.between(22, 38))
    who = people(s, c.h * c.between(0.72, 0.92), s.u * c.between(14, 30), 4)
    return f"An ordinary town street with undamaged buildings {s.when}{with_people(who)}."


def _wet_street(s: Setting) -> str:
    c = s.c
    s.light = "rain"
    level = street(s)
    dry = c.image.copy()
    c.water(level + 2, (92, 94, 98), murk=0.2, waves=6)
    c.image = Image.blend(dry, c.image, c.between(0.25, 0.42))
    who = people(s, c.h * 0.86, s.u * 24, 3)
    return f"A town street that shines from the rain, the buildings intact{with_people(who)}."


def _countryside(s: Setting) -> str:
    hills(s)
    return f"Green hills with fields and trees {s.when}."


def _lake(s: Setting) -> str:
    c = s.c
    hills(s)
    level = s.horizon + (c.h - s.horizon) * c.between(0.25, 0.5)
    blue = c.pick([(70, 110, 140), (90, 130, 150), (60, 90, 110)])
    c.water(level, blue, murk=c.between(0.25, 0.6), waves=c.between(3, 12))
    boats = int(c.rng.integers(0, 4))
    for _ in range(boats):
        things.boat(
            c, c.between(0, 0.8) * c.w, level + (c.h - level) * c.between(0.1, 0.9), s.u * c.between(10, 24)
        )
    return f"A calm lake between hills {s.when}{', with small boats' if boats else ''}."


def _beach(s: Setting) -> str:
    c = s.c
    s.sky()
    c.band(s.horizon, c.h, (60, 120, 150), (110, 176, 180), rough=0.12)
    shore = s.horizon + (c.h - s.horizon) * c.between(0.3, 0.5)
    wave = ridge(c.rng, c.w, c.w / c.between(2, 6), octaves=3) * s.u * 14
    points = [(float(x), float(shore + wave[min(x, c.w - 1)])) for x in range(0, c.w + 8, 8)]
    c.polygon([(x, y - s.u * 2) for x, y in points] + [(c.w, c.h), (0, c.h)], (240, 244, 244), rough=0.08)
    c.polygon([*points, (c.w + 8, c.h), (0, c.h)], c.pick([(226, 204, 160), (206, 186, 150)]), rough=0.14)
    who = people(s, c.h * 0.9, s.u * 20, 5, vests=0, least=1)
    return f"A sandy beach and the sea {s.when}, with {who}."


def _skyline(s: Setting) -> str:
    c, rng = s.c, s.c.rng
    s.light = str(rng.choice(["sun", "dusk", "night"]))
    s.sky(c.h * 0.8)
    foot = c.h * c.between(0.66, 0.9)
    for layer in range(3):
        x = -c.between(0, 40)
        while x < c.w:
            wide, high = c.between(26, 80), c.h * c.between(0.12, 0.5) * (1.15 - 0.25 * layer)
            tone = mix(
                c.pick([(110, 116, 130), (140, 130, 124), (84, 96, 112)]),
                LIGHTS[s.light][1],
                0.5 - 0.22 * layer,
            )
            tone = mix(tone, (20, 22, 34), 0.55 if s.light == "night" else 0.0)
            c.draw.rectangle([x, foot - high, x + wide, foot], fill=tone)
            glow = rng.random() < 0.7
            for wy in np.arange(foot - high + 6, foot - 6, 12):
                for wx in np.arange(x + 5, x + wide - 6, 10):
                    if rng.random() < 0.75:
                        lit = s.light != "sun" and glow and rng.random() < 0.5
                        c.draw.rectangle(
                            [wx, wy, wx + 5, wy + 7],
                            fill=(246, 214, 130) if lit else mix(tone, (30, 40, 60), 0.4),
                        )
            x += wide + c.between(-6, 14)
    c.band(foot, c.h, (70, 76, 80), (50, 56, 60), rough=0.1)
    if rng.random() < 0.6:
        c.water(foot, (50, 70, 96), murk=0.45, waves=9)
    return f"A city skyline of tall buildings {s.when}."


def _supplies(s: Setting) -> str:
    c, rng = s.c, s.c.rng
    wall = c.pick([(214, 208, 196), (170, 182, 190), (190, 176, 150), (120, 128, 120)])
    foot = c.h * c.between(0.6, 0.76)
    c.band(0, foot, mix(wall, (255, 255, 255), 0.2), wall, rough=0.07)
    c.band(foot, c.h, (150, 140, 128), (118, 110, 100), rough=0.12)
    for shelf in range(int(rng.integers(1, 4))):
        x = c.between(-0.1, 0.2) * c.w
        while x < c.w * 0.94:
            size = s.u * c.between(12, 22)
            for storey in range(int(rng.integers(1, 4))):
                things.box(c, x, foot + s.u * (4 + 9 * shelf) - storey * size * 0.72, size)
            x += size * c.between(1.2, 1.8)
    water = rng.random() < 0.6
    if water:
        things.bottles(
            c, c.between(0.05, 0.6) * c.w, c.h * 0.97, s.u * c.between(16, 24), int(rng.integers(3, 8))
        )
    who = people(s, c.h * 0.9, s.u * c.between(40, 56), 3, vests=0.5)
    return (
        f"Stacked cardboard boxes{' and bottled water' if water else ''} in a store room{with_people(who)}."
    )


def _tents(s: Setting) -> str:
    c = s.c
    s.sky()
    c.band(s.horizon, c.h, (124, 134, 84), (104, 112, 66), rough=0.25)
    for t in np.sort(c.rng.uniform(0, 1, int(c.rng.integers(3, 9)))):
        foot = s.horizon + (c.h - s.horizon) * (0.08 + 0.6 * t)
        things.tent(c, c.between(-0.05, 0.85) * c.w, foot, s.u * (14 + 30 * t))
    who = people(s, c.h * 0.92, s.u * 28, 6, least=1)
    return f"Tents on a meadow {s.when}, with {who}."


def _gathering(s: Setting) -> str:
    c = s.c
    if c.rng.random() < 0.5:
        foot = row(s)
        place = "in front of intact houses"
    else:
        hills(s)
        foot, place = c.h * 0.7, "on a green field"
    for depth in (0.0, 0.5, 1.0):
        for x in np.sort(c.rng.uniform(0, 1, int(c.rng.integers(4, 9)))) * c.w:
            size = s.u * (22 + 22 * depth) * c.between(0.9, 1.1)
            things.person(
                c, float(x), foot + (c.h - foot) * (0.25 + 0.7 * depth), size, vest=bool(c.rng.random() < 0.1)
            )
    return f"A crowd of people standing {place} {s.when}."


def _meal(s: Setting) -> str:
    c, rng = s.c, s.c.rng
    cloth = c.pick([(150, 104, 66), (230, 226, 218), (70, 80, 96), (180, 60, 56), (110, 76, 52)])
    c.band(0, c.h, cloth, mix(cloth, (0, 0, 0), 0.25), rough=0.14)
    if rng.random() < 0.5:
        for x in range(0, c.w, int(c.between(40, 90))):
            c.draw.line([(x, 0), (x, c.h)], fill=mix(cloth, (0, 0, 0), 0.35), width=2)
    cx, cy, radius = (
        c.w * c.between(0.38, 0.62),
        c.h * c.between(0.42, 0.6),
        min(c.w, c.h) * c.between(0.33, 0.44),
    )
    for share, tone in (
        (1.04, mix(cloth, (0, 0, 0), 0.5)),
        (1.0, (240, 240, 236)),
        (0.78, (222, 222, 216)),
        (0.75, (246, 246, 242)),
    ):
        c.draw.ellipse(
            [cx - radius * share, cy - radius * share, cx + radius * share, cy + radius * share], fill=tone
        )
    foods: list[Colour] = [
        (206, 158, 70),
        (160, 60, 40),
        (96, 132, 56),
        (226, 206, 150),
        (120, 74, 44),
        (230, 120, 50),
    ]
    for heap in rng.choice(len(foods), 3, replace=False):
        hx, hy = cx + radius * c.between(-0.38, 0.38), cy + radius * c.between(-0.38, 0.38)
        for _ in range(60):
            px, py = hx + rng.normal(0, radius * 0.15), hy + rng.normal(0, radius * 0.15)
            size = radius * c.between(0.04, 0.11)
            c.draw.ellipse(
                [px - size, py - size * 0.8, px + size, py + size * 0.8], fill=c.pick([foods[int(heap)]])
            )
    c.roughen(0.12)
    return "A plate of food on a table, seen from above."


def _campfire(s: Setting) -> str:
    c = s.c
    s.light = "night" if c.rng.random() < 0.6 else "dusk"
    hills(s)
    x, foot = c.w * c.between(0.35, 0.65), c.h * c.between(0.82, 0.92)
    for angle in (-0.5, 0.4, 0.1):
        reach = s.u * 11
        c.draw.line(
            [(x - reach, foot + angle * 14), (x + reach, foot - angle * 14)],
            fill=(70, 48, 34),
            width=int(s.u * 2.4),
        )
    c.fire(x, foot, s.u * c.between(8, 13), s.u * c.between(12, 20))
    who = people(s, c.h * 0.95, s.u * 30, 4, vests=0, least=1)
    return f"A small camp fire on a meadow {s.when}, with {who} around it."


def _building_site(s: Setting) -> str:
    c = s.c
    foot = row(s, ground="road")
    heap: list[Colour] = [(186, 172, 146), (170, 158, 136), (196, 184, 160)]
    x = c.between(0.1, 0.5) * c.w
    c.rubble(
        x,
        x + c.w * c.between(0.3, 0.45),
        foot + s.u * 14,
        s.u * c.between(12, 20),
        heap,
        pieces=200,
        size=s.u * 1.3,
    )
    for post in np.arange(0, c.w, s.u * 16):
        c.draw.rectangle([post, foot + s.u * 8, post + s.u * 9, foot + s.u * 11], fill=(226, 90, 40))
        c.draw.rectangle(
            [post + s.u * 3, foot + s.u * 8, post + s.u * 6, foot + s.u * 11], fill=(240, 240, 236)
        )
    who = people(s, foot + s.u * 20, s.u * 24, 3, vests=0.9, least=1)
    return f"A building site with a heap of gravel behind a barrier {s.when}, the houses intact, with {who}."


WHOLE: dict[str, Scene] = {
    "row_whole": Scene(_row_whole, "calm", weight=2),
    "street_whole": Scene(_street_whole, "calm", weight=2),
    "wet_street": Scene(_wet_street, "calm"),
    "countryside": Scene(_countryside, "calm"),
    "lake": Scene(_lake, "calm"),
    "beach": Scene(_beach, "calm", weight=0.6),
    "skyline": Scene(_skyline, "calm", weight=0.8),
    "supplies": Scene(_supplies, "calm", weight=1.6, indoors=True),
    "tents": Scene(_tents, "calm", weight=1.2),
    "gathering": Scene(_gathering, "calm", weight=1.4),
    "meal": Scene(_meal, "calm", weight=0.8, indoors=True),
    "campfire": Scene(_campfire, "calm", weight=0.7),
    "building_site": Scene(_building_site, "calm", weight=0.9),
}
